//! What the lab asks: destinations that show one thing each, and the way each is to go.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use xtask::testbed::Protocol;

use super::product::{Feed, FeedSet, Policy, PolicyPrefix};
use super::topology::Way;

/// One question.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) destination: SocketAddr,
    pub(super) protocol: Protocol,
    /// Bytes of a datagram.
    pub(super) payload: usize,
    /// The set it is about.
    pub(super) set: Option<u32>,
    /// What the answer shows.
    pub(super) shows: String,
    pub(super) expected: Way,
}

/// Bytes of a datagram that needs no fragments.
const SMALL: usize = 64;
/// Bytes of a datagram that needs three fragments on Ethernet, of either family.
const LARGE: usize = 4000;
/// How many of a large datagram's fragments are later ones.
pub(super) const LATER_FRAGMENTS: u64 = 2;

/// Destinations that are nobody's in the feed: documentation networks (RFC 5737, RFC 3849) and a
/// public resolver.
const ORDINARY: [&str; 4] = ["203.0.113.10", "9.9.9.9", "2001:db8:113::10", "2620:fe::fe"];

impl Probe {
    /// Whether it is sent as fragments.
    pub(super) fn is_fragmented(&self) -> bool {
        self.payload == LARGE
    }
}

/// Every probe, without repeats. For every selected set, family and protocol: the edges of
/// prefixes and ports, and what lies just outside; then sets that are not selected, and ordinary
/// internet.
///
/// # Errors
///
/// The policy selects nothing, or a selected set is not in the feed.
pub(super) fn all(policy: &Policy, feed: &Feed) -> Result<Vec<Probe>> {
    let mut probes = Probes { policy, list: Vec::new(), asked: BTreeSet::new() };
    let selected = policy.sets();
    if selected.is_empty() {
        bail!("`breakout365 policy show` selects no set");
    }
    for id in &selected {
        let set = feed.sets.iter().find(|set| set.id == *id);
        let set = set.with_context(|| format!("set {id} is selected, but not in the feed"))?;
        for family in [is_v4, is_v6] {
            probes.selected(set, family);
        }
    }
    for set in feed.sets.iter().filter(|set| !selected.contains(&set.id)) {
        for family in [is_v4, is_v6] {
            probes.unlisted(set, family);
        }
    }
    for address in ORDINARY {
        let address = address.parse()?;
        for (protocol, port) in
            [(Protocol::Tcp, 80), (Protocol::Tcp, 443), (Protocol::Udp, 443), (Protocol::Udp, 3478)]
        {
            probes.ask(None, (address, protocol, port), SMALL, "ordinary internet");
        }
        probes.ask(None, (address, Protocol::Udp, 443), LARGE, "ordinary internet, fragments");
    }
    Ok(probes.list)
}

/// Every address that the far side has to own for `probes`.
pub(super) fn destinations(probes: &[Probe]) -> BTreeSet<IpNet> {
    probes.iter().map(|probe| IpNet::from(probe.destination.ip())).collect()
}

struct Probes<'a> {
    policy: &'a Policy,
    list: Vec<Probe>,
    asked: BTreeSet<(SocketAddr, Protocol, usize)>,
}

