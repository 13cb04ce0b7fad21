//! What the testbed promises to the tests that stand on it. Needs root.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::panic::catch_unwind;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ipnet::IpNet;
use xtask::testbed::{
    BpfFs, EchoServers, End, Frame, Namespace, Offloads, Protocol, Wire, ask, link, sweep,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Two namespaces, `near` with `10.0.0.1` and `fd00::1`, and its default route to `far`.
fn pair(offloads: Offloads) -> (Namespace, Namespace) {
    let (near, far) = (Namespace::new("near").unwrap(), Namespace::new("far").unwrap());
    let one = End {
        namespace: &near,
        interface: "eth0",
        mac: [2, 0, 0, 0, 0, 1],
        addresses: &nets(&["10.0.0.1/24", "fd00::1/64"]),
    };
    let other = End {
        namespace: &far,
        interface: "eth0",
        mac: [2, 0, 0, 0, 0, 2],
        addresses: &nets(&["10.0.0.2/24", "fd00::2/64"]),
    };
    link(&one, &other, offloads).unwrap();
    near.run("ip route add default via 10.0.0.2").unwrap();
    near.run("ip -6 route add default via fd00::2").unwrap();
    (near, far)
}

#[test]
fn servers_answer_for_whole_prefixes_with_the_peer_they_see() {
    let (near, far) = pair(Offloads::Default);
    let prefixes: BTreeSet<IpNet> = nets(&["40.96.0.0/13", "2603:1006::/40"]).into_iter().collect();
    EchoServers::own(&far, &prefixes).unwrap();
    let ports = BTreeSet::from([443, 3478]);
    let _servers = EchoServers::start(&far, &ports, &ports).unwrap();
    let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
    for (address, peer) in [
        ("40.96.0.0", v4),
        ("40.103.255.255", v4),
        ("2603:1006::", v6),
        ("2603:1006:ff:ffff:ffff:ffff:ffff:ffff", v6),
    ] {
        for port in [443, 3478] {
            let to = SocketAddr::new(address.parse().unwrap(), port);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let seen = near.enter(|| ask(to, protocol, 10, PATIENCE)).unwrap();
                assert_eq!(seen.unwrap(), peer, "{to} {protocol:?}");
            }
            let fragmented = near.enter(|| ask(to, Protocol::Udp, 4000, PATIENCE)).unwrap();
            assert_eq!(fragmented.unwrap(), peer, "fragments to {to}");
        }
    }
    let outside = SocketAddr::new("40.104.0.0".parse().unwrap(), 443);
    near.enter(|| ask(outside, Protocol::Tcp, 0, Duration::from_millis(200)).unwrap_err()).unwrap();
}

#[test]
fn a_frame_arrives_as_it_was_built() {
    for offloads in [Offloads::Default, Offloads::Gro, Offloads::None] {
        let (near, far) = pair(offloads);
        let mut out = Wire::open(&near, "eth0").unwrap();
        let mut into = Wire::open(&far, "eth0").unwrap();
        let frame = Frame::udp("203.0.113.9:53".parse().unwrap())
            .macs([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
            .options(&[1; 12])
            .fragment(3, true)
            .padding(4)
            .build()
            .unwrap();
        out.send(&frame).unwrap();
        let seen = into.receive(PATIENCE, |bytes| bytes == frame).unwrap();
        assert_eq!(seen, Some(frame), "{offloads:?}");
    }
}

#[test]
fn everything_vanishes_when_its_owner_panics() {
    let report = std::sync::Mutex::new((String::new(), String::new(), 0));
    let panicked = catch_unwind(|| {
        let namespace = Namespace::new("panic").unwrap();
        let bpffs = BpfFs::new().unwrap();
        let sleeper = namespace.spawn(Command::new("sleep").arg("1000")).unwrap();
        let mut report = report.lock().unwrap();
        report.0 = namespace.path().display().to_string();
        report.1 = bpffs.path().display().to_string();
        report.2 = sleeper.id();
        assert!(Path::new(&report.0).exists() && Path::new(&report.1).exists());
        drop(report);
        panic!("on purpose");
    });
    assert!(panicked.is_err());
    let (namespace, bpffs, pid) = report.into_inner().unwrap();
    assert!(!Path::new(&namespace).exists());
    assert!(!Path::new(&bpffs).exists());
    assert!(!Path::new("/proc").join(pid.to_string()).exists());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&bpffs));
}

#[test]
fn what_a_killed_process_left_is_swept_with_what_runs_there() {
    let mut ended = Command::new("true").spawn().unwrap();
    let dead = format!("b365-{}-0-killed", ended.id());
    ended.wait().unwrap();
    let ip = |args: &[&str]| assert!(Command::new("ip").args(args).status().unwrap().success());
    ip(&["netns", "add", &dead]);
    let mut left =
        Command::new("ip").args(["netns", "exec", &dead, "sleep", "1000"]).spawn().unwrap();
    // It is there once it has entered, not before.
    let runs_there = || Command::new("ip").args(["netns", "pids", &dead]).output().unwrap().stdout;
    wait_until("it runs there", PATIENCE, || Ok(!runs_there().is_empty())).unwrap();
    sweep().unwrap();
    assert!(!Path::new("/run/netns").join(&dead).exists());
    assert!(!left.wait().unwrap().success());
}

#[test]
fn a_namespace_knows_only_the_links_it_was_given() {
    let (near, _far) = pair(Offloads::Default);
    let links = near.run("ip -brief link").unwrap();
    let names: Vec<_> = links.lines().filter_map(|line| line.split('@').next()).collect();
    assert_eq!(names.len(), 2, "{links}");
    assert!(names[0].starts_with("lo ") && names[1] == "eth0", "{links}");
}

#[test]
fn a_failing_command_says_what_and_where_in_one_line() {
    let namespace = Namespace::new("fails").unwrap();
    let error = format!("{:#}", namespace.run("ip link show dev absent").unwrap_err());
    assert!(error.contains(namespace.name()) && error.contains("absent"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}
