//! The doctor finds what is in the way on a real gateway, names it, and is silent where all is well.
//! Needs root.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use aya::programs::LinkOrder;
use aya::programs::tc::{TcAttachType, qdisc_add_clsact};
use nix::sys::signal::Signal;
use serde_json::Value;
use xtask::testbed::{End, Namespace, Offloads, link};

use crate::support::foreign::{Foreign, tcx_programs};
use crate::support::product::{Product, with_hook};
use crate::support::{self, LAN, Site, skip, wait_until};

const UPLINK: &str = "up0";
const EGRESS: &str =
    "[egress]\ninterface = \"up0\"\ngateway4 = \"10.36.2.2\"\ngateway6 = \"fd36:2::2\"\n";

/// A gateway with an uplink.
struct Gateway {
    site: Site,
    direct: Namespace,
}

impl Gateway {
    fn new() -> Self {
        let (site, direct) = (Site::new(), Namespace::new("direct").unwrap());
        let addresses = |host: u8| {
            [format!("10.36.2.{host}/24"), format!("fd36:2::{host}/64")]
                .map(|net| net.parse().unwrap())
        };
        let mac = |host| [2, 0x36, 0, 0, 2, host];
        let [ours, theirs] = [addresses(1), addresses(2)];
        link(
            &End { namespace: &site.gateway, interface: UPLINK, mac: mac(1), addresses: &ours },
            &End { namespace: &direct, interface: "in0", mac: mac(2), addresses: &theirs },
            Offloads::Default,
        )
        .unwrap();
        site.gateway.forward().unwrap();
        Self { site, direct }
    }

    fn product(&self) -> Product<'_> {
        let product = Product::new(&self.site, "auto");
        product.configure(&format!("{}{EGRESS}", with_hook(LAN, "auto")));
        product
    }

    fn run(&self, command: &str) -> String {
        self.site.gateway.run(command).unwrap()
    }
}

/// What a run of the doctor found.
struct Examined {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Examined {
    fn by(product: &Product<'_>) -> Self {
        let config = product.config();
        let config = config.to_str().unwrap();
        let Output { status, stdout, stderr } =
            product.verb(&["doctor", "--json", "--no-dns", "--config", config]);
        let report: Value = serde_json::from_slice(&stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr)));
        let findings = report["findings"].as_array().unwrap().clone();
        for finding in &findings {
            let is_complete = finding["severity"] == "ok"
                || finding["seen"] == false
                || finding["fix"].is_string();
            assert!(is_complete, "no command: {finding:#}");
        }
        Self { code: status.code(), findings }
    }

    /// Asserts that `id` is found with this severity, with `words` in what it says.
    fn assert_finds(&self, id: &str, severity: &str, words: &str) {
        let found = self.finds(id, severity, words);
        assert!(found, "{id} {severity} {words:?} is not in {:#?}", self.findings);
        let code = match severity {
            "error" => 18,
            "warning" => 17,
            _ => return,
        };
        assert_eq!(self.code, Some(code), "{:#?}", self.findings);
    }

    fn finds(&self, id: &str, severity: &str, words: &str) -> bool {
        self.findings.iter().any(|finding| {
            finding["id"] == id
                && finding["severity"] == severity
                && finding["what"].as_str().unwrap().contains(words)
        })
    }

    /// What mends what was found first of `id`.
    fn fix_of(&self, id: &str) -> &str {
        let finding = self.findings.iter().find(|finding| finding["id"] == id).unwrap();
        finding["fix"].as_str().unwrap()
    }

    fn assert_nothing_above_note(&self) {
        for finding in &self.findings {
            let severity = finding["severity"].as_str().unwrap();
            assert!(["ok", "note"].contains(&severity), "{finding:#}");
        }
        assert_eq!(self.code, Some(0));
    }
}