impl Probes<'_> {
    fn selected(&mut self, set: &FeedSet, family: fn(&IpNet) -> bool) {
        let policy = self.policy;
        let of_set =
            |prefix: &&PolicyPrefix| prefix.sets.contains(&set.id) && family(&prefix.prefix);
        let mut prefixes: Vec<_> =
            policy.prefixes.iter().filter(of_set).map(|p| p.prefix).collect();
        prefixes.sort_by_key(|prefix| (prefix.prefix_len(), *prefix));
        // The widest and the narrowest: an index answers for one, the trie for the other.
        let Some(widest) = prefixes.first().copied() else { return };
        let narrowest = prefixes.last().copied().filter(|prefix| *prefix != widest);
        for prefix in [widest].into_iter().chain(narrowest) {
            self.edges(set, prefix);
        }
        self.beside_ports(set, widest);
    }

    /// Every edge of prefix and ports, and the addresses just outside.
    fn edges(&mut self, set: &FeedSet, prefix: IpNet) {
        let (first, last) = (prefix.network(), prefix.broadcast());
        for (protocol, ranges) in set.ports() {
            for port in ranges.iter().flat_map(|range| [*range.start(), *range.end()]) {
                let to = |address| (address, protocol, port);
                self.ask(Some(set), to(first), SMALL, &format!("first of {prefix}"));
                self.ask(Some(set), to(last), SMALL, &format!("last of {prefix}"));
            }
            let Some(port) = ranges.first().map(|range| *range.start()) else { continue };
            for (address, side) in [(before(first), "before"), (after(last), "after")] {
                // A neighbour that another selected prefix covers is not outside.
                if let Some(address) = address.filter(|it| self.policy.longest(*it).is_none()) {
                    let to = (address, protocol, port);
                    self.ask(Some(set), to, SMALL, &format!("just {side} {prefix}"));
                }
            }
        }
    }

    /// Ports beside the listed ones, listed ports of the other protocol, and fragments.
    fn beside_ports(&mut self, set: &FeedSet, prefix: IpNet) {
        let address = prefix.network();
        for (protocol, ranges) in set.ports() {
            let other = if protocol == Protocol::Tcp { Protocol::Udp } else { Protocol::Tcp };
            for range in &ranges {
                let listed = text(protocol, range);
                let beside = [range.start().checked_sub(1), range.end().checked_add(1)];
                for port in beside.into_iter().flatten().filter(|port| *port != 0) {
                    let shows = format!("port beside {listed}");
                    self.ask_outside(set, (address, protocol, port), &shows);
                }
                let shows = format!("{}, not {listed}", other.name());
                self.ask_outside(set, (address, other, *range.start()), &shows);
                if protocol == Protocol::Udp {
                    let to = (address, protocol, *range.start());
                    self.ask(Some(set), to, LARGE, &format!("fragments to {listed}"));
                }
            }
        }
    }

    /// For each port range of a set that is not selected, the first address where no other set
    /// makes it direct.
    fn unlisted(&mut self, set: &FeedSet, family: fn(&IpNet) -> bool) {
        for (protocol, ranges) in set.ports() {
            for port in ranges.into_iter().map(|range| *range.start()) {
                let mut prefixes = set.ips.iter().filter(|prefix| family(prefix));
                let inspected = prefixes.find(|prefix| {
                    self.policy.way(prefix.network(), protocol, port) == Way::Inspected
                });
                if let Some(prefix) = inspected {
                    let to = (prefix.network(), protocol, port);
                    self.ask(Some(set), to, SMALL, &format!("not selected, {prefix}"));
                }
            }
        }
    }

    /// Asks unless the policy says Direct, for whichever set.
    fn ask_outside(&mut self, set: &FeedSet, to: Destination, shows: &str) {
        let (address, protocol, port) = to;
        if self.policy.way(address, protocol, port) == Way::Inspected {
            self.ask(Some(set), to, SMALL, shows);
        }
    }

    fn ask(&mut self, set: Option<&FeedSet>, to: Destination, payload: usize, shows: &str) {
        let (address, protocol, port) = to;
        let destination = SocketAddr::new(address, port);
        if !self.asked.insert((destination, protocol, payload)) {
            return;
        }
        // Fragments are inspected wherever they go.
        let expected = match payload {
            LARGE => Way::Inspected,
            _ => self.policy.way(address, protocol, port),
        };
        let about = set.map(|set| format!("set {} {}: ", set.id, set.service_area));
        self.list.push(Probe {
            destination,
            protocol,
            payload,
            set: set.map(|set| set.id),
            shows: about.unwrap_or_default() + shows,
            expected,
        });
    }
}

type Destination = (IpAddr, Protocol, u16);

fn is_v4(prefix: &IpNet) -> bool {
    prefix.addr().is_ipv4()
}

fn is_v6(prefix: &IpNet) -> bool {
    prefix.addr().is_ipv6()
}

fn text(protocol: Protocol, range: &RangeInclusive<u16>) -> String {
    match (range.start(), range.end()) {
        (from, to) if from == to => format!("{}/{from}", protocol.name()),
        (from, to) => format!("{}/{from}-{to}", protocol.name()),
    }
}

fn before(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).checked_sub(1)?).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).checked_sub(1)?).into(),
    })
}

