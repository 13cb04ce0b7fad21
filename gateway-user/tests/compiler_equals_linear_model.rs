//! The compiled table says of every packet what a linear walk over all rules says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use gateway_common::classify::port_set_of;
use gateway_common::{Decision, FlowKey, Reason, Transport, abi, decide};
use gateway_user::feed::{Category, EndpointSet, Ports, Snapshot};
use gateway_user::policy::{
    Compiled, Exclude, Exclusion, Note, OwnInclude, Policy, PolicyError, Rule, Table, compile,
};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;

/// What the rules say, read one after the other.
#[derive(Debug, PartialEq)]
enum Said {
    Direct(BTreeSet<u32>),
    Inspect(Reason),
}

fn model(
    rules: &[Rule],
    exclusions: &[Exclusion],
    address: IpAddr,
    transport: Transport,
    port: u16,
) -> Said {
    let covering = rules.iter().filter(|rule| rule.prefix.contains(&address));
    let matching: BTreeSet<u32> = covering
        .clone()
        .filter(|rule| rule.transport == transport && (rule.first..=rule.last).contains(&port))
        .map(|rule| rule.set)
        .collect();
    let excluded = exclusions.iter().any(|exclusion| {
        exclusion.prefix.contains(&address)
            && exclusion.transport == transport
            && (exclusion.first..=exclusion.last).contains(&port)
    });
    match (covering.count(), matching.is_empty(), excluded) {
        (0, ..) => Said::Inspect(Reason::NoPrefix),
        (_, true, _) => Said::Inspect(Reason::PortNotListed),
        (_, false, true) => Said::Inspect(Reason::Excluded),
        (_, false, false) => Said::Direct(matching),
    }
}

fn table_says(table: &Table, address: IpAddr, transport: Transport, port: u16) -> Said {
    let key = FlowKey { destination: address.into(), transport, destination_port: port };
    let decision: Decision = decide(&key, table);
    match decision.group() {
        Some(group) => Said::Direct(table.groups()[usize::from(group)].clone()),
        None => Said::Inspect(decision.reason()),
    }
}

/// Octets from a short list, so that prefixes nest, repeat and touch.
fn octet() -> impl Strategy<Value = u8> {
    select(vec![0, 1, 2, 127, 128, 254, 255])
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        prop::array::uniform4(octet()).prop_map(|octets| Ipv4Addr::from(octets).into()),
        prop::array::uniform16(octet()).prop_map(|octets| Ipv6Addr::from(octets).into()),
    ]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (address(), 1..=128_u8, any::<bool>()).prop_map(|(address, length, shallow)| {
        let longest = if address.is_ipv4() {
            32
        } else if shallow {
            56
        } else {
            128
        };
        IpNet::new(address, (length - 1) % longest + 1).unwrap().trunc()
    })
}

/// A prefix, and now and then its neighbour, its parent or itself again.
fn family_of_prefixes() -> impl Strategy<Value = Vec<IpNet>> {
    (prefix(), 0..5_u8).prop_map(|(prefix, kind)| match (kind, prefix.supernet()) {
        (0, Some(parent)) if parent.prefix_len() > 0 => {
            parent.subnets(prefix.prefix_len()).unwrap().collect()
        }
        (1, Some(parent)) if parent.prefix_len() > 0 => vec![prefix, parent],
        (2, _) => vec![prefix, prefix],
        _ => vec![prefix],
    })
}

fn ports() -> impl Strategy<Value = Ports> {
    let port = select(vec![1_u16, 25, 53, 80, 81, 443, 444, 3478, 3481, 65534, 65535]);
    prop::collection::vec((port, 0..4_u16), 0..3).prop_map(|ranges| {
        ranges.iter().map(|(first, more)| *first..=first.saturating_add(*more)).collect()
    })
}