#[test]
fn on_a_healthy_gateway_nothing_is_above_a_note() {
    let gateway = Gateway::new();
    let product = gateway.product();
    Examined::by(&product).assert_nothing_above_note();
    let daemon = product.start();
    gateway.site.send_from(support::CLIENT, &support::traffic(support::DIRECT));
    // It asks for marks in ways of its own.
    gateway.run("nft delete table inet watch");
    let examined = Examined::by(&product);
    examined.assert_nothing_above_note();
    examined.assert_finds("metadata", "ok", "4 taken by tc, 4 written by XDP");
    examined.assert_finds("xdp-mode", "ok", "native XDP");
    examined.assert_finds("foreign-tc", "ok", "none");
    examined.assert_finds("foreign-xdp", "ok", "none");
    examined.assert_finds("lro", "ok", "off");
    examined.assert_finds("mark-collision", "ok", "nobody else");
    examined.assert_finds("rule-order", "ok", "first");
    examined.assert_finds("capabilities", "ok", "the daemon");
    examined.assert_finds("daemon", "ok", "generation 1 is published");
    examined.assert_finds("kill-switch", "ok", "on");
    examined.assert_finds("deadline", "ok", " s are left");
    examined.assert_finds("feed", "ok", " serves");
    examined.assert_finds("uplink", "ok", "up0: ipv4 is up");
    examined.assert_finds("uplink", "ok", "up0: ipv6 is up");
    examined.assert_finds("hook", "ok", "lan0 (native xdp + tcx)");
    examined.assert_finds("dns", "note", "--no-dns");
    daemon.terminate();
}

#[test]
fn whatever_keeps_traffic_from_going_direct_is_an_error() {
    let gateway = Gateway::new();
    let product = gateway.product();
    product.configure(&format!("deadline = \"5s\"\n{}{EGRESS}", with_hook(LAN, "auto")));
    let daemon = product.start();
    gateway.run("nft delete table inet watch");
    Examined::by(&product).assert_nothing_above_note();
    product.text(&["off"]);
    Examined::by(&product).assert_finds("kill-switch", "error", "nothing goes direct");
    product.text(&["on"]);
    gateway.direct.run("ip link set in0 down").unwrap();
    wait_until("the uplink is down", || {
        product.status()["daemon"]["egress"]["families"][0]["state"] == "down"
    });
    let examined = Examined::by(&product);
    examined.assert_finds("interface", "error", "up0: it has no carrier");
    examined.assert_finds("uplink", "error", "ipv4 is down (no_carrier)");
    daemon.end(Signal::SIGKILL);
    wait_until("the deadline passes", || {
        product.status()["switches"]["inspecting"] == "daemon_gone"
    });
    let examined = Examined::by(&product);
    examined.assert_finds("deadline", "error", "it has passed");
    assert!(examined.finds("daemon", "warning", "nobody looks after"));
    // Nothing else holds the link.
    fs::remove_file(tcx_pin(&gateway)).unwrap();
    wait_until("the program is gone", || tcx_programs(&gateway.site.gateway, LAN).is_empty());
    Examined::by(&product).assert_finds("hook", "error", "our tc program is gone");
}

/// What holds our TCX program.
fn tcx_pin(gateway: &Gateway) -> PathBuf {
    let pins = fs::read_dir(gateway.site.bpffs.pins()).unwrap();
    let mut paths = pins.map(|entry| entry.unwrap().path());
    paths.find(|path| path.to_str().unwrap().ends_with("-tc")).unwrap()
}

#[test]
fn strict_filtering_and_a_host_that_does_not_forward_are_errors() {
    let gateway = Gateway::new();
    let product = gateway.product();
    gateway.site.gateway.sysctl("net/ipv4/conf/up0/rp_filter", "1").unwrap();
    Examined::by(&product).assert_finds("rp-filter", "error", "up0: strict");
    gateway.run("ip route add default via 10.36.2.2");
    let examined = Examined::by(&product);
    examined.assert_finds("rp-filter", "ok", "what is not marked leaves by it too");
    examined.assert_nothing_above_note();
    gateway.run("ip route replace unreachable default");
    Examined::by(&product).assert_finds("rp-filter", "error", "leaves elsewhere");
    gateway.site.gateway.sysctl("net/ipv4/conf/up0/rp_filter", "2").unwrap();
    gateway.site.gateway.sysctl("net/ipv4/ip_forward", "0").unwrap();
    Examined::by(&product).assert_finds("forwarding", "error", "lan0: IPv4");
    gateway.site.gateway.sysctl("net/ipv4/ip_forward", "1").unwrap();
    gateway.site.gateway.sysctl("net/ipv4/conf/up0/forwarding", "0").unwrap();
    Examined::by(&product).assert_finds("forwarding", "error", "up0: IPv4");
    gateway.site.gateway.sysctl("net/ipv4/conf/up0/forwarding", "1").unwrap();
    // Of no meaning for what is forwarded.
    gateway.site.gateway.sysctl("net/ipv6/conf/lan0/forwarding", "0").unwrap();
    Examined::by(&product).assert_nothing_above_note();
    gateway.site.gateway.sysctl("net/ipv6/conf/all/forwarding", "0").unwrap();
    Examined::by(&product).assert_finds("forwarding", "error", "lan0: IPv6");
}

