//! Ethernet frames of any shape, well formed unless told otherwise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use etherparse::{
    EtherType, Ethernet2Header, IpAuthHeader, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, SingleVlanHeader, TcpHeader, UdpHeader,
    VlanId,
};

/// A frame to be. Each method changes one thing; [`Frame::build`] gives the bytes, with lengths
/// and checksums that fit unless one was overridden.
#[derive(Clone, Debug)]
pub struct Frame {
    macs: [[u8; 6]; 2],
    tags: Vec<(VlanTag, u16)>,
    ethertype: Option<u16>,
    source: SocketAddr,
    destination: SocketAddr,
    options: Vec<u8>,
    header_words: Option<u8>,
    version: Option<u8>,
    length: Option<u16>,
    fragment: Option<(u16, bool)>,
    extensions: Vec<Extension>,
    protocol: Protocol,
    payload: Vec<u8>,
    padding: usize,
    truncated: Option<usize>,
}

/// What the IP header says it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP: a SYN.
    Tcp,
    /// UDP.
    Udp,
    /// A number of the IANA registry; the payload follows the IP header at once.
    Other(u8),
}

/// The ethertype of a VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VlanTag {
    /// 0x8100, IEEE 802.1Q.
    Customer,
    /// 0x88a8, IEEE 802.1ad.
    Service,
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options, 8 bytes and this many times 8 more.
    HopByHop(u8),
    /// Routing header of type 0 with this many segments left and no addresses.
    Routing(u8),
    /// Fragment header: offset in units of 8 bytes (13 bits), more fragments follow.
    Fragment(u16, bool),
    /// Destination options, 8 bytes and this many times 8 more.
    Destination(u8),
    /// Authentication header with this many words of integrity check value.
    Authentication(u8),
    /// Any other header of the general form (RFC 6564), by number: 8 bytes.
    Number(u8),
}

impl Frame {
    /// A TCP SYN to `destination`, from an address of its family that is nobody's.
    #[must_use]
    pub fn tcp(destination: SocketAddr) -> Self {
        Self::new(destination, Protocol::Tcp)
    }

    /// A UDP datagram to `destination`, from an address of its family that is nobody's.
    #[must_use]
    pub fn udp(destination: SocketAddr) -> Self {
        Self::new(destination, Protocol::Udp)
    }

