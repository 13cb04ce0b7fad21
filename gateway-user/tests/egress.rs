//! The way out: direct traffic leaves by the uplink, everything else by the main table, flows keep
//! their way, and what is not ours stays as it is. Needs root.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use gateway_user::exit::Exit;
use ipnet::IpNet;
use nix::sys::signal::Signal;
use support::product::{Product, with_hook};
use support::{CLIENT, LAN, Site, wait_until};
use xtask::testbed::{BpfFs, EchoServers, End, Namespace, Offloads, link};

const UPLINK: &str = "up0";
const EGRESS: &str =
    "[egress]\ninterface = \"up0\"\ngateway4 = \"10.36.2.2\"\ngateway6 = \"fd36:2::2\"\n";
const DIRECT: [&str; 2] = ["40.96.0.1:443", "[2603:1006::1]:443"];
/// Right beside them: another port.
const INSPECTED: [&str; 2] = ["40.96.0.1:444", "[2603:1006::1]:444"];

/// A gateway whose main table leads to an inspector, and whose uplink to a direct hop. Both answer
/// for every address with their own name and the address they see:
///
/// ```text
/// client eth0 ── lan0 gateway insp0 ── in0 inspector
///                             up0 ──── in0 direct
/// ```
struct Network {
    site: Site,
    _inspector: Namespace,
    direct: Namespace,
}

impl Network {
    fn new() -> Self {
        let site = Site {
            client: Namespace::new("client").unwrap(),
            gateway: Namespace::new("gateway").unwrap(),
            bpffs: BpfFs::new().unwrap(),
        };
        let [inspector, direct] = ["inspector", "direct"].map(|role| Namespace::new(role).unwrap());
        join((&site.gateway, LAN), (&site.client, CLIENT), 1);
        join((&site.gateway, UPLINK), (&direct, "in0"), 2);
        join((&site.gateway, "insp0"), (&inspector, "in0"), 3);
        site.client.ip(&default_routes(1, 1)).unwrap();
        site.gateway.ip(&default_routes(3, 2)).unwrap();
        site.gateway.forward().unwrap();
        for (hop, number) in [(&direct, 2), (&inspector, 3)] {
            hop.ip(&default_routes(number, 1)).unwrap();
            serve(hop);
        }
        // A new link's carrier, and the addresses and routes that hang on it, come a moment later.
        wait_until("every link is up", || {
            let routes = site.gateway.run("ip -d route show table all").unwrap();
            !routes.contains("linkdown") && routes.matches("local fe80::").count() == 3
        });
        Self { site, _inspector: inspector, direct }
    }

    fn product(&self) -> Product<'_> {
        let product = Product::new(&self.site, "auto");
        product.configure(&config(EGRESS));
        product
    }

    /// A new TCP flow from the client; `None` where nobody answers.
    fn flow(&self, to: &str) -> Option<Flow> {
        let to: SocketAddr = to.parse().unwrap();
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(2));
        let stream = self.site.client.enter(connect).unwrap().ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        Some(Flow::Tcp(stream))
    }

    /// A new UDP flow from the client.
    fn datagrams(&self, to: &str) -> Flow {
        let open = || {
            let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(to).unwrap();
            socket
        };
        let socket = self.site.client.enter(open).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        Flow::Udp(socket)
    }

    /// Who answers a new flow, by TCP.
    fn way(&self, to: &str) -> String {
        self.flow(to).map_or_else(|| "nobody".to_owned(), |mut flow| flow.ask())
    }

    /// Asserts that of both families, and both protocols, what the table says is direct and the rest
    /// inspected.
    fn assert_it_parts(&self) {
        for to in DIRECT {
            assert_eq!(self.way(to), "direct", "tcp {to}");
            assert_eq!(self.datagrams(to).ask(), "direct", "udp {to}");
        }
        for to in INSPECTED {
            assert_eq!(self.way(to), "inspector", "tcp {to}");
        }
    }

    fn assert_all_is_inspected(&self) {
        for to in DIRECT.into_iter().chain(INSPECTED) {
            assert_eq!(self.way(to), "inspector", "{to}");
        }
    }

    /// Rules, routes of every table, and the whole nftables ruleset with handles.
    fn everything(&self) -> Vec<String> {
        [
            "ip -d rule",
            "ip -6 -d rule",
            "ip -d route show table all",
            "ip -6 -d route show table all",
            "nft -s -a list ruleset",
        ]
        .map(|command| self.site.gateway.run(command).unwrap())
        .into()
    }

    fn gateway(&self, command: &str) -> String {
        self.site.gateway.run(command).unwrap()
    }
}