fn endpoint_set(id: u32) -> impl Strategy<Value = EndpointSet> {
    let prefixes = prop::collection::vec(family_of_prefixes(), 0..6);
    let category = select(Category::ALL.to_vec());
    (prefixes, ports(), ports(), category, any::<bool>()).prop_map(
        move |(prefixes, tcp, udp, category, required)| EndpointSet {
            id,
            service_area: if id.is_multiple_of(2) { "Even" } else { "Odd" }.into(),
            display_name: String::new(),
            category,
            required,
            express_route: false,
            prefixes: prefixes.into_iter().flatten().collect(),
            tcp,
            udp,
            urls: BTreeSet::new(),
            notes: String::new(),
        },
    )
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    // Around the sign-in set's id.
    let sets: Vec<_> = (52..=58).map(endpoint_set).collect();
    sets.prop_map(|sets| Snapshot {
        instance: None,
        version: None,
        digest: String::new(),
        sets: sets.into_iter().map(|set| (set.id, set)).collect(),
    })
}

/// Prefixes, protocol and ports of an own entry.
type Entry = (BTreeSet<IpNet>, Option<Transport>, Option<Ports>);

fn entry() -> impl Strategy<Value = Entry> {
    let prefixes = prop::collection::vec(family_of_prefixes(), 1..4);
    let protocol = select(vec![None, Some(Transport::Tcp), Some(Transport::Udp)]);
    (prefixes, protocol, prop::option::of(ports())).prop_map(|(prefixes, protocol, ports)| {
        let ports = ports.filter(|ports| !ports.is_empty());
        (prefixes.into_iter().flatten().collect(), protocol, ports)
    })
}

/// A policy, and the policy with own entries: includes that nest with the feed's prefixes, and
/// excludes around, inside and beside both.
fn policy() -> impl Strategy<Value = Policy> {
    let includes = prop::collection::vec(entry(), 0..3);
    let excludes = prop::collection::vec(entry(), 0..4);
    (policy_of_sets(), includes, excludes).prop_map(|(policy, includes, excludes)| {
        let includes = includes.into_iter().enumerate().map(|(n, (prefixes, protocol, ports))| {
            let name = format!("include-{n}");
            OwnInclude { name, prefixes, protocol, ports, ..OwnInclude::default() }
        });
        let excludes = excludes.into_iter().enumerate().map(|(n, (prefixes, protocol, ports))| {
            let name = format!("exclude-{n}");
            Exclude { name, prefixes, protocol, ports, ..Exclude::default() }
        });
        Policy { includes: includes.collect(), excludes: excludes.collect(), ..policy }
    })
}

fn policy_of_sets() -> impl Strategy<Value = Policy> {
    (
        prop::collection::btree_set(select(Category::ALL.to_vec()), 0..=3),
        prop::collection::btree_set(52..=58_u32, 0..3),
        prop::collection::btree_set(52..=58_u32, 0..2),
        any::<[bool; 4]>(),
    )
        .prop_map(|(categories, include_sets, exclude_sets, [required, area, four, six])| {
            Policy {
                categories,
                service_areas: area.then(|| BTreeSet::from(["Even".to_owned()])),
                required_only: required,
                include_sets,
                exclude_sets,
                ipv4: four || !six,
                ipv6: six,
                ..Policy::default()
            }
        })
}

/// The rules that a policy selects, written down as the documentation says it.
fn rules_of(snapshot: &Snapshot, policy: &Policy) -> Vec<Rule> {
    let mut rules = Vec::new();
    for set in snapshot.sets.values() {
        let named = policy.include_sets.contains(&set.id);
        let by_category = policy.categories.contains(&set.category)
            && (!policy.required_only || set.required)
            && policy.service_areas.as_ref().is_none_or(|areas| areas.contains(&set.service_area))
            && set.id != 56;
        if policy.exclude_sets.contains(&set.id) || !named && !by_category {
            continue;
        }
        for prefix in &set.prefixes {
            if !(prefix.addr().is_ipv4() && policy.ipv4 || prefix.addr().is_ipv6() && policy.ipv6) {
                continue;
            }
            for (transport, ports) in [(Transport::Tcp, &set.tcp), (Transport::Udp, &set.udp)] {
                for port in ports.ranges().flatten() {
                    let held_back = port == 53 || port == 25 && transport == Transport::Tcp;
                    if named || !held_back {
                        let (first, last) = (port, port);
                        rules.push(Rule { prefix: *prefix, transport, first, last, set: set.id });
                    }
                }
            }
        }
    }
    for (place, include) in (0..).zip(&policy.includes) {
        for prefix in &include.prefixes {
            if !(prefix.addr().is_ipv4() && policy.ipv4 || prefix.addr().is_ipv6() && policy.ipv6) {
                continue;
            }
            for transport in [Transport::Tcp, Transport::Udp] {
                if include.protocol.is_some_and(|only| only != transport) {
                    continue;
                }
                let ranges: Vec<_> = match (&include.ports, transport) {
                    (Some(ports), _) => ports.ranges().collect(),
                    (None, Transport::Tcp) => vec![1..=24, 26..=52, 54..=65_535],
                    (None, Transport::Udp) => vec![1..=52, 54..=65_535],
                };
                rules.extend(ranges.into_iter().map(|range| Rule {
                    prefix: *prefix,
                    transport,
                    first: *range.start(),
                    last: *range.end(),
                    set: 0x8000_0000 + place,
                }));
            }
        }
    }
    rules
}

