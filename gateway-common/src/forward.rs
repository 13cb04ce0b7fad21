//! What a Direct packet must be like to be forwarded without the stack, and what a router writes
//! into it.
//!
//! Where there is a doubt the stack forwards it, as it does where packets are only marked: every
//! [`Fallback`] is slower, and right.

use crate::packet::{ethertype, protocol};
use crate::{PacketBytes, Word};

/// Where the IP header of an untagged frame begins.
const IP: u32 = 14;
/// An Ethernet frame without its check sequence has so many bytes at least; shorter packets are padded
/// (IEEE 802.3, clause 3.2.8).
const SHORTEST_FRAME: u32 = 60;
/// Where the two words are that forwarding changes: time to live and checksum of IPv4, and the hop
/// limit of IPv6 with the payload length before it.
const LIFETIME_V4: u32 = IP + 8;
const LIFETIME_V6: u32 = IP + 4;
/// `AF_INET` and `AF_INET6`, kernel `include/linux/socket.h`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Lengths of the IPv4 header, without options, and of the IPv6 header, in bytes.
const IPV4_HEADER: u16 = 20;
const IPV6_HEADER: u16 = 40;
/// Where in a TCP and in a UDP header the checksum is.
const CHECKSUM_TCP: u32 = 16;
const CHECKSUM_UDP: u32 = 6;

/// Why a Direct packet goes up the stack, where redirecting was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Fallback {
    /// The frame is not addressed to the interface that it came in by: bridged, multicast, or for
    /// somebody else.
    NotForUs = 0,
    /// It has a VLAN tag.
    Tagged = 1,
    /// It is in several buffers, which not every port can send.
    SeveralBuffers = 2,
    /// It has IPv4 options or IPv6 extension headers, which routers have to look at.
    Options = 3,
    /// Its source is an address that no router forwards for: loopback, link-local, multicast, none.
    OddSource = 4,
    /// Its time to live or hop limit ends here.
    LastHop = 5,
    /// It is bigger than the MTU of its way.
    TooBig = 6,
    /// The next hop's MAC address is not known yet.
    NoNeighbour = 7,
    /// There is no way for it, or none that a packet can be sent on from here.
    NoRoute = 8,
    /// Its way leads elsewhere than to the uplink: a connected network, the LAN, a VPN.
    OtherWay = 9,
    /// The interface that it came in by does not forward.
    ForwardingOff = 10,
    /// The uplink is down for its IP version, or has no next hop for it.
    UplinkDown = 11,
    /// Its checksum is not there yet: it comes from a port without hardware (veth, tap), whose sender
    /// has left it to hardware.
    PartialChecksum = 12,
    /// The frame is longer than the packet in it, but for padding, or shorter.
    OddLength = 13,
}

impl Fallback {
    /// Every cause, in the order of its counter.
    pub const ALL: [Self; 14] = [
        Self::NotForUs,
        Self::Tagged,
        Self::SeveralBuffers,
        Self::Options,
        Self::OddSource,
        Self::LastHop,
        Self::TooBig,
        Self::NoNeighbour,
        Self::NoRoute,
        Self::OtherWay,
        Self::ForwardingOff,
        Self::UplinkDown,
        Self::PartialChecksum,
        Self::OddLength,
    ];

    /// The name used in JSON, metrics and text: stable, snake case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotForUs => "not_for_us",
            Self::Tagged => "tagged",
            Self::SeveralBuffers => "several_buffers",
            Self::Options => "options",
            Self::OddSource => "odd_source",
            Self::LastHop => "last_hop",
            Self::TooBig => "too_big",
            Self::NoNeighbour => "no_neighbour",
            Self::NoRoute => "no_route",
            Self::OtherWay => "other_way",
            Self::ForwardingOff => "forwarding_off",
            Self::UplinkDown => "uplink_down",
            Self::PartialChecksum => "partial_checksum",
            Self::OddLength => "odd_length",
        }
    }

    /// What an answer of `bpf_fib_lookup` means that is not success (`BPF_FIB_LKUP_RET_*`, kernel
    /// `include/uapi/linux/bpf.h`).
    #[inline(always)]
    #[must_use]
    pub const fn of_look_up(answer: i64) -> Self {
        match answer {
            5 => Self::ForwardingOff,
            7 => Self::NoNeighbour,
            8 => Self::TooBig,
            _ => Self::NoRoute,
        }
    }
}

/// A packet that can be forwarded, as routing is asked about it, and as it is one hop later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// TCP or UDP.
    pub protocol: u8,
    /// Source and destination port.
    pub ports: [Word; 2],
    /// Length of the IP packet in bytes, at most 65,535.
    pub length: u16,
    /// Type of service, or traffic class and flow label, in network order.
    pub class: [u8; 4],
    /// Source address; of IPv4 the first two words.
    pub source: [Word; 8],
    /// Destination address; of IPv4 the first two words.
    pub destination: [Word; 8],
    /// Where in the frame the words that follow are.
    pub lifetime_at: u32,
    /// What stands there after this hop.
    pub lifetime: [Word; 2],
}

