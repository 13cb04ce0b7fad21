//! From the bytes of an Ethernet frame to the header fields the classifier looks at.
//!
//! Everything here is bounded: at most [`MAX_VLAN_TAGS`] tags and [`MAX_EXTENSION_HEADERS`]
//! extension headers are walked, and every read is checked by [`PacketBytes`].

use crate::Reason;
use crate::abi::FlowId;

/// VLAN tags walked (IEEE 802.1Q and 802.1ad); one more is [`Reason::TooManyTags`].
pub const MAX_VLAN_TAGS: usize = 4;
/// IPv6 extension headers walked (RFC 8200, section 4); one more is
/// [`Reason::ExtensionChainTooLong`].
pub const MAX_EXTENSION_HEADERS: usize = 6;

/// Checked reads from a packet, wherever it is.
pub trait PacketBytes {
    /// The `N` 16-bit words that start `offset` bytes into the frame; `None` when the frame ends
    /// before they do. `offset` is even: every header the classifier walks has an even length.
    fn words<const N: usize>(&self, offset: u32) -> Option<[Word; N]>;

    /// VLAN tags that were taken off before the packet came here: they count towards
    /// [`MAX_VLAN_TAGS`]. The kernel takes the outermost one off before tc.
    #[inline(always)]
    fn tags_taken_off(&self) -> usize {
        0
    }
}

/// Two bytes of a header, as they are on the wire.
///
/// Kept as they were loaded: most words are compared with constants or taken apart into bytes,
/// and only the others need their bytes swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Word(u16);

impl Word {
    /// A word from its two bytes.
    #[inline(always)]
    #[must_use]
    pub const fn new(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes))
    }

    /// The number that the two bytes are in network order.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The two bytes as they are in memory: a number that depends on the machine, for tables that
    /// are laid out by it. Verifiers before kernel 6.2 lose track of how large a swapped number
    /// can be (kernel commit d3178e8a434b), so an index must not be one.
    #[inline(always)]
    #[must_use]
    pub const fn in_memory(self) -> u16 {
        self.0
    }

    /// The first byte.
    #[inline(always)]
    #[must_use]
    pub const fn first(self) -> u8 {
        let [first, _] = self.0.to_ne_bytes();
        first
    }

    /// The second byte.
    #[inline(always)]
    #[must_use]
    pub const fn second(self) -> u8 {
        let [_, second] = self.0.to_ne_bytes();
        second
    }

    /// Whether any of `bits` of [`Self::number`] is set.
    #[inline(always)]
    #[must_use]
    pub const fn any(self, bits: u16) -> bool {
        self.0 & bits.to_be() != 0
    }
}

impl PacketBytes for [u8] {
    fn words<const N: usize>(&self, offset: u32) -> Option<[Word; N]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(N.checked_mul(2)?)?;
        let (pairs, _) = self.get(start..end)?.as_chunks::<2>();
        let mut words = [Word(0); N];
        for (word, pair) in words.iter_mut().zip(pairs) {
            *word = Word::new(*pair);
        }
        Some(words)
    }
}

/// An address as the words of its header: the first is what the first-level index is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4.
    V4([Word; 2]),
    /// IPv6.
    V6([Word; 8]),
}

impl Address {
    /// The octets of IPv4 words.
    #[inline(always)]
    pub(crate) const fn v4_octets([high, low]: [Word; 2]) -> [u8; 4] {
        [high.first(), high.second(), low.first(), low.second()]
    }

    /// The octets of IPv6 words.
    #[inline(always)]
    pub(crate) fn v6_octets(words: [Word; 8]) -> [u8; 16] {
        let mut octets = [0; 16];
        for (pair, word) in octets.as_chunks_mut::<2>().0.iter_mut().zip(words) {
            *pair = [word.first(), word.second()];
        }
        octets
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                Self::V4([Word::new([a, b]), Word::new([c, d])])
            }
            core::net::IpAddr::V6(v6) => {
                Self::V6(v6.segments().map(|segment| Word::new(segment.to_be_bytes())))
            }
        }
    }
}

/// The transport protocols that have rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP, protocol 6.
    Tcp,
    /// UDP, protocol 17.
    Udp,
}

/// The parsed header fields that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Where the packet wants to go.
    pub destination: Address,
    /// Its transport protocol.
    pub transport: Transport,
    /// Its destination port, host order.
    pub destination_port: u16,
}

pub(crate) mod ethertype {
    pub(crate) const IPV4: u16 = 0x0800;
    pub(crate) const VLAN: u16 = 0x8100;
    pub(crate) const IPV6: u16 = 0x86dd;
    pub(crate) const QINQ: u16 = 0x88a8;
}

/// Numbers of the IANA "Assigned Internet Protocol Numbers" and "IPv6 Extension Header Types"
/// registries.
pub(crate) mod protocol {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const ESP: u8 = 50;
    pub(crate) const AH: u8 = 51;
    pub(crate) const DESTINATION_OPTIONS: u8 = 60;
    pub(crate) const MOBILITY: u8 = 135;
    pub(crate) const HIP: u8 = 139;
    pub(crate) const SHIM6: u8 = 140;
    pub(crate) const EXPERIMENT_1: u8 = 253;
    pub(crate) const EXPERIMENT_2: u8 = 254;
}