#[test]
fn programs_of_others_are_named_where_they_stand() {
    let gateway = Gateway::new();
    let namespace = &gateway.site.gateway;
    let product = gateway.product();
    let mut foreign = Foreign::load();
    let daemon = product.start();
    let link = foreign.attach_tcx(namespace, LAN, LinkOrder::last());
    Examined::by(&product).assert_finds("foreign-tc", "note", "foreign_tc");
    drop(link);
    let mut foreign = Foreign::load();
    let link = foreign.attach_tcx(namespace, LAN, LinkOrder::first());
    let before = Examined::by(&product);
    before.assert_finds("foreign-tc", "warning", "runs before us");
    assert_eq!(
        before.fix_of("foreign-tc"),
        "systemctl stop breakout365 && breakout365 down && systemctl start breakout365"
    );
    daemon.terminate();
    product.json(&["down"]);
    let daemon = product.start();
    Examined::by(&product).assert_finds("foreign-tc", "note", "runs behind us");
    drop(link);
    namespace.enter(|| qdisc_add_clsact(LAN)).unwrap().unwrap();
    let mut foreign = Foreign::load();
    let filter = foreign.attach_filter(namespace, LAN, TcAttachType::Ingress);
    Examined::by(&product).assert_finds("foreign-tc", "note", "foreign_tc runs behind us");
    daemon.terminate();
    product.json(&["down"]);
    // The kernel lets go of a link a moment after its last reference.
    wait_until("ours is gone", || tcx_programs(namespace, LAN).is_empty());
    Examined::by(&product).assert_finds("foreign-tc", "note", "at the ingress, and we are not");
    drop(filter);
    let mut foreign = Foreign::load();
    let link = foreign.attach_xdp(namespace, LAN, aya::programs::xdp::XdpMode::Driver);
    Examined::by(&product).assert_finds("foreign-xdp", "warning", "foreign_xdp");
    drop(link);
}

#[test]
fn vlans_whose_tags_are_hidden_are_told_where_the_kernel_has_vlans() {
    let gateway = Gateway::new();
    let product = gateway.product();
    if let Err(refused) =
        gateway.site.gateway.run("ip link add link lan0 name lan0.7 type vlan id 7")
    {
        skip(&format_args!("this kernel has no VLANs: {refused:#}"));
        return;
    }
    Examined::by(&product).assert_finds("vlan", "note", "lan0.7 on it");
    gateway.run("ethtool -K lan0 rxvlan on");
    Examined::by(&product).assert_finds("vlan-offload", "note", "takes off the tags");
    gateway.run("ethtool -K lan0 rxvlan off");
    Examined::by(&product).assert_finds("vlan-offload", "ok", "no tag");
}

#[test]
fn members_tunnels_and_interfaces_that_are_not_there_are_told() {
    let gateway = Gateway::new();
    let product = gateway.product();
    gateway.run("ip link add br0 type bridge");
    gateway.run("ip link set lan0 master br0");
    Examined::by(&product).assert_finds("bridge", "warning", "a port of bridge br0");
    gateway.run("ip link set lan0 nomaster");
    gateway.run("ip tuntap add dev tun0 mode tun");
    product.configure(&format!("{}{EGRESS}", with_hook("tun0", "auto")));
    let examined = Examined::by(&product);
    examined.assert_finds("link-layer", "ok", "tun0: tun");
    product.configure(&format!("{}{EGRESS}", with_hook("tun0", "xdp")));
    Examined::by(&product).assert_finds("link-layer", "error", "tun0: tun");
    product.configure(&format!("{}{EGRESS}", with_hook("lo", "auto")));
    Examined::by(&product).assert_finds("link-layer", "error", "lo: ");
    product.configure(&format!("{}{EGRESS}", with_hook("lan9", "auto")));
    Examined::by(&product).assert_finds("interface", "error", "lan9: not found");
}

#[test]
fn long_packets_are_told_by_what_the_driver_can_do() {
    let gateway = Gateway::new();
    let product = gateway.product();
    gateway.run("ip link set lan0 mtu 9000");
    Examined::by(&product).assert_finds("mtu", "ok", "9000, with fragments");
}

/// Others' statements, each with the finding it leads to; all of them at once.
const COLLIDING: &str = "table inet others {
    chain prerouting {
        type filter hook prerouting priority -300;
        meta mark set 0x7 comment \"all bits\"
        meta mark set meta mark & 0xffffff00 | 0x7 comment \"not ours\"
        ct mark set meta mark
        meta mark & 0x0f000000 == 0x0f000000 accept
        meta mark & 0x01000000 == 0x01000000 accept comment \"asks what we say\"
    }
}";

