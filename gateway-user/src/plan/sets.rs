//! What a plan means for each endpoint set and own entry, and why.

use std::collections::{BTreeMap, BTreeSet};

use gateway_common::Transport;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::space::Stretches;
use super::{Side, own};
use crate::feed::{EndpointSet, Ports, SetId};
use crate::policy::{Exclusion, Names, Policy, Rule, transport_name};

/// What changes for one endpoint set or own entry, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetChange {
    /// Its id.
    pub set: SetId,
    /// Service area and category, or the name of the own entry.
    pub name: String,
    /// Why, one sentence each, without a full stop.
    pub reasons: Vec<String>,
    /// Prefixes that come, ascending.
    pub prefixes_entering: Vec<IpNet>,
    /// Prefixes that go, ascending.
    pub prefixes_leaving: Vec<IpNet>,
    /// Ports that come, such as `tcp/443` and `udp/3478-3481`.
    pub ports_entering: Vec<String>,
    /// Ports that go.
    pub ports_leaving: Vec<String>,
}

/// What changes for one of the operator's excludes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExcludeChange {
    /// Its name.
    pub name: String,
    /// Prefixes of exclusions that come, ascending; one whose ports change comes and goes.
    pub prefixes_entering: Vec<IpNet>,
    /// Prefixes of exclusions that go, ascending.
    pub prefixes_leaving: Vec<IpNet>,
}

/// The changes by exclude, by name: the operator may move an entry without changing it.
pub(super) fn excludes(
    old: Option<&Side<'_>>,
    new: &Side<'_>,
    entering: &[Exclusion],
    leaving: &[Exclusion],
) -> Vec<ExcludeChange> {
    type Prefixes = BTreeSet<IpNet>;
    let mut changes: BTreeMap<String, (Prefixes, Prefixes)> = BTreeMap::new();
    let names = Names::of(new.policy);
    for exclusion in entering {
        let change = changes.entry(names.exclude(exclusion.exclude)).or_default();
        change.0.insert(exclusion.prefix);
    }
    let names = old.map(|old| Names::of(old.policy)).unwrap_or_default();
    for exclusion in leaving {
        let change = changes.entry(names.exclude(exclusion.exclude)).or_default();
        change.1.insert(exclusion.prefix);
    }
    changes
        .into_iter()
        .map(|(name, (entering, leaving))| ExcludeChange {
            name,
            prefixes_entering: entering.into_iter().collect(),
            prefixes_leaving: leaving.into_iter().collect(),
        })
        .collect()
}

/// The changes of `sets`, whose rules differ between the two sides.
pub(super) fn between(
    old: Option<&Side<'_>>,
    new: &Side<'_>,
    sets: &BTreeSet<SetId>,
) -> Vec<SetChange> {
    let mut before = old.map(|old| extents(&old.compiled.rules, sets)).unwrap_or_default();
    let mut after = extents(&new.compiled.rules, sets);
    sets.iter()
        .map(|set| {
            let before = before.remove(set).unwrap_or_default();
            let after = after.remove(set).unwrap_or_default();
            SetChange {
                set: *set,
                name: name(old, new, *set),
                reasons: reasons(old, new, *set, before.is_empty(), after.is_empty()),
                prefixes_entering: after.prefixes.difference(&before.prefixes).copied().collect(),
                prefixes_leaving: before.prefixes.difference(&after.prefixes).copied().collect(),
                ports_entering: after.ports_without(&before),
                ports_leaving: before.ports_without(&after),
            }
        })
        .collect()
}

/// Everything the rules of one set are for.
#[derive(Default)]
struct Extent {
    prefixes: BTreeSet<IpNet>,
    ports: BTreeSet<(Transport, u16, u16)>,
}

impl Extent {
    fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    fn ports_of(&self, transport: Transport) -> Stretches {
        let ports = self.ports.iter().filter(|(of, ..)| *of == transport);
        ports.map(|(_, first, last)| (u128::from(*first), u128::from(*last))).collect()
    }

    fn ports_without(&self, other: &Self) -> Vec<String> {
        let of = |transport| {
            let rest = self.ports_of(transport).without(&other.ports_of(transport));
            let name = transport_name(transport);
            rest.iter()
                .map(|(first, last)| {
                    let to = if first == last { String::new() } else { format!("-{last}") };
                    format!("{name}/{first}{to}")
                })
                .collect::<Vec<_>>()
        };
        [of(Transport::Tcp), of(Transport::Udp)].concat()
    }
}

fn extents(rules: &[Rule], sets: &BTreeSet<SetId>) -> BTreeMap<SetId, Extent> {
    let mut extents: BTreeMap<SetId, Extent> = BTreeMap::new();
    for Rule { prefix, transport, first, last, set } in rules {
        if sets.contains(set) {
            let extent = extents.entry(*set).or_default();
            extent.prefixes.insert(*prefix);
            extent.ports.insert((*transport, *first, *last));
        }
    }
    extents
}