/// A flow from the client, with whoever answers.
enum Flow {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Flow {
    /// Asks once more: who answers, `direct` or `inspector`.
    fn ask(&mut self) -> String {
        self.answer().split(' ').next().unwrap().to_owned()
    }

    /// The whole answer: who, and which address they see.
    fn answer(&mut self) -> String {
        let mut answer = [0; 128];
        let length = match self {
            Self::Tcp(stream) => stream.write_all(b".").and_then(|()| stream.read(&mut answer)),
            Self::Udp(socket) => socket.send(b".").and_then(|_| socket.recv(&mut answer)),
        };
        match length {
            Ok(length) => String::from_utf8_lossy(&answer[..length]).into_owned(),
            Err(error) => format!("nobody ({error})"),
        }
    }
}

/// Joins two namespaces; the first has host number 1 in network `number`, the other 2.
fn join(one: (&Namespace, &str), other: (&Namespace, &str), number: u8) {
    let addresses = |host: u8| -> Vec<IpNet> {
        [format!("10.36.{number}.{host}/24"), format!("fd36:{number}::{host}/64")]
            .map(|net| net.parse().unwrap())
            .into()
    };
    let (ones, others) = (addresses(1), addresses(2));
    let mac = |host| [2, 0x36, 0, 0, number, host];
    link(
        &End { namespace: one.0, interface: one.1, mac: mac(1), addresses: &ones },
        &End { namespace: other.0, interface: other.1, mac: mac(2), addresses: &others },
        Offloads::Default,
    )
    .unwrap();
}

fn default_routes(number: u8, host: u8) -> String {
    format!(
        "route add default via 10.36.{number}.{host}\nroute add default via fd36:{number}::{host}\n"
    )
}

/// Answers in `hop`, until this process ends, every byte and datagram with the hop's name and the
/// sender's address.
fn serve(hop: &Namespace) {
    let prefixes = ["40.96.0.0/13", "2603:1006::/40"].map(|prefix| prefix.parse().unwrap());
    EchoServers::own(hop, &BTreeSet::from(prefixes)).unwrap();
    let bind = || {
        let tcp: Vec<_> = DIRECT.into_iter().chain(INSPECTED).map(TcpListener::bind).collect();
        (tcp, DIRECT.map(UdpSocket::bind))
    };
    let (tcp, udp) = hop.enter(bind).unwrap();
    for listener in tcp {
        let (listener, name) = (listener.unwrap(), hop.role().to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let name = name.clone();
                thread::spawn(move || converse(stream, &name));
            }
        });
    }
    for socket in udp {
        let (socket, name) = (socket.unwrap(), hop.role().to_owned());
        thread::spawn(move || {
            let mut byte = [0];
            while let Ok((_, from)) = socket.recv_from(&mut byte) {
                socket.send_to(format!("{name} {}", from.ip()).as_bytes(), from).ok();
            }
        });
    }
}

fn converse(mut stream: TcpStream, name: &str) {
    let Ok(from) = stream.peer_addr() else { return };
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|length| length > 0) {
        if stream.write_all(format!("{name} {}", from.ip()).as_bytes()).is_err() {
            return;
        }
    }
}

fn config(egress: &str) -> String {
    format!("{}{egress}", with_hook(LAN, "auto"))
}

const EXCLUDE: &str =
    "[[policy.exclude]]\nname = \"some\"\nprefixes = [\"40.96.0.0/16\", \"2603:1006::/48\"]\n";

