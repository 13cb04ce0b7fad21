//! What a person wants to know of a packet, from the first bytes of its frame.
//!
//! For eyes only: what decides reads packets by [`gateway_common::parse`].

use std::net::IpAddr;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

/// The fields that are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketHead {
    /// Where it comes from.
    pub source: Option<IpAddr>,
    /// Where it wants to go.
    pub destination: Option<IpAddr>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// TCP or UDP source port.
    pub source_port: Option<u16>,
    /// TCP or UDP destination port.
    pub destination_port: Option<u16>,
}

impl PacketHead {
    /// Reads as far as it goes; what is not understood has no fields.
    #[must_use]
    pub fn read(frame: &[u8]) -> Self {
        let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else { return Self::default() };
        let (source, destination): (Option<IpAddr>, Option<IpAddr>) = match &packet.net {
            Some(LaxNetSlice::Ipv4(ip)) => (
                Some(ip.header().source_addr().into()),
                Some(ip.header().destination_addr().into()),
            ),
            Some(LaxNetSlice::Ipv6(ip)) => (
                Some(ip.header().source_addr().into()),
                Some(ip.header().destination_addr().into()),
            ),
            Some(LaxNetSlice::Arp(_)) | None => (None, None),
        };
        let (source_port, destination_port) = match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                (Some(tcp.source_port()), Some(tcp.destination_port()))
            }
            Some(TransportSlice::Udp(udp)) => {
                (Some(udp.source_port()), Some(udp.destination_port()))
            }
            Some(_) | None => (None, None),
        };
        let protocol = packet.ip_payload().map(|payload| payload.ip_number.0);
        Self { source, destination, protocol, source_port, destination_port }
    }

    /// The name of the protocol, or its number.
    #[must_use]
    pub fn protocol_name(&self) -> Option<String> {
        self.protocol.map(|number| match number {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmpv6".to_owned(),
            number => number.to_string(),
        })
    }
}
