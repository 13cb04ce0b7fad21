//! A thousand generations published under traffic: no packet is lost, none is decided wrongly.
//! Needs root.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use gateway_common::Transport;
use gateway_user::datapath::XdpRequest;
use gateway_user::policy::Table;
use xtask::testbed::Frame;

use crate::support::{LAN, MARK, Sender, Site, rules, wait_until};

/// Direct by both tables, and inspected by both: a neighbour, another port.
const DESTINATIONS: [(&str, bool); 4] = [
    ("40.96.0.1:443", true),
    ("40.104.0.0:443", false),
    ("40.103.255.255:443", true),
    ("40.96.0.1:444", false),
];

/// Two tables that agree on [`DESTINATIONS`] for different reasons.
fn tables() -> [Table; 2] {
    let tcp = |prefix, ports, set| rules(prefix, Transport::Tcp, ports, set);
    [
        Table::from_rules(tcp("40.96.0.0/13", 443..=443, 1)).unwrap(),
        Table::from_rules(
            tcp("40.96.0.0/14", 440..=443, 7).chain(tcp("40.100.0.0/14", 443..=443, 8)).chain(tcp(
                "40.104.0.0/30",
                25..=25,
                9,
            )),
        )
        .unwrap(),
    ]
}

/// The packet's number is its source address: 24 bits of 10.0.0.0/8.
fn numbered(number: u64) -> Vec<u8> {
    let source = Ipv4Addr::from_bits(10 << 24 | u32::try_from(number).unwrap());
    let (destination, _) = DESTINATIONS[usize::try_from(number % 4).unwrap()];
    Frame::tcp(destination.parse().unwrap())
        .from(SocketAddr::new(source.into(), 50_000))
        .build()
        .unwrap()
}

/// What came in: by number, its mark and how often.
fn arrivals(site: &Site) -> BTreeMap<u64, Vec<u32>> {
    let listed = site.gateway.run("nft --json list set inet arrivals seen").unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let mut arrivals: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let sets = listed["nftables"].as_array().unwrap();
    let set = sets.iter().find_map(|entry| entry.get("set")).unwrap();
    for element in set["elem"].as_array().unwrap() {
        let parts = element["concat"].as_array().unwrap();
        let source: Ipv4Addr = parts[0].as_str().unwrap().parse().unwrap();
        let number = u64::from(source.to_bits() & 0x00ff_ffff);
        let mark = u32::try_from(parts[1].as_u64().unwrap()).unwrap();
        arrivals.entry(number).or_default().push(mark);
    }
    arrivals
}

fn came(site: &Site) -> u64 {
    let listed = site.gateway.run("nft list counters table inet arrivals").unwrap();
    let packets = listed.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    packets.unwrap().parse().unwrap()
}

fn assert_nothing_is_lost_or_wrong(xdp: XdpRequest, swaps: usize) {
    let site = Site::new();
    site.gateway
        .nft(
            "table inet arrivals {
                counter arrived { }
                set seen { type ipv4_addr . mark; size 1000000; flags dynamic; }
                chain record {
                    type filter hook prerouting priority raw
                    ip saddr 10.0.0.0/8 counter name arrived add @seen { ip saddr . meta mark } drop
                }
            }",
        )
        .unwrap();
    let lock = site.lock();
    let hooks = [site.hook(LAN, xdp)];
    let tables = tables();
    site.publish(&lock, &tables[0], &hooks).unwrap();
    let sender = Sender::start(&site, numbered);
    let started = Instant::now();
    for swap in 1..=swaps {
        site.publish(&lock, &tables[swap % 2], &hooks).unwrap();
    }
    let took = started.elapsed();
    let sent = sender.stop();
    wait_until("every packet came in", || came(&site) >= sent);
    assert_eq!(came(&site), sent, "packets came in");
    let arrivals = arrivals(&site);
    for number in 0..sent {
        let (destination, direct) = DESTINATIONS[usize::try_from(number % 4).unwrap()];
        let mark = if direct { MARK.value } else { 0 };
        let seen = arrivals.get(&number).map(Vec::as_slice);
        assert_eq!(seen, Some([mark].as_slice()), "packet {number} to {destination}");
    }
    let each = usize::try_from(sent).unwrap() / swaps;
    eprintln!("{swaps} swaps in {took:?}, {sent} packets, {each} per swap");
    assert!(each > 0, "{sent} packets are too few to show anything");
    let manifest = gateway_user::datapath::Loaded::open(&site.pins()).unwrap();
    assert_eq!(manifest.manifest().generation, u64::try_from(swaps + 1).unwrap());
}

// Together a thousand, side by side to spend the kernel's waits.

#[test]
fn swaps_behind_native_xdp_lose_and_misdecide_nothing() {
    assert_nothing_is_lost_or_wrong(XdpRequest::Native, 400);
}

#[test]
fn swaps_behind_generic_xdp_lose_and_misdecide_nothing() {
    assert_nothing_is_lost_or_wrong(XdpRequest::Generic, 300);
}

#[test]
fn swaps_behind_tc_lose_and_misdecide_nothing() {
    assert_nothing_is_lost_or_wrong(XdpRequest::No, 300);
}
