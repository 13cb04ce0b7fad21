//! Programs and support windows: what they decide is what the oracle says, and without a window they
//! are as long as before. Needs root.

use std::collections::BTreeSet;

use gateway_user::datapath::{Generation, Redirect, Setting, self_test};
use gateway_user::feed;
use gateway_user::policy::{self, OpenWindow, Policy, Sources, Support, Table, WindowSets};
use ipnet::IpNet;

use crate::support::MARK;

fn window(id: u32, clients: &[&str], sets: WindowSets) -> OpenWindow {
    let clients = clients.iter().map(|client| client.parse().unwrap()).collect();
    OpenWindow { id, clients, sets, end: u64::MAX }
}

fn named(sets: &[u32]) -> WindowSets {
    WindowSets { all: false, named: sets.iter().copied().collect() }
}

fn sources(prefixes: &[&str]) -> Sources {
    let prefixes: BTreeSet<IpNet> = prefixes.iter().map(|net| net.parse().unwrap()).collect();
    Sources { prefixes, ..Sources::default() }
}

/// The default policy over the feed in the binary, with these windows.
fn table(sources: Sources, windows: &[OpenWindow]) -> Table {
    let snapshot = feed::embedded().unwrap();
    let policy = Policy { sources, ..Policy::default() };
    let compiled = policy::compile(&snapshot, &policy).unwrap();
    let support = Support::compile(&snapshot, &policy, windows, &BTreeSet::new()).unwrap();
    compiled.table.with_support(support).unwrap()
}

#[test]
fn with_windows_every_program_agrees_with_the_oracle() {
    let everything = window(1, &["10.1.0.0/16", "fd00:1::/32"], WindowSets::all());
    let some = window(2, &["10.1.2.3/32", "10.2.0.0/16", "fd00:1:2::/48"], named(&[1, 56]));
    for sources in [sources(&[]), sources(&["10.1.0.0/24", "fd00::/16"])] {
        for windows in [&[everything.clone()][..], &[some.clone(), everything.clone()]] {
            let table = table(sources.clone(), windows);
            let mut generation = Generation::load(&table, MARK.into()).unwrap();
            let report = self_test(&mut generation, &table).unwrap();
            let plain = table_without(&sources);
            let mut generation = Generation::load(&plain, MARK.into()).unwrap();
            let without = self_test(&mut generation, &plain).unwrap();
            assert!(report.direct > without.direct, "{report:?} {without:?}");
        }
    }
}

#[test]
fn with_windows_and_redirecting_the_programs_fit_the_stack_and_agree_with_the_oracle() {
    let table = table(sources(&["10.1.0.0/24"]), &[window(1, &["10.1.0.0/16"], WindowSets::all())]);
    for (ipv4, ipv6) in [(true, true), (true, false), (false, true)] {
        let mut generation = Generation::load(&table, redirecting(ipv4, ipv6)).unwrap();
        assert!(self_test(&mut generation, &table).unwrap().direct > 0);
    }
}

fn redirecting(ipv4: bool, ipv6: bool) -> Setting {
    // Where packets of the self-test come in by; no route leads there.
    let redirect = Redirect {
        name: "lo".into(),
        uplink: 1,
        mac: [0; 6],
        ipv4,
        ipv6,
        hop6: None,
        table: 365,
        ports: [].into(),
    };
    Setting { redirect: Some(redirect), ..MARK.into() }
}

fn long_table() -> Table {
    let windows: Vec<OpenWindow> =
        (1..=8).map(|id| window(id, &["10.1.0.0/16", "fd00:1::/32"], WindowSets::all())).collect();
    table(sources(&["10.1.0.0/24", "fd00::/16"]), &windows)
}

fn long_setting() -> Setting {
    let mut setting = redirecting(true, true);
    setting.self_check = 1000;
    if let Some(redirect) = &mut setting.redirect {
        redirect.hop6 = Some("fe80::1".parse().unwrap());
    }
    setting
}

/// A verifier gives up at a million, and each kernel's walks otherwise.
#[test]
fn with_all_that_makes_them_long_programs_are_a_tenth_of_what_a_verifier_walks() {
    let generation = Generation::load(&long_table(), long_setting()).unwrap();
    let lengths = generation.verified_instructions();
    println!("{lengths:?}");
    for (program, length) in lengths {
        assert!(length.unwrap() < 100_000, "{program}: {length:?} verified instructions");
    }
}

fn table_without(sources: &Sources) -> Table {
    table(sources.clone(), &[])
}

#[test]
fn programs_are_as_long_as_before_where_no_window_is_open() {
    let length = |windows: &[OpenWindow]| {
        let table = table(Sources::default(), windows);
        Generation::load(&table, MARK.into()).unwrap().verified_instructions()
    };
    let without = length(&[]);
    for (program, with) in length(&[window(1, &["10.1.0.0/16"], WindowSets::all())]) {
        let without = without[program].unwrap();
        println!("{program}: {without} verified instructions, {} with a window", with.unwrap());
        assert!(without < with.unwrap(), "{program}: {without} verified instructions");
    }
}

/// `CONFIG_DEBUG_INFO_BTF`: many routers' kernels are without.
#[test]
fn a_kernel_without_types_of_its_own_takes_the_programs_and_they_agree_with_the_oracle() {
    let table = long_table();
    let setting = Setting { static_functions: true, ..long_setting() };
    let mut generation = Generation::load(&table, setting).unwrap();
    println!("{:?}", generation.verified_instructions());
    assert!(self_test(&mut generation, &table).unwrap().direct > 0);
}
