//! Redirecting: direct traffic leaves in XDP, and what cannot goes up the stack, marked, and is lost
//! nowhere. Needs root.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use aya::programs::XdpMode;
use gateway_common::Fallback;
use gateway_user::datapath::{Blueprint, Control, DatapathError, Redirect, XdpRequest, bring_up};
use gateway_user::exit::Exit;
use gateway_user::exporter::{Format, Scrapes, render};
use gateway_user::observe;
use ipnet::IpNet;
use nix::sys::signal::Signal;
use xtask::testbed::{
    BpfFs, EchoServers, End, Extension, Frame, Namespace, Offloads, Protocol, RunningServers,
    VlanTag, Wire, ask, link,
};

use crate::support::foreign::{Foreign, xdp_program};
use crate::support::product::{Daemon, Product, with_hook};
use crate::support::{
    CLIENT, LAN, PATIENCE, Sender, Site, blueprint, one_table, other_table, wait_until,
};

const UPLINK: &str = "up0";
const EGRESS: &str = "[egress]\ninterface = \"up0\"\ngateway4 = \"10.36.2.2\"\n\
                      gateway6 = \"fd36:2::2\"\naction = \"redirect\"\n";
const DIRECT: [&str; 2] = ["40.96.0.1:443", "[2603:1006::1]:443"];
const INSPECTED: [&str; 2] = ["40.96.0.1:444", "[2603:1006::1]:444"];
const GATEWAY_MAC: [u8; 6] = mac(1, 1);
const CLIENT_MAC: [u8; 6] = mac(1, 2);
/// Whose frames are counted, and dropped, where they arrive.
const SOURCES: [&str; 2] = ["10.36.1.99:50000", "[fd36:1::99]:50000"];

const FEED: &str = r#"[
    {"id": 1, "serviceArea": "Exchange", "category": "Optimize", "required": true,
     "ips": ["40.96.0.0/13", "2603:1006::/40"], "tcpPorts": "80,443", "udpPorts": "443"}
]"#;

/// A gateway between a client, an inspector to whom the main table leads, and a hop behind the
/// uplink, which takes XDP frames:
///
/// ```text
/// client eth0 ── lan0 gateway insp0 ── in0 inspector
///                             up0 ──── in0 direct
/// ```
struct Network {
    site: Site,
    inspector: Namespace,
    direct: Namespace,
    _servers: [RunningServers; 2],
}

/// Where frames of [`SOURCES`] came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Came {
    /// To the hop behind the uplink.
    direct: u64,
    /// To it, after exactly one hop.
    one_hop: u64,
    /// To the inspector.
    inspected: u64,
    /// Through the forward chain of the gateway.
    forwarded: u64,
}

impl Network {
    /// Whose client fills in its checksums, as a wire would bring them.
    fn new() -> Self {
        Self::with_client(Offloads::None)
    }

    fn with_client(offloads: Offloads) -> Self {
        let site = Site {
            client: Namespace::new("client").unwrap(),
            gateway: Namespace::new("gateway").unwrap(),
            bpffs: BpfFs::new().unwrap(),
        };
        let [inspector, direct] = ["inspector", "direct"].map(|role| Namespace::new(role).unwrap());
        join((&site.gateway, LAN), (&site.client, CLIENT), 1, offloads);
        join((&site.gateway, UPLINK), (&direct, "in0"), 2, Offloads::Default);
        // Once it is up: the other end does not learn of it before.
        direct.run("ethtool -K in0 gro on").unwrap();
        join((&site.gateway, "insp0"), (&inspector, "in0"), 3, Offloads::Default);
        site.client.ip("address add 10.36.1.99/24 dev eth0\n").unwrap();
        site.client.ip("address add fd36:1::99/64 dev eth0 nodad preferred_lft 0\n").unwrap();
        site.client.ip(&default_routes(1, 1)).unwrap();
        // With a default route of IPv6 in the main table, IPv6 is marked: see the test of that.
        site.gateway
            .ip("route add default via 10.36.3.2\nroute add default via fd36:3::2 table 400\n")
            .unwrap();
        site.gateway.run("ip -6 rule add lookup 400 priority 33000").unwrap();
        site.gateway.forward().unwrap();
        let forward = "type filter hook forward priority raw";
        site.gateway.nft(&counters(forward, "", "accept")).unwrap();
        let servers = [(&direct, 2), (&inspector, 3)].map(|(hop, number)| {
            hop.ip(&default_routes(number, 1)).unwrap();
            hop.nft(&counters("type filter hook prerouting priority raw", "63", "drop")).unwrap();
            let prefixes = ["40.96.0.0/13", "2603:1006::/40"].map(|prefix| prefix.parse().unwrap());
            EchoServers::own(hop, &BTreeSet::from(prefixes)).unwrap();
            EchoServers::start(hop, &[443, 444].into(), &[443].into()).unwrap()
        });
        wait_until("every link is up", || {
            let routes = site.gateway.run("ip -d route show table all").unwrap();
            !routes.contains("linkdown") && routes.matches("local fe80::").count() == 3
        });
        Self { site, inspector, direct, _servers: servers }
    }