    /// A packet of any protocol to `destination`, whose port matters to TCP and UDP only.
    #[must_use]
    pub fn new(destination: SocketAddr, protocol: Protocol) -> Self {
        let source: IpAddr = match destination {
            // RFC 5737 and RFC 3849: documentation.
            SocketAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
            SocketAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        };
        Self {
            macs: [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]],
            tags: Vec::new(),
            ethertype: None,
            source: SocketAddr::new(source, 49_152),
            destination,
            options: Vec::new(),
            header_words: None,
            version: None,
            length: None,
            fragment: None,
            extensions: Vec::new(),
            protocol,
            payload: b"breakout365".to_vec(),
            padding: 0,
            truncated: None,
        }
    }

    /// Hardware addresses: to, from.
    #[must_use]
    pub fn macs(mut self, destination: [u8; 6], source: [u8; 6]) -> Self {
        self.macs = [destination, source];
        self
    }

    /// Source address, of the destination's family, and port.
    #[must_use]
    pub fn from(mut self, source: SocketAddr) -> Self {
        self.source = source;
        self
    }

    /// One more VLAN tag inside those there are, with its VLAN id (12 bits).
    #[must_use]
    pub fn tag(mut self, tag: VlanTag, id: u16) -> Self {
        self.tags.push((tag, id));
        self
    }

    /// The innermost ethertype, whatever follows it.
    #[must_use]
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.ethertype = Some(ethertype);
        self
    }

    /// IPv4 options: at most 40 bytes, a multiple of 4.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        options.clone_into(&mut self.options);
        self
    }

    /// IHL of IPv4 (4 bits), whatever the header's length is.
    #[must_use]
    pub fn header_words(mut self, words: u8) -> Self {
        self.header_words = Some(words);
        self
    }

    /// IP version (4 bits), whatever the family is.
    #[must_use]
    pub fn version(mut self, version: u8) -> Self {
        self.version = Some(version);
        self
    }

    /// Total length of IPv4 or payload length of IPv6, whatever follows.
    #[must_use]
    pub fn length(mut self, length: u16) -> Self {
        self.length = Some(length);
        self
    }

    /// Fragment fields: the offset in units of 8 bytes (13 bits), and whether more fragments
    /// follow. In IPv6 a fragment header behind the other extension headers. The transport header
    /// is there all the same: payload that looks like one is what a careless parser falls for.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        self
    }

    /// One more IPv6 extension header behind those there are.
    #[must_use]
    pub fn extension(mut self, extension: Extension) -> Self {
        self.extensions.push(extension);
        self
    }

    /// What follows the last header.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        payload.clone_into(&mut self.payload);
        self
    }

    /// Bytes behind the end of the IP packet.
    #[must_use]
    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// Cuts the frame off after `length` bytes.
    #[must_use]
    pub fn truncated(mut self, length: usize) -> Self {
        self.truncated = Some(length);
        self
    }

    /// The bytes.
    ///
    /// # Errors
    ///
    /// Source and destination are of two families, or a value does not fit its field.
    pub fn build(&self) -> Result<Vec<u8>> {
        let (ethertype, packet) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (EtherType::IPV4, self.ipv4(source, destination)?)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                (EtherType::IPV6, self.ipv6(source, destination)?)
            }
            _ => bail!("{} and {} are of two families", self.source, self.destination),
        };
        let mut next = self.ethertype.map_or(ethertype, EtherType);
        let mut tags = Vec::new();
        for (tag, id) in self.tags.iter().rev() {
            let vlan_id = VlanId::try_new(*id)?;
            let header = SingleVlanHeader { vlan_id, ether_type: next, ..Default::default() };
            tags.splice(0..0, header.to_bytes());
            next = tag.ethertype();
        }
        let [destination, source] = self.macs;
        let ethernet = Ethernet2Header { source, destination, ether_type: next };
        let mut frame = [&ethernet.to_bytes(), tags.as_slice(), packet.as_slice()].concat();
        frame.resize(frame.len() + self.padding, 0);
        frame.truncate(self.truncated.unwrap_or(usize::MAX));
        Ok(frame)
    }

    fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Result<Vec<u8>> {
        if !self.extensions.is_empty() {
            bail!("IPv4 has no extension headers");
        }
        let mut header =
            Ipv4Header::new(0, 64, self.protocol.number(), source.octets(), destination.octets())?;
        header.options = Ipv4Options::try_from(self.options.as_slice())?;
        if let Some((offset, more)) = self.fragment {
            header.fragment_offset = IpFragOffset::try_new(offset)?;
            header.more_fragments = more;
            header.dont_fragment = false;
            header.identification = 0xb365;
        }
        let transport = match self.protocol {
            Protocol::Tcp => {
                let mut tcp = self.syn();
                tcp.checksum = tcp.calc_checksum_ipv4(&header, &self.payload)?;
                tcp.to_bytes().to_vec()
            }
            Protocol::Udp => UdpHeader::with_ipv4_checksum(
                self.source.port(),
                self.destination.port(),
                &header,
                &self.payload,
            )?
            .to_bytes()
            .to_vec(),
            Protocol::Other(_) => Vec::new(),
        };
        header.set_payload_len(transport.len() + self.payload.len())?;
        header.total_len = self.length.unwrap_or(header.total_len);
        header.header_checksum = header.calc_header_checksum();
        let packet = [header.to_bytes().as_slice(), &transport, &self.payload].concat();
        self.first_byte(packet, header.ihl())
    }

    fn ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Result<Vec<u8>> {
        if !self.options.is_empty() || self.header_words.is_some() {
            bail!("IPv6 has neither options in its header nor a header length");
        }
        let mut header = Ipv6Header {
            hop_limit: 64,
            source: source.octets(),
            destination: destination.octets(),
            ..Default::default()
        };
        let transport = match self.protocol {
            Protocol::Tcp => {
                let mut tcp = self.syn();
                tcp.checksum = tcp.calc_checksum_ipv6(&header, &self.payload)?;
                tcp.to_bytes().to_vec()
            }
            Protocol::Udp => UdpHeader::with_ipv6_checksum(
                self.source.port(),
                self.destination.port(),
                &header,
                &self.payload,
            )?
            .to_bytes()
            .to_vec(),
            Protocol::Other(_) => Vec::new(),
        };
        let mut next = self.protocol.number();
        let mut chain = Vec::new();
        let fragment = self.fragment.map(|(offset, more)| Extension::Fragment(offset, more));
        for extension in self.extensions.iter().chain(&fragment).rev() {
            chain.splice(0..0, extension.bytes(next)?);
            next = extension.number();
        }
        header.next_header = next;
        header.set_payload_length(chain.len() + transport.len() + self.payload.len())?;
        header.payload_length = self.length.unwrap_or(header.payload_length);
        let packet = [&header.to_bytes(), chain.as_slice(), &transport, &self.payload].concat();
        self.first_byte(packet, 0)
    }

    /// Overrides version and IHL, and mends the checksum over them so that they alone are wrong.
    fn first_byte(&self, mut packet: Vec<u8>, ihl: u8) -> Result<Vec<u8>> {
        let first = packet.first_mut().context("an IP packet has a first byte")?;
        let before = *first;
        let version = self.version.unwrap_or(before >> 4);
        let low = if ihl == 0 { before & 0xf } else { self.header_words.unwrap_or(ihl) };
        if version > 0xf || low > 0xf {
            bail!("IP version and header length have four bits each");
        }
        let after = version << 4 | low;
        *first = after;
        if let (true, Some([high, low])) = (ihl != 0 && before != after, packet.get_mut(10..12)) {
            // RFC 1624: HC' = ~(~HC + ~m + m').
            let sum = u32::from(!u16::from_be_bytes([*high, *low]))
                + u32::from(!(u16::from(before) << 8))
                + u32::from(u16::from(after) << 8);
            let folded = (sum & 0xffff) + (sum >> 16);
            let folded = (folded & 0xffff) + (folded >> 16);
            [*high, *low] = (!u16::try_from(folded)?).to_be_bytes();
        }
        Ok(packet)
    }

    fn syn(&self) -> TcpHeader {
        let mut tcp = TcpHeader::new(self.source.port(), self.destination.port(), 1, 64_240);
        tcp.syn = true;
        tcp
    }
}