impl Departure {
    /// Whether it is a packet of IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.family == AF_INET6
    }
}

/// What is asked about a Direct packet that came in, as a frame of `frame_length` bytes, by an interface
/// whose MAC address is `mac`.
///
/// # Errors
///
/// Why the stack has to forward it.
#[inline(always)]
pub fn departure<P: PacketBytes + ?Sized>(
    packet: &P,
    frame_length: u32,
    mac: [Word; 3],
) -> Result<Departure, Fallback> {
    // The classifier has read as far as this: a packet that ends before is none of its Direct ones.
    let [a, b, c, _, _, _, ethertype] = packet.words::<7>(0).ok_or(Fallback::Options)?;
    if [a, b, c] != mac {
        return Err(Fallback::NotForUs);
    }
    match ethertype.number() {
        ethertype::IPV4 => departure_v4(packet, frame_length),
        ethertype::IPV6 => departure_v6(packet, frame_length),
        _ => Err(Fallback::Tagged),
    }
}

/// Whether an IP packet of `length` bytes fills its frame.
#[inline(always)]
const fn fills(length: u16, frame_length: u32) -> bool {
    let end = IP.wrapping_add(length as u32);
    end == frame_length || (end < frame_length && frame_length <= SHORTEST_FRAME)
}

/// Whether a transport header's checksum is what its sender leaves there for the hardware to go on from
/// (`CHECKSUM_PARTIAL`, kernel `include/linux/skbuff.h`): the sum over the pseudo-header. `sum` is that,
/// of words as they are in memory. Of checksums that are done, one in 65,535 looks like it.
#[inline(always)]
fn is_partial(checksum: Word, sum: u32) -> bool {
    let once = (sum & 0xffff).wrapping_add(sum >> 16);
    let folded = (once & 0xffff).wrapping_add(once >> 16);
    // Zero has two spellings, and a sum of what is not all zero is never the first.
    u32::from(checksum.in_memory()) == folded || (folded == 0xffff && !checksum.any(0xffff))
}

/// The checksum of a transport header that begins at `header`.
#[inline(always)]
fn checksum_at<P: PacketBytes + ?Sized>(packet: &P, protocol: u8, header: u32) -> Option<Word> {
    let at = if protocol == protocol::TCP { CHECKSUM_TCP } else { CHECKSUM_UDP };
    packet.words::<1>(header.wrapping_add(at)).map(|[checksum]| checksum)
}

#[inline(always)]
fn sum_of<const N: usize>(words: [Word; N]) -> u32 {
    words.into_iter().fold(0, |sum: u32, word| sum.wrapping_add(u32::from(word.in_memory())))
}

#[inline(always)]
fn departure_v4<P: PacketBytes + ?Sized>(
    packet: &P,
    frame_length: u32,
) -> Result<Departure, Fallback> {
    let [head, length, _, _, lifetime, checksum, s0, s1, d0, d1, from, to] =
        packet.words::<12>(IP).ok_or(Fallback::Options)?;
    if head.first() != 0x45 {
        return Err(Fallback::Options);
    }
    // "This network" and loopback (RFC 1122, section 3.2.1.3), multicast and what is reserved.
    if matches!(s0.first(), 0 | 127 | 224..) {
        return Err(Fallback::OddSource);
    }
    if lifetime.first() <= 1 {
        return Err(Fallback::LastHop);
    }
    if !fills(length.number(), frame_length) {
        return Err(Fallback::OddLength);
    }
    let protocol = lifetime.second();
    let transport = checksum_at(packet, protocol, IP.wrapping_add(IPV4_HEADER.into()));
    let segment = Word::new(length.number().wrapping_sub(IPV4_HEADER).to_be_bytes());
    let sum = sum_of([s0, s1, d0, d1, Word::new([0, protocol]), segment]);
    if is_partial(transport.ok_or(Fallback::OddLength)?, sum) {
        return Err(Fallback::PartialChecksum);
    }
    let none = Word::new([0; 2]);
    Ok(Departure {
        family: AF_INET,
        protocol,
        ports: [from, to],
        length: length.number(),
        class: [head.second(), 0, 0, 0],
        source: [s0, s1, none, none, none, none, none, none],
        destination: [d0, d1, none, none, none, none, none, none],
        lifetime_at: LIFETIME_V4,
        lifetime: [one_less_first(lifetime), checksum_of_one_less(checksum)],
    })
}