    fn product(&self) -> Product<'_> {
        let product = Product::new(&self.site, "auto");
        std::fs::write(product.file("feed.json"), FEED).unwrap();
        product.configure(&config(EGRESS));
        product
    }

    fn gateway(&self, command: &str) -> String {
        self.site.gateway.run(command).unwrap()
    }

    fn came(&self) -> Came {
        let count = |namespace: &Namespace, name: &str| -> u64 {
            let listed = namespace.run(&format!("nft list counter inet count {name}")).unwrap();
            let mut words = listed.split_whitespace().skip_while(|word| *word != "packets");
            words.nth(1).unwrap().parse().unwrap()
        };
        Came {
            direct: count(&self.direct, "came"),
            one_hop: count(&self.direct, "hop"),
            inspected: count(&self.inspector, "came"),
            forwarded: count(&self.site.gateway, "came"),
        }
    }

    /// Sends frames from the client, and says where they came: each of them somewhere.
    fn send(&self, frames: &[Vec<u8>]) -> Came {
        let before = self.came();
        let mut wire = Wire::open(&self.site.client, CLIENT).unwrap();
        for frame in frames {
            wire.send(frame).unwrap();
        }
        let sent = u64::try_from(frames.len()).unwrap();
        let mut came = Came::default();
        wait_until("every frame comes somewhere", || {
            let now = self.came();
            came = Came {
                direct: now.direct - before.direct,
                one_hop: now.one_hop - before.one_hop,
                inspected: now.inspected - before.inspected,
                forwarded: now.forwarded - before.forwarded,
            };
            came.direct + came.inspected == sent
        });
        came
    }

    /// Asserts that direct frames are redirected: past the stack, one hop, nothing to the inspector.
    fn assert_it_redirects(&self) {
        let redirected = Came { direct: 2, one_hop: 2, inspected: 0, forwarded: 0 };
        assert_eq!(self.send(&DIRECT.map(|to| frame(to).build().unwrap())), redirected);
    }

    /// Asserts that they are marked: through the stack, to the same place.
    fn assert_it_marks(&self) {
        let marked = Came { direct: 2, one_hop: 2, inspected: 0, forwarded: 2 };
        assert_eq!(self.send(&DIRECT.map(|to| frame(to).build().unwrap())), marked);
    }

    fn assert_all_is_inspected(&self) {
        let inspected = Came { direct: 0, one_hop: 0, inspected: 2, forwarded: 2 };
        assert_eq!(self.send(&DIRECT.map(|to| frame(to).build().unwrap())), inspected);
    }

    fn fallbacks(&self, cause: Fallback) -> u64 {
        self.site.counts().xdp.fallback(cause).packets
    }

    /// A rule and a route for IPv4, without a daemon.
    fn make_way_by_hand(&self) {
        self.site
            .gateway
            .ip("rule add fwmark 0x1000000/0x1000000 lookup 365 priority 366\n\
                 route add default via 10.36.2.2 dev up0 table 365\n")
            .unwrap();
        self.gateway("ip neigh replace 10.36.2.2 lladdr 02:36:00:00:02:02 nud permanent dev up0");
    }

    /// Starts the daemon, and asserts that it redirects once it can.
    fn start_redirecting(&self, product: &Product<'_>) -> Daemon {
        let daemon = product.start();
        self.wait_for_neighbours();
        self.assert_it_redirects();
        daemon
    }

    /// Both next hops are known: from then on nothing has to go up the stack for them.
    fn wait_for_neighbours(&self) {
        wait_until("the daemon has the next hops resolved", || {
            ["10.36.2.2", "fd36:2::2"]
                .iter()
                .all(|hop| self.gateway(&format!("ip neigh show {hop} dev up0")).contains("lladdr"))
        });
    }
}

const fn mac(network: u8, host: u8) -> [u8; 6] {
    [2, 0x36, 0, 0, network, host]
}

/// Joins two namespaces; the first has host number 1 in network `number`, the other 2.
fn join(one: (&Namespace, &str), other: (&Namespace, &str), number: u8, offloads: Offloads) {
    let addresses = |host: u8| -> Vec<IpNet> {
        [format!("10.36.{number}.{host}/24"), format!("fd36:{number}::{host}/64")]
            .map(|net| net.parse().unwrap())
            .into()
    };
    let (ones, others) = (addresses(1), addresses(2));
    link(
        &End { namespace: one.0, interface: one.1, mac: mac(number, 1), addresses: &ones },
        &End { namespace: other.0, interface: other.1, mac: mac(number, 2), addresses: &others },
        offloads,
    )
    .unwrap();
}

fn default_routes(number: u8, host: u8) -> String {
    format!(
        "route add default via 10.36.{number}.{host}\nroute add default via fd36:{number}::{host}\n"
    )
}

/// A table that counts the frames of [`SOURCES`], those with `lifetime` by themselves, and then gives
/// `verdict`.
fn counters(hook: &str, lifetime: &str, verdict: &str) -> String {
    let lifetime = if lifetime.is_empty() { "0" } else { lifetime };
    format!(
        "table inet count {{
            counter came {{ }}
            counter hop {{ }}
            chain seen {{
                {hook}
                ip saddr 10.36.1.99 ip ttl {lifetime} counter name hop
                ip6 saddr fd36:1::99 ip6 hoplimit {lifetime} counter name hop
                ip saddr 10.36.1.99 meta l4proto {{ tcp, udp }} counter name came {verdict}
                ip6 saddr fd36:1::99 meta l4proto {{ tcp, udp }} counter name came {verdict}
            }}
        }}"
    )
}

fn config(egress: &str) -> String {
    format!("{}{egress}", with_hook(LAN, "auto"))
}

/// A TCP frame from one of [`SOURCES`] to the gateway.
fn frame(to: &str) -> Frame {
    let to: SocketAddr = to.parse().unwrap();
    let [v4, v6] = SOURCES.map(|source| source.parse().unwrap());
    Frame::tcp(to).macs(GATEWAY_MAC, CLIENT_MAC).from(if to.is_ipv4() { v4 } else { v6 })
}

