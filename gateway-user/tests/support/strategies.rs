//! Feeds and policies that are small and full of nested, touching and repeated prefixes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gateway_common::Transport;
use gateway_user::feed::{Category, EndpointSet, Ports, SetId, Snapshot, digest};
use gateway_user::policy::{Exclude, OwnInclude, Policy};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;

/// The sets that a feed may have, around the sign-in set.
const IDS: std::ops::RangeInclusive<SetId> = 54..=58;

/// Octets from a short list, so that prefixes nest, repeat and touch.
fn octet() -> impl Strategy<Value = u8> {
    select(vec![0, 1, 128, 255])
}

fn prefix() -> impl Strategy<Value = IpNet> {
    let v4 = (prop::array::uniform4(octet()), 1..=32_u8)
        .prop_map(|(octets, length)| (IpAddr::from(Ipv4Addr::from(octets)), length));
    let v6 = (prop::array::uniform16(octet()), 1..=128_u8)
        .prop_map(|(octets, length)| (IpAddr::from(Ipv6Addr::from(octets)), length));
    prop_oneof![v4, v6].prop_map(|(address, length)| IpNet::new(address, length).unwrap().trunc())
}

fn ports() -> impl Strategy<Value = Ports> {
    let port = select(vec![1_u16, 25, 53, 80, 81, 443, 65535]);
    prop::collection::vec((port, 0..3_u16), 0..3).prop_map(|ranges| {
        ranges.iter().map(|(first, more)| *first..=first.saturating_add(*more)).collect()
    })
}

fn endpoint_set(id: SetId) -> impl Strategy<Value = EndpointSet> {
    let prefixes = prop::collection::btree_set(prefix(), 0..5);
    let category = select(Category::ALL.to_vec());
    let areas = select(vec!["Exchange", "Skype"]);
    (prefixes, ports(), ports(), category, areas, any::<bool>()).prop_map(
        move |(prefixes, tcp, udp, category, area, required)| EndpointSet {
            id,
            service_area: area.into(),
            display_name: String::new(),
            category,
            required,
            express_route: false,
            prefixes,
            tcp,
            udp,
            urls: BTreeSet::new(),
            notes: String::new(),
        },
    )
}

/// A feed of some of the sets.
pub(crate) fn snapshot() -> impl Strategy<Value = Snapshot> {
    let sets: Vec<_> = IDS.map(|id| prop::option::weighted(0.8, endpoint_set(id))).collect();
    sets.prop_map(|sets| {
        let sets = sets.into_iter().flatten().map(|set| (set.id, set)).collect();
        let digest = digest(&sets);
        Snapshot { instance: None, version: None, digest, sets }
    })
}

/// The feed after it, and the one before: now and then equal, and mostly alike.
pub(crate) fn snapshots() -> impl Strategy<Value = [Snapshot; 2]> {
    (snapshot(), snapshot(), prop::collection::btree_set(select(IDS.collect::<Vec<_>>()), 0..6))
        .prop_map(|(first, mut second, same)| {
            for id in same {
                match first.sets.get(&id) {
                    Some(set) => second.sets.insert(id, set.clone()),
                    None => second.sets.remove(&id),
                };
            }
            second.digest = digest(&second.sets);
            [first, second]
        })
}

fn protocol() -> impl Strategy<Value = Option<Transport>> {
    select(vec![None, Some(Transport::Tcp), Some(Transport::Udp)])
}

fn own_include() -> impl Strategy<Value = OwnInclude> {
    let prefixes = prop::collection::btree_set(prefix(), 1..4);
    (select(vec!["branch", "voice"]), prefixes, protocol(), prop::option::of(ports())).prop_map(
        |(name, prefixes, protocol, ports)| OwnInclude {
            name: name.into(),
            prefixes,
            protocol,
            ports,
            ..OwnInclude::default()
        },
    )
}

fn exclude() -> impl Strategy<Value = Exclude> {
    let prefixes = prop::collection::btree_set(prefix(), 1..4);
    (select(vec!["lab", "bank"]), prefixes, protocol(), prop::option::of(ports())).prop_map(
        |(name, prefixes, protocol, ports)| Exclude {
            name: name.into(),
            prefixes,
            protocol,
            ports,
            ..Exclude::default()
        },
    )
}

/// A policy that may name any set, and has own entries.
pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    (
        prop::collection::btree_set(select(Category::ALL.to_vec()), 1..=3),
        any::<[bool; 3]>(),
        prop::collection::btree_set(IDS, 0..3),
        prop::collection::vec(own_include(), 0..3),
        prop::collection::vec(exclude(), 0..3),
    )
        .prop_map(|(categories, families, include_sets, includes, excludes)| {
            let [required_only, four, six] = families;
            Policy {
                categories,
                required_only,
                include_sets,
                includes,
                excludes,
                ipv4: four || !six,
                ipv6: six,
                ..Policy::default()
            }
        })
}

/// `policy` without the sets that `snapshot` does not have, which a policy may not name.
pub(crate) fn fitted(policy: &Policy, snapshot: &Snapshot) -> Policy {
    let mut policy = policy.clone();
    policy.include_sets.retain(|id| snapshot.sets.contains_key(id));
    policy
}
