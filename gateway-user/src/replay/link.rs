//! What stands in front of the IP header in a capture, by link type, and how it becomes the
//! Ethernet header that the classifier begins with.

/// Link types that are understood. Numbers and headers: <https://www.tcpdump.org/linktypes.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// `LINKTYPE_ETHERNET`: whole frames.
    Ethernet,
    /// `LINKTYPE_RAW`, and what some systems write instead: IPv4 or IPv6, as its version says.
    Raw,
    /// `LINKTYPE_IPV4`.
    Ipv4,
    /// `LINKTYPE_IPV6`.
    Ipv6,
    /// `LINKTYPE_NULL` and `LINKTYPE_LOOP`: four bytes of address family, of either byte order.
    Family,
    /// `LINKTYPE_LINUX_SLL`: 16 bytes, the last two an Ethernet type.
    Cooked,
    /// `LINKTYPE_LINUX_SLL2`: 20 bytes, the first two an Ethernet type.
    Cooked2,
}

/// Bytes of the two addresses that an Ethernet frame begins with.
const ADDRESSES: usize = 12;
/// Ethernet types; zero is none.
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const OTHER: [u8; 2] = [0, 0];

impl Link {
    /// The link type with this number, in a capture.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            0 | 108 => Self::Family,
            1 => Self::Ethernet,
            // 12 and 14 are what the BSDs call raw; 101 is what files ought to say.
            12 | 14 | 101 => Self::Raw,
            113 => Self::Cooked,
            228 => Self::Ipv4,
            229 => Self::Ipv6,
            276 => Self::Cooked2,
            _ => return None,
        })
    }

    /// Puts the Ethernet frame of a captured packet into `frame`. What is too short for the header
    /// of its link type becomes a frame without an Ethernet type: truncated.
    pub(super) fn frame(self, captured: &[u8], frame: &mut Vec<u8>) {
        frame.clear();
        if self == Self::Ethernet {
            frame.extend_from_slice(captured);
            return;
        }
        frame.resize(ADDRESSES, 0);
        if let Some((ethertype, packet)) = self.part(captured) {
            frame.extend_from_slice(&ethertype);
            frame.extend_from_slice(packet);
        }
    }

    /// Ethernet type and what it is the type of.
    fn part(self, captured: &[u8]) -> Option<([u8; 2], &[u8])> {
        match self {
            Self::Ethernet => captured
                .split_at_checked(ADDRESSES)
                .and_then(|(_, rest)| rest.split_first_chunk())
                .map(|(ethertype, packet)| (*ethertype, packet)),
            Self::Raw => Some((by_version(captured.first()? >> 4), captured)),
            Self::Ipv4 => Some((IPV4, captured)),
            Self::Ipv6 => Some((IPV6, captured)),
            Self::Family => {
                let (family, packet) = captured.split_first_chunk::<4>()?;
                // A family is a small number: the other byte order makes a large one of it.
                let family = u32::from_le_bytes(*family).min(u32::from_be_bytes(*family));
                Some((by_family(family), packet))
            }
            Self::Cooked => {
                let (header, packet) = captured.split_first_chunk::<16>()?;
                let [.., first, second] = *header;
                Some(([first, second], packet))
            }
            Self::Cooked2 => {
                let (header, packet) = captured.split_first_chunk::<20>()?;
                let [first, second, ..] = *header;
                Some(([first, second], packet))
            }
        }
    }
}

fn by_version(version: u8) -> [u8; 2] {
    match version {
        4 => IPV4,
        6 => IPV6,
        _ => OTHER,
    }
}

/// `AF_INET` is 2 everywhere; `AF_INET6` is 10 on Linux, and 24, 28 or 30 on the BSDs and macOS.
fn by_family(family: u32) -> [u8; 2] {
    match family {
        2 => IPV4,
        10 | 24 | 28 | 30 => IPV6,
        _ => OTHER,
    }
}

/// The name of a link type that captures often have and that is not understood.
pub(super) const fn name(number: u16) -> &'static str {
    match number {
        6 => "token ring",
        9 | 50 => "PPP",
        10 => "FDDI",
        51 => "PPPoE",
        104 => "Cisco HDLC",
        105 => "IEEE 802.11",
        107 => "frame relay",
        119 => "IEEE 802.11 with a Prism header",
        127 => "IEEE 802.11 with a radiotap header",
        147..=162 => "private use",
        187 | 201 => "Bluetooth",
        189 | 220 => "USB",
        192 => "PPI",
        239 => "NFLOG",
        253 => "netlink",
        _ => "unnamed here",
    }
}
