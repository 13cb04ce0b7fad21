//! A plan says exactly what differs: applied to the old side it gives the new one, between equal
//! sides it is empty, and equal sides give equal bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gateway_common::Transport;
use gateway_user::cli::plan_text::text;
use gateway_user::feed::{Snapshot, embedded};
use gateway_user::plan::{FamilyTotals, Plan, Side, Touched, touched};
use gateway_user::policy::{Compiled, Policy, Rule, compile};
use ipnet::IpNet;
use proptest::prelude::*;

use crate::support::strategies::{fitted, policy, snapshots};

/// One side that owns what it is made of; `None` where nothing is selected.
fn side(snapshot: &Snapshot, policy: &Policy) -> Option<(Snapshot, Policy, Compiled)> {
    let policy = fitted(policy, snapshot);
    let compiled = compile(snapshot, &policy).ok()?;
    Some((snapshot.clone(), policy, compiled))
}

fn view((snapshot, policy, compiled): &(Snapshot, Policy, Compiled)) -> Side<'_> {
    Side { snapshot, policy, compiled }
}

/// First and last address of every rule and exclusion.
fn stretches(sides: [&Compiled; 2], v6: bool) -> Vec<(u128, u128)> {
    let rules = sides.into_iter().flat_map(|side| side.rules.iter().map(|rule| rule.prefix));
    let exclusions =
        sides.into_iter().flat_map(|side| side.exclusions.iter().map(|exclusion| exclusion.prefix));
    rules
        .chain(exclusions)
        .filter(|prefix| prefix.addr().is_ipv6() == v6)
        .map(|prefix| (number(prefix.network()), number(prefix.broadcast())))
        .collect()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(number: u128, v6: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(bits) if !v6 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

/// Whether some port of some rule goes direct and is not excluded.
fn is_direct(side: &Compiled, address: IpAddr) -> bool {
    let excluded = |transport: Transport, port: u16| {
        side.exclusions.iter().any(|exclusion| {
            exclusion.prefix.contains(&address)
                && exclusion.transport == transport
                && (exclusion.first..=exclusion.last).contains(&port)
        })
    };
    side.rules.iter().filter(|rule| rule.prefix.contains(&address)).any(|rule| {
        let ends = side.exclusions.iter().filter_map(|exclusion| exclusion.last.checked_add(1));
        // If any port of the rule is left, then its first one or one behind an exclusion is.
        let ports = std::iter::once(rule.first).chain(ends);
        ports
            .filter(|port| (rule.first..=rule.last).contains(port))
            .any(|port| !excluded(rule.transport, port))
    })
}

/// Space before, after, gained and lost. A unit is what is counted: an address, or a /64. From one
/// edge to the next, every unit is like the first; a prefix longer than /64 has its unit for itself.
fn space(sides: [&Compiled; 2], v6: bool) -> [u64; 4] {
    let shift = if v6 { 64 } else { 0 };
    let stretches = stretches(sides, v6);
    let edges: BTreeSet<u128> =
        stretches.iter().flat_map(|(first, last)| [first >> shift, (last >> shift) + 1]).collect();
    // Where another combination of prefixes may begin within a unit.
    let starts: Vec<u128> = stretches
        .iter()
        .flat_map(|(first, last)| [Some(*first), last.checked_add(1)])
        .flatten()
        .collect();
    let has_direct = |side: &Compiled, unit: u128| {
        let inside = starts.iter().copied().filter(|start| start >> shift == unit);
        std::iter::once(unit << shift)
            .chain(inside)
            .any(|start| is_direct(side, address(start, v6)))
    };
    let edges: Vec<u128> = edges.into_iter().collect();
    let mut sums = [0_u128; 4];
    for pair in edges.windows(2) {
        let [from, to] = [pair[0], pair[1]];
        let [before, after] = sides.map(|side| has_direct(side, from));
        let counted = [before, after, after && !before, before && !after];
        for (sum, counts) in sums.iter_mut().zip(counted) {
            *sum += if counts { to - from } else { 0 };
        }
    }
    sums.map(|sum| u64::try_from(sum).unwrap_or(u64::MAX))
}

fn prefixes(rules: &[Rule], v6: bool) -> BTreeSet<IpNet> {
    rules.iter().map(|rule| rule.prefix).filter(|prefix| prefix.addr().is_ipv6() == v6).collect()
}

fn counts(totals: &FamilyTotals) -> [u64; 4] {
    [totals.space_before, totals.space_after, totals.space_gained, totals.space_lost]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn applied_to_the_old_side_it_gives_the_new_one(
        [first, second] in snapshots(),
        policies in [policy(), policy()],
        same_policy in any::<bool>(),
    ) {
        let [one, other] = &policies;
        let other = if same_policy { one } else { other };
        let old = side(&first, one);
        let Some(new) = side(&second, other) else { return Ok(()) };
        let plan = Plan::between(old.as_ref().map(view).as_ref(), &view(&new));
        let (rules, exclusions) = old
            .as_ref()
            .map(|(.., compiled)| (compiled.rules.clone(), compiled.exclusions.clone()))
            .unwrap_or_default();
        prop_assert_eq!(&plan.apply(&rules), &new.2.rules);
        prop_assert_eq!(&plan.apply_to_exclusions(&exclusions), &new.2.exclusions);
        prop_assert_eq!(plan.is_empty(), rules == new.2.rules && exclusions == new.2.exclusions);
    }

    #[test]
    fn between_equal_sides_it_is_empty(
        [first, second] in snapshots(),
        one in policy(),
    ) {
        for snapshot in [first, second] {
            let Some(side) = side(&snapshot, &one) else { continue };
            let plan = Plan::between(Some(&view(&side)), &view(&side));
            prop_assert!(plan.is_empty());
            prop_assert_eq!(&plan.sets, &[]);
            for totals in [plan.ipv4, plan.ipv6] {
                prop_assert_eq!(totals.prefixes_entering + totals.prefixes_leaving, 0);
                prop_assert_eq!(totals.space_gained + totals.space_lost, 0);
                prop_assert_eq!(totals.prefixes_before, totals.prefixes_after);
                prop_assert_eq!(totals.space_before, totals.space_after);
            }
        }
    }

    #[test]
    fn equal_sides_give_equal_bytes_which_read_back_to_the_plan(
        [first, second] in snapshots(),
        one in policy(),
    ) {
        let (Some(old), Some(new)) = (side(&first, &one), side(&second, &one)) else {
            return Ok(());
        };
        let plan = Plan::between(Some(&view(&old)), &view(&new));
        let again = Plan::between(Some(&view(&old.clone())), &view(&new.clone()));
        let json = serde_json::to_string(&plan).unwrap();
        prop_assert_eq!(&serde_json::to_string(&again).unwrap(), &json);
        let read: Plan = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&read, &plan);
        prop_assert_eq!(read.id(), plan.id());
        prop_assert!(plan.id().len() == 12 && plan.id().bytes().all(|b| b.is_ascii_hexdigit()));
        prop_assert_eq!(text(&read, &[]), text(&plan, &[]));
    }

    #[test]
    fn totals_count_each_address_once(
        [first, second] in snapshots(),
        one in policy(),
    ) {
        let (Some(old), Some(new)) = (side(&first, &one), side(&second, &one)) else {
            return Ok(());
        };
        let plan = Plan::between(Some(&view(&old)), &view(&new));
        let (before, after) = (&old.2.rules, &new.2.rules);
        for (totals, v6) in [(plan.ipv4, false), (plan.ipv6, true)] {
            prop_assert_eq!(counts(&totals), space([&old.2, &new.2], v6));
            let (before, after) = (prefixes(before, v6), prefixes(after, v6));
            let [entering, leaving] = [&after - &before, &before - &after].map(|set| set.len() as u64);
            prop_assert_eq!(totals.prefixes_before, before.len() as u64);
            prop_assert_eq!(totals.prefixes_after, after.len() as u64);
            prop_assert_eq!(totals.prefixes_entering, entering);
            prop_assert_eq!(totals.prefixes_leaving, leaving);
        }
    }

    #[test]
    fn changes_by_set_are_the_changes_of_rules_with_a_reason(
        [first, second] in snapshots(),
        policies in [policy(), policy()],
    ) {
        let (Some(old), Some(new)) = (side(&first, &policies[0]), side(&second, &policies[1]))
        else {
            return Ok(());
        };
        let plan = Plan::between(Some(&view(&old)), &view(&new));
        let mut by_set: BTreeMap<u32, [BTreeSet<IpNet>; 2]> = BTreeMap::new();
        for (side, rules) in [&old.2.rules, &new.2.rules].into_iter().enumerate() {
            for rule in rules {
                by_set.entry(rule.set).or_default()[side].insert(rule.prefix);
            }
        }
        let changed: BTreeSet<u32> =
            plan.rules_entering.iter().chain(&plan.rules_leaving).map(|rule| rule.set).collect();
        prop_assert_eq!(plan.sets.iter().map(|change| change.set).collect::<BTreeSet<_>>(), changed);
        for change in &plan.sets {
            let [before, after] = by_set.remove(&change.set).unwrap_or_default();
            let sorted = |set: BTreeSet<IpNet>| set.into_iter().collect::<Vec<_>>();
            prop_assert_eq!(&change.prefixes_entering, &sorted(&after - &before));
            prop_assert_eq!(&change.prefixes_leaving, &sorted(&before - &after));
            prop_assert!(!change.reasons.is_empty());
            // The last resort of the reasons: that none of them fits must not come about.
            prop_assert!(!change.reasons.contains(&"the policy selects it differently".into()), "{change:?}");
        }
    }
}

#[test]
fn traffic_of_sets_that_lose_rules_is_touched() {
    let old = embedded().unwrap();
    let mut new = old.clone();
    let gone = *new.sets[&31].prefixes.first().unwrap();
    new.sets.get_mut(&31).unwrap().prefixes.remove(&gone);
    new.sets.get_mut(&1).unwrap().prefixes.insert("52.1.2.0/24".parse().unwrap());
    let policy = Policy::default();
    let compiled = [&old, &new].map(|snapshot| compile(snapshot, &policy).unwrap());
    let [old, new] = [(&old, &compiled[0]), (&new, &compiled[1])]
        .map(|(snapshot, compiled)| Side { snapshot, policy: &policy, compiled });
    let plan = Plan::between(Some(&old), &new);
    let counters = [([1].into(), 100), ([1, 31].into(), 20), ([31].into(), 3), ([11].into(), 1000)];
    assert_eq!(touched(&plan, &counters), Touched { bytes: 23, of_total: 1123 });
    let unchanged = Plan::between(Some(&old), &old);
    assert_eq!(touched(&unchanged, &counters), Touched { bytes: 0, of_total: 1123 });
    assert_eq!(touched(&plan, &[]), Touched::default());
}
