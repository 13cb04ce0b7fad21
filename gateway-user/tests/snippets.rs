//! Snippets are loaded by the programs they are for, and then inspect everything but direct flows.
//! Needs root.

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt::IpTransparent};
use xtask::testbed::{BpfFs, EchoServers, End, Namespace, Offloads, link};

use crate::support::product::{Daemon, Product, with_hook};
use crate::support::{CLIENT, LAN, PATIENCE, Site, skip, wait_until};

const EGRESS: &str = "[egress]\ninterface = \"up0\"\ngateway4 = \"10.36.2.2\"\n";
const DIRECT: &str = "40.96.0.1:443";
/// Beside it, by another prefix.
const OTHER: &str = "203.0.113.1:443";
const PROXY: u16 = 3128;
const TRANSPARENT_PROXY: u16 = 3129;

/// A client, a gateway with inspectors, and whoever is called behind it, by two ways:
///
/// ```text
/// client eth0 ── lan0 gateway out0 ── in0 far
///                             up0 ─── in1
/// ```
struct Network {
    site: Site,
    _far: Namespace,
}

impl Network {
    fn new() -> Self {
        let site = Site {
            client: Namespace::new("client").unwrap(),
            gateway: Namespace::new("gateway").unwrap(),
            bpffs: BpfFs::new().unwrap(),
        };
        let far = Namespace::new("far").unwrap();
        join((&site.gateway, LAN), (&site.client, CLIENT), 1);
        join((&site.gateway, "up0"), (&far, "in1"), 2);
        join((&site.gateway, "out0"), (&far, "in0"), 3);
        site.client.ip("route add default via 10.36.1.1\n").unwrap();
        site.gateway.ip("route add default via 10.36.3.2\n").unwrap();
        far.ip("route add 10.36.1.0/24 via 10.36.3.1\n").unwrap();
        site.gateway.forward().unwrap();
        let prefixes = ["40.96.0.0/13", "203.0.113.0/24"].map(|prefix| prefix.parse().unwrap());
        EchoServers::own(&far, &prefixes.into()).unwrap();
        for to in [DIRECT, OTHER] {
            answer(&far, "far", to, false);
        }
        wait_until("every link is up", || {
            !site.gateway.run("ip route show table all").unwrap().contains("linkdown")
        });
        Self { site, _far: far }
    }

    fn product(&self) -> Product<'_> {
        let product = Product::new(&self.site, "auto");
        product.configure(&format!("{}{EGRESS}", with_hook(LAN, "auto")));
        product
    }

    /// Who answers a new flow from the client.
    fn who(&self, to: &str) -> String {
        let to: SocketAddr = to.parse().unwrap();
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(2));
        let Ok(mut stream) = self.site.client.enter(connect).unwrap() else {
            return "nobody".to_owned();
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut name = String::new();
        stream.read_to_string(&mut name).unwrap();
        name
    }

    /// Asserts that direct flows pass and that `inspector` has all others.
    fn assert_it_parts(&self, inspector: &str) {
        assert_eq!(self.who(DIRECT), "far", "direct flows pass");
        assert_eq!(self.who(OTHER), inspector);
        assert_eq!(self.who(DIRECT), "far", "and do so again");
    }

    /// Asserts that the inspector gets everything when our table is gone, though packets are still
    /// marked: nobody is there who would put it back.
    fn assert_it_inspects_without_our_table(&self, daemon: Daemon, inspector: &str) {
        daemon.end(Signal::SIGKILL);
        assert_eq!(self.who(DIRECT), "far", "the daemon is not needed");
        self.gateway("nft delete table inet breakout365");
        assert_eq!(self.who(DIRECT), inspector, "the table is gone");
        let count = format!(
            "table inet count {{\n counter marked {{ }}\n chain prerouting {{\n type filter hook \
             prerouting priority raw; iifname \"{LAN}\" meta mark & 0x01000000 != 0 counter name \
             marked\n }}\n}}"
        );
        self.site.gateway.nft(&count).unwrap();
        assert_eq!(self.who(DIRECT), inspector);
        let counted = self.gateway("nft list counter inet count marked");
        assert!(!counted.contains("packets 0 "), "packets are marked: {counted}");
    }

    /// Asserts that the inspector gets the packets of direct flows that have lost their mark, and so
    /// would leave by the main table.
    fn assert_it_inspects_what_lost_its_mark(&self, inspector: &str) {
        let thief = "table inet thief {\n chain prerouting {\n type filter hook prerouting \
                     priority -155\n meta mark set 0\n }\n}\n";
        self.site.gateway.nft(thief).unwrap();
        assert_eq!(self.who(DIRECT), inspector, "somebody takes the packets' mark away");
        self.gateway("nft delete table inet thief");
        assert_eq!(self.who(DIRECT), "far");
    }

    fn gateway(&self, command: &str) -> String {
        self.site.gateway.run(command).unwrap()
    }

    /// Runs what the snippet says has to be run once.
    fn run_once(&self, snippet: &str, programs: &[&str]) {
        let mut commands = 0;
        for command in snippet.lines().filter_map(|line| line.strip_prefix("# ")) {
            let program = command.split(' ').next().unwrap();
            if programs.contains(&program) {
                self.gateway(command);
                commands += 1;
            }
        }
        assert!(commands > 0, "nothing has to be run: {snippet}");
    }
}

