//! Whatever two feeds and policies there are: the plan between them leads from one to the other,
//! between equal ones it is empty, its bytes read back, and guards say why in one line each.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use arbitrary::Arbitrary;
use gateway_common::Transport;
use gateway_user::cli::plan_text::text;
use gateway_user::feed::{Category, EndpointSet, Ports, SetId, Snapshot, digest};
use gateway_user::plan::{GatewayNetworks, Guards, Plan, Side, Trigger, check};
use gateway_user::policy::{Compiled, Exclude, OwnInclude, Policy, compile};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    /// Sets of both sides; a set that is equal on both is written once.
    sets: Vec<(Where, AnySet)>,
    policies: [AnyPolicy; 2],
    gateway: Vec<Prefix>,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Old,
    New,
    Both,
}

#[derive(Arbitrary, Debug)]
struct AnySet {
    id: u8,
    category: u8,
    required: bool,
    prefixes: Vec<Prefix>,
    tcp: Vec<(u16, u8)>,
    udp: Vec<(u16, u8)>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Prefix {
    address: IpAddr,
    length: u8,
}

#[derive(Arbitrary, Debug)]
struct AnyPolicy {
    categories: u8,
    required_only: bool,
    include: BTreeSet<u8>,
    exclude: BTreeSet<u8>,
    families: u8,
    includes: Vec<OwnEntry>,
    excludes: Vec<OwnEntry>,
}

#[derive(Arbitrary, Debug)]
struct OwnEntry {
    prefixes: Vec<Prefix>,
    udp: Option<bool>,
    ports: Option<(u16, u8)>,
}

impl OwnEntry {
    fn prefixes(&self) -> BTreeSet<IpNet> {
        self.prefixes.iter().take(8).map(|prefix| prefix.net()).collect()
    }

    fn protocol(&self) -> Option<Transport> {
        self.udp.map(|udp| if udp { Transport::Udp } else { Transport::Tcp })
    }

