//! What support windows decide, held against a slow model: nobody but their clients is decided
//! otherwise, and their clients only where a set of theirs says so.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use gateway_common::{Decision, Reason, Transport, Verdict, classify};
use gateway_user::datapath::Probe;
use gateway_user::feed::{Category, Snapshot};
use gateway_user::policy::{self, OpenWindow, Policy, SIGN_IN_SET, Support, Table, WindowSets};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;

use crate::support::strategies;

const NOW: u64 = 1_000;

fn client() -> impl Strategy<Value = IpNet> {
    let clients = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "fd00::/8", "fd00:1::/32"];
    select(clients.to_vec()).prop_map(|client| client.parse().unwrap())
}

fn windows() -> impl Strategy<Value = Vec<OpenWindow>> {
    let sets = (any::<bool>(), prop::collection::btree_set(54..=59_u32, 0..3));
    let clients = prop::collection::btree_set(client(), 1..3);
    let ends = select(vec![NOW - 1, NOW, NOW + 1]);
    prop::collection::vec((clients, sets, ends), 0..4).prop_map(|windows| {
        let numbered = (1..).zip(windows);
        numbered
            .map(|(id, (clients, (all, named), end))| OpenWindow {
                id,
                clients,
                sets: WindowSets { all, named },
                end,
            })
            .collect()
    })
}

fn question() -> impl Strategy<Value = Probe> {
    let sources =
        ["10.0.0.1", "10.1.0.1", "10.1.2.3", "11.0.0.1", "fd00::1", "fd00:1::1", "fe00::1"];
    let octet = || select(vec![0_u8, 1, 128, 255]);
    let port = select(vec![1_u16, 2, 25, 53, 54, 80, 82, 443, 444, 65535]);
    let transport = select(vec![Transport::Tcp, Transport::Udp]);
    let bytes = prop::array::uniform16(octet());
    (select(sources.to_vec()), bytes, transport, port).prop_map(
        |(source, bytes, transport, port)| {
            let source: IpAddr = source.parse().unwrap();
            let [a, b, c, d, ..] = bytes;
            let destination =
                if source.is_ipv4() { IpAddr::from([a, b, c, d]) } else { IpAddr::from(bytes) };
            Probe::new(destination, transport, port).from(source)
        },
    )
}

/// Whether a window that is open has a rule for it: the model, straight from feed and policy.
fn has_rule(snapshot: &Snapshot, policy: &Policy, window: &OpenWindow, probe: &Probe) -> bool {
    let source = probe.source.unwrap();
    let excluded = policy.excludes.iter().any(|exclude| {
        exclude.prefixes.iter().any(|prefix| prefix.contains(&probe.destination))
            && exclude.protocol.is_none_or(|only| only == probe.transport)
            && exclude.ports.as_ref().is_none_or(|ports| ports.contains(probe.port))
    });
    let family = if probe.destination.is_ipv4() { policy.ipv4 } else { policy.ipv6 };
    if excluded || !family || NOW >= window.end {
        return false;
    }
    let named_only = [(Transport::Tcp, 25), (Transport::Tcp, 53), (Transport::Udp, 53)];
    window.clients.iter().any(|client| client.contains(&source))
        && snapshot.sets.values().any(|set| {
            let named = window.sets.named.contains(&set.id);
            let held = set.id == SIGN_IN_SET || named_only.contains(&(probe.transport, probe.port));
            let ports = match probe.transport {
                Transport::Tcp => &set.tcp,
                Transport::Udp => &set.udp,
            };
            (named || (window.sets.all && !held))
                && !policy.exclude_sets.contains(&set.id)
                && ports.contains(probe.port)
                && set.prefixes.iter().any(|prefix| prefix.contains(&probe.destination))
        })
}

fn decide(table: &Table, probe: &Probe) -> Decision {
    classify(probe.frame().as_slice(), table)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn windows_add_exactly_what_their_sets_have_for_their_clients(
        snapshot in strategies::snapshot(),
        policy in strategies::policy(),
        listed in prop::option::of(client()),
        windows in windows(),
        questions in prop::collection::vec(question(), 32),
    ) {
        let mut policy = strategies::fitted(&policy, &snapshot);
        policy.sources.prefixes = listed.into_iter().collect();
        let Ok(compiled) = policy::compile(&snapshot, &policy) else { return Ok(()) };
        let Ok(support) = Support::compile(&snapshot, &policy, &windows, &BTreeSet::new()) else {
            return Ok(());
        };
        let plain = compiled.table;
        let table = plain.clone().with_support(support.at(NOW)).unwrap();
        prop_assert_eq!(table.digest() == plain.digest(), windows.is_empty());
        for probe in questions {
            let (without, with) = (decide(&plain, &probe), decide(&table, &probe));
            let left = [Reason::NoPrefix, Reason::PortNotListed, Reason::SourceNotListed];
            let open: Vec<_> = windows
                .iter()
                .filter(|window| has_rule(&snapshot, &policy, window, &probe))
                .collect();
            if !left.contains(&without.reason()) || open.is_empty() {
                prop_assert_eq!(with, without, "{}", probe);
                continue;
            }
            prop_assert_eq!(with.verdict(), Verdict::Direct, "{}", probe);
            let group = usize::from(with.group().unwrap());
            let identity = table.support_identity();
            // The first window that is open has it, and it is counted for sets of that window.
            prop_assert_eq!(identity.window_of(group).map(|window| window.id), Some(open[0].id));
            let groups = table.all_groups();
            prop_assert!(!groups[group].is_empty());
            prop_assert!(groups[group].iter().all(|set| snapshot.sets.contains_key(set)));
        }
    }
}

#[test]
fn whatever_a_feed_lists_what_is_left_out_is_inspected() {
    let address: SocketAddr = "64.1.1.1:443".parse().unwrap();
    let wide: IpNet = "64.0.0.0/2".parse().unwrap();
    let mut snapshot = gateway_user::feed::embedded().unwrap();
    let set = snapshot.sets.values_mut().find(|set| set.category == Category::Default);
    let set = set.unwrap();
    set.prefixes.insert(wide);
    set.tcp = [443..=443].into_iter().collect();
    let policy = Policy::default();
    let plain = policy::compile(&snapshot, &policy).unwrap().table;
    let clients = BTreeSet::from(["10.0.0.0/8".parse().unwrap()]);
    let window = OpenWindow { id: 1, clients, sets: WindowSets::all(), end: u64::MAX };
    let probe = Probe::new(address.ip(), Transport::Tcp, 443).from("10.1.1.1".parse().unwrap());
    for (left_out, verdict) in
        [(BTreeSet::new(), Verdict::Direct), (BTreeSet::from([wide]), Verdict::Inspect)]
    {
        let windows = std::slice::from_ref(&window);
        let support = Support::compile(&snapshot, &policy, windows, &left_out).unwrap();
        let table = plain.clone().with_support(support).unwrap();
        assert_eq!(decide(&table, &probe).verdict(), verdict, "{left_out:?}");
    }
}