/// What a policy excludes, written down as the documentation says it.
fn exclusions_of(policy: &Policy) -> Vec<Exclusion> {
    let mut exclusions = Vec::new();
    for (place, exclude) in (0..).zip(&policy.excludes) {
        for prefix in &exclude.prefixes {
            for transport in [Transport::Tcp, Transport::Udp] {
                if exclude.protocol.is_some_and(|only| only != transport) {
                    continue;
                }
                let ranges: Vec<_> = match &exclude.ports {
                    Some(ports) => ports.ranges().collect(),
                    None => vec![0..=65_535],
                };
                exclusions.extend(ranges.into_iter().map(|range| Exclusion {
                    prefix: *prefix,
                    transport,
                    first: *range.start(),
                    last: *range.end(),
                    exclude: place,
                }));
            }
        }
    }
    exclusions
}

/// Names of the excludes that share an address, protocol and port with a rule.
fn cutting(rules: &[Rule], policy: &Policy) -> BTreeSet<String> {
    let exclusions = exclusions_of(policy);
    let cuts = exclusions.iter().filter(|exclusion| {
        rules.iter().any(|rule| {
            (rule.prefix.contains(&exclusion.prefix) || exclusion.prefix.contains(&rule.prefix))
                && rule.transport == exclusion.transport
                && rule.first <= exclusion.last
                && exclusion.first <= rule.last
        })
    });
    cuts.map(|exclusion| policy.excludes[usize::from(exclusion.exclude)].name.clone()).collect()
}