#[inline(always)]
fn departure_v6<P: PacketBytes + ?Sized>(
    packet: &P,
    frame_length: u32,
) -> Result<Departure, Fallback> {
    let [head, label, payload, next, addresses @ .., from, to] =
        packet.words::<22>(IP).ok_or(Fallback::Options)?;
    if !matches!(next.first(), protocol::TCP | protocol::UDP) {
        return Err(Fallback::Options);
    }
    let [source @ .., d0, d1, d2, d3, d4, d5, d6, d7]: [Word; 16] = addresses;
    let [s0, s1, s2, s3, ..] = source;
    // Multicast, link-local (fe80::/10), and ::/64, which has the unspecified address, loopback
    // and IPv4-mapped addresses in it (RFC 4291).
    let begins_with_zeros = ![s0, s1, s2, s3].into_iter().any(|word| word.any(0xffff));
    let is_link_local = s0.first() == 0xfe && s0.second() & 0xc0 == 0x80;
    if s0.first() == 0xff || is_link_local || begins_with_zeros {
        return Err(Fallback::OddSource);
    }
    if next.second() <= 1 {
        return Err(Fallback::LastHop);
    }
    let length = payload.number().saturating_add(IPV6_HEADER);
    if !fills(length, frame_length) {
        return Err(Fallback::OddLength);
    }
    let checksum = checksum_at(packet, next.first(), IP.wrapping_add(IPV6_HEADER.into()));
    let sum = sum_of(addresses).wrapping_add(sum_of([Word::new([0, next.first()]), payload]));
    if is_partial(checksum.ok_or(Fallback::OddLength)?, sum) {
        return Err(Fallback::PartialChecksum);
    }
    Ok(Departure {
        family: AF_INET6,
        protocol: next.first(),
        ports: [from, to],
        length,
        class: [head.first() & 0xf, head.second(), label.first(), label.second()],
        source,
        destination: [d0, d1, d2, d3, d4, d5, d6, d7],
        lifetime_at: LIFETIME_V6,
        lifetime: [payload, one_less_second(next)],
    })
}

#[inline(always)]
const fn one_less_first(word: Word) -> Word {
    Word::new([word.first().saturating_sub(1), word.second()])
}

#[inline(always)]
const fn one_less_second(word: Word) -> Word {
    Word::new([word.first(), word.second().saturating_sub(1)])
}

/// The checksum of an IPv4 header whose time to live is one less than before: RFC 1624, as
/// `ip_decrease_ttl` does it (kernel `include/net/ip.h`).
#[inline(always)]
const fn checksum_of_one_less(checksum: Word) -> Word {
    let sum = (checksum.number() as u32).wrapping_add(0x0100);
    let folded = sum.wrapping_add((sum >= 0xffff) as u32);
    let [_, _, high, low] = folded.to_be_bytes();
    Word::new([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071, the slow way.
    fn checksum(header: &[u8]) -> u16 {
        let words = header.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair));
        !words.fold(0, |sum: u16, word| {
            let (sum, carried) = sum.overflowing_add(word);
            sum.wrapping_add(u16::from(carried))
        })
    }

    #[test]
    fn causes_are_in_the_order_of_their_numbers() {
        for (index, cause) in Fallback::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index, "{}", cause.name());
        }
    }

    #[test]
    fn after_a_hop_every_checksum_is_right_again() {
        // Every identification gives another checksum, those around the end of the numbers included.
        for identification in 0..=u16::MAX {
            for ttl in [2, 64, 255] {
                let [high, low] = identification.to_be_bytes();
                let mut header =
                    [0x45, 0, 0, 40, high, low, 0x40, 0, ttl, 6, 0, 0, 192, 0, 2, 1, 40, 96, 0, 1];
                let before = checksum(&header).to_be_bytes();
                header[8] -= 1;
                let after = checksum(&header);
                let seen = checksum_of_one_less(Word::new(before)).number();
                // Zero has two spellings; receivers take both.
                assert_eq!(seen % 0xffff, after % 0xffff, "{identification} {ttl}");
            }
        }
    }

    #[test]
    fn a_packet_fills_its_frame_or_is_padded_to_the_shortest() {
        for (length, frame, fills_it) in [
            (1500, 1514, true),
            (1500, 1515, false),
            (1500, 1513, false),
            (46, 60, true),
            (40, 54, true),
            (40, 60, true),
            (40, 57, true),
            (40, 61, false),
            (47, 60, false),
            (0, 14, true),
        ] {
            assert_eq!(fills(length, frame), fills_it, "{length} in {frame}");
        }
    }

    #[test]
    fn what_is_left_to_hardware_is_known_by_the_sum_over_the_pseudo_header() {
        // Of a datagram of 12 bytes from 192.0.2.1 to 40.96.0.1.
        let pseudo = [192, 0, 2, 1, 40, 96, 0, 1, 0, 17, 0, 12];
        let sum = sum_of(pseudo.as_chunks::<2>().0.first_chunk::<6>().unwrap().map(Word::new));
        let left = !checksum(&pseudo);
        assert!(is_partial(Word::new(left.to_be_bytes()), sum));
        assert!(!is_partial(Word::new((left ^ 1).to_be_bytes()), sum));
        assert!(!is_partial(Word::new((!left).to_be_bytes()), sum));
        assert!(!is_partial(Word::new([0, 0]), sum), "none at all, which UDP over IPv4 may have");
        // With what makes it zero.
        let to_zero = sum.wrapping_add(sum_of([Word::new((!left).to_be_bytes())]));
        assert!(is_partial(Word::new([0xff, 0xff]), to_zero));
        assert!(is_partial(Word::new([0, 0]), to_zero), "zero has two spellings");
    }
}
