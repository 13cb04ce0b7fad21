//! Whatever frame comes, and whatever rules there are: the classifier says what a slow reading of
//! frame and rules says, header by header with etherparse and rule by rule.

#![no_main]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::Arbitrary;
use etherparse::{Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6HeaderSlice, SingleVlanHeaderSlice};
use gateway_common::{Transport, classify};
use gateway_user::feed::SetId;
use gateway_user::policy::{Rule, Table};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    rules: Vec<AnyRule>,
    frame: &'a [u8],
}

#[derive(Arbitrary, Debug)]
struct AnyRule {
    address: IpAddr,
    length: u8,
    udp: bool,
    first: u16,
    more: u8,
    set: u8,
}

impl AnyRule {
    fn rule(&self) -> Rule {
        let longest = if self.address.is_ipv4() { 32 } else { 128 };
        let prefix = IpNet::new(self.address, self.length % longest + 1);
        Rule {
            prefix: prefix.expect("no longer than the address").trunc(),
            transport: if self.udp { Transport::Udp } else { Transport::Tcp },
            first: self.first,
            last: self.first.saturating_add(self.more.into()),
            set: self.set.into(),
        }
    }
}

/// Rules that random packets meet: half of each family and protocol.
fn wide() -> [Rule; 4] {
    let rule = |address: IpAddr, length, transport| Rule {
        prefix: IpNet::new(address, length).expect("no longer than the address"),
        transport,
        first: 0,
        last: 0x7fff,
        set: 1000 + SetId::from(length),
    };
    [
        rule(Ipv4Addr::UNSPECIFIED.into(), 1, Transport::Tcp),
        rule(Ipv4Addr::UNSPECIFIED.into(), 2, Transport::Udp),
        rule(Ipv6Addr::UNSPECIFIED.into(), 1, Transport::Udp),
        rule(Ipv6Addr::UNSPECIFIED.into(), 2, Transport::Tcp),
    ]
}

fuzz_target!(|input: Input| {
    let rules: Vec<Rule> =
        wide().into_iter().chain(input.rules.iter().take(8).map(AnyRule::rule)).collect();
    // More ranges than a port set holds are refused, which is another target's business.
    let Ok(table) = Table::from_rules(rules.iter().copied()) else { return };
    let group = classify(input.frame, &table).group();
    let says = group.map(|group| table.groups()[usize::from(group)].clone());
    assert_eq!(says, sets(input.frame, &rules), "{rules:?}");
});

/// The sets that a frame is direct for; `None` where it is inspected.
fn sets(frame: &[u8], rules: &[Rule]) -> Option<BTreeSet<SetId>> {
    let (destination, protocol, payload_length, payload) = network(frame)?;
    let (transport, header_length) = match protocol {
        6 => (Transport::Tcp, 20),
        17 => (Transport::Udp, 8),
        _ => return None,
    };
    if payload_length < header_length || payload.len() < header_length {
        return None;
    }
    let port = u16::from_be_bytes([payload[2], payload[3]]);
    let sets: BTreeSet<SetId> = rules
        .iter()
        .filter(|rule| rule.prefix.contains(&destination) && rule.transport == transport)
        .filter(|rule| rule.first <= port && port <= rule.last)
        .map(|rule| rule.set)
        .collect();
    (!sets.is_empty()).then_some(sets)
}

/// Destination, protocol, length of the payload by the IP header, and the rest of the frame from
/// there on.
fn network(frame: &[u8]) -> Option<(IpAddr, u8, usize, &[u8])> {
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).ok()?;
    let mut kind = ethernet.ether_type().0;
    let mut rest = &frame[14..];
    for _ in 0..4 {
        if !matches!(kind, 0x8100 | 0x88a8) {
            break;
        }
        kind = SingleVlanHeaderSlice::from_slice(rest).ok()?.ether_type().0;
        rest = &rest[4..];
    }
    match kind {
        0x0800 => {
            let header = Ipv4HeaderSlice::from_slice(rest).ok()?;
            let length = header.slice().len();
            let payload = usize::from(header.total_len()).checked_sub(length)?;
            let whole = !header.more_fragments() && header.fragments_offset().value() == 0;
            let destination = IpAddr::V4(header.destination_addr());
            whole.then_some((destination, header.protocol().0, payload, &rest[length..]))
        }
        0x86dd => {
            let header = Ipv6HeaderSlice::from_slice(rest).ok()?;
            let (protocol, payload, rest) = extensions(
                header.next_header().0,
                usize::from(header.payload_length()),
                &rest[40..],
            )?;
            Some((IpAddr::V6(header.destination_addr()), protocol, payload, rest))
        }
        _ => None,
    }
}

/// Walks at most six extension headers that can be walked: hop-by-hop options first, routing
/// headers that have been followed to their end, destination options.
fn extensions(mut next: u8, mut payload: usize, mut rest: &[u8]) -> Option<(u8, usize, &[u8])> {
    for walked in 0..=6 {
        match next {
            0 if walked == 0 => {}
            43 if *rest.get(3)? == 0 => {}
            60 => {}
            0 | 43 | 44 => return None,
            _ => return Some((next, payload, rest)),
        }
        let length = (usize::from(*rest.get(1)?) + 1) * 8;
        next = rest[0];
        payload = payload.checked_sub(length)?;
        rest = rest.get(length..)?;
    }
    None
}