/// First and last address of every prefix and the ones before and after, and some more.
fn addresses_around(prefixes: impl Iterator<Item = IpNet>, more: &[IpAddr]) -> BTreeSet<IpAddr> {
    let mut addresses: BTreeSet<IpAddr> = more.iter().copied().collect();
    for prefix in prefixes {
        match (prefix.network(), prefix.broadcast()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let (first, last) = (first.to_bits(), last.to_bits());
                let all = [first, last, first.saturating_sub(1), last.saturating_add(1)];
                addresses.extend(all.map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))));
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let (first, last) = (first.to_bits(), last.to_bits());
                let all = [first, last, first.saturating_sub(1), last.saturating_add(1)];
                addresses.extend(all.map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))));
            }
            _ => unreachable!("the ends of a prefix are of one family"),
        }
    }
    addresses
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn compiled_table_equals_linear_model(
        snapshot in snapshot(),
        policy in policy(),
        more in prop::collection::vec(address(), 8),
    ) {
        let (rules, exclusions) = (rules_of(&snapshot, &policy), exclusions_of(&policy));
        let prefixes = rules.iter().map(|rule| rule.prefix);
        let prefixes = prefixes.chain(exclusions.iter().map(|exclusion| exclusion.prefix));
        let addresses = addresses_around(prefixes, &more);
        // Between these, nothing changes.
        let ports = [0, 1, 2, 24, 25, 53, 54, 80, 83, 443, 3478, 3484, 65534, 65535];
        let compiled = match compile(&snapshot, &policy) {
            Ok(compiled) => compiled,
            // With own entries, so many cannot be ruled out; the refusal has a test of its own.
            Err(PolicyError::TooManyRanges { .. }) => return Ok(()),
            Err(error) => {
                prop_assert_eq!(error, PolicyError::Empty);
                for address in addresses {
                    for rule in &rules {
                        for port in [rule.first, rule.last] {
                            let said = model(&rules, &exclusions, address, rule.transport, port);
                            prop_assert!(matches!(said, Said::Inspect(_)), "{address} {port}");
                        }
                    }
                }
                return Ok(());
            }
        };
        let Compiled { table, .. } = &compiled;
        prop_assert_eq!(&compile(&snapshot, &policy).unwrap(), &compiled);
        let bare = table.without_index();
        for address in addresses {
            let longest = table.longest(address).map(|(_, port_set)| port_set);
            prop_assert_eq!(port_set_of(address.into(), table), longest);
            for transport in [Transport::Tcp, Transport::Udp] {
                for port in ports {
                    let expected = model(&rules, &exclusions, address, transport, port);
                    prop_assert_eq!(&table_says(table, address, transport, port), &expected);
                    prop_assert_eq!(&table_says(&bare, address, transport, port), &expected);
                }
            }
        }
        let idle: BTreeSet<String> = compiled
            .notes
            .iter()
            .filter(|note| matches!(note, Note::ExcludeCutsNothing { .. }))
            .filter_map(|note| note.own().map(str::to_owned))
            .collect();
        let all: BTreeSet<String> =
            policy.excludes.iter().map(|exclude| exclude.name.clone()).collect();
        prop_assert_eq!(idle, &all - &cutting(&rules, &policy));
    }

    #[test]
    fn the_order_of_the_rules_does_not_show(
        snapshot in snapshot(),
        policy in policy(),
        at in any::<prop::sample::Index>(),
    ) {
        let (mut rules, mut exclusions) = (rules_of(&snapshot, &policy), exclusions_of(&policy));
        let table = Table::from_rules_except(rules.clone(), exclusions.clone());
        if !rules.is_empty() {
            let middle = at.index(rules.len());
            rules.rotate_left(middle);
        }
        rules.reverse();
        exclusions.reverse();
        prop_assert_eq!(Table::from_rules_except(rules, exclusions), table);
    }
}

/// `count` rules for distinct prefixes in groups of touching ones, of several port sets, in
/// ranges for documentation and benchmarks (RFC 2544, RFC 3849).
fn synthetic(count: u32, v6: bool) -> impl Iterator<Item = Rule> {
    (0..count).map(move |n| {
        let spread = n.wrapping_mul(2_654_435_761);
        let prefix = if v6 {
            let bits = 0x2001_0db8_u128 << 96 | u128::from(spread) << 72;
            IpNet::new(Ipv6Addr::from_bits(bits).into(), 40 + u8::try_from(n % 25).unwrap())
        } else {
            IpNet::new(Ipv4Addr::from_bits(spread).into(), 17 + u8::try_from(n % 16).unwrap())
        };
        let first = 443 + u16::try_from(n % 7).unwrap();
        Rule {
            prefix: prefix.unwrap().trunc(),
            transport: Transport::Tcp,
            first,
            last: first,
            set: n % 7,
        }
    })
}

#[test]
fn a_hundred_thousand_prefixes_compile_in_a_second_and_stay_exact() {
    for v6 in [false, true] {
        let started = Instant::now();
        let table = Table::from_rules(synthetic(100_000, v6)).unwrap();
        let took = started.elapsed();
        assert!(took < Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 1 }));
        let some = table.prefixes().step_by(37).map(|(prefix, _)| prefix);
        for address in addresses_around(some, &[]) {
            let longest = table.longest(address).map(|(_, port_set)| port_set);
            assert_eq!(port_set_of(address.into(), &table), longest, "{address}");
        }
    }
}