/// The same with so many hops to live.
fn with_lifetime(to: &str, hops: u8) -> Vec<u8> {
    let mut frame = frame(to).build().unwrap();
    if to.starts_with('[') {
        frame[21] = hops;
        return frame;
    }
    frame[22] = hops;
    frame[24..26].fill(0);
    let words = frame[14..34].as_chunks::<2>().0.iter();
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    frame[24..26].copy_from_slice(&(!folded).to_be_bytes());
    frame
}

#[test]
fn direct_flows_leave_past_the_stack_and_all_others_take_their_way() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    network.wait_for_neighbours();
    let answers = |to: &str, protocol| {
        network.site.client.enter(|| ask(to.parse().unwrap(), protocol, 20, PATIENCE)).unwrap()
    };
    let table = "table inet flows {
        counter up { }
        counter insp { }
        chain seen {
            type filter hook forward priority raw
            iifname lan0 oifname up0 counter name up
            iifname lan0 oifname insp0 counter name insp
        }
    }";
    network.site.gateway.nft(table).unwrap();
    for to in DIRECT {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            answers(to, protocol).unwrap();
        }
    }
    let seen = network.gateway("nft list counters table inet flows");
    assert_eq!(seen.matches("packets 0 ").count(), 2, "nothing was forwarded: {seen}");
    for to in INSPECTED {
        answers(to, Protocol::Tcp).unwrap();
    }
    let seen = network.gateway("nft list counter inet flows insp");
    assert!(!seen.contains("packets 0 "), "the inspector had the others: {seen}");
    network.assert_it_redirects();
    let inspected = network.send(&INSPECTED.map(|to| frame(to).build().unwrap()));
    assert_eq!(inspected, Came { direct: 0, one_hop: 0, inspected: 2, forwarded: 2 });
    assert_eq!(product.status()["action"], "redirect");
    let text = product.text(&["status"]);
    assert!(text.contains("redirected to up0"), "{text}");
    daemon.terminate();
}

#[test]
fn what_cannot_be_redirected_goes_up_the_stack_marked_and_is_counted_by_its_cause() {
    let network = Network::new();
    let product = network.product();
    let daemon = network.start_redirecting(&product);
    let [v4, v6] = DIRECT;
    let cases: [(&str, Fallback, Vec<u8>); 9] = [
        // Router alert, RFC 2113; ended by padding.
        ("options", Fallback::Options, frame(v4).options(&[0x94, 4, 0, 0]).build().unwrap()),
        (
            "destination options",
            Fallback::Options,
            frame(v6).extension(Extension::Destination(0)).build().unwrap(),
        ),
        ("last hop", Fallback::LastHop, with_lifetime(v4, 1)),
        ("last hop, IPv6", Fallback::LastHop, with_lifetime(v6, 1)),
        (
            "somebody else's",
            Fallback::NotForUs,
            frame(v4).macs([2, 9, 9, 9, 9, 9], CLIENT_MAC).build().unwrap(),
        ),
        ("tagged", Fallback::Tagged, frame(v4).tag(VlanTag::Customer, 7).build().unwrap()),
        ("longer than its packet", Fallback::OddLength, frame(v4).padding(9).build().unwrap()),
        ("longer, IPv6", Fallback::OddLength, frame(v6).padding(1).build().unwrap()),
        (
            "shorter than its packet",
            Fallback::OddLength,
            frame(v4).payload(&[b'.'; 100]).truncated(100).build().unwrap(),
        ),
    ];
    let mut wire = Wire::open(&network.site.client, CLIENT).unwrap();
    for (what, cause, frame) in cases {
        let before = (network.fallbacks(cause), network.site.counts().xdp.redirected().packets);
        wire.send(&frame).unwrap();
        wait_until(what, || network.fallbacks(cause) == before.0 + 1);
        assert_eq!(network.site.counts().xdp.redirected().packets, before.1, "{what}");
    }
    let link_local = frame(v6).from("[fe80::1]:1".parse().unwrap()).build().unwrap();
    let loopback = frame(v4).from("127.0.0.1:1".parse().unwrap()).build().unwrap();
    for (number, frame) in (1..).zip([link_local, loopback]) {
        wire.send(&frame).unwrap();
        wait_until("an odd source", || network.fallbacks(Fallback::OddSource) == number);
    }
    // Those with options were marked: they took the stack to the uplink.
    let options = frame(v6).extension(Extension::Destination(0)).build().unwrap();
    assert_eq!(
        network.send(&[options]),
        Came { direct: 1, one_hop: 1, inspected: 0, forwarded: 1 }
    );
    daemon.terminate();
}

#[test]
fn checksums_that_are_left_to_hardware_are_the_stack_s_to_fill_in() {
    let network = Network::with_client(Offloads::Default);
    let product = network.product();
    let daemon = product.start();
    network.wait_for_neighbours();
    // Of sockets, as a container or a virtual machine behind a veth or a tap sends.
    for to in DIRECT {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let asked = || ask(to.parse().unwrap(), protocol, 20, PATIENCE);
            network.site.client.enter(asked).unwrap().unwrap();
        }
    }
    assert!(network.fallbacks(Fallback::PartialChecksum) >= 4);
    // Those that are filled in are redirected still, and short ones with their padding.
    network.assert_it_redirects();
    let padded = frame(DIRECT[0]).payload(&[]).padding(6).build().unwrap();
    assert_eq!(padded.len(), 60);
    let redirected = Came { direct: 1, one_hop: 1, inspected: 0, forwarded: 0 };
    assert_eq!(network.send(&[padded]), redirected);
    daemon.terminate();
}