fn after(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).checked_add(1)?).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).checked_add(1)?).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"{"prefixes": [
        {"prefix": "40.96.0.0/13", "sets": [1], "ports": [
            {"protocol": "tcp", "from": 80, "to": 80}, {"protocol": "tcp", "from": 443, "to": 443}]},
        {"prefix": "52.112.0.0/14", "sets": [11], "ports": [
            {"protocol": "udp", "from": 3478, "to": 3481}]},
        {"prefix": "2603:1006::/40", "sets": [1], "ports": [
            {"protocol": "tcp", "from": 80, "to": 80}, {"protocol": "tcp", "from": 443, "to": 443}]}
    ]}"#;
    const FEED: &str = r#"{"version": "1", "sets": [
        {"id": 1, "service_area": "Exchange", "prefixes": ["40.96.0.0/13", "2603:1006::/40"],
         "tcp": [{"from": 80, "to": 80}, {"from": 443, "to": 443}], "udp": []},
        {"id": 2, "service_area": "Exchange", "prefixes": ["40.96.0.0/13"],
         "tcp": [{"from": 143, "to": 143}, {"from": 993, "to": 993}], "udp": []},
        {"id": 9, "service_area": "Exchange", "prefixes": ["40.96.0.0/13"],
         "tcp": [{"from": 443, "to": 443}], "udp": []},
        {"id": 11, "service_area": "Skype", "prefixes": ["52.112.0.0/14"],
         "tcp": [], "udp": [{"from": 3478, "to": 3481}]}
    ]}"#;

    fn probes() -> Vec<Probe> {
        let policy = serde_json::from_str(POLICY).unwrap();
        all(&policy, &serde_json::from_str(FEED).unwrap()).unwrap()
    }

    fn expected(probes: &[Probe], to: &str, protocol: Protocol, payload: usize) -> Option<Way> {
        let to: SocketAddr = to.parse().unwrap();
        let probe = probes.iter().find(|probe| {
            (probe.destination, probe.protocol, probe.payload) == (to, protocol, payload)
        });
        probe.map(|probe| probe.expected)
    }

    #[test]
    fn edges_go_direct_and_what_lies_outside_does_not() {
        let probes = probes();
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let (direct, inspected) = (Some(Way::Direct), Some(Way::Inspected));
        for (to, protocol, way) in [
            ("40.96.0.0:80", tcp, direct),
            ("40.103.255.255:443", tcp, direct),
            ("[2603:1006::]:443", tcp, direct),
            ("[2603:1006:ff:ffff:ffff:ffff:ffff:ffff]:80", tcp, direct),
            ("52.112.0.0:3478", udp, direct),
            ("52.115.255.255:3481", udp, direct),
            ("40.95.255.255:80", tcp, inspected),
            ("40.104.0.0:80", tcp, inspected),
            ("[2603:1005:ffff:ffff:ffff:ffff:ffff:ffff]:80", tcp, inspected),
            ("52.112.0.0:3477", udp, inspected),
            ("52.112.0.0:3482", udp, inspected),
            ("52.112.0.0:3478", tcp, inspected),
            ("40.96.0.0:143", tcp, inspected),
            ("203.0.113.10:443", tcp, inspected),
        ] {
            assert_eq!(expected(&probes, to, protocol, SMALL), way, "{to} {protocol:?}");
        }
    }

    #[test]
    fn fragments_are_inspected_where_the_whole_datagram_goes_direct() {
        let probes = probes();
        let large = expected(&probes, "52.112.0.0:3478", Protocol::Udp, LARGE);
        assert_eq!(large, Some(Way::Inspected));
    }

    #[test]
    fn a_set_that_is_direct_through_another_is_not_asked_for() {
        assert!(probes().iter().all(|probe| probe.set != Some(9)));
    }

    #[test]
    fn no_question_is_asked_twice() {
        let probes = probes();
        let asked: BTreeSet<_> =
            probes.iter().map(|p| (p.destination, p.protocol, p.payload)).collect();
        assert_eq!(asked.len(), probes.len());
    }

    #[test]
    fn a_policy_without_prefixes_is_refused() {
        let policy = serde_json::from_str(r#"{"prefixes": []}"#).unwrap();
        assert!(all(&policy, &serde_json::from_str(FEED).unwrap()).is_err());
    }
}