#[test]
fn where_blocks_run_out_the_trie_answers() {
    // Every /16 is divided differently: one /24 in a place, with a port set, of its own.
    let rules = (0..40_000_u32).map(|n| {
        let port = 1 + u16::try_from(n / 256).unwrap();
        let prefix = IpNet::new(Ipv4Addr::from_bits(n << 16 | (n % 256) << 8).into(), 24).unwrap();
        Rule { prefix, transport: Transport::Tcp, first: port, last: port, set: 1 }
    });
    let table = Table::from_rules(rules).unwrap();
    assert_eq!(table.blocks().len(), usize::from(abi::Slot::MAX_BLOCKS));
    let to_trie = table.index_v4().iter().filter(|slot| **slot == abi::Slot::TRIE.0).count();
    assert_eq!(to_trie, 40_000 - usize::from(abi::Slot::MAX_BLOCKS));
    let some = table.prefixes().step_by(11).map(|(prefix, _)| prefix);
    for address in addresses_around(some, &[]) {
        let longest = table.longest(address).map(|(_, port_set)| port_set);
        assert_eq!(port_set_of(address.into(), &table), longest, "{address}");
    }
}

fn rule(prefix: &str, first: u16, last: u16, set: u32) -> Rule {
    Rule { prefix: prefix.parse().unwrap(), transport: Transport::Tcp, first, last, set }
}

#[test]
fn port_sets_that_do_not_fit_are_refused_by_name() {
    let ranges = |count| (0..count).map(|n| rule("192.0.2.0/24", 10 * n + 1, 10 * n + 1, 7));
    assert!(Table::from_rules(ranges(16)).is_ok());
    let refusal = Table::from_rules(ranges(17)).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "192.0.2.0/24 needs 17 tcp port ranges of set 7, but 16 fit; leave one of these out"
    );
}

fn exclusion(prefix: &str, first: u16, last: u16) -> Exclusion {
    let prefix = prefix.parse().unwrap();
    Exclusion { prefix, transport: Transport::Tcp, first, last, exclude: 0 }
}

fn snapshot_of(prefix: &str, tcp: &str) -> Snapshot {
    let feed = format!(
        "[{{\"id\": 1, \"serviceArea\": \"Exchange\", \"category\": \"Optimize\", \
          \"required\": true, \"ips\": [\"{prefix}\"], \"tcpPorts\": \"{tcp}\"}}]"
    );
    gateway_user::feed::parse(feed.as_bytes(), "feed").unwrap()
}

#[test]
fn excludes_that_split_too_finely_are_refused_by_name() {
    let ports: Vec<String> = (0..9).map(|n| (100 + 10 * n).to_string()).collect();
    let exclude = Exclude {
        name: "sieve".into(),
        prefixes: BTreeSet::from(["192.0.2.0/25".parse().unwrap()]),
        ports: Some(ports.join(",").parse().unwrap()),
        ..Exclude::default()
    };
    let include = OwnInclude {
        name: "branch".into(),
        prefixes: exclude.prefixes.clone(),
        ports: Some("443".parse().unwrap()),
        ..OwnInclude::default()
    };
    let policy = Policy { includes: vec![include], excludes: vec![exclude], ..Policy::default() };
    let refusal = compile(&snapshot_of("192.0.2.0/24", "1-65535"), &policy).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "192.0.2.0/25 needs 23 tcp port ranges of set 1, include \"branch\", exclude \"sieve\", \
         but 16 fit; leave one of these out"
    );
}

#[test]
fn an_exclude_is_an_entry_only_where_it_cuts() {
    let prefixes =
        |table: &Table| table.prefixes().map(|(prefix, _)| prefix.to_string()).collect::<Vec<_>>();
    let rules = [rule("192.0.2.0/24", 443, 443, 1)];
    for (exclude, entries) in [
        (exclusion("192.0.2.7/32", 443, 443), vec!["192.0.2.0/24", "192.0.2.7/32"]),
        (exclusion("192.0.2.7/32", 80, 80), vec!["192.0.2.0/24"]),
        (exclusion("198.51.100.0/24", 443, 443), vec!["192.0.2.0/24"]),
        (exclusion("192.0.0.0/16", 80, 80), vec!["192.0.2.0/24"]),
    ] {
        let table = Table::from_rules_except(rules, [exclude]).unwrap();
        assert_eq!(prefixes(&table), entries, "{exclude:?}");
    }
}

