//! What a feed must not bring about is refused by the guard for it, and nothing else is.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use gateway_common::Transport;
use gateway_user::feed::{Category, EndpointSet, SetId, Snapshot, digest, embedded, parse};
use gateway_user::plan::{
    FamilyTotals, GatewayNetworks, Guard, Guards, Plan, Refusal, Side, Trigger, check,
};
use gateway_user::policy::{Compiled, OwnInclude, Policy, Rule, Table, compile};
use ipnet::IpNet;

const WORLDWIDE_2021: &str = include_str!("fixtures/worldwide-2021.json");

/// Every category, and every set by name, so that nothing is held back.
fn everything(snapshot: &Snapshot) -> Policy {
    let with_rules = snapshot
        .sets
        .values()
        .filter(|set| !(set.prefixes.is_empty() || set.tcp.is_empty() && set.udp.is_empty()));
    Policy {
        categories: Category::ALL.into(),
        include_sets: with_rules.map(|set| set.id).collect(),
        ..Policy::default()
    }
}

/// The embedded feed with its Optimize sets' prefixes replaced by these.
fn attack(prefixes: impl IntoIterator<Item = IpNet>) -> Snapshot {
    let mut snapshot = embedded().unwrap();
    let prefixes: BTreeSet<IpNet> = prefixes.into_iter().collect();
    for set in snapshot.sets.values_mut().filter(|set| set.category == Category::Optimize) {
        set.prefixes.clone_from(&prefixes);
    }
    snapshot.digest = digest(&snapshot.sets);
    snapshot.version = Some("2026083100".into());
    snapshot
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// The refusals of a new feed, where the embedded one is live with the same policy.
fn refusals_with(
    guards: &Guards,
    policy: &Policy,
    new: &Snapshot,
    gateway: &GatewayNetworks,
    trigger: Trigger,
) -> Vec<Refusal> {
    let old = embedded().unwrap();
    let live = compile(&old, policy).unwrap();
    let compiled = match compile(new, policy) {
        Ok(compiled) => compiled,
        Err(error) => return vec![Refusal::of_policy_error(&error).unwrap()],
    };
    let old = Side { snapshot: &old, policy, compiled: &live };
    let new = Side { snapshot: new, policy, compiled: &compiled };
    check(guards, &Plan::between(Some(&old), &new), &new, gateway, trigger)
}

fn refusals(new: &Snapshot) -> Vec<Refusal> {
    let gateway = GatewayNetworks::default();
    refusals_with(&Guards::default(), &Policy::default(), new, &gateway, Trigger::Feed)
}

fn names(refusals: &[Refusal]) -> BTreeSet<&'static str> {
    refusals.iter().map(|refusal| refusal.guard.name()).collect()
}

#[test]
fn the_embedded_feed_passes_whatever_is_selected() {
    let snapshot = embedded().unwrap();
    let all = everything(&snapshot);
    let unnamed = Policy { include_sets: BTreeSet::new(), ..all.clone() };
    let gateway = GatewayNetworks { addresses: ["192.0.2.0/24", "2001:db8::/64"].map(net).into() };
    for policy in [Policy::default(), unnamed, all] {
        let compiled = compile(&snapshot, &policy).unwrap();
        let side = Side { snapshot: &snapshot, policy: &policy, compiled: &compiled };
        for old in [None, Some(&side)] {
            let plan = Plan::between(old, &side);
            assert_eq!(check(&Guards::default(), &plan, &side, &gateway, Trigger::Feed), []);
        }
    }
}

#[test]
fn an_attackers_list_is_refused_by_the_guard_for_it() {
    let good = || embedded().unwrap().sets.into_values().flat_map(|set| set.prefixes);
    let more = |count: u32| {
        let base = u32::from(Ipv4Addr::new(52, 0, 0, 0));
        (0..count).map(move |n| IpNet::new(Ipv4Addr::from(base + (n << 8)).into(), 24).unwrap())
    };
    let cases: [(&str, Snapshot, &str); 9] = [
        ("the whole internet", attack([net("0.0.0.0/0")]), "wide_prefix"),
        ("all of IPv6", attack(good().chain([net("::/0")])), "wide_prefix"),
        ("halves of the internet", attack([net("0.0.0.0/1"), net("128.0.0.0/1")]), "wide_prefix"),
        (
            "a wide prefix among good ones",
            attack(good().chain([net("52.0.0.0/10")])),
            "wide_prefix",
        ),
        ("private space", attack(good().chain([net("10.1.0.0/16")])), "special_space"),
        ("ULA", attack(good().chain([net("fd00:1::/32")])), "special_space"),
        ("ten times the size", attack(good().chain(more(930))), "table_growth"),
        ("nothing", attack([]), "no_prefixes"),
        ("one prefix", attack([net("52.96.0.0/14")]), "prefixes_leaving"),
    ];
    for (what, snapshot, guard) in cases {
        let refusals = refusals(&snapshot);
        assert!(names(&refusals).contains(guard), "{what}: {refusals:?}");
        for refusal in refusals {
            let line = refusal.to_string();
            assert!(line.starts_with(refusal.guard.name()) && !line.contains('\n'), "{line}");
        }
    }
}

