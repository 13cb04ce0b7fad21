//! A day of a gateway, compressed: whatever happens, what others have put there is byte for byte as it
//! was, after each event and after `down`. Needs root.

use std::cell::RefCell;

use aya::programs::tc::SchedClassifierLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, TcAttachType, XdpMode};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::foreign::{Foreign, tcx_programs, xdp_program};
use crate::support::network::{DIRECT, EGRESS, INSPECTED, Network, UPLINK, default_routes, join};
use crate::support::product::Daemon;
use crate::support::stage::{FIRST, SECOND, Stage, THIRD, serving};
use crate::support::{LAN, wait_until};

/// What others may have in nftables: a firewall, a mangle chain, NAT, early drops, sets and counters.
const RULES: &str = r#"
table inet firewall {
    counter passed { packets 17 bytes 1234 }
    set friends { type ipv4_addr; flags interval; elements = { 10.36.1.0/24, 192.0.2.7 } }
    map ports { type inet_service : verdict; elements = { 22 : accept, 23 : drop } }
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state established,related counter name passed accept
        ip saddr @friends accept
    }
    chain input {
        type filter hook input priority filter; policy accept;
        tcp dport vmap @ports
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
        ip saddr 10.99.0.0/16 oifname "up0" masquerade
    }
}
table netdev edge {
    chain early {
        type filter hook ingress device "lan0" priority -500; policy accept;
        ip saddr 198.51.100.9 drop
    }
}
"#;

/// Rules, routes, qdiscs, and sets, as `ip`, `tc` and `ipset` put them.
const COMMANDS: [&str; 11] = [
    "ip rule add from 10.99.0.0/16 lookup 99 priority 364",
    "ip rule add fwmark 0x1/0xff lookup 99 priority 367 protocol 108",
    "ip -6 rule add to fd99::/16 lookup 99 priority 100",
    "ip route add 203.0.113.0/24 dev insp0 table 99 proto 110",
    "ip route add unreachable default table 366",
    "ip route add 192.0.2.0/24 via 10.36.3.2",
    "ip -6 route add fd99::/16 dev insp0 table 99",
    "tc qdisc add dev insp0 root handle 36: pfifo limit 321",
    "tc qdisc add dev insp0 clsact",
    "ipset create others hash:net",
    "ipset add others 192.0.2.0/24",
];

/// How others' things are listed. What our uplink loses when it is removed is not theirs.
const LISTINGS: [&str; 12] = [
    "ip -d rule",
    "ip -6 -d rule",
    "ip -d route show table all",
    "ip -6 -d route show table all",
    "nft -s -a list ruleset",
    "tc qdisc show dev lan0",
    "tc qdisc show dev lan1",
    "tc qdisc show dev insp0",
    "tc filter show dev insp0 ingress",
    "tc filter show dev lan0 ingress",
    "ipset save",
    "grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv4/ip_forward",
];

/// Programs of somebody else on our interfaces and on another.
struct Programs {
    behind_ours: Foreign,
    _links: (SchedClassifierLink, XdpLink, SchedClassifierLink),
    _others: [Foreign; 2],
}

impl Programs {
    fn attach(network: &Network) -> Self {
        let gateway = &network.site.gateway;
        let (mut tcx, mut xdp, mut filter) = (Foreign::load(), Foreign::load(), Foreign::load());
        let links = (
            tcx.attach_tcx(gateway, LAN, LinkOrder::last()),
            xdp.attach_xdp(gateway, "lan1", XdpMode::Driver),
            filter.attach_filter(gateway, "insp0", TcAttachType::Ingress),
        );
        Self { behind_ours: tcx, _links: links, _others: [xdp, filter] }
    }
}

/// Everything there is but what is ours.
fn others(network: &Network, programs: &RefCell<Programs>) -> Vec<String> {
    let gateway = &network.site.gateway;
    let mut all = Vec::new();
    for listing in LISTINGS {
        let text = gateway.run(listing).unwrap();
        let (before, ours) = text.split_once("table inet breakout365 {").unwrap_or((&text, ""));
        let (_, after) = ours.split_once("\n}\n").unwrap_or_default();
        let mut lines: Vec<_> = before.lines().chain(after.lines()).collect();
        if listing.starts_with("ip ") {
            lines.retain(|line| !is_ours(line));
        }
        // An interface that comes back has its routes and settings in another place.
        if !listing.contains("rule") {
            lines.sort_unstable();
        }
        all.push(format!("{listing}\n{}", lines.join("\n")));
    }
    all.push(format!("XDP on lan1: {:?}", xdp_program(gateway, "lan1")));
    all.push(format!("tcx on insp0: {:?}", tcx_programs(gateway, "insp0")));
    let theirs = programs.borrow_mut().behind_ours.tc_id();
    let tcx = tcx_programs(gateway, LAN);
    all.push(format!("last in tcx on {LAN}: {:?} of {theirs}", tcx.last()));
    all
}