#[test]
fn the_stack_answers_for_packets_that_live_no_longer_or_are_too_big() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    network.wait_for_neighbours();
    network.gateway("ip link set up0 mtu 1300");
    let [v4, v6] = DIRECT;
    let big = |to| frame(to).payload(&[b'.'; 1350]).build().unwrap();
    // ICMP and ICMPv6: time exceeded, and fragmentation needed or packet too big.
    for (frame, cause, answer) in [
        (with_lifetime(v4, 1), Fallback::LastHop, (0x0800, 23, 34, 1, 11)),
        (with_lifetime(v6, 1), Fallback::LastHop, (0x86dd, 20, 54, 58, 3)),
        (big(v4), Fallback::TooBig, (0x0800, 23, 34, 1, 3)),
        (big(v6), Fallback::TooBig, (0x86dd, 20, 54, 58, 2)),
    ] {
        let (ethertype, protocol_at, kind_at, protocol, kind): (u16, usize, usize, u8, u8) = answer;
        let before = network.fallbacks(cause);
        let mut wire = Wire::open(&network.site.client, CLIENT).unwrap();
        wire.send(&frame).unwrap();
        let came = wire.receive(Duration::from_secs(5), |frame| {
            frame.get(12..14) == Some(&ethertype.to_be_bytes())
                && frame.get(protocol_at) == Some(&protocol)
                && frame.get(kind_at) == Some(&kind)
        });
        assert!(came.unwrap().is_some(), "no ICMP {kind} of {ethertype:#x}");
        assert!(network.fallbacks(cause) > before, "{}", cause.name());
    }
    daemon.terminate();
}

#[test]
fn a_next_hop_is_resolved_and_kept_so_without_any_traffic() {
    let network = Network::new();
    let product = network.product();
    let daemon = network.start_redirecting(&product);
    network.gateway("ip neigh flush dev up0");
    // What comes at this moment takes the stack.
    let came = network.send(&DIRECT.map(|to| frame(to).build().unwrap()));
    assert_eq!((came.direct, came.inspected), (2, 0), "{came:?}");
    network.gateway("ip neigh flush dev up0");
    network.wait_for_neighbours();
    network.assert_it_redirects();
    // One whose MAC address has changed is asked again, though XDP uses what is known.
    let before = network.gateway("ip neigh show 10.36.2.2 dev up0");
    network.direct.run("ip link set in0 address 02:36:00:00:02:77").unwrap();
    network.gateway("ip neigh change 10.36.2.2 lladdr 02:36:00:00:02:02 nud stale dev up0");
    // News, on which the daemon looks at once.
    network.gateway("ip link set up0 alias asked");
    wait_until("the new address is known", || {
        let now = network.gateway("ip neigh show 10.36.2.2 dev up0");
        now != before && now.contains("02:36:00:00:02:77")
    });
    daemon.terminate();
}

#[test]
fn a_next_hop_that_does_not_answer_takes_packets_to_the_stack() {
    let network = Network::new();
    let product = network.product();
    network.direct.run("ip link set in0 arp off").unwrap();
    let daemon = product.start();
    let mut wire = Wire::open(&network.site.client, CLIENT).unwrap();
    let frame = frame(DIRECT[0]).build().unwrap();
    wait_until("the cause is counted", || {
        wire.send(&frame).unwrap();
        network.fallbacks(Fallback::NoNeighbour) > 0
    });
    assert_eq!(network.site.counts().xdp.redirected().packets, 0);
    daemon.terminate();
}

#[test]
fn without_a_route_and_where_the_main_table_knows_better_the_stack_decides() {
    let network = Network::new();
    let product = network.product();
    let daemon = network.start_redirecting(&product);
    // A longer prefix in the main table wins as it does for marked packets: LAN, VPN.
    network.gateway("ip route add 40.96.0.0/16 via 10.36.3.2");
    wait_until_disputed(&product, &[("ipv4", "the route to 40.96.0.0/16 of table main")]);
    let came = network.send(&DIRECT.map(|to| frame(to).build().unwrap()));
    assert_eq!(came, Came { direct: 1, one_hop: 1, inspected: 1, forwarded: 1 });
    assert_eq!(network.fallbacks(Fallback::OtherWay), 1);
    network.gateway("ip route del 40.96.0.0/16");
    network.assert_it_redirects();
    // Nobody is there to put it back.
    daemon.end(Signal::SIGKILL);
    network.assert_it_redirects();
    network.gateway("ip route flush table 365");
    network.gateway("ip -6 route flush table 365");
    network.assert_all_is_inspected();
}

/// Waits until the daemon tells by whom the ways of these families are disputed, and of no others.
fn wait_until_disputed(product: &Product<'_>, disputes: &[(&str, &str)]) {
    let disputes: serde_json::Map<_, _> =
        disputes.iter().map(|(family, who)| ((*family).to_owned(), (*who).into())).collect();
    wait_until(&format!("disputed are {disputes:?}"), || {
        product.status()["daemon"]["egress"]["disputed"].as_object() == Some(&disputes)
    });
}

/// `ip -6 rule`: before ours, and of nobody who sends anything here.
const RULE_OF_OTHERS: &str = "lookup 400 priority 100 from 2001:db8::/32";