/// As the new side has it, or, where it has not, the old one.
fn name(old: Option<&Side<'_>>, new: &Side<'_>, set: SetId) -> String {
    let sides = || std::iter::once(new).chain(old);
    if own::is_own(set) {
        let name = sides().find_map(|side| own::name(side.policy, set));
        return name.unwrap_or_else(|| "own entry".to_owned());
    }
    sides()
        .find_map(|side| side.snapshot.sets.get(&set))
        .map(|set| format!("{}, {}", set.service_area, set.category))
        .unwrap_or_default()
}

fn reasons(
    old: Option<&Side<'_>>,
    new: &Side<'_>,
    set: SetId,
    was_empty: bool,
    is_empty: bool,
) -> Vec<String> {
    let Some(old) = old else { return vec!["nothing was direct before".to_owned()] };
    if own::is_own(set) {
        let what = match (was_empty, is_empty) {
            (true, _) => "the own entry is new",
            (_, true) => "the own entry is gone",
            (false, false) => "the own entry has changed",
        };
        return vec![what.to_owned()];
    }
    let mut reasons = match (old.snapshot.sets.get(&set), new.snapshot.sets.get(&set)) {
        (None, Some(_)) => vec!["Microsoft added the set".to_owned()],
        (Some(_), None) => vec!["Microsoft removed the set".to_owned()],
        (Some(before), Some(after)) => {
            let mut reasons = by_the_feed(before, after, old.policy, new.policy);
            reasons.extend(by_the_policy(old.policy, new.policy, after));
            reasons
        }
        (None, None) => Vec::new(),
    };
    if reasons.is_empty() {
        // What the list of reasons does not know is still said to be so.
        reasons.push("the policy selects it differently".to_owned());
    }
    reasons
}

/// What Microsoft changed about a set, as far as rules depend on it.
fn by_the_feed(
    before: &EndpointSet,
    after: &EndpointSet,
    old: &Policy,
    new: &Policy,
) -> Vec<String> {
    let mut reasons = Vec::new();
    if before.category != after.category {
        let selected = new.categories.contains(&after.category);
        let named = new.include_sets.contains(&after.id);
        let and = if selected || named { "" } else { ", which the policy does not select" };
        reasons.push(format!(
            "Microsoft moved it from {} to {}{and}",
            before.category, after.category
        ));
    }
    let by_area = old.service_areas.is_some() || new.service_areas.is_some();
    if by_area && before.service_area != after.service_area {
        let (before, after) = (&before.service_area, &after.service_area);
        reasons.push(format!("Microsoft moved it from service area {before} to {after}"));
    }
    if (old.required_only || new.required_only) && before.required != after.required {
        let now = if after.required { "now" } else { "no longer" };
        reasons.push(format!("Microsoft {now} calls it required"));
    }
    for (verb, more, less) in [("added", after, before), ("removed", before, after)] {
        match more.prefixes.difference(&less.prefixes).count() {
            0 => {}
            1 => reasons.push(format!("Microsoft {verb} 1 prefix")),
            count => reasons.push(format!("Microsoft {verb} {count} prefixes")),
        }
    }
    let ports =
        |ports: &Ports| if ports.is_empty() { "none".to_owned() } else { ports.to_string() };
    for (protocol, before, after) in
        [("TCP", &before.tcp, &after.tcp), ("UDP", &before.udp, &after.udp)]
    {
        if before != after {
            let (before, after) = (ports(before), ports(after));
            reasons
                .push(format!("Microsoft changed its {protocol} ports from {before} to {after}"));
        }
    }
    reasons
}

/// What the operator changed about a set.
fn by_the_policy(old: &Policy, new: &Policy, set: &EndpointSet) -> Vec<String> {
    let change = |before: bool, after: bool, what: &str| match (before, after) {
        (false, true) => Some(format!("the policy now {what}")),
        (true, false) => Some(format!("the policy no longer {what}")),
        (true, true) | (false, false) => None,
    };
    let contains = |ids: &BTreeSet<SetId>| ids.contains(&set.id);
    [
        change(contains(&old.exclude_sets), contains(&new.exclude_sets), "excludes it"),
        change(contains(&old.include_sets), contains(&new.include_sets), "names it"),
        change(old.fits(set), new.fits(set), "fits it by category, service area and requirement"),
        change(old.ipv4, new.ipv4, "takes IPv4 prefixes"),
        change(old.ipv6, new.ipv6, "takes IPv6 prefixes"),
    ]
    .into_iter()
    .flatten()
    .collect()
}