#[test]
fn direct_traffic_leaves_by_the_uplink_and_all_other_by_the_main_table() {
    let network = Network::new();
    network.assert_all_is_inspected();
    let product = network.product();
    let daemon = product.start();
    network.assert_it_parts();
    let egress = &product.status()["daemon"]["egress"];
    assert_eq!(egress["interface"], UPLINK);
    assert_eq!(egress["gateway4"], "10.36.2.2");
    assert_eq!(egress["put_back"], 0);
    assert_eq!(egress["problem"].as_str(), None);
    let text = product.text(&["status"]);
    assert!(text.contains("\negress  up0, IPv4 via 10.36.2.2, IPv6 via fd36:2::2, "), "{text}");
    // Connected networks and longer prefixes of the main table win: LAN, VPN.
    network.gateway("ip route add 40.96.0.0/16 via 10.36.3.2");
    assert_eq!(network.way(DIRECT[0]), "inspector");
    assert_eq!(network.way(DIRECT[1]), "direct");
    daemon.terminate();
}

#[test]
fn a_family_without_next_hop_is_inspected() {
    let network = Network::new();
    let product = network.product();
    product.configure(&config("[egress]\ninterface = \"up0\"\ngateway4 = \"10.36.2.2\"\n"));
    let daemon = product.start();
    assert_eq!(network.way(DIRECT[0]), "direct");
    assert_eq!(network.way(DIRECT[1]), "inspector");
    assert!(!network.gateway("ip -6 rule").contains("365"));
    daemon.terminate();
}

#[test]
fn a_flow_keeps_its_way_over_changes_of_the_table_restarts_and_kills() {
    let network = Network::new();
    let product = network.product();
    product.configure(&config(EGRESS));
    let daemon = product.start();
    let flows_of = |way: &str| {
        let mut flows = Vec::new();
        for to in DIRECT {
            flows.push(network.flow(to).unwrap());
            flows.push(network.datagrams(to));
        }
        for flow in &mut flows {
            assert_eq!(flow.ask(), way);
        }
        flows
    };
    let assert_they_keep = |flows: &mut Vec<Flow>, way: &str, after: &str| {
        for (number, flow) in flows.iter_mut().enumerate() {
            assert_eq!(flow.ask(), way, "flow {number} after {after}");
        }
    };
    let mut direct = flows_of("direct");
    product.configure(&config(&format!("{EGRESS}{EXCLUDE}")));
    daemon.signal(Signal::SIGHUP);
    wait_until("nothing new is direct", || product.status()["generation"] == 2);
    assert_they_keep(&mut direct, "direct", "the table lost them");
    let mut inspected = flows_of("inspector");
    product.configure(&config(EGRESS));
    daemon.signal(Signal::SIGHUP);
    wait_until("everything is as before", || product.status()["generation"] == 3);
    assert_they_keep(&mut inspected, "inspector", "the table got them");
    daemon.end(Signal::SIGKILL);
    assert_they_keep(&mut direct, "direct", "kill -9");
    let daemon = product.start();
    assert_they_keep(&mut direct, "direct", "the start after it");
    assert_they_keep(&mut inspected, "inspector", "the start after it");
    network.assert_it_parts();
    daemon.terminate();
}

#[test]
fn flows_from_before_the_first_start_stay_inspected() {
    let network = Network::new();
    // Something that tracks connections, as any gateway with inspection has.
    network.site.gateway.nft(OTHERS).unwrap();
    let mut flow = network.flow(DIRECT[0]).unwrap();
    assert_eq!(flow.ask(), "inspector");
    let product = network.product();
    let daemon = product.start();
    assert_eq!(flow.ask(), "inspector");
    network.assert_it_parts();
    daemon.terminate();
}

#[test]
fn what_is_not_ours_is_after_down_byte_for_byte_as_it_was() {
    let network = Network::new();
    network.site.gateway.nft(OTHERS).unwrap();
    for command in [
        "ip rule add from 10.99.0.0/16 lookup 99 priority 364",
        "ip rule add fwmark 0x1/0xff lookup 99 priority 367 protocol 108",
        "ip -6 rule add to fd99::/16 lookup 99 priority 100",
        "ip route add 203.0.113.0/24 dev insp0 table 99 proto 110",
        "ip route add unreachable default table 366",
        "ip -6 route add fd99::/16 dev insp0 table 99",
    ] {
        network.gateway(command);
    }
    let before = network.everything();
    let product = network.product();
    product.configure(&config(&format!("{EGRESS}masquerade = true\nclamp-mss = true\n")));
    let daemon = product.start();
    network.assert_it_parts();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("published", 2);
    daemon.terminate();
    assert_ne!(network.everything(), before, "stopping leaves the way out");
    network.assert_it_parts();
    let removed = product.json(&["down"]);
    assert_eq!(removed["egress"]["rules"], 4);
    assert_eq!(removed["egress"]["routes"], 2);
    assert_eq!(removed["egress"]["table"], true);
    assert_eq!(network.everything(), before);
    network.assert_all_is_inspected();
    let again = product.json(&["down"]);
    assert_eq!(again["egress"]["rules"], 0);
    assert_eq!(network.everything(), before);
}