const ETHERNET_HEADER: u32 = 14;
const VLAN_TAG: u32 = 4;
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
/// Where the source address is in the IP headers.
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;
const IPV6_DESTINATION: u32 = 24;
const TCP_HEADER: u32 = 20;
const UDP_HEADER: u32 = 8;

/// Parses an Ethernet frame.
///
/// # Errors
///
/// The reason why these header fields cannot be had, which is the reason to inspect the packet.
#[inline(always)]
pub fn parse<P: PacketBytes + ?Sized>(packet: &P) -> Result<FlowKey, Reason> {
    let [.., mut ethertype] = packet.words::<7>(0).ok_or(Reason::Truncated)?;
    let mut offset = ETHERNET_HEADER;
    let mut tags: usize = 0;
    while matches!(ethertype.number(), ethertype::VLAN | ethertype::QINQ) {
        if tags == MAX_VLAN_TAGS {
            return Err(Reason::TooManyTags);
        }
        let [_, inner] = packet.words::<2>(offset).ok_or(Reason::Truncated)?;
        ethertype = inner;
        offset = offset.saturating_add(VLAN_TAG);
        tags = tags.saturating_add(1);
    }
    // Not counted from the start: a loop of a fixed length is unrolled, which kernels want whose
    // verifier does not follow every loop.
    if tags.saturating_add(packet.tags_taken_off()) > MAX_VLAN_TAGS {
        return Err(Reason::TooManyTags);
    }
    match ethertype.number() {
        ethertype::IPV4 => parse_ipv4(packet, offset),
        ethertype::IPV6 => parse_ipv6(packet, offset),
        _ => Err(Reason::NotIp),
    }
}

/// The source address of a frame that [`parse`] has understood; `None` for any other.
///
/// A second walk, so that a frame whose source does not matter is not asked for it.
#[inline(always)]
pub fn source_of<P: PacketBytes + ?Sized>(packet: &P) -> Option<Address> {
    let [.., ethertype] = packet.words::<7>(0)?;
    let walk = (ethertype, ETHERNET_HEADER);
    // Written out, since every kernel's verifier follows a way without loops: MAX_VLAN_TAGS steps.
    let walk = behind_tag(packet, walk)?;
    let walk = behind_tag(packet, walk)?;
    let walk = behind_tag(packet, walk)?;
    let (ethertype, offset) = behind_tag(packet, walk)?;
    match ethertype.number() {
        ethertype::IPV4 => {
            let words = packet.words::<2>(offset.saturating_add(IPV4_SOURCE))?;
            Some(Address::V4(words))
        }
        ethertype::IPV6 => {
            let words = packet.words::<8>(offset.saturating_add(IPV6_SOURCE))?;
            Some(Address::V6(words))
        }
        _ => None,
    }
}

/// Which flow of the support window `window` a frame that [`parse`] has understood belongs to. Behind
/// IPv6 extension headers the ports are not looked for.
#[inline(always)]
pub fn flow_of<P: PacketBytes + ?Sized>(packet: &P, window: u32) -> Option<FlowId> {
    const NONE: Word = Word(0);
    let [.., ethertype] = packet.words::<7>(0)?;
    let walk = (ethertype, ETHERNET_HEADER);
    let walk = behind_tag(packet, walk)?;
    let walk = behind_tag(packet, walk)?;
    let walk = behind_tag(packet, walk)?;
    let (ethertype, offset) = behind_tag(packet, walk)?;
    match ethertype.number() {
        ethertype::IPV4 => {
            let [version_length, _, _, _, ttl_protocol, _, a, b, c, d] =
                packet.words::<10>(offset)?;
            let length = u32::from(version_length.first() & 0xf).saturating_mul(4);
            Some(FlowId {
                client: [a, b, NONE, NONE, NONE, NONE, NONE, NONE],
                server: [c, d, NONE, NONE, NONE, NONE, NONE, NONE],
                ports: packet.words::<2>(offset.saturating_add(length))?,
                protocol: u16::from(ttl_protocol.second()),
                reserved: 0,
                window,
            })
        }
        ethertype::IPV6 => {
            let [_, _, _, next_hop_limit] = packet.words::<4>(offset)?;
            let client = packet.words::<8>(offset.saturating_add(IPV6_SOURCE))?;
            let server = packet.words::<8>(offset.saturating_add(IPV6_DESTINATION))?;
            let next = next_hop_limit.first();
            let ports = if matches!(next, protocol::TCP | protocol::UDP) {
                packet.words::<2>(offset.saturating_add(IPV6_HEADER))?
            } else {
                [NONE; 2]
            };
            Some(FlowId { client, server, ports, protocol: u16::from(next), reserved: 0, window })
        }
        _ => None,
    }
}