#[test]
fn ipv6_is_marked_where_the_main_table_has_its_default_route_and_the_rules_are_asked() {
    let network = Network::new();
    network.gateway("ip -6 route add default via fd36:3::2");
    network.gateway(&format!("ip -6 rule add {RULE_OF_OTHERS}"));
    let product = network.product();
    let daemon = product.start();
    network.wait_for_neighbours();
    wait_until_disputed(&product, &[("ipv6", "rule 100 before ours")]);
    let came = network.send(&DIRECT.map(|to| frame(to).build().unwrap()));
    assert_eq!(came, Came { direct: 2, one_hop: 2, inspected: 0, forwarded: 1 });
    assert_eq!(network.fallbacks(Fallback::OtherWay), 1);
    network.gateway("ip -6 route del default via fd36:3::2");
    network.assert_it_redirects();
    daemon.terminate();
}

#[test]
fn ipv6_is_marked_where_the_rules_lead_to_another_router_by_the_same_uplink() {
    let network = Network::new();
    network.gateway("ip -6 route add default via fd36:2::3 dev up0");
    network.gateway("ip -6 neigh add fd36:2::3 lladdr 02:36:00:00:02:03 nud permanent dev up0");
    network.gateway(&format!("ip -6 rule add {RULE_OF_OTHERS}"));
    let product = network.product();
    let daemon = product.start();
    network.wait_for_neighbours();
    wait_until_disputed(&product, &[("ipv6", "rule 100 before ours")]);
    let came = network.send(&DIRECT.map(|to| frame(to).build().unwrap()));
    assert_eq!(came, Came { direct: 2, one_hop: 2, inspected: 0, forwarded: 1 });
    assert_eq!(network.fallbacks(Fallback::OtherWay), 1);
    daemon.terminate();
}

/// A default route of IPv6 in the main table tells which look-up it was: that by rules finds it.
#[test]
fn while_nobody_disputes_the_way_our_table_alone_is_asked() {
    let network = Network::new();
    network.gateway("ip -6 route add default via fd36:3::2");
    let product = network.product();
    let daemon = product.start();
    network.wait_for_neighbours();
    wait_until_disputed(&product, &[]);
    network.assert_it_redirects();
    assert!(!product.text(&["status"]).contains("look-up"));

    // Somebody's rule may lead anywhere; by whose rules it is looked up then, others stay as they are.
    network.gateway(&format!("ip -6 rule add {RULE_OF_OTHERS}"));
    wait_until_disputed(&product, &[("ipv6", "rule 100 before ours")]);
    let line = "look-up ipv6 by all rules, not in our table alone: rule 100 before ours";
    assert!(product.text(&["status"]).contains(line), "{}", product.text(&["status"]));
    let came = network.send(&DIRECT.map(|to| frame(to).build().unwrap()));
    assert_eq!(came, Came { direct: 2, one_hop: 2, inspected: 0, forwarded: 1 });
    network.gateway(&format!("ip -6 rule del {RULE_OF_OTHERS}"));
    wait_until_disputed(&product, &[]);
    network.assert_it_redirects();

    // Routes that win over ours: to a part of a prefix, around one, and none that has to do with it.
    for (route, words) in [
        ("2603:1006::/48 via fd36:3::2", Some("the route to 2603:1006::/48 of table main")),
        ("2000::/3 via fd36:3::2", Some("the route to 2000::/3 of table main")),
        ("2603:1007::/32 via fd36:3::2", None),
    ] {
        network.gateway(&format!("ip -6 route add {route}"));
        wait_until_disputed(&product, words.map(|words| ("ipv6", words)).as_slice());
        let came = network.send(&[frame(DIRECT[1]).build().unwrap()]);
        assert_eq!(came.inspected, u64::from(words.is_some()), "{route}: {came:?}");
        network.gateway(&format!("ip -6 route del {route}"));
        wait_until_disputed(&product, &[]);
        network.assert_it_redirects();
    }

    // Default routes that no rule of ours suppresses.
    for (route, table) in
        [("blackhole default metric 9999", "main"), ("local default dev lo", "local")]
    {
        network.gateway(&format!("ip -6 route add {route}"));
        let words = format!("the route to default of table {table}");
        wait_until_disputed(&product, &[("ipv6", &words)]);
        network.gateway(&format!("ip -6 route del {route}"));
        wait_until_disputed(&product, &[]);
    }

    // A list that changes is looked at again, and with the daemon dead it ends by itself.
    product.json(&["reload"]);
    wait_until_disputed(&product, &[]);
    daemon.end(Signal::SIGKILL);
    network.assert_it_redirects();
    let way = || network.send(&[frame(DIRECT[1]).build().unwrap()]);
    wait_until("the rules are asked again", || way().forwarded == 1);
}

#[test]
fn an_uplink_that_goes_down_is_not_redirected_to_with_the_daemon_or_without() {
    let network = Network::new();
    let product = network.product();
    let daemon = network.start_redirecting(&product);
    network.gateway("ip link set up0 down");
    network.assert_all_is_inspected();
    daemon.wait_for_log("direct packets are marked until this is over", 1);
    wait_until("what serves marks", || product.status()["action"] == "mark");
    network.assert_all_is_inspected();
    network.gateway("ip link set up0 up");
    network.gateway("ip address replace fd36:2::1/64 dev up0 nodad");
    wait_until("what serves redirects", || product.status()["action"] == "redirect");
    network.wait_for_neighbours();
    network.assert_it_redirects();
    daemon.end(Signal::SIGKILL);
    network.gateway("ip link set up0 down");
    network.assert_all_is_inspected();
}

/// Probed five times a second, at addresses beyond the next hop.
const HEALTH: &str = "[egress.health]\nprobes = [\"40.96.0.9:443\", \"[2603:1006::9]:443\"]\n\
                      interval = \"200ms\"\ntimeout = \"200ms\"\nfall = 3\nrise = 4\n";

