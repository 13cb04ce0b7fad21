//! Packets made to ask a program a question.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions,
    Ipv6FragmentHeader, Ipv6Header, PacketBuilder,
};
use gateway_common::Transport;

/// Locally administered (IEEE 802c) addresses: probes are nobody's frames.
const SOURCE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// The first two bytes of the destination; `b365_explain` reads the others as an interface index.
pub(super) const GATEWAY_MAC: [u8; 2] = [0x02, 0];
/// RFC 5737 and RFC 3849: documentation addresses.
const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const SOURCE_PORT: u16 = 50_000;
const HOPS: u8 = 64;

/// A question: what happens to a packet like this?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol.
    pub transport: Transport,
    /// Destination port.
    pub port: u16,
    /// Whether it is the first fragment of a datagram.
    pub fragment: bool,
    /// Source address, of the destination's family; `None` is nobody's.
    pub source: Option<IpAddr>,
    /// Index of the interface it comes in by; 0 is none. Only [`super::Program::Explain`] takes it
    /// from the packet.
    pub ingress: u32,
}

impl Probe {
    /// A whole packet.
    #[must_use]
    pub fn new(destination: IpAddr, transport: Transport, port: u16) -> Self {
        Self { destination, transport, port, fragment: false, source: None, ingress: 0 }
    }

    /// Such a packet from `source`.
    #[must_use]
    pub fn from(self, source: IpAddr) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Such a packet that comes in by the interface with this index.
    #[must_use]
    pub fn through(self, ingress: u32) -> Self {
        Self { ingress, ..self }
    }

    /// The first fragment of such a packet.
    #[must_use]
    pub fn first_fragment(self) -> Self {
        Self { fragment: true, ..self }
    }

    /// The packet as an Ethernet frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let [first, second] = GATEWAY_MAC;
        let [a, b, c, d] = self.ingress.to_be_bytes();
        let gateway = [first, second, a, b, c, d];
        let builder = PacketBuilder::ethernet2(SOURCE_MAC, gateway).ip(self.ip_headers());
        let mut frame = Vec::new();
        let written = match self.transport {
            Transport::Tcp => {
                builder.tcp(SOURCE_PORT, self.port, 0, 0xffff).syn().write(&mut frame, &[])
            }
            Transport::Udp => builder.udp(SOURCE_PORT, self.port).write(&mut frame, &[]),
        };
        // Only a payload too large for its length field could fail, and there is none. Were it
        // to fail, the frame would be cut short, and a cut frame is inspected.
        drop(written);
        frame
    }

    fn ip_headers(&self) -> IpHeaders {
        match self.destination {
            IpAddr::V4(destination) => {
                let source = match self.source {
                    Some(IpAddr::V4(source)) => source,
                    Some(IpAddr::V6(_)) | None => SOURCE_V4,
                };
                let header = Ipv4Header {
                    source: source.octets(),
                    destination: destination.octets(),
                    time_to_live: HOPS,
                    dont_fragment: !self.fragment,
                    more_fragments: self.fragment,
                    ..Ipv4Header::default()
                };
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            IpAddr::V6(destination) => {
                let source = match self.source {
                    Some(IpAddr::V6(source)) => source,
                    Some(IpAddr::V4(_)) | None => SOURCE_V6,
                };
                let header = Ipv6Header {
                    source: source.octets(),
                    destination: destination.octets(),
                    hop_limit: HOPS,
                    ..Ipv6Header::default()
                };
                let fragment = self.fragment.then_some(Ipv6FragmentHeader {
                    next_header: IpNumber::UDP,
                    fragment_offset: IpFragOffset::ZERO,
                    more_fragments: true,
                    identification: 1,
                });
                IpHeaders::Ipv6(header, Ipv6Extensions { fragment, ..Ipv6Extensions::default() })
            }
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let fragment = if self.fragment { ", first fragment" } else { "" };
        if let Some(source) = self.source {
            write!(f, "{source} to ")?;
        }
        write!(f, "{} {protocol}/{}{fragment}", self.destination, self.port)?;
        if self.ingress != 0 {
            write!(f, ", in by interface #{}", self.ingress)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gateway_common::{FlowKey, Reason, parse, source_of};

    use super::*;

    #[test]
    fn a_probe_parses_to_what_it_asks() {
        for destination in ["192.0.2.9", "2001:db8::9"] {
            for transport in [Transport::Tcp, Transport::Udp] {
                let destination: IpAddr = destination.parse().unwrap();
                let probe = Probe::new(destination, transport, 443);
                let key =
                    FlowKey { destination: destination.into(), transport, destination_port: 443 };
                assert_eq!(parse(probe.frame().as_slice()), Ok(key));
                assert_eq!(
                    parse(probe.first_fragment().frame().as_slice()),
                    Err(Reason::FirstFragment)
                );
                for source in ["198.51.100.4", "2001:db8:4::4"] {
                    let source: IpAddr = source.parse().unwrap();
                    let frame = probe.from(source).through(7).frame();
                    let same = source.is_ipv4() == destination.is_ipv4();
                    let seen = source_of(frame.as_slice());
                    assert_eq!(seen == Some(source.into()), same, "{source} to {destination}");
                    assert_eq!(frame.first_chunk(), Some(&[2, 0, 0, 0, 0, 7]));
                    assert_eq!(parse(frame.as_slice()), Ok(key));
                }
            }
        }
    }
}
