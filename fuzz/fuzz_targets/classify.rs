//! Whatever frame comes, and whatever rules, exclusions and sources there are: the classifier says
//! what a slow reading of them says, header by header with etherparse and rule by rule.

#![no_main]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::Arbitrary;
use etherparse::{Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6HeaderSlice, SingleVlanHeaderSlice};
use gateway_common::{Transport, classify};
use gateway_user::feed::SetId;
use gateway_user::policy::{Exclusion, Rule, Sources, Table};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    rules: Vec<AnyRule>,
    exclusions: Vec<AnyRule>,
    sources: Vec<(IpAddr, u8)>,
    mend: Mend,
    frame: &'a [u8],
}

/// What of a frame is made right: bytes that mean nothing hardly ever get past the first header.
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that is done or not")]
#[derive(Arbitrary, Debug)]
struct Mend {
    tags: u8,
    v6: bool,
    udp: bool,
    ethertype: bool,
    version: bool,
    protocol: bool,
    length: bool,
    whole: bool,
}

impl Mend {
    fn frame(&self, bytes: &[u8]) -> Vec<u8> {
        let mut frame = bytes.to_vec();
        let mut put = |offset: usize, bytes: &[u8]| {
            if let Some(place) = frame.get_mut(offset..offset + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        let tags = usize::from(self.tags % 6);
        for tag in 0..tags {
            put(12 + 4 * tag, &[0x81, 0]);
        }
        let ip = 14 + 4 * tags;
        let protocol = [if self.udp { 17 } else { 6 }];
        if self.ethertype {
            put(ip - 2, if self.v6 { &[0x86, 0xdd] } else { &[8, 0] });
        }
        if self.version {
            put(ip, &[if self.v6 { 0x60 } else { 0x45 }]);
        }
        if self.protocol {
            put(ip + if self.v6 { 6 } else { 9 }, &protocol);
        }
        if self.length {
            put(ip + if self.v6 { 4 } else { 2 }, &[2, 0]);
        }
        if self.whole && !self.v6 {
            put(ip + 6, &[0x40, 0]);
        }
        frame
    }
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

fn prefix(address: IpAddr, length: u8) -> IpNet {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    IpNet::new(address, length % longest + 1).expect("no longer than the address").trunc()
}

impl AnyRule {
    fn exclusion(&self) -> Exclusion {
        let Rule { prefix, transport, first, last, .. } = self.rule();
        Exclusion { prefix, transport, first, last, exclude: self.set.into() }
    }

    fn rule(&self) -> Rule {
        Rule {
            prefix: prefix(self.address, self.length),
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
    let exclusions: Vec<Exclusion> =
        input.exclusions.iter().take(4).map(AnyRule::exclusion).collect();
    let sources: BTreeSet<IpNet> =
        input.sources.iter().take(4).map(|(address, length)| prefix(*address, *length)).collect();
    let table = Table::from_rules_except(rules.iter().copied(), exclusions.iter().copied());
    let Ok(table) = table else { return };
    let table =
        table.for_sources(Sources { prefixes: sources.clone(), interfaces: BTreeSet::new() });
    let frame = input.mend.frame(input.frame);
    let group = classify(frame.as_slice(), &table).group();
    let says = group.map(|group| table.groups()[usize::from(group)].clone());
    let wanted = sets(&frame, &rules, &exclusions, &sources);
    assert_eq!(says, wanted, "{rules:?}, except {exclusions:?}, for {sources:?}");
});

/// What a frame says of itself.
struct Headers<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Length of the payload by the IP header.
    payload_length: usize,
    /// The rest of the frame from the payload on.
    payload: &'a [u8],
}

/// The sets that a frame is direct for; `None` where it is inspected.
fn sets(
    frame: &[u8],
    rules: &[Rule],
    exclusions: &[Exclusion],
    sources: &BTreeSet<IpNet>,
) -> Option<BTreeSet<SetId>> {
    let Headers { source, destination, protocol, payload_length, payload } = network(frame)?;
    if !sources.is_empty() && !sources.iter().any(|prefix| prefix.contains(&source)) {
        return None;
    }
    let (transport, header_length) = match protocol {
        6 => (Transport::Tcp, 20),
        17 => (Transport::Udp, 8),
        _ => return None,
    };
    if payload_length < header_length || payload.len() < header_length {
        return None;
    }
    let port = u16::from_be_bytes([payload[2], payload[3]]);
    let excluded = exclusions.iter().any(|exclusion| {
        exclusion.prefix.contains(&destination)
            && exclusion.transport == transport
            && exclusion.first <= port
            && port <= exclusion.last
    });
    if excluded {
        return None;
    }
    let sets: BTreeSet<SetId> = rules
        .iter()
        .filter(|rule| rule.prefix.contains(&destination) && rule.transport == transport)
        .filter(|rule| rule.first <= port && port <= rule.last)
        .map(|rule| rule.set)
        .collect();
    (!sets.is_empty()).then_some(sets)
}

fn network(frame: &[u8]) -> Option<Headers<'_>> {
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
            whole.then_some(Headers {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                protocol: header.protocol().0,
                payload_length: payload,
                payload: &rest[length..],
            })
        }
        0x86dd => {
            let header = Ipv6HeaderSlice::from_slice(rest).ok()?;
            let (protocol, payload, rest) = extensions(
                header.next_header().0,
                usize::from(header.payload_length()),
                &rest[40..],
            )?;
            Some(Headers {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                protocol,
                payload_length: payload,
                payload: rest,
            })
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