#[test]
fn what_somebody_removes_is_put_back_and_said_once() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    network.assert_it_parts();
    let in_place = network.everything();
    for (times, command) in (1..).zip([
        "ip rule del priority 366",
        "ip -6 rule del priority 365",
        "ip route flush table 365",
        "ip -6 route del default table 365",
        "nft delete table inet breakout365",
        "nft flush chain inet breakout365 inside",
    ]) {
        network.gateway(command);
        daemon.wait_for_log("put back", times);
        wait_until("it is told", || product.status()["daemon"]["egress"]["put_back"] == times);
        // Handles of nftables go on counting.
        assert_eq!(network.everything()[..4], in_place[..4], "{command}");
        network.assert_it_parts();
    }
    thread::sleep(Duration::from_millis(500));
    assert_eq!(daemon.log().matches("put back").count(), 6, "one line each: {}", daemon.log());
    daemon.terminate();
}

#[test]
fn an_uplink_that_goes_and_comes_takes_the_way_out_with_it() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    network.gateway("ip link set up0 down");
    daemon.wait_for_log("the way out is not in place", 1);
    network.assert_all_is_inspected();
    let mut meanwhile = DIRECT.map(|to| network.flow(to).unwrap());
    assert_eq!(meanwhile.each_mut().map(Flow::ask), ["inspector"; 2]);
    // What comes meanwhile is published all the same.
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("published", 2);
    assert!(!product.status()["daemon"]["egress"]["problem"].is_null());
    network.gateway("ip link set up0 up");
    network.gateway("ip address replace fd36:2::1/64 dev up0 nodad");
    daemon.wait_for_log("in place again", 1);
    wait_until("direct again", || DIRECT.iter().all(|to| network.way(to) == "direct"));
    assert_eq!(meanwhile.each_mut().map(Flow::ask), ["inspector"; 2], "only new flows");
    // And one that is made anew, which has another index.
    network.gateway("ip link delete up0");
    daemon.wait_for_log("the way out is not in place", 2);
    network.assert_all_is_inspected();
    join((&network.site.gateway, UPLINK), (&network.direct, "in0"), 2);
    network.direct.ip(&default_routes(2, 1)).unwrap();
    daemon.wait_for_log("in place again", 2);
    network.assert_it_parts();
    daemon.terminate();
}

#[test]
fn after_kill_9_it_works_on_and_down_clears_it() {
    let network = Network::new();
    let before = network.everything();
    let product = network.product();
    product.start().end(Signal::SIGKILL);
    network.assert_it_parts();
    assert!(product.verb(&["down"]).status.success());
    assert_eq!(network.everything(), before);
    network.assert_all_is_inspected();
}

#[test]
fn on_stop_detach_takes_the_way_out_back() {
    let network = Network::new();
    let before = network.everything();
    let product = network.product();
    product.configure(&format!("on-stop = \"detach\"\n{}", config(EGRESS)));
    product.start().terminate();
    assert_eq!(network.everything(), before);
}

#[test]
fn a_place_that_is_taken_is_refused_before_anything_is_published() {
    for (taken, words) in [
        (
            "ip rule add from 10.99.0.0/16 lookup 99 priority 366",
            &["IPv4 rule priority 366 is taken", "egress.priority"][..],
        ),
        (
            "ip -6 rule add fwmark 1 lookup 365 priority 365",
            &["IPv6 rule priority 365 is taken", "egress.priority"],
        ),
        (
            "ip route add 203.0.113.0/24 dev insp0 table 365",
            &["table 365 holds an IPv4 route", "egress.table"],
        ),
        ("nft add table inet breakout365", &["inet breakout365 is not ours"]),
        ("ip link delete up0", &["egress.interface up0: not found"]),
        ("ip address flush dev up0", &["via 10.36.2.2 dev up0", "egress.gateway4"]),
    ] {
        let network = Network::new();
        network.gateway(taken);
        let before = network.everything();
        let product = network.product();
        product.assert_refused(&["run"], Exit::Egress as i32, words);
        assert_eq!(network.everything(), before, "{taken}");
        product.assert_refused(&["status"], Exit::Datapath as i32, &["nothing is loaded"]);
        network.assert_all_is_inspected();
    }
}