#[test]
fn only_the_guard_for_it_refuses_what_is_wrong_in_one_way() {
    let optimize = || {
        let sets = embedded().unwrap().sets.into_values();
        sets.filter(|set| set.category == Category::Optimize).flat_map(|set| set.prefixes)
    };
    // Every one of the feed's prefixes is in one of the three sets; all of them have all now.
    assert_eq!(refusals(&attack(optimize())), []);
    for (prefix, guard) in [
        ("52.0.0.0/10", "wide_prefix"),
        ("2600::/31", "wide_prefix"),
        ("192.168.7.0/24", "special_space"),
        ("3fff:1::/32", "special_space"),
    ] {
        let refusals = refusals(&attack(optimize().chain([net(prefix)])));
        assert_eq!(names(&refusals), BTreeSet::from([guard]), "{prefix}: {refusals:?}");
    }
}

#[test]
fn every_kind_of_special_space_is_refused_and_its_neighbours_are_not() {
    for special in [
        "0.0.0.1/32",
        "10.255.255.255/32",
        "100.64.0.0/24",
        "100.127.255.255/32",
        "127.0.0.1/32",
        "169.254.169.254/32",
        "172.31.0.0/16",
        "192.0.0.0/29",
        "192.0.2.0/24",
        "192.88.99.1/32",
        "192.168.0.0/16",
        "198.19.255.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.1/32",
        "239.255.255.255/32",
        "240.0.0.0/16",
        "255.255.255.255/32",
        "::/128",
        "::1/128",
        "::ffff:52.96.0.0/110",
        "64:ff9b::/96",
        "100::/64",
        "2001::/32",
        "2001:1ff::/32",
        "2001:db8::/32",
        "2002:3460::/32",
        "3fff::/32",
        "4000::/32",
        "fc00::/32",
        "fdff:ffff::/32",
        "fe80::/64",
        "ff02::1/128",
        // Wider than what is special, and around it.
        "192.0.0.0/16",
        "2001:d00::/24",
    ] {
        assert!(is_special(special), "{special}");
    }
    for public in [
        "1.0.0.0/24",
        "9.255.255.255/32",
        "11.0.0.0/16",
        "100.63.255.255/32",
        "100.128.0.0/24",
        "172.15.0.0/16",
        "172.32.0.0/16",
        "192.0.1.0/24",
        "192.167.0.0/16",
        "198.17.0.0/16",
        "198.20.0.0/16",
        "223.255.255.0/24",
        "2001:200::/32",
        "2003::/32",
        "2603:1006::/40",
        "3ffe:ffff::/32",
    ] {
        assert!(!is_special(public), "{public}");
    }
}

fn is_special(prefix: &str) -> bool {
    names(&refusals(&attack([net(prefix)]))).contains("special_space")
}

#[test]
fn the_gateways_own_networks_are_refused_in_both_directions() {
    let snapshot = embedded().unwrap();
    for (own, seen) in [
        ("52.97.1.0/24", "set 1 lists 52.96.0.0/14, which overlaps 52.97.1.0/24 of this gateway"),
        ("40.0.0.0/8", "set 1 lists 40.96.0.0/13, which overlaps 40.0.0.0/8 of this gateway"),
        ("2603:1006::7/128", "set 1 lists 2603:1006::/40, which overlaps 2603:1006::7/128 of"),
    ] {
        let gateway = GatewayNetworks { addresses: [net(own)].into() };
        let policy = Policy::default();
        let found =
            refusals_with(&Guards::default(), &policy, &snapshot, &gateway, Trigger::Config);
        assert_eq!(names(&found), BTreeSet::from(["own_network"]));
        assert!(found[0].what.starts_with(seen), "{found:?}");
        let guards = Guards { allow: [Guard::OwnNetwork].into(), ..Guards::default() };
        assert_eq!(refusals_with(&guards, &policy, &snapshot, &gateway, Trigger::Config), []);
    }
}

