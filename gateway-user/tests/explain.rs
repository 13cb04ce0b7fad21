//! The loaded programs, asked about any address, answer as the oracle does and name the sets that
//! the feed lists. Needs root.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gateway_common::{Decision, FlowKey, Reason, Transport, Verdict, classify, decide};
use gateway_user::datapath::{Answer, DatapathError, Loaded, Pins, Probe, bring_up};
use gateway_user::feed::{self, Category};
use gateway_user::policy::{Compiled, Exclude, OwnInclude, Policy, Sources, compile};
use ipnet::IpNet;
use xtask::testbed::BpfFs;

use crate::support::product::{Product, with_hook};
use crate::support::{self, LAN, Site};

/// Everything of the embedded feed that has a prefix and may go direct unnamed.
fn compiled() -> Compiled {
    let policy = Policy {
        categories: BTreeSet::from([Category::Optimize, Category::Allow]),
        ..Policy::default()
    };
    compile(&feed::embedded().unwrap(), &policy).unwrap()
}

/// Publishes without any interface.
fn load(compiled: &Compiled) -> (BpfFs, Loaded) {
    let bpffs = BpfFs::new().unwrap();
    let pins = Pins::new(bpffs.pins());
    let lock = pins.lock().unwrap();
    bring_up(&lock, &support::blueprint(&compiled.table), &[], &mut |_| Ok(())).unwrap();
    (bpffs, Loaded::open(&pins).unwrap())
}

/// First and last address of a prefix, and those beside them.
fn edges(prefix: IpNet) -> impl Iterator<Item = IpAddr> {
    let beside = |address, by: i8| match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add_signed(by.into())).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add_signed(by.into())).into(),
    };
    let (first, last): (IpAddr, IpAddr) = (prefix.network(), prefix.broadcast());
    [beside(first, -1), first, last, beside(last, 1)].into_iter()
}

/// The slow answer: the sets of the rules that match, none for Inspect.
fn sets_by_rules(
    compiled: &Compiled,
    address: IpAddr,
    transport: Transport,
    port: u16,
) -> Vec<u32> {
    let sets: BTreeSet<u32> = compiled
        .rules
        .iter()
        .filter(|rule| {
            rule.prefix.contains(&address)
                && rule.transport == transport
                && (rule.first..=rule.last).contains(&port)
        })
        .map(|rule| rule.set)
        .collect();
    sets.into_iter().collect()
}

#[test]
fn it_agrees_with_the_oracle_and_the_rules_around_every_prefix() {
    let compiled = compiled();
    let (_bpffs, loaded) = load(&compiled);
    let ports = [
        (Transport::Tcp, 443),
        (Transport::Tcp, 80),
        (Transport::Tcp, 993),
        (Transport::Tcp, 444),
        (Transport::Udp, 443),
        (Transport::Udp, 3477),
        (Transport::Udp, 3478),
        (Transport::Udp, 3481),
        (Transport::Udp, 3482),
    ];
    let mut seen = BTreeSet::new();
    for (prefix, _) in compiled.table.prefixes() {
        for address in edges(prefix) {
            for (transport, port) in ports {
                let probe = Probe::new(address, transport, port);
                let answer = loaded.ask(&probe).unwrap();
                let oracle: Decision = classify(probe.frame().as_slice(), &compiled.table);
                assert_eq!(answer.reason, oracle.reason(), "{probe}");
                let sets = sets_by_rules(&compiled, address, transport, port);
                assert_eq!(answer.sets, sets, "{probe}");
                assert_eq!(oracle.verdict() == Verdict::Direct, !sets.is_empty(), "{probe}");
                let key =
                    FlowKey { destination: address.into(), transport, destination_port: port };
                assert_eq!(decide(&key, &compiled.table), oracle, "{probe}");
                seen.insert(answer.reason);
            }
        }
    }
    let all = [Reason::Matched, Reason::NoPrefix, Reason::PortNotListed];
    assert_eq!(seen, BTreeSet::from(all));
}