/// To whom flows are that last, on a port of the list.
const LASTING: [&str; 2] = ["40.96.0.1:80", "[2603:1006::1]:80"];

/// Has the hop behind the uplink send back what comes to [`LASTING`], until the process ends.
fn send_back(network: &Network) {
    let listener = network.direct.enter(|| TcpListener::bind("[::]:80")).unwrap().unwrap();
    spawn(move || {
        for mut stream in listener.incoming().flatten() {
            spawn(move || std::io::copy(&mut stream.try_clone()?, &mut stream));
        }
    });
}

/// TCP flows from the client to [`LASTING`].
fn lasting(network: &Network) -> [TcpStream; 2] {
    send_back(network);
    LASTING.map(|to| {
        let to: SocketAddr = to.parse().unwrap();
        let connect = || TcpStream::connect_timeout(&to, PATIENCE);
        let stream = network.site.client.enter(connect).unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    })
}

/// Late answers of a busy machine are none of what is asked here.
fn patient_health() -> String {
    HEALTH.replace("200ms", "1s").replace("fall = 3\nrise = 4", "fall = 2\nrise = 1")
}

fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b".")?;
    stream.read_exact(&mut [0])
}

#[test]
fn a_family_whose_probes_fail_is_not_redirected_and_the_other_one_still_is() {
    let network = Network::new();
    let product = network.product();
    product.configure(&config(&format!("{EGRESS}{}", patient_health())));
    let daemon = network.start_redirecting(&product);
    let mut flows = lasting(&network);
    for flow in &mut flows {
        echo(flow).unwrap();
    }
    // Link, next hop and route are as before.
    let far = "table ip far {
        chain input {
            type filter hook input priority raw;
            ip saddr 10.36.2.1 tcp dport 443 drop
        }
    }";
    network.direct.nft(far).unwrap();
    daemon.wait_for_log("published", 2);
    let came = network.send(&DIRECT.map(|to| frame(to).build().unwrap()));
    assert_eq!(came, Came { direct: 1, one_hop: 1, inspected: 1, forwarded: 1 });
    assert_eq!(network.fallbacks(Fallback::UplinkDown), 1);
    // Not handed to the inspector in its middle.
    let [v4, v6] = &mut flows;
    assert_eq!(echo(v4).unwrap_err().kind(), ErrorKind::ConnectionReset);
    echo(v6).unwrap();
    assert_eq!(product.status()["action"], "redirect");
    network.direct.run("nft delete table ip far").unwrap();
    daemon.wait_for_log("published", 3);
    network.assert_it_redirects();
    daemon.terminate();
}

#[test]
fn a_family_that_is_closed_is_not_redirected_even_where_no_generation_can_follow() {
    let network = Network::new();
    let product = network.product();
    product.configure(&config(&format!("{EGRESS}{}", patient_health())));
    let daemon = network.start_redirecting(&product);
    // Nothing can be made current in whose place this is.
    let in_the_way = network.site.pins().root().join("next");
    std::fs::create_dir(&in_the_way).unwrap();
    let far = "table ip far {
        chain input {
            type filter hook input priority raw;
            ip saddr 10.36.2.1 tcp dport 443 drop
        }
    }";
    network.direct.nft(far).unwrap();
    daemon.wait_for_log("cannot be published", 1);
    let half = Came { direct: 1, one_hop: 1, inspected: 1, forwarded: 1 };
    assert_eq!(network.send(&DIRECT.map(|to| frame(to).build().unwrap())), half);
    assert_eq!(network.fallbacks(Fallback::UplinkDown), 1);
    // Of one generation all the time: it redirects again as soon as it may.
    network.direct.run("nft delete table ip far").unwrap();
    daemon.wait_for_log("IPv4 is up again", 1);
    wait_until("both are redirected", || {
        let both = Came { direct: 2, one_hop: 2, inspected: 0, forwarded: 0 };
        network.send(&DIRECT.map(|to| frame(to).build().unwrap())) == both
    });
    assert_eq!(daemon.log().matches("INFO generation").count(), 1, "{}", daemon.log());
    std::fs::remove_dir(&in_the_way).unwrap();
    daemon.terminate();
}

#[test]
fn a_family_without_a_next_hop_is_not_redirected_wherever_its_routes_lead() {
    let network = Network::new();
    network.gateway("ip -6 route add default via fd36:2::2 dev up0 table 399");
    network.gateway("ip -6 rule add lookup 399 priority 32900");
    let product = network.product();
    product.configure(&config(&EGRESS.replace("gateway6 = \"fd36:2::2\"\n", "")));
    let daemon = product.start();
    wait_until("the next hop is known", || {
        network.gateway("ip neigh show 10.36.2.2 dev up0").contains("lladdr")
    });
    let came = network.send(&DIRECT.map(|to| frame(to).build().unwrap()));
    assert_eq!(came, Came { direct: 2, one_hop: 2, inspected: 0, forwarded: 1 });
    assert_eq!(network.fallbacks(Fallback::UplinkDown), 1);
    daemon.terminate();
}

#[test]
fn flows_keep_their_way_from_redirecting_to_marking_and_back() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    network.wait_for_neighbours();
    let mut flows = lasting(&network);
    for (number, gro) in (1..).zip(["on", "off", "on"]) {
        network.direct.run(&format!("ethtool -K in0 gro {gro}")).unwrap();
        network.gateway(&format!("ip link set up0 alias a{number}"));
        let action = if gro == "on" { "redirect" } else { "mark" };
        wait_until(action, || product.status()["action"] == action);
        for flow in &mut flows {
            echo(flow).unwrap();
            echo(flow).unwrap();
        }
    }
    daemon.terminate();
}