fn join(one: (&Namespace, &str), other: (&Namespace, &str), number: u8) {
    let address = |host: u8| [format!("10.36.{number}.{host}/24").parse().unwrap()];
    let mac = |host| [2, 0x36, 0, 0, number, host];
    link(
        &End { namespace: one.0, interface: one.1, mac: mac(1), addresses: &address(1) },
        &End { namespace: other.0, interface: other.1, mac: mac(2), addresses: &address(2) },
        Offloads::Default,
    )
    .unwrap();
}

/// Answers everybody at `address` with `name`, until this process ends.
fn answer(namespace: &Namespace, name: &'static str, address: &str, is_transparent: bool) {
    let listener = namespace.enter(|| TcpListener::bind(address)).unwrap().unwrap();
    if is_transparent {
        setsockopt(&listener, IpTransparent, &true).unwrap();
    }
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::io::Write::write_all(&mut stream, name.as_bytes()).ok();
        }
    });
}

fn snippet(product: &Product<'_>, format: &str, to: &[&str]) -> String {
    let config = product.config();
    let mut arguments = vec!["export", "--format", format, "--config", config.to_str().unwrap()];
    for inspector in to {
        arguments.extend(["--to", inspector]);
    }
    product.text(&arguments)
}

fn iptables_restore(network: &Network, snippet: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), snippet).unwrap();
    for program in ["iptables-restore", "ip6tables-restore"] {
        network.gateway(&format!("{program} --noflush {}", file.path().display()));
    }
}

fn proxies(network: &Network) {
    answer(&network.site.gateway, "proxy", &format!("0.0.0.0:{PROXY}"), false);
    answer(&network.site.gateway, "tproxy", &format!("0.0.0.0:{TRANSPARENT_PROXY}"), true);
}

#[test]
fn nftables_redirects_all_but_direct_flows() {
    let network = Network::new();
    proxies(&network);
    let product = network.product();
    let daemon = product.start();
    assert_eq!(network.who(OTHER), "far", "nobody inspects yet");
    let text = snippet(&product, "chain-nft", &["redirect:3128"]);
    network.site.gateway.nft(&text).unwrap();
    network.assert_it_parts("proxy");
    network.site.gateway.nft(&text).unwrap();
    assert_eq!(network.gateway("nft list ruleset").matches("redirect to").count(), 1, "replaced");
    product.verb(&["off"]);
    assert_eq!(
        network.who(DIRECT),
        "proxy",
        "what is not direct is inspected, whatever its address"
    );
    product.verb(&["on"]);
    network.assert_it_inspects_what_lost_its_mark("proxy");
    network.assert_it_inspects_without_our_table(daemon, "proxy");
}

#[test]
fn nftables_hands_all_but_direct_flows_to_a_transparent_proxy() {
    let network = Network::new();
    proxies(&network);
    let product = network.product();
    let daemon = product.start();
    let text = snippet(&product, "chain-nft", &["tproxy:3129"]);
    network.run_once(&text, &["ip"]);
    network.site.gateway.nft(&text).unwrap();
    network.assert_it_parts("tproxy");
    product.verb(&["off"]);
    assert_eq!(network.who(DIRECT), "tproxy");
    product.verb(&["on"]);
    network.assert_it_inspects_what_lost_its_mark("tproxy");
    network.assert_it_inspects_without_our_table(daemon, "tproxy");
}

#[test]
fn nftables_takes_a_queue_where_the_kernel_has_them() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    let text = snippet(&product, "chain-nft", &["queue:0"]);
    if let Err(refused) = network.site.gateway.nft(&text) {
        let said = format!("{refused:#}");
        assert!(said.contains("No such file") && !said.contains("syntax"), "{said}");
        skip(&format_args!("this kernel's nftables has no queues: {said}"));
        return;
    }
    // Nobody reads the queue.
    network.assert_it_parts("nobody");
    daemon.terminate();
}