#[test]
fn a_reload_installs_it_moves_it_keeps_it_where_the_next_is_refused_and_takes_it_back() {
    let network = Network::new();
    let before = network.everything();
    let product = network.product();
    product.configure(&config(""));
    let daemon = product.start();
    assert_eq!(network.everything(), before, "without [egress], nothing");
    assert!(product.status()["daemon"]["egress"].is_null());
    let reload = |text: &str, said: &str, times| {
        product.configure(text);
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_log(said, times);
    };
    reload(&config(EGRESS), "published", 2);
    network.assert_it_parts();
    let elsewhere = format!("{EGRESS}table = 7\npriority = 1000\n");
    reload(&config(&elsewhere), "published", 3);
    network.assert_it_parts();
    assert_eq!(network.gateway("ip route show table 365 proto 109"), "");
    assert!(!network.gateway("ip rule").contains("365"));
    let unreachable = EGRESS.replace("10.36.2.2", "203.0.113.1");
    reload(&config(&unreachable), "reload refused", 1);
    network.assert_it_parts();
    assert!(network.gateway("ip rule").contains("1001:"));
    assert!(!network.gateway("ip rule").contains("365"));
    reload(&config(""), "published", 4);
    wait_until("it is taken back", || network.everything() == before);
    network.assert_all_is_inspected();
    daemon.terminate();
}

#[test]
fn masquerade_gives_direct_flows_the_uplinks_address_and_no_other() {
    let network = Network::new();
    let product = network.product();
    product.configure(&config(&format!("{EGRESS}masquerade = true\nclamp-mss = true\n")));
    let daemon = product.start();
    for (to, answer) in [
        (DIRECT[0], "direct 10.36.2.1"),
        (DIRECT[1], "direct fd36:2::1"),
        (INSPECTED[0], "inspector 10.36.1.2"),
        (INSPECTED[1], "inspector fd36:1::2"),
    ] {
        assert_eq!(network.flow(to).unwrap().answer(), answer, "{to}");
    }
    daemon.terminate();
}

#[test]
fn strict_reverse_path_filtering_on_the_uplink_is_said_with_what_to_do() {
    let network = Network::new();
    let product = network.product();
    let advice = "`sysctl -w net.ipv4.conf.up0.rp_filter=2`";
    network.site.gateway.sysctl("net/ipv4/conf/up0/rp_filter", "1").unwrap();
    let daemon = product.start();
    assert!(daemon.log().contains(advice), "{}", daemon.log());
    daemon.terminate();
    network.site.gateway.sysctl("net/ipv4/conf/up0/rp_filter", "2").unwrap();
    let daemon = product.start();
    assert!(!daemon.log().contains("rp_filter"), "{}", daemon.log());
    network.assert_it_parts();
    daemon.terminate();
}

#[test]
fn three_capabilities_are_enough_for_the_way_out_too() {
    let all_but_three = ["--bounding-set", "-all,+bpf,+net_admin,+perfmon", "--inh-caps", "-all"];
    let wrapper: Vec<_> = ["setpriv"].into_iter().chain(all_but_three).collect();
    let network = Network::new();
    let before = network.everything();
    let product = network.product().through(&wrapper);
    let daemon = product.start();
    network.assert_it_parts();
    network.gateway("ip rule del priority 366");
    daemon.wait_for_log("put back", 1);
    network.assert_it_parts();
    daemon.terminate();
    assert!(product.verb(&["down"]).status.success());
    assert_eq!(network.everything(), before);
}

/// What others may have: conntrack, a mangle chain at the usual priority, a NAT chain.
const OTHERS: &str = "
table inet firewall {
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state established,related counter accept
    }
}
table ip mangle {
    chain PREROUTING {
        type filter hook prerouting priority mangle; policy accept;
        meta mark & 0xff == 1 counter
    }
}
table ip nat {
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.99.0.0/16 oifname \"up0\" masquerade
    }
}
";
