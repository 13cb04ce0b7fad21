//! From Microsoft's list of 2021 to that of 2026 in one step: held by name, shown, accepted, and
//! published under traffic without a packet that neither list would decide so. Needs root.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use gateway_common::{FlowKey, Transport, Verdict, decide};
use gateway_user::exit::Exit;
use gateway_user::feed::{self, Snapshot};
use gateway_user::policy::{Policy, Table, compile};
use ipnet::IpNet;
use xtask::testbed::Frame;

use crate::support::product::{Product, with_hook};
use crate::support::{CLIENT, LAN, Marked, Sender, Site, wait_until};

const OLD: &str = include_str!("fixtures/worldwide-2021.json");
const NEW: &str = include_str!("../src/feed/worldwide-2026073100.json");

/// What the two lists say of one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Stays(bool),
    Enters,
    Leaves,
}

fn snapshot(text: &str) -> Snapshot {
    feed::parse(text.as_bytes(), "fixture").unwrap()
}

fn table(snapshot: &Snapshot) -> Table {
    compile(snapshot, &Policy::default()).unwrap().table
}

fn is_direct(table: &Table, address: IpAddr, transport: Transport, port: u16) -> bool {
    let key = FlowKey { destination: address.into(), transport, destination_port: port };
    decide(&key, table).verdict() == Verdict::Direct
}

/// First and last address of every prefix of both lists, selected or not, on some ports.
fn destinations() -> Vec<(SocketAddr, Transport, Fate)> {
    let (old, new) = (snapshot(OLD), snapshot(NEW));
    let (before, after) = (table(&old), table(&new));
    let sets = old.sets.values().chain(new.sets.values());
    let prefixes: std::collections::BTreeSet<IpNet> =
        sets.flat_map(|set| &set.prefixes).copied().collect();
    let mut all = Vec::new();
    for prefix in prefixes {
        for address in [prefix.network(), prefix.broadcast()] {
            for (transport, port) in [
                (Transport::Tcp, 443),
                (Transport::Tcp, 80),
                (Transport::Tcp, 993),
                (Transport::Udp, 443),
                (Transport::Udp, 3479),
            ] {
                let fate = match (
                    is_direct(&before, address, transport, port),
                    is_direct(&after, address, transport, port),
                ) {
                    (false, true) => Fate::Enters,
                    (true, false) => Fate::Leaves,
                    (_, stays) => Fate::Stays(stays),
                };
                all.push((SocketAddr::new(address, port), transport, fate));
            }
        }
    }
    all
}

fn frame(to: SocketAddr, transport: Transport) -> Vec<u8> {
    let frame = match transport {
        Transport::Tcp => Frame::tcp(to),
        Transport::Udp => Frame::udp(to),
    };
    frame.build().unwrap()
}

fn frames(all: &[(SocketAddr, Transport, Fate)], of: Fate) -> Vec<Vec<u8>> {
    let chosen = all.iter().filter(|(_, _, fate)| *fate == of);
    chosen.map(|(to, transport, _)| frame(*to, *transport)).collect()
}

#[test]
fn the_step_is_held_then_accepted_under_traffic_without_a_misclassified_packet() {
    let all = destinations();
    let of = |fate| frames(&all, fate);
    let (direct, inspected) = (of(Fate::Stays(true)), of(Fate::Stays(false)));
    let (enters, leaves) = (of(Fate::Enters), of(Fate::Leaves));
    for (name, frames) in [
        ("direct in both", &direct),
        ("inspected in both", &inspected),
        ("entering", &enters),
        ("leaving", &leaves),
    ] {
        assert!(frames.len() >= 4, "{} {name}", frames.len());
    }
    let count = |frames: &[Vec<u8>]| u64::try_from(frames.len()).unwrap();
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let feed = product.file("feed.json");
    fs::write(&feed, OLD).unwrap();
    product.configure(&with_hook(LAN, "auto"));
    let daemon = product.start();
    let now = |frames: &[Vec<u8>]| site.send_from(CLIENT, frames);
    let all_direct = |frames: &[Vec<u8>]| Marked { direct: count(frames), none: 0, odd: 0 };
    let all_inspected = |frames: &[Vec<u8>]| Marked { direct: 0, none: count(frames), odd: 0 };
    assert_eq!(now(&direct), all_direct(&direct));
    assert_eq!(now(&inspected), all_inspected(&inspected));
    assert_eq!(now(&leaves), all_direct(&leaves));
    assert_eq!(now(&enters), all_inspected(&enters));

    fs::write(&feed, NEW).unwrap();
    product.assert_refused(&["reload"], Exit::Guard as i32, &["prefixes_leaving", "plan accept"]);
    assert_eq!(now(&leaves), all_direct(&leaves), "held");
    let shown = product.json(&["plan", "show"]);
    let id = shown["id"].as_str().unwrap().to_owned();
    let text = product.text(&["plan", "show"]);
    assert!(text.contains(&id) && text.contains("2026073100"), "{text}");

    // Every second packet is direct in both lists, the others in neither.
    let before = site.marked();
    let (some, others) = (direct.clone(), inspected.clone());
    let sender = Sender::start(&site, move |sent| {
        let at = usize::try_from(sent).unwrap();
        let from = if at.is_multiple_of(2) { &some } else { &others };
        from[at / 2 % from.len()].clone()
    });
    wait_until("traffic flows", || site.marked().direct > before.direct + 20);
    product.json(&["plan", "accept", &id]);
    let then = site.marked();
    wait_until("traffic flows on", || site.marked().direct > then.direct + 20);
    let sent = sender.stop();
    let came = || {
        let now = site.marked();
        now.direct + now.none + now.odd - before.direct - before.none - before.odd
    };
    wait_until("every packet came in", || came() >= sent);
    let after = site.marked();
    assert_eq!(after.direct - before.direct, sent.div_ceil(2), "direct of {sent}");
    assert_eq!(after.none - before.none, sent / 2, "inspected of {sent}");
    assert_eq!(after.odd, before.odd);

    assert_eq!(now(&enters), all_direct(&enters));
    assert_eq!(now(&leaves), all_inspected(&leaves));
    assert_eq!(product.status()["feed"]["version"], "2026073100");
    daemon.terminate();
}