impl Protocol {
    /// Its number in the IANA registry.
    #[must_use]
    pub fn number(self) -> IpNumber {
        match self {
            Self::Tcp => IpNumber::TCP,
            Self::Udp => IpNumber::UDP,
            Self::Other(number) => IpNumber(number),
        }
    }

    /// Its name in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Other(_) => "other",
        }
    }
}

impl VlanTag {
    fn ethertype(self) -> EtherType {
        match self {
            Self::Customer => EtherType::VLAN_TAGGED_FRAME,
            Self::Service => EtherType::PROVIDER_BRIDGING,
        }
    }
}

impl Extension {
    fn number(self) -> IpNumber {
        match self {
            Self::HopByHop(_) => IpNumber::IPV6_HEADER_HOP_BY_HOP,
            Self::Routing(_) => IpNumber::IPV6_ROUTE_HEADER,
            Self::Fragment(..) => IpNumber::IPV6_FRAGMENTATION_HEADER,
            Self::Destination(_) => IpNumber::IPV6_DESTINATION_OPTIONS,
            Self::Authentication(_) => IpNumber::AUTHENTICATION_HEADER,
            Self::Number(number) => IpNumber(number),
        }
    }

    fn bytes(self, next: IpNumber) -> Result<Vec<u8>> {
        Ok(match self {
            Self::HopByHop(more) | Self::Destination(more) => {
                let length = 6 + 8 * usize::from(more);
                // Option 1, PadN (RFC 8200, section 4.2), as often as its one-byte length needs.
                let mut options = vec![0; length];
                for option in options.chunks_mut(257) {
                    if let [kind, size, rest @ ..] = option {
                        (*kind, *size) = (1, u8::try_from(rest.len())?);
                    }
                }
                Ipv6RawExtHeader::new_raw(next, &options)?.to_bytes().to_vec()
            }
            Self::Routing(segments_left) => {
                let routing = [0, segments_left, 0, 0, 0, 0];
                Ipv6RawExtHeader::new_raw(next, &routing)?.to_bytes().to_vec()
            }
            Self::Fragment(offset, more) => {
                let offset = IpFragOffset::try_new(offset)?;
                Ipv6FragmentHeader::new(next, offset, more, 0xb365).to_bytes().to_vec()
            }
            Self::Authentication(words) => {
                let icv = vec![0; usize::from(words) * 4];
                IpAuthHeader::new(next, 1, 1, &icv)?.to_bytes().to_vec()
            }
            Self::Number(_) => Ipv6RawExtHeader::new_raw(next, &[0; 6])?.to_bytes().to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const V4: &str = "40.96.0.1:443";
    const V6: &str = "[2603:1006::1]:443";

    fn destination(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn ports(packet: &SlicedPacket) -> Option<(u16, u16)> {
        match packet.transport.as_ref()? {
            TransportSlice::Tcp(tcp) => Some((tcp.source_port(), tcp.destination_port())),
            TransportSlice::Udp(udp) => Some((udp.source_port(), udp.destination_port())),
            TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => None,
        }
    }

    #[test]
    fn a_plain_frame_parses_back_to_its_ports_and_payload() {
        for (to, frame) in [
            (V4, Frame::tcp(destination(V4))),
            (V4, Frame::udp(destination(V4))),
            (V6, Frame::tcp(destination(V6))),
            (V6, Frame::udp(destination(V6))),
        ] {
            let bytes = frame.payload(b"abc").padding(5).build().unwrap();
            let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
            assert_eq!(ports(&packet), Some((49_152, 443)), "{to}");
            let address = match packet.net.unwrap() {
                NetSlice::Ipv4(ip) => IpAddr::from(ip.header().destination_addr()),
                NetSlice::Ipv6(ip) => ip.header().destination_addr().into(),
                NetSlice::Arp(_) => unreachable!("an IP frame"),
            };
            assert_eq!(address, destination(to).ip());
            let payload = match packet.transport.unwrap() {
                TransportSlice::Tcp(tcp) => tcp.payload(),
                TransportSlice::Udp(udp) => udp.payload(),
                TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => {
                    unreachable!("TCP or UDP")
                }
            };
            assert_eq!(payload, b"abc");
        }
    }

    #[test]
    fn checksums_are_right() {
        let bytes = Frame::udp(destination(V4)).options(&[1; 8]).build().unwrap();
        let (ip, rest) = Ipv4Header::from_slice(&bytes[14..]).unwrap();
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        let (udp, payload) = UdpHeader::from_slice(rest).unwrap();
        assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&ip, payload).unwrap());

        let bytes = Frame::tcp(destination(V6)).build().unwrap();
        let (ip, rest) = Ipv6Header::from_slice(&bytes[14..]).unwrap();
        let (tcp, payload) = TcpHeader::from_slice(rest).unwrap();
        assert_eq!(tcp.checksum, tcp.calc_checksum_ipv6(&ip, payload).unwrap());
    }

    #[test]
    fn tags_stand_in_the_order_they_were_given() {
        let mut frame = Frame::tcp(destination(V4)).tag(VlanTag::Service, 7);
        for id in 1..=4 {
            frame = frame.tag(VlanTag::Customer, id);
        }
        let bytes = frame.build().unwrap();
        assert_eq!(bytes[12..16], [0x88, 0xa8, 0, 7]);
        for id in 1..=4_u8 {
            let at = 12 + 4 * usize::from(id);
            assert_eq!(bytes[at..at + 4], [0x81, 0, 0, id]);
        }
        assert_eq!(bytes[32..34], [0x08, 0x00]);
    }

    #[test]
    fn every_extension_header_links_to_the_next() {
        let chain = [
            Extension::HopByHop(32),
            Extension::Destination(1),
            Extension::Routing(0),
            Extension::Authentication(3),
        ];
        let frame = chain.into_iter().fold(Frame::udp(destination(V6)), Frame::extension);
        let bytes = frame.build().unwrap();
        let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
        assert_eq!(ports(&packet), Some((49_152, 443)));

        let bytes = Frame::tcp(destination(V6)).extension(Extension::Number(135)).build().unwrap();
        assert_eq!((bytes[20], bytes[54], bytes[55]), (135, 6, 0));
    }

    #[test]
    fn fragments_say_where_they_belong() {
        let bytes = Frame::udp(destination(V4)).fragment(185, true).build().unwrap();
        let (ip, _) = Ipv4Header::from_slice(&bytes[14..]).unwrap();
        assert_eq!((ip.fragment_offset.value(), ip.more_fragments), (185, true));

        let frame = Frame::udp(destination(V6)).extension(Extension::HopByHop(0)).fragment(0, true);
        let bytes = frame.build().unwrap();
        assert_eq!((bytes[20], bytes[54]), (0, 44));
        let (fragment, _) = Ipv6FragmentHeader::from_slice(&bytes[62..]).unwrap();
        assert_eq!(fragment.next_header, IpNumber::UDP);
        assert!(fragment.more_fragments);
    }

    #[test]
    fn a_wrong_header_length_is_the_only_thing_wrong() {
        let right = Frame::tcp(destination(V4)).build().unwrap();
        for words in 0..16 {
            let mut bytes = Frame::tcp(destination(V4)).header_words(words).build().unwrap();
            assert_eq!(bytes[14], 0x40 | words);
            let sum = bytes[14..34].chunks(2).fold(0_u32, |sum, pair| {
                let sum = sum + u32::from(pair[0]) * 256 + u32::from(pair[1]);
                (sum & 0xffff) + (sum >> 16)
            });
            assert_eq!(sum, 0xffff, "checksum with {words} words");
            bytes[14] = right[14];
            bytes[24..26].copy_from_slice(&right[24..26]);
            assert_eq!(bytes, right);
        }
    }

    #[test]
    fn truncation_keeps_what_came_before() {
        let frame = Frame::tcp(destination(V4)).tag(VlanTag::Customer, 1);
        let whole = frame.build().unwrap();
        for length in 0..whole.len() {
            assert_eq!(frame.clone().truncated(length).build().unwrap(), whole[..length]);
        }
    }

    #[test]
    fn what_cannot_be_expressed_is_refused() {
        let v4 = || Frame::tcp(destination(V4));
        assert!(v4().from(destination(V6)).build().is_err());
        assert!(v4().options(&[1; 3]).build().is_err());
        assert!(v4().options(&[1; 44]).build().is_err());
        assert!(v4().header_words(16).build().is_err());
        assert!(v4().fragment(0x2000, false).build().is_err());
        assert!(v4().tag(VlanTag::Customer, 0x1000).build().is_err());
        assert!(v4().extension(Extension::HopByHop(0)).build().is_err());
    }
}