    fn ports(&self) -> Option<Ports> {
        self.ports.map(|range| ports(&[range]))
    }
}

fn ports(ranges: &[(u16, u8)]) -> Ports {
    ranges
        .iter()
        .take(6)
        .map(|(first, more)| (*first).max(1)..=first.saturating_add((*more).into()).max(1))
        .collect()
}

fuzz_target!(|input: Input| {
    let [old, new] = [Where::Old, Where::New].map(|side| snapshot(&input.sets, side));
    let [first, second] = &input.policies;
    let (old_policy, new_policy) = (first.policy(&old), second.policy(&new));
    let Ok(after) = compile(&new, &new_policy) else { return };
    let new = Side { snapshot: &new, policy: &new_policy, compiled: &after };
    let before = compile(&old, &old_policy);
    let old =
        before.as_ref().ok().map(|compiled| Side { snapshot: &old, policy: &old_policy, compiled });
    laws(old.as_ref(), &new, &input.gateway);
});

fn laws(old: Option<&Side<'_>>, new: &Side<'_>, gateway: &[Prefix]) {
    let plan = Plan::between(old, new);
    let rules = old.map_or(&[][..], |old| &old.compiled.rules);
    assert_eq!(plan.apply(rules), new.compiled.rules);
    let exclusions = old.map_or(&[][..], |old| &old.compiled.exclusions);
    assert_eq!(plan.apply_to_exclusions(exclusions), new.compiled.exclusions);
    let (now, then) = ((rules, exclusions), (&*new.compiled.rules, &*new.compiled.exclusions));
    assert_eq!(plan.is_empty(), now == then);
    let same = Plan::between(Some(new), new);
    assert!(same.is_empty() && same.sets.is_empty());
    for totals in [plan.ipv4, plan.ipv6] {
        // The sums are cut off at the largest number there is, which only whole /1s come near.
        if totals.space_before.max(totals.space_after) < 1 << 63 {
            let kept = totals.space_before - totals.space_lost;
            assert_eq!(totals.space_after, kept + totals.space_gained);
        }
        assert_eq!(
            totals.prefixes_after,
            totals.prefixes_before - totals.prefixes_leaving + totals.prefixes_entering
        );
    }
    let json = serde_json::to_string(&plan).expect("a plan can be written");
    let read: Plan = serde_json::from_str(&json).expect("what was written is read");
    assert_eq!(read, plan);
    assert_eq!(read.id(), plan.id());
    let addresses = gateway.iter().map(|prefix| prefix.net()).collect();
    let gateway = GatewayNetworks { addresses };
    let refusals = check(&Guards::default(), &plan, new, &gateway, Trigger::Feed);
    for refusal in &refusals {
        assert!(!refusal.to_string().contains('\n'));
    }
    assert!(text(&plan, &refusals).starts_with(&format!("plan {}: ", plan.id())));
    own_networks(new.compiled, &gateway);
}

/// What the ordered look-up finds is what a walk over all networks finds.
fn own_networks(compiled: &Compiled, gateway: &GatewayNetworks) {
    for rule in &compiled.rules {
        let overlaps = |net: &IpNet| net.contains(&rule.prefix) || rule.prefix.contains(net);
        let found = gateway.overlapping(rule.prefix);
        assert_eq!(found.is_some(), gateway.addresses.iter().any(overlaps));
        assert!(found.is_none_or(|net| overlaps(&net)));
    }
}

fn snapshot(sets: &[(Where, AnySet)], side: Where) -> Snapshot {
    let sets: BTreeMap<SetId, EndpointSet> = sets
        .iter()
        .take(8)
        .filter(|(place, _)| *place == Where::Both || *place == side)
        .map(|(_, set)| set.endpoint_set())
        .map(|set| (set.id, set))
        .collect();
    let digest = digest(&sets);
    Snapshot { instance: None, version: None, digest, sets }
}

impl AnySet {
    fn endpoint_set(&self) -> EndpointSet {
        EndpointSet {
            // Around the sign-in set, so that ids meet.
            id: 50 + SetId::from(self.id % 8),
            service_area: "Common".to_owned(),
            display_name: String::new(),
            category: Category::ALL[usize::from(self.category) % 3],
            required: self.required,
            express_route: false,
            prefixes: self.prefixes.iter().take(16).map(|prefix| prefix.net()).collect(),
            tcp: ports(&self.tcp),
            udp: ports(&self.udp),
            urls: BTreeSet::new(),
            notes: String::new(),
        }
    }
}

impl Prefix {
    fn net(self) -> IpNet {
        let longest = if self.address.is_ipv4() { 32 } else { 128 };
        let net = IpNet::new(self.address, self.length % longest + 1);
        net.expect("no longer than the address").trunc()
    }
}

impl AnyPolicy {
    /// Names only sets that `snapshot` has: another policy is refused for it.
    fn policy(&self, snapshot: &Snapshot) -> Policy {
        let known = |ids: &BTreeSet<u8>| -> BTreeSet<SetId> {
            let ids = ids.iter().map(|id| 50 + SetId::from(id % 8));
            ids.filter(|id| snapshot.sets.contains_key(id)).collect()
        };
        let categories = (0..3).filter(|bit| self.categories & 1 << bit != 0);
        Policy {
            categories: categories.map(|index: usize| Category::ALL[index]).collect(),
            required_only: self.required_only,
            include_sets: known(&self.include),
            exclude_sets: known(&self.exclude),
            ipv4: self.families != 0,
            ipv6: self.families != 1,
            includes: (0..)
                .zip(self.includes.iter().take(4))
                .map(|(number, entry): (u8, _)| OwnInclude {
                    name: format!("include {number}"),
                    prefixes: entry.prefixes(),
                    protocol: entry.protocol(),
                    ports: entry.ports(),
                    ..OwnInclude::default()
                })
                .collect(),
            excludes: (0..)
                .zip(self.excludes.iter().take(4))
                .map(|(number, entry): (u8, _)| Exclude {
                    name: format!("exclude {number}"),
                    prefixes: entry.prefixes(),
                    protocol: entry.protocol(),
                    ports: entry.ports(),
                    ..Exclude::default()
                })
                .collect(),
            ..Policy::default()
        }
    }
}