#[test]
fn what_is_redirected_is_traced_and_told_to_prometheus() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    network.wait_for_neighbours();
    let control = Control::open(&network.site.pins()).unwrap().unwrap();
    let output = std::thread::scope(|scope| {
        // The client's kernel reports its groups when it likes.
        const TRACE: [&str; 8] =
            ["trace", "--sample", "1", "--json", "--count", "2", "--port", "443"];
        let running = scope.spawn(|| product.verb(&TRACE));
        wait_until("it draws", || control.sampling().unwrap() == 1);
        network.assert_it_redirects();
        running.join().unwrap()
    });
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.matches("\"reason\":\"matched\"").count(), 2, "{lines}");
    let state = observe::read(&product.run_dir()).unwrap().unwrap();
    let text = render(Format::Prometheus, &Scrapes::default(), Some(&state));
    for line in [
        "breakout365_redirected_packets_total{interface=\"lan0\"} 2\n",
        "breakout365_redirect_fallback_packets_total{interface=\"lan0\",cause=\"too_big\"} 0\n",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    daemon.terminate();
}

#[test]
fn a_port_that_takes_frames_no_longer_is_marked_to_until_it_does_again() {
    let network = Network::new();
    let product = network.product();
    let daemon = network.start_redirecting(&product);
    network.direct.run("ethtool -K in0 gro off").unwrap();
    // A message about any link is a reason to look.
    network.gateway("ip link set up0 alias changed");
    wait_until("what serves marks", || product.status()["action"] == "mark");
    network.assert_it_marks();
    network.direct.run("ethtool -K in0 gro on").unwrap();
    network.gateway("ip link set up0 alias again");
    wait_until("what serves redirects", || product.status()["action"] == "redirect");
    network.assert_it_redirects();
    daemon.terminate();
}

#[test]
fn a_restart_does_not_leave_a_generation_that_redirects_to_a_dead_port() {
    let network = Network::new();
    let product = network.product();
    let daemon = network.start_redirecting(&product);
    daemon.end(Signal::SIGKILL);
    network.direct.run("ethtool -K in0 gro off").unwrap();
    let daemon = product.start();
    daemon.wait_for_log("direct packets are marked until this is over", 1);
    assert_eq!(product.status()["action"], "mark");
    network.assert_it_marks();
    network.direct.run("ethtool -K in0 gro on").unwrap();
    network.gateway("ip link set up0 alias again");
    wait_until("what serves redirects", || product.status()["action"] == "redirect");
    network.assert_it_redirects();
    daemon.terminate();
}

#[test]
fn a_foreign_program_is_refused_at_first_and_later_takes_no_more_than_redirecting() {
    let network = Network::new();
    let product = network.product();
    // Whether the uplink is there or not.
    for state in ["down", "up"] {
        network.gateway(&format!("ip link set up0 {state}"));
        let mut foreign = Foreign::load();
        let _link = foreign.attach_xdp(&network.site.gateway, LAN, XdpMode::Driver);
        let named = format!("id {})", foreign.xdp_id());
        product.assert_refused(&["run"], 8, &["interface lan0", "another XDP program", &named]);
    }
    network.gateway("ip address replace fd36:2::1/64 dev up0 nodad");
    let daemon = network.start_redirecting(&product);
    daemon.end(Signal::SIGKILL);
    network.gateway("ip link del lan0");
    join((&network.site.gateway, LAN), (&network.site.client, CLIENT), 1, Offloads::None);
    let mut foreign = Foreign::load();
    let _link = foreign.attach_xdp(&network.site.gateway, LAN, XdpMode::Driver);
    let daemon = product.start();
    assert_eq!(product.status()["action"], "mark");
    assert_eq!(xdp_program(&network.site.gateway, LAN), Some(u64::from(foreign.xdp_id())));
    network.site.client.ip("address add 10.36.1.99/24 dev eth0\n").unwrap();
    network.site.client.ip("address add fd36:1::99/64 dev eth0 nodad preferred_lft 0\n").unwrap();
    network.assert_it_marks();
    daemon.terminate();
}

#[test]
fn an_uplink_on_which_somebody_comes_to_translate_is_marked_to_until_that_is_over() {
    let network = Network::new();
    let product = network.product();
    let daemon = network.start_redirecting(&product);
    // Not for what is redirected.
    let nat = "table ip nat {
        chain post {
            type nat hook postrouting priority srcnat
            oifname \"insp0\" masquerade
        }
    }";
    network.site.gateway.nft(nat).unwrap();
    network.gateway("ip link set up0 alias looked");
    sleep(Duration::from_secs(6));
    network.gateway("ip link set up0 alias looked-again");
    network.assert_it_redirects();
    network.gateway("nft add rule ip nat post oifname up0 masquerade");
    daemon.wait_for_log("nft ip nat, chain post", 1);
    wait_until("what serves marks", || product.status()["action"] == "mark");
    network.gateway("nft delete table ip nat");
    wait_until("what serves redirects", || product.status()["action"] == "redirect");
    network.assert_it_redirects();
    daemon.terminate();
}

#[test]
fn off_acts_on_what_is_redirected_and_so_does_shadow() {
    let network = Network::new();
    let product = network.product();
    let daemon = network.start_redirecting(&product);
    product.text(&["off"]);
    network.assert_all_is_inspected();
    product.text(&["on"]);
    network.assert_it_redirects();
    product.configure(&format!("mode = \"shadow\"\n{}", config(EGRESS)));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("published", 2);
    network.assert_all_is_inspected();
    daemon.terminate();
}