#[test]
fn an_older_version_of_the_same_instance_is_refused() {
    let mut older = embedded().unwrap();
    older.version = Some("2026063000".into());
    let found = refusals(&older);
    assert_eq!(names(&found), BTreeSet::from(["version_back"]));
    let plan = found[0].accept.split('`').nth(1).unwrap();
    assert_eq!(plan.split(' ').take(3).collect::<Vec<_>>(), ["breakout365", "plan", "accept"]);
    assert_eq!(
        found[0].to_string(),
        format!(
            "version_back: the new feed has version 2026063000, the live one 2026073100; versions \
             only go up; `{plan}` takes it all the same"
        )
    );
    older.instance = Some("China".into());
    assert_eq!(refusals(&older), [], "another instance counts for itself");
    older.version = None;
    assert_eq!(refusals(&older), []);
}

#[test]
fn ports_that_have_to_be_named_are_refused_however_they_got_there() {
    let snapshot = embedded().unwrap();
    let policy = Policy::default();
    let gateway = GatewayNetworks::default();
    for (transport, first, last, refused) in [
        (Transport::Tcp, 25, 25, true),
        (Transport::Tcp, 1, 65535, true),
        (Transport::Tcp, 53, 60, true),
        (Transport::Udp, 50, 53, true),
        (Transport::Udp, 25, 25, false),
        (Transport::Tcp, 26, 52, false),
        (Transport::Udp, 54, 1000, false),
    ] {
        let rule = Rule { prefix: net("52.96.0.0/14"), transport, first, last, set: 10 };
        let table = Table::from_rules([rule]).unwrap();
        let compiled = Compiled { table, rules: vec![rule], exclusions: vec![], notes: vec![] };
        let found = |policy: &Policy| {
            let new = Side { snapshot: &snapshot, policy, compiled: &compiled };
            check(&Guards::default(), &Plan::between(None, &new), &new, &gateway, Trigger::Config)
        };
        let expected = if refused { BTreeSet::from(["unnamed_port"]) } else { BTreeSet::new() };
        assert_eq!(names(&found(&policy)), expected, "{rule:?}");
        let named = Policy { include_sets: [10].into(), ..Policy::default() };
        assert_eq!(found(&named), [], "{rule:?}");
    }
}

/// A feed whose only set has the first `count` of the /24s from 52.0.0.0 on.
fn slash_24s(from: u32, count: u32) -> Snapshot {
    let base = u32::from(Ipv4Addr::new(52, 0, 0, 0));
    let prefix = |n: u32| IpNet::new(Ipv4Addr::from(base + (n << 8)).into(), 24).unwrap();
    let set = EndpointSet {
        prefixes: (from..from + count).map(prefix).collect(),
        ..embedded().unwrap().sets[&1].clone()
    };
    let sets = [(set.id, set)].into();
    Snapshot { instance: None, version: None, digest: digest(&sets), sets }
}

fn change(guards: &Guards, old: &Snapshot, new: &Snapshot, trigger: Trigger) -> Vec<Refusal> {
    let policy = Policy::default();
    let compiled = [old, new].map(|snapshot| compile(snapshot, &policy).unwrap());
    let [old, new] = [(old, &compiled[0]), (new, &compiled[1])].map(|(snapshot, compiled)| Side {
        snapshot,
        policy: &policy,
        compiled,
    });
    check(guards, &Plan::between(Some(&old), &new), &new, &GatewayNetworks::default(), trigger)
}

#[test]
fn limits_are_exact() {
    let guards = Guards::default();
    // Of 1,000 prefixes of one size: 200 is 20% of both, 201 more than 20% of space.
    for (leave, expected) in [
        (200, BTreeSet::new()),
        (201, BTreeSet::from(["space_leaving"])),
        (300, BTreeSet::from(["space_leaving"])),
        (301, BTreeSet::from(["prefixes_leaving", "space_leaving"])),
    ] {
        let found =
            change(&guards, &slash_24s(0, 1000), &slash_24s(leave, 1000 - leave), Trigger::Feed);
        assert_eq!(names(&found), expected, "{leave} leave");
    }
    for (after, expected) in [(2000, BTreeSet::new()), (2001, BTreeSet::from(["table_growth"]))] {
        let found = change(&guards, &slash_24s(0, 1000), &slash_24s(0, after), Trigger::Feed);
        assert_eq!(names(&found), expected, "{after} after");
    }
    // Small tables get no allowance.
    let found = change(&guards, &slash_24s(0, 3), &slash_24s(0, 2), Trigger::Feed);
    assert_eq!(
        found.iter().map(|refusal| refusal.what.as_str()).collect::<Vec<_>>(),
        ["1 of 3 IPv4 prefixes leave", "256 of 768 direct IPv4 addresses leave"]
    );
    // What is switched off does not refuse, and other limits are other limits.
    let wider = Guards {
        max_prefixes_leaving: 34,
        allow: [Guard::SpaceLeaving].into(),
        ..Guards::default()
    };
    assert_eq!(change(&wider, &slash_24s(0, 3), &slash_24s(0, 2), Trigger::Feed), []);
}