/// The ethertype behind the VLAN tag at `offset`, and where what it says begins; the same where
/// there is no tag.
#[inline(always)]
fn behind_tag<P: PacketBytes + ?Sized>(
    packet: &P,
    (ethertype, offset): (Word, u32),
) -> Option<(Word, u32)> {
    if !matches!(ethertype.number(), ethertype::VLAN | ethertype::QINQ) {
        return Some((ethertype, offset));
    }
    let [_, inner] = packet.words::<2>(offset)?;
    Some((inner, offset.saturating_add(VLAN_TAG)))
}

/// RFC 791, section 3.1.
#[inline(always)]
fn parse_ipv4<P: PacketBytes + ?Sized>(packet: &P, offset: u32) -> Result<FlowKey, Reason> {
    let [version_length, total_length, _, fragment, ttl_protocol, _, _, _, high, low] =
        packet.words::<10>(offset).ok_or(Reason::Truncated)?;
    let header_length = match version_length.first() {
        0x45 => IPV4_HEADER,
        // The length is in words of four bytes, five at least.
        options @ 0x46..=0x4f => u32::from(options & 0xf).saturating_mul(4),
        _ => return Err(Reason::BadHeader),
    };
    // "More fragments" and the offset; "don't fragment" is no fragment.
    if fragment.any(0x3fff) {
        let later = fragment.any(0x1fff);
        return Err(if later { Reason::LaterFragment } else { Reason::FirstFragment });
    }
    let total_length = u32::from(total_length.number());
    if total_length < header_length {
        return Err(Reason::BadHeader);
    }
    transport(
        packet,
        offset.saturating_add(header_length),
        total_length.saturating_sub(header_length),
        ttl_protocol.second(),
        Address::V4([high, low]),
    )
}

/// RFC 8200, sections 3 and 4.
#[inline(always)]
fn parse_ipv6<P: PacketBytes + ?Sized>(packet: &P, offset: u32) -> Result<FlowKey, Reason> {
    let header = packet.words::<20>(offset).ok_or(Reason::Truncated)?;
    let [version_class, _, payload_length, next_hop_limit, ..] = header;
    if version_class.first() >> 4 != 6 {
        return Err(Reason::BadHeader);
    }
    let [_, _, _, _, _, _, _, _, _, _, _, _, destination @ ..] = header;
    let mut next = next_hop_limit.first();
    let mut offset = offset.saturating_add(IPV6_HEADER);
    let mut payload = u32::from(payload_length.number());
    let mut headers = 0;
    while matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::DESTINATION_OPTIONS
    ) {
        if headers == MAX_EXTENSION_HEADERS {
            return Err(Reason::ExtensionChainTooLong);
        }
        let [next_length, second, _, _] = packet.words::<4>(offset).ok_or(Reason::Truncated)?;
        match next {
            // The offset, in the upper 13 bits.
            protocol::FRAGMENT if second.any(0xfff8) => return Err(Reason::LaterFragment),
            // Also an atomic fragment (RFC 6946): whole, but marked as a piece.
            protocol::FRAGMENT => return Err(Reason::FirstFragment),
            // Segments left.
            protocol::ROUTING if second.second() != 0 => return Err(Reason::SourceRouted),
            // RFC 8200, section 4.1: only directly after the IPv6 header.
            protocol::HOP_BY_HOP if headers != 0 => return Err(Reason::ExtensionUnknown),
            _ => {}
        }
        // Units of eight bytes, not counting the first.
        let length = u32::from(next_length.second()).saturating_add(1).saturating_mul(8);
        if payload < length {
            return Err(Reason::Truncated);
        }
        payload = payload.saturating_sub(length);
        offset = offset.saturating_add(length);
        next = next_length.first();
        headers = headers.saturating_add(1);
    }
    transport(packet, offset, payload, next, Address::V6(destination))
}

/// The destination port of a TCP (RFC 9293) or UDP (RFC 768) header, once its fixed part is all
/// there: in the frame, and within the `payload` bytes that the IP header gives.
#[inline(always)]
fn transport<P: PacketBytes + ?Sized>(
    packet: &P,
    offset: u32,
    payload: u32,
    next: u8,
    destination: Address,
) -> Result<FlowKey, Reason> {
    let (transport, header_length, port) = if next == protocol::TCP {
        let [_, port, ..] = packet.words::<10>(offset).ok_or(Reason::Truncated)?;
        (Transport::Tcp, TCP_HEADER, port)
    } else if next == protocol::UDP {
        let [_, port, _, _] = packet.words::<4>(offset).ok_or(Reason::Truncated)?;
        (Transport::Udp, UDP_HEADER, port)
    } else {
        return Err(without_ports(next, destination));
    };
    if payload < header_length {
        return Err(Reason::Truncated);
    }
    Ok(FlowKey { destination, transport, destination_port: port.number() })
}

/// Why a protocol has no ports to look at.
#[cold]
#[inline(always)]
fn without_ports(next: u8, destination: Address) -> Reason {
    match (next, destination) {
        (protocol::AH | protocol::ESP, _) => Reason::Ipsec,
        (
            protocol::MOBILITY
            | protocol::HIP
            | protocol::SHIM6
            | protocol::EXPERIMENT_1
            | protocol::EXPERIMENT_2,
            Address::V6(_),
        ) => Reason::ExtensionUnknown,
        _ => Reason::ProtocolOther,
    }
}