#[test]
fn a_policy_that_is_excluded_altogether_is_refused() {
    let rules = [rule("192.0.2.0/24", 443, 443, 1)];
    let halves = [exclusion("192.0.2.0/25", 443, 443), exclusion("192.0.2.128/25", 443, 443)];
    for all in [&[exclusion("0.0.0.0/0", 0, 65_535)][..], &halves] {
        let outcome = Table::from_rules_except(rules, all.iter().copied());
        assert_eq!(outcome.unwrap_err(), PolicyError::Empty, "{all:?}");
    }
    let [half, _] = halves;
    assert!(Table::from_rules_except(rules, [half]).is_ok());
}

#[test]
fn more_port_sets_than_ids_are_refused() {
    let rules = |count: u32| {
        (0..count).map(|n| {
            let prefix = IpNet::new(Ipv4Addr::from_bits(n << 8).into(), 24).unwrap();
            let port = u16::try_from(n + 1).unwrap();
            Rule { prefix, transport: Transport::Tcp, first: port, last: port, set: 1 }
        })
    };
    assert!(Table::from_rules(rules(32_767)).is_ok());
    let refusal = Table::from_rules(rules(32_768)).unwrap_err();
    assert_eq!(refusal, PolicyError::TooManyPortSets { prefix: "0.127.255.0/24".parse().unwrap() });
}

#[test]
fn the_whole_internet_is_refused() {
    for whole in ["0.0.0.0/0", "::/0"] {
        let refusal = Table::from_rules([rule(whole, 443, 443, 3)]).unwrap_err();
        let prefix = whole.parse().unwrap();
        assert_eq!(refusal, PolicyError::WholeInternet { prefix, of: "set 3".to_owned() });
    }
    assert_eq!(Table::from_rules([]).unwrap_err(), PolicyError::Empty);
}

#[test]
fn neighbours_stay_apart_and_ranges_split_where_provenance_changes() {
    let table = Table::from_rules([
        rule("192.0.2.0/25", 443, 443, 1),
        rule("192.0.2.128/25", 443, 443, 1),
        rule("198.51.100.0/24", 80, 90, 1),
        rule("198.51.100.0/24", 85, 100, 2),
        rule("198.51.100.0/24", 101, 101, 2),
    ])
    .unwrap();
    assert_eq!(table.prefixes().len(), 3);
    assert_eq!(table.port_sets().len(), 2, "the halves share theirs");
    let [.., split] = table.port_sets() else { unreachable!("there are two") };
    let ranges: Vec<_> = split.tcp[..4]
        .iter()
        .map(|range| (range.from, range.to, table.groups().get(usize::from(range.group))))
        .collect();
    let (one, both, two) = ([1].into(), [1, 2].into(), [2].into());
    assert_eq!(ranges[..3], [(80, 84, Some(&one)), (85, 90, Some(&both)), (91, 101, Some(&two))]);
    assert!(ranges[3].0 > ranges[3].1, "unused");
}

#[test]
fn covered_slash_16s_and_24s_need_no_trie() {
    let table = Table::from_rules([
        rule("40.96.0.0/13", 443, 443, 1),
        rule("10.0.1.0/24", 443, 443, 1),
        rule("10.0.2.0/25", 443, 443, 1),
        rule("10.0.3.0/25", 443, 443, 1),
        rule("10.0.3.128/25", 443, 443, 1),
        rule("40.97.3.3/32", 443, 443, 1),
    ])
    .unwrap();
    let index: BTreeMap<u16, usize> =
        table.index_v4().iter().fold(BTreeMap::new(), |mut all, s| {
            *all.entry(*s).or_default() += 1;
            all
        });
    // Eight /16s of port set 0, one block, the rest a miss: the equal /32 divides nothing.
    assert_eq!(index, BTreeMap::from([(0, 65_536 - 9), (1, 8), (0x8000, 1)]));
    let [block] = table.blocks() else { unreachable!("one /16 is divided") };
    assert_eq!(block[..5], [0, 1, u16::MAX, 1, 0]);
}