#[test]
fn it_agrees_with_the_oracle_where_own_entries_and_sources_decide() {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let policy = Policy {
        includes: vec![OwnInclude {
            name: "branch".into(),
            prefixes: nets(&["198.51.100.0/24", "2001:db8:7::/48"]),
            ..OwnInclude::default()
        }],
        excludes: vec![
            Exclude {
                name: "quic".into(),
                prefixes: nets(&["0.0.0.0/0", "::/0"]),
                protocol: Some(Transport::Udp),
                ports: Some("443".parse().unwrap()),
                ..Exclude::default()
            },
            Exclude {
                name: "host".into(),
                prefixes: nets(&["40.96.7.7/32", "198.51.100.9/32"]),
                ..Exclude::default()
            },
        ],
        sources: Sources {
            prefixes: nets(&["10.1.0.0/16", "fd00::/8"]),
            interfaces: BTreeSet::new(),
        },
        ..Policy::default()
    };
    let compiled = compile(&feed::embedded().unwrap(), &policy).unwrap();
    let (_bpffs, loaded) = load(&compiled);
    let mut seen = BTreeSet::new();
    for (prefix, _) in compiled.table.prefixes() {
        for address in edges(prefix) {
            for (transport, port) in
                [(Transport::Tcp, 443), (Transport::Udp, 443), (Transport::Tcp, 25)]
            {
                for source in ["10.1.2.3", "10.2.2.3", "fd00::1", "fe00::1"] {
                    let source: IpAddr = source.parse().unwrap();
                    if source.is_ipv4() != address.is_ipv4() {
                        continue;
                    }
                    let probe = Probe::new(address, transport, port).from(source);
                    let answer = loaded.ask(&probe).unwrap();
                    let oracle = classify(probe.frame().as_slice(), &compiled.table);
                    assert_eq!(answer.reason, oracle.reason(), "{probe}");
                    seen.insert(answer.reason);
                }
            }
        }
    }
    let all = [
        Reason::Matched,
        Reason::NoPrefix,
        Reason::PortNotListed,
        Reason::Excluded,
        Reason::SourceNotListed,
    ];
    assert_eq!(seen, BTreeSet::from(all));
}

#[test]
fn the_verb_asks_the_loaded_program_from_where_it_is_told() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    site.add_lan("eth1", "lan1");
    product.configure(&format!(
        "{}[[interface]]\nname = \"lan1\"\n\
         [policy.sources]\nprefixes = [\"10.1.0.0/16\"]\ninterfaces = [\"lan1\"]\n\
         [[policy.include]]\nname = \"branch\"\nprefixes = [\"52.96.7.0/24\"]\n\
         [[policy.exclude]]\nname = \"host\"\nprefixes = [\"52.96.7.9/32\"]\n",
        with_hook(LAN, "auto")
    ));
    let daemon = product.start();
    let config = product.config();
    for (words, reason, own) in [
        (&["10.1.2.3", "52.96.7.7", "tcp/443"][..], "matched", &["branch"][..]),
        (&["10.1.2.3", "52.96.7.9", "tcp/443"], "excluded", &[]),
        (&["10.2.2.3", "52.96.7.7", "tcp/443"], "source_not_listed", &[]),
        (&["10.2.2.3", "52.96.7.7", "tcp/443", "--in", "lan1"], "matched", &["branch"]),
        (&["10.2.2.3", "52.96.7.7", "tcp/443", "--in", LAN], "source_not_listed", &[]),
        (&["52.96.7.7", "tcp/443"], "matched", &["branch"]),
        // IPv6 has no listed prefix: the listed interface is taken.
        (&["2603:1006::1", "tcp/443"], "matched", &[]),
        (&["fd00::1", "2603:1006::1", "tcp/443"], "source_not_listed", &[]),
    ] {
        let more = ["--json", "--config", config.to_str().unwrap()];
        let output = product.verb(&[&["explain"], words, &more].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {stderr}");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for said in [&answer, &answer["loaded"]] {
            assert_eq!(said["reason"], reason, "{words:?}");
            assert_eq!(said["own"], serde_json::json!(own), "{words:?}");
        }
        assert_eq!(answer["loaded"]["same_table"], true);
    }
    let status = product.status();
    assert_eq!(status["own"][0]["name"], "branch");
    daemon.terminate();
}

#[test]
fn it_inspects_fragments_of_direct_traffic() {
    let compiled = compiled();
    let (_bpffs, loaded) = load(&compiled);
    for address in ["40.96.0.1", "2603:1006::1"] {
        for transport in [Transport::Tcp, Transport::Udp] {
            let probe = Probe::new(address.parse().unwrap(), transport, 443);
            assert_eq!(loaded.ask(&probe).unwrap().reason, Reason::Matched, "{probe}");
            let fragment = probe.first_fragment();
            let expected = Answer { reason: Reason::FirstFragment, sets: Vec::new() };
            assert_eq!(loaded.ask(&fragment).unwrap(), expected, "{fragment}");
        }
    }
}

#[test]
fn a_question_is_no_traffic() {
    let (_bpffs, loaded) = load(&compiled());
    for address in ["40.96.0.1", "203.0.113.1"] {
        loaded.ask(&Probe::new(address.parse().unwrap(), Transport::Tcp, 443)).unwrap();
    }
    let counts = loaded.counts().unwrap();
    for sheet in [&counts.xdp, &counts.tc_behind_xdp, &counts.tc] {
        assert_eq!(support::decided(sheet), 0);
    }
}

#[test]
fn with_nothing_loaded_there_is_no_answer() {
    let bpffs = BpfFs::new().unwrap();
    let failure = Loaded::open(&Pins::new(bpffs.pins())).unwrap_err();
    assert!(matches!(failure, DatapathError::NothingLoaded { .. }), "{failure}");
}