#[test]
fn whoever_uses_our_bits_is_named_by_the_doctor_and_at_the_start() {
    let gateway = Gateway::new();
    let product = gateway.product();
    gateway.run("nft delete table inet watch");
    gateway.site.gateway.nft(COLLIDING).unwrap();
    gateway.run("ip rule add fwmark 0x3000000/0xff000000 lookup 99 priority 20000");
    gateway.run("iptables -t mangle -A PREROUTING -j MARK --set-xmark 0x1/0xffffffff");
    gateway
        .run("ip6tables -t mangle -A PREROUTING -m connmark --mark 0x2000000/0xff000000 -j RETURN");
    let examined = Examined::by(&product);
    let told = [
        "nft inet others, chain prerouting, rule handle 2 writes our bits of the packet mark",
        "nft inet others, chain prerouting, rule handle 4 writes our bits of the connection mark",
        "nft inet others, chain prerouting, rule handle 5 reads our bits of the packet mark",
        "ip rule 20000, fwmark 0x3000000/0xff000000 reads our bits of the packet mark",
        "iptables mangle: -A PREROUTING -j MARK --set-xmark 0x1/0xffffffff writes our bits",
        "ip6tables mangle: -A PREROUTING -m connmark --mark 0x2000000/0xff000000 -j RETURN reads",
    ];
    for words in told {
        examined.assert_finds("mark-collision", "warning", words);
    }
    let collisions: Vec<_> =
        examined.findings.iter().filter(|finding| finding["id"] == "mark-collision").collect();
    assert_eq!(collisions.len(), told.len(), "{collisions:#?}");
    let daemon = product.start();
    for words in told {
        daemon.wait_for_log(words, 1);
    }
    daemon.terminate();
}

#[test]
fn a_rule_before_ours_is_told() {
    let gateway = Gateway::new();
    let product = gateway.product();
    gateway.run("ip rule add lookup 99 priority 100");
    Examined::by(&product).assert_finds("rule-order", "warning", "ip rule 100");
    gateway.run("ip rule del priority 100");
    gateway.run("ip -6 rule add from fd99::/16 lookup 99 priority 100");
    Examined::by(&product).assert_finds("rule-order", "note", "ip -6 rule 100");
    gateway.run("ip -6 rule del priority 100");
    gateway.run("ip rule add fwmark 0x1/0x1 lookup 99 priority 100");
    let examined = Examined::by(&product);
    examined.assert_finds("rule-order", "note", "ip rule 100, fwmark 0x1/0x1");
    examined.assert_nothing_above_note();
}

#[test]
fn a_flowtable_is_told_where_the_kernel_has_them() {
    let gateway = Gateway::new();
    let product = gateway.product();
    let table =
        "table inet fast {\n flowtable f { hook ingress priority 0; devices = { lan0, up0 }; }\n}";
    if let Err(refused) = gateway.site.gateway.nft(table) {
        skip(&format_args!("this kernel has no flowtables: {refused:#}"));
        return;
    }
    Examined::by(&product).assert_finds("flow-offload", "note", "flowtable f of inet fast");
}

#[test]
fn without_rights_it_says_what_it_could_not_look_at() {
    let gateway = Gateway::new();
    let nobody = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let product = gateway.product().through(&nobody);
    let examined = Examined::by(&product);
    for (id, words) in [
        ("capabilities", "this process lacks CAP_BPF"),
        ("foreign-tc", "not looked at: lan0, TCX: "),
        ("mark-collision", "not looked at: "),
        ("flow-offload", "not looked at: "),
    ] {
        examined.assert_finds(id, "note", words);
    }
    for finding in &examined.findings {
        let seen = finding["seen"].as_bool().unwrap();
        assert!(seen || finding["severity"] == "note", "{finding:#}");
    }
    let text = String::from_utf8(product.verb(&["doctor", "lan0", "--no-dns"]).stdout).unwrap();
    assert!(text.lines().last().unwrap().starts_with("errors 0, "), "{text}");
    let config = product.config();
    let arguments = ["doctor", "lan0", "--no-dns", "--config", config.to_str().unwrap()];
    let text = String::from_utf8(product.verb(&arguments).stdout).unwrap();
    assert!(text.contains("rp-filter        not looked at: up0 was not asked about"), "{text}");
}

#[test]
fn a_configuration_that_is_refused_is_a_finding() {
    let gateway = Gateway::new();
    let product = gateway.product();
    product.configure("version = 1\nnonsense = 1\n");
    Examined::by(&product).assert_finds("configuration", "error", "config.toml:2");
}