/// A line of rules or routes that we have put there: by priority, or by table and protocol.
fn is_ours(line: &str) -> bool {
    ["365:", "366:"].iter().any(|priority| line.starts_with(priority))
        || line.contains("table 365 ") && line.contains("proto 109 ")
}

struct Day<'a> {
    network: &'a Network,
    stage: &'a Stage<'a>,
    programs: &'a RefCell<Programs>,
    before: Vec<String>,
}

impl Day<'_> {
    fn assert_others_are_as_before(&self, after: &str) {
        wait_until(&format!("what is not ours has settled after {after}"), || {
            // A link that came back has its addresses and routes a moment later.
            let routes = self.network.gateway("ip -d route show table all");
            !routes.contains("linkdown")
        });
        let mut now = Vec::new();
        for _ in 0..20 {
            now = others(self.network, self.programs);
            if now == self.before {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert_eq!(now, self.before, "after {after}");
    }

    fn assert_it_parts(&self, after: &str) {
        for (to, way) in
            DIRECT.into_iter().zip(["direct"; 2]).chain(INSPECTED.map(|to| (to, "inspector")))
        {
            assert_eq!(self.network.way(to), way, "{to} after {after}");
        }
        self.assert_others_are_as_before(after);
    }

    fn assert_all_is_inspected(&self, after: &str) {
        self.network.assert_all_is_inspected();
        self.assert_others_are_as_before(after);
    }

    /// Lists come and are refused, accepted, gone back from.
    fn lists_change(&self, daemon: &Daemon) {
        let stage = self.stage;
        stage.wait_for_version(FIRST);
        self.assert_it_parts("the first list");
        stage
            .service
            .set(serving(SECOND, &feed(&["40.96.0.0/13", "52.112.0.0/14", "2603:1006::/40"])));
        stage.wait_for_version(SECOND);
        self.assert_it_parts("a list that grew");
        stage.service.set(serving(THIRD, &feed(&["0.0.0.0/1", "40.96.0.0/13", "2603:1006::/40"])));
        stage.wait_for_problem("half the internet", "wide_prefix");
        self.assert_it_parts("a list that is held");
        let id = stage.wait_for_plan();
        stage.product.json(&["plan", "reject", &id]);
        self.assert_it_parts("a list that was turned down");
        stage.service.set(serving("2026093000", "[]"));
        stage.wait_for_problem("an empty list", "empty");
        self.assert_it_parts("a list that is refused");
        stage.service.set(serving("2026103000", &feed(&["40.96.0.0/13", "2603:1006::/40"])));
        stage.wait_for_version("2026103000");
        stage.product.json(&["rollback"]);
        self.assert_it_parts("a way back");
        daemon.wait_for_log("published", 4);
    }

    /// The operator's own changes.
    fn configurations_change(&self, daemon: &Daemon) {
        let (stage, product) = (self.stage, &self.stage.product);
        let exclude = "[[policy.exclude]]\nname = \"all\"\nprefixes = [\"40.96.0.0/16\", \"2603:1006::/48\"]\n";
        configure(stage, exclude);
        product.json(&["reload"]);
        self.assert_all_is_inspected("an exclude");
        configure(stage, "masquerade = 7\n");
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_log("reload refused", 1);
        self.assert_all_is_inspected("a reload that is refused");
        configure(stage, "");
        product.json(&["apply", "--confirm-within", "5s"]);
        assert_eq!(self.network.way(DIRECT[0]), "direct", "on trial");
        wait_until("the trial is over", || stage.daemon()["confirm_until"].is_null());
        self.assert_all_is_inspected("a trial that nobody confirmed");
        product.json(&["reload"]);
        self.assert_it_parts("a reload");
    }

    /// What an operator does to flows.
    fn switches_are_used(&self) {
        let product = &self.stage.product;
        product.json(&["off", "--revoke"]);
        self.assert_all_is_inspected("off");
        product.json(&["on"]);
        self.assert_it_parts("on");
        product.json(&["revoke", "--all"]);
        self.assert_it_parts("revoke");
        let started = product.json(&[
            "support",
            "start",
            "--client",
            "10.36.1.0/24",
            "--for",
            "1h",
            "--note",
            "case 1",
        ]);
        self.assert_it_parts("the start of a support window");
        product.json(&["support", "stop", &started["id"].to_string()]);
        self.assert_it_parts("the end of a support window");
    }

    fn interfaces_go_and_come(&self, daemon: &Daemon) {
        let network = self.network;
        let next_hop_is_back =
            || network.direct.ip(&default_routes(2, 1).replace("add", "replace"));
        for times in 1..=2 {
            network.direct.run("ip link set in0 down").unwrap();
            daemon.wait_for_log("is down: no carrier", 2 * times);
            network.assert_all_is_inspected();
            network.direct.run("ip link set in0 up").unwrap();
            network.direct.run("ip address replace fd36:2::2/64 dev in0 nodad").unwrap();
            next_hop_is_back().unwrap();
            daemon.wait_for_log("is up again", 2 * times);
            self.assert_it_parts("an uplink that flapped");
        }
        network.gateway("ip link delete up0");
        daemon.wait_for_log("down: the interface is not there", 2);
        network.assert_all_is_inspected();
        join((&network.site.gateway, UPLINK), (&network.direct, "in0"), 2);
        next_hop_is_back().unwrap();
        daemon.wait_for_log("is up again", 6);
        self.assert_it_parts("an uplink that was made anew");
        let published = daemon.log().matches("published").count();
        network.gateway("ip link delete lan2");
        daemon.wait_for_log("interface lan2: gone", 1);
        network.site.add_lan("eth2", "lan2");
        daemon.wait_for_log("published", published + 1);
        self.assert_it_parts("an inside interface that was made anew");
    }
}

/// Set 3 is for support windows alone.
fn feed(optimize: &[&str]) -> String {
    json!([
        {"id": 1, "serviceArea": "Exchange", "category": "Optimize", "required": true,
         "ips": optimize, "tcpPorts": "443"},
        {"id": 3, "serviceArea": "Common", "category": "Allow", "required": false,
         "ips": ["52.108.0.0/14"], "tcpPorts": "443"},
    ])
    .to_string()
}

fn configure(stage: &Stage<'_>, more: &str) {
    let interfaces = "[[interface]]\nname = \"lan1\"\n[[interface]]\nname = \"lan2\"\n";
    let guards = "[guards]\nallow = [\"version_back\", \"prefixes_leaving\", \"space_leaving\"]\n";
    let egress = format!("{EGRESS}masquerade = true\nclamp-mss = true\n");
    stage.configure("", &format!("{interfaces}{guards}{egress}{more}"));
}

#[test]
fn what_others_have_is_byte_for_byte_as_it_was_after_each_event_of_a_day_and_after_down() {
    let network = Network::new();
    for (client, gateway) in [("eth1", "lan1"), ("eth2", "lan2")] {
        network.site.add_lan(client, gateway);
    }
    let gateway = &network.site.gateway;
    gateway.nft(RULES).unwrap();
    gateway.iptables("*filter\n-A FORWARD -m mark --mark 0x5/0xff -j ACCEPT\nCOMMIT\n").unwrap();
    for command in COMMANDS {
        network.gateway(command);
    }
    gateway.sysctl("net/ipv4/conf/insp0/rp_filter", "2").unwrap();
    let programs = RefCell::new(Programs::attach(&network));
    let stage =
        Stage::new(&network.site, serving(FIRST, &feed(&["40.96.0.0/13", "2603:1006::/40"])));
    configure(&stage, "");
    wait_until("every link is up", || {
        let routes = network.gateway("ip -6 route show table all");
        !routes.contains("linkdown") && routes.matches("local fe80::").count() == 5
    });
    let before = others(&network, &programs);
    let whole = network.everything();
    let day = Day { network: &network, stage: &stage, programs: &programs, before };

    let daemon = stage.product.start();
    day.lists_change(&daemon);
    day.configurations_change(&daemon);
    day.switches_are_used();
    day.interfaces_go_and_come(&daemon);
    daemon.terminate();
    day.assert_it_parts("a stop");
    let daemon = stage.product.start();
    day.assert_it_parts("a start");
    daemon.end(Signal::SIGKILL);
    day.assert_it_parts("kill -9");
    let daemon = stage.product.start();
    day.assert_it_parts("the start after kill -9");
    assert_ne!(network.everything(), whole, "what is ours is there");
    daemon.terminate();
    stage.product.json(&["down"]);
    day.assert_all_is_inspected("down");
    let sorted = |listings: Vec<String>| -> Vec<Vec<String>> {
        let lines = |text: String| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        listings.into_iter().map(lines).collect()
    };
    assert_eq!(sorted(network.everything()), sorted(whole), "nothing of ours is left");
}