#[test]
fn what_cannot_redirect_is_refused_at_the_start_in_one_line() {
    let takes_none = "takes no XDP frames";
    let masquerades = "gateway: nft add table ip nat; add chain ip nat post \
                       { type nat hook postrouting priority srcnat; }; \
                       add rule ip nat post oifname up0 counter masquerade";
    let translates = "gateway: iptables -t nat -A POSTROUTING -o up+ -j SNAT --to-source 10.36.2.1";
    for (make, egress, exit, words) in [
        (
            masquerades,
            EGRESS,
            Exit::Interface,
            ["interface up0: nft ip nat", "translates addresses"],
        ),
        (
            translates,
            EGRESS,
            Exit::Interface,
            ["POSTROUTING -o up+ -j SNAT", "translates addresses"],
        ),
        ("direct: ethtool -K in0 gro off", EGRESS, Exit::Interface, ["interface up0", takes_none]),
        (
            "gateway: ip link set insp0 up",
            &EGRESS.replace("up0", "lo"),
            Exit::Interface,
            ["interface lo", "not an Ethernet device"],
        ),
        (
            "gateway: ip link set insp0 up",
            &EGRESS.replace("up0", "insp0").replace("36.2.2", "36.3.2").replace("36:2", "36:3"),
            Exit::Interface,
            ["interface insp0", takes_none],
        ),
        (
            "gateway: ip link set lan0 up",
            &format!("{EGRESS}masquerade = true\n"),
            Exit::Config,
            ["egress.action", "masquerade"],
        ),
    ] {
        let network = Network::new();
        let (role, command) = make.split_once(": ").unwrap();
        let namespace = if role == "direct" { &network.direct } else { &network.site.gateway };
        namespace.run(command).unwrap();
        let before = network.gateway("ip rule");
        let product = network.product();
        product.configure(&config(egress));
        product.assert_refused(&["run"], exit as i32, &words);
        assert_eq!(network.gateway("ip rule"), before, "{make}");
        product.assert_refused(&["status"], Exit::Datapath as i32, &["nothing is loaded"]);
    }
    let network = Network::new();
    for xdp in [XdpRequest::No, XdpRequest::Generic] {
        let hooks = [network.site.hook(LAN, xdp)];
        let refused = network.site.inside(Redirect::find(UPLINK, &hooks, &network.site.pins()));
        assert!(matches!(refused, Err(DatapathError::NoRedirect { .. })), "{refused:?}");
    }
}

#[test]
fn what_would_leave_with_another_mac_address_than_the_uplink_s_is_not_published() {
    let network = Network::new();
    network.make_way_by_hand();
    let lock = network.site.lock();
    let hooks = [network.site.hook(LAN, XdpRequest::Native)];
    let right = network.site.inside(Redirect::find(UPLINK, &hooks, lock.pins())).unwrap();
    let wrong = Redirect { mac: GATEWAY_MAC, ..right.clone() };
    let table = one_table();
    for (redirect, is_published) in [(wrong, false), (right, true)] {
        let blueprint = Blueprint { redirect: Some(redirect), ..blueprint(&table) };
        let run = || bring_up(&lock, &blueprint, &hooks, &mut |_| Ok(()));
        let outcome = network.site.gateway.enter(run).unwrap();
        let problem = outcome.as_ref().err().map(ToString::to_string);
        assert_eq!(outcome.is_ok(), is_published, "{problem:?}");
        assert!(problem.is_none_or(|it| it.starts_with("self-test of b365_xdp_frags")));
    }
}

#[test]
fn two_hundred_swaps_between_redirecting_and_marking_lose_nothing() {
    const SWAPS: u64 = 200;
    let network = Network::new();
    network.make_way_by_hand();
    let lock = network.site.lock();
    let hooks = [network.site.hook(LAN, XdpRequest::Native)];
    let redirect =
        network.site.inside(Redirect::find(UPLINK, &hooks, &network.site.pins())).unwrap();
    let publish = |swap: u64| {
        let table = if swap % 4 < 2 { one_table() } else { other_table() };
        let mut blueprint = blueprint(&table);
        blueprint.redirect = swap.is_multiple_of(2).then(|| redirect.clone());
        let run = || bring_up(&lock, &blueprint, &hooks, &mut |_| Ok(()));
        network.site.gateway.enter(run).unwrap().unwrap()
    };
    let first = publish(0);
    assert!(first.self_test.redirected > 0, "the self-test has redirected: {:?}", first.self_test);
    let before = network.came();
    let bytes = frame(DIRECT[0]).build().unwrap();
    let sender = Sender::start(&network.site, move |_| bytes.clone());
    let mut redirected = 0;
    let started = Instant::now();
    for swap in 1..=SWAPS {
        redirected += network.site.counts().xdp.redirected().packets;
        publish(swap);
    }
    eprintln!("{SWAPS} swaps in {:?}", started.elapsed());
    let sent = sender.stop();
    wait_until("every frame came", || network.came().direct - before.direct >= sent);
    sleep(Duration::from_millis(100));
    let now = network.came();
    assert_eq!(now.direct - before.direct, sent);
    assert_eq!(now.one_hop - before.one_hop, sent);
    assert_eq!(now.inspected, before.inspected);
    let marked = now.forwarded - before.forwarded;
    assert!(redirected > 0 && marked > 0, "{redirected} redirected, {marked} marked of {sent}");
}