#[test]
fn the_operators_own_changes_are_not_limited_in_size() {
    let guards = Guards::default();
    for (from, count) in [(0, 1), (999, 1), (0, 9000)] {
        let new = slash_24s(from, count);
        assert_ne!(change(&guards, &slash_24s(0, 1000), &new, Trigger::Feed), []);
        assert_eq!(change(&guards, &slash_24s(0, 1000), &new, Trigger::Config), []);
    }
    let wide = attack([net("52.0.0.0/8")]);
    assert!(
        names(&change(&guards, &slash_24s(0, 9), &wide, Trigger::Config)).contains("wide_prefix")
    );
}

#[test]
fn own_entries_are_checked_too_and_may_be_wide_where_they_say_so() {
    let snapshot = embedded().unwrap();
    let refusals = |prefix: &str, allow_wide, ports: Option<&str>| {
        let entry = OwnInclude {
            name: "branch".into(),
            prefixes: [net(prefix)].into(),
            ports: ports.map(|ports| ports.parse().unwrap()),
            allow_wide,
            ..OwnInclude::default()
        };
        let policy = Policy { includes: vec![entry], ..Policy::default() };
        let gateway = GatewayNetworks { addresses: [net("9.9.9.0/24")].into() };
        refusals_with(&Guards::default(), &policy, &snapshot, &gateway, Trigger::Config)
    };
    assert_eq!(refusals("9.0.0.0/20", false, None), []);
    assert_eq!(refusals("8.0.0.0/8", true, None), []);
    let wide = refusals("8.0.0.0/8", false, None);
    assert_eq!(names(&wide), BTreeSet::from(["wide_prefix"]));
    assert!(wide[0].what.starts_with("own entry \"branch\" lists 8.0.0.0/8"), "{wide:?}");
    assert!(wide[0].accept.ends_with("allow-wide = true on the entry"), "{wide:?}");
    assert_eq!(names(&refusals("10.0.0.0/16", true, None)), BTreeSet::from(["special_space"]));
    assert_eq!(names(&refusals("9.9.9.128/25", true, None)), BTreeSet::from(["own_network"]));
    // An own entry names its ports itself.
    assert_eq!(refusals("9.0.0.0/20", false, Some("25,53")), []);
}

/// What a person counts: prefixes of the Optimize sets of both feeds.
fn optimize(snapshot: &Snapshot, v6: bool) -> BTreeSet<IpNet> {
    let sets = snapshot.sets.values().filter(|set| set.category == Category::Optimize);
    sets.flat_map(|set| &set.prefixes)
        .filter(|prefix| prefix.addr().is_ipv6() == v6)
        .copied()
        .collect()
}

#[test]
fn five_years_of_the_feed_are_refused_by_name_and_accepting_gives_exactly_the_new_table() {
    let old = parse(WORLDWIDE_2021.as_bytes(), "worldwide-2021.json").unwrap();
    let new = embedded().unwrap();
    assert_eq!(gateway_user::feed::write(&old).unwrap(), WORLDWIDE_2021);
    let policy = Policy::default();
    let (before, after) = (compile(&old, &policy).unwrap(), compile(&new, &policy).unwrap());
    let old_side = Side { snapshot: &old, policy: &policy, compiled: &before };
    let new_side = Side { snapshot: &new, policy: &policy, compiled: &after };
    let plan = Plan::between(Some(&old_side), &new_side);
    for (totals, v6) in [(plan.ipv4, false), (plan.ipv6, true)] {
        let (before, after) = (optimize(&old, v6), optimize(&new, v6));
        let FamilyTotals {
            prefixes_before,
            prefixes_after,
            prefixes_entering,
            prefixes_leaving,
            ..
        } = totals;
        let counted = [prefixes_before, prefixes_after, prefixes_entering, prefixes_leaving];
        let expected = [
            before.len(),
            after.len(),
            after.difference(&before).count(),
            before.difference(&after).count(),
        ];
        assert_eq!(counted.map(|count| usize::try_from(count).unwrap()), expected);
    }
    let refusals =
        check(&Guards::default(), &plan, &new_side, &GatewayNetworks::default(), Trigger::Feed);
    assert_eq!(names(&refusals), BTreeSet::from(["prefixes_leaving"]), "{refusals:?}");

    let rules = plan.apply(&before.rules);
    assert_eq!(rules, after.rules);
    assert_eq!(Table::from_rules(rules).unwrap(), after.table);

    let changed: Vec<SetId> = plan.sets.iter().map(|change| change.set).collect();
    assert_eq!(changed, [1, 11, 31], "{:#?}", plan.sets);
}