#[test]
fn iptables_redirects_all_but_direct_flows() {
    let network = Network::new();
    proxies(&network);
    let product = network.product();
    let daemon = product.start();
    let text = snippet(&product, "chain-iptables", &["redirect:3128"]);
    iptables_restore(&network, &text);
    network.run_once(&text, &["iptables", "ip6tables"]);
    network.assert_it_parts("proxy");
    network.assert_it_inspects_what_lost_its_mark("proxy");
    network.assert_it_inspects_without_our_table(daemon, "proxy");
}

#[test]
fn iptables_hands_all_but_direct_flows_to_a_transparent_proxy() {
    let network = Network::new();
    proxies(&network);
    let product = network.product();
    let daemon = product.start();
    let text = snippet(&product, "chain-iptables", &["tproxy:3129"]);
    iptables_restore(&network, &text);
    network.run_once(&text, &["ip", "iptables", "ip6tables"]);
    network.assert_it_parts("tproxy");
    network.assert_it_inspects_what_lost_its_mark("tproxy");
    network.assert_it_inspects_without_our_table(daemon, "tproxy");
}

#[test]
fn iptables_queues_all_but_direct_flows_and_their_replies() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    let text = snippet(&product, "chain-iptables", &["queue:0"]);
    iptables_restore(&network, &text);
    network.run_once(&text, &["iptables", "ip6tables"]);
    // Nobody reads the queue: what is in it does not arrive.
    network.assert_it_parts("nobody");
    let counters = network.gateway("iptables-save -c -t filter");
    let queued = counters.lines().find(|line| line.contains("-j NFQUEUE")).unwrap();
    assert!(!queued.starts_with("[0:0]"), "{counters}");
    iptables_restore(&network, &text);
    let saved = network.gateway("iptables-save -t filter");
    assert_eq!(saved.matches("-j NFQUEUE").count(), 1, "replaced: {saved}");
    network.assert_it_parts("nobody");
    network.assert_it_inspects_without_our_table(daemon, "nobody");
}

#[test]
fn nothing_is_forwarded_but_direct_flows_where_that_is_asked_for() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    network.site.gateway.nft(&snippet(&product, "chain-nft", &["drop"])).unwrap();
    network.assert_it_parts("nobody");
    network.gateway("nft delete table inet breakout365_inspection");
    assert_eq!(network.who(OTHER), "far");
    let text = snippet(&product, "chain-iptables", &["drop"]);
    iptables_restore(&network, &text);
    network.run_once(&text, &["iptables", "ip6tables"]);
    network.assert_it_parts("nobody");
    network.assert_it_inspects_without_our_table(daemon, "nobody");
}

#[test]
fn snippets_are_no_mark_collisions_and_their_rule_stands_behind_ours() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    let all = ["tproxy:3129", "redirect:3128"];
    let nft = snippet(&product, "chain-nft", &all);
    network.site.gateway.nft(&nft).unwrap();
    network.run_once(&nft, &["ip"]);
    let iptables = snippet(&product, "chain-iptables", &[&all[..], &["queue:0"]].concat());
    iptables_restore(&network, &iptables);
    network.run_once(&iptables, &["iptables", "ip6tables"]);
    let config = product.config();
    let output = product.verb(&["doctor", "--no-dns", "--config", config.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    for check in [" mark-collision ", " rule-order "] {
        let found: Vec<_> = text.lines().filter(|line| line.contains(check)).collect();
        assert_eq!(found.len(), 1, "{text}");
        assert!(found[0].starts_with("ok "), "{text}");
    }
    daemon.terminate();
}

#[test]
fn what_is_asked_wrongly_is_refused_in_one_line() {
    let network = Network::new();
    let product = network.product();
    for (arguments, words) in [
        (&["--format", "chain-nft"][..], "--to goes with"),
        (&["--format", "cidr", "--to", "queue:0"], "--to goes with"),
        (&["--format", "networkd", "--to", "queue:0"], "--to goes with"),
        (&["--format", "chain-nft", "--to", "queue:0", "--to", "queue:1"], "of one kind"),
        (&["--format", "chain-nft", "--to", "queue:0", "--to", "drop"], "nothing for the queue"),
        (&["--format", "chain-nft", "--to", "icap:1344"], "tproxy:PORT"),
    ] {
        product.assert_refused(&[&["export"], arguments].concat(), 2, &[words]);
    }
    product.assert_refused(
        &["export", "--format", "networkd", "--config", "/nowhere"],
        3,
        &["/nowhere"],
    );
}
