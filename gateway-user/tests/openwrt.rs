//! Beside the rules that mwan3 and pbr of `OpenWrt` make, direct flows go direct, and all others go as those
//! say. Their rules are built here after their scripts (`net/mwan3/files/lib/mwan3` and `net/pbr/files` of
//! <https://github.com/openwrt/packages>), with their default masks and priorities. Needs root.

use std::collections::BTreeSet;
use std::fs;

use crate::support::network::{BESIDE, DIRECT, EGRESS, INSPECTED, Network, config};
use crate::support::product::Product;

/// What mwan3 loads for two uplinks: `insp0` is its first, `up0` its second. All of its policies lead to
/// the first but for one port. Its ipset of connected networks is written out.
fn mwan3(connected: &str, second: &str) -> String {
    let [restore, save] = ["restore", "save"].map(|what| {
        format!("-A mwan3_hook -j CONNMARK --{what}-mark --nfmask 0x3f00 --ctmask 0x3f00\n")
    });
    // Neighbours have to be found, whatever the policy. There are none of them in IPv4.
    let types = if connected.contains(':') { 133..138 } else { 0..0 };
    let neighbours =
        |number| format!("-A mwan3_hook -p ipv6-icmp -m icmp6 --icmpv6-type {number} -j RETURN\n");
    let neighbours: String = types.map(neighbours).collect();
    let unset = "-m mark --mark 0x0/0x3f00";
    format!(
        "*mangle\n:mwan3_hook - [0:0]\n:mwan3_ifaces_in - [0:0]\n:mwan3_connected - [0:0]\n\
         :mwan3_rules - [0:0]\n:mwan3_policy_first - [0:0]\n:mwan3_policy_second - [0:0]\n\
         -A PREROUTING -j mwan3_hook\n-A OUTPUT -j mwan3_hook\n\
         {neighbours}\
         {restore}\
         -A mwan3_hook {unset} -j mwan3_ifaces_in\n\
         -A mwan3_hook {unset} -j mwan3_connected\n\
         -A mwan3_hook {unset} -j mwan3_rules\n\
         {save}\
         -A mwan3_hook -m mark ! --mark 0x3f00/0x3f00 -j mwan3_connected\n\
         -A mwan3_ifaces_in -i insp0 {unset} -j MARK --set-xmark 0x100/0x3f00\n\
         -A mwan3_ifaces_in -i up0 {unset} -j MARK --set-xmark 0x200/0x3f00\n\
         -A mwan3_connected -d {connected} -j MARK --set-xmark 0x3f00/0x3f00\n\
         -A mwan3_rules -p tcp -d {second} --dport 444 {unset} -j mwan3_policy_second\n\
         -A mwan3_rules {unset} -j mwan3_policy_first\n\
         -A mwan3_policy_first {unset} -j MARK --set-xmark 0x100/0x3f00\n\
         -A mwan3_policy_second {unset} -j MARK --set-xmark 0x200/0x3f00\nCOMMIT\n"
    )
}

fn load_mwan3(network: &Network) {
    for (restore, connected, second) in [
        ("iptables-restore", "10.36.0.0/16", "40.97.0.0/16"),
        ("ip6tables-restore", "fd36::/16", "2603:1007::/32"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), mwan3(connected, second)).unwrap();
        network.gateway(&format!("{restore} --noflush {}", file.path().display()));
    }
    for (family, lan, hops) in [
        ("-4", "10.36.1.0/24", ["10.36.3.2", "10.36.2.2"]),
        ("-6", "fd36:1::/64", ["fd36:3::2", "fd36:2::2"]),
    ] {
        for (id, (interface, hop)) in (1..).zip(["insp0", "up0"].into_iter().zip(hops)) {
            for command in [
                format!("route add {lan} dev lan0 table {id}"),
                format!("route add default via {hop} dev {interface} table {id}"),
                format!("rule add pref {} iif {interface} lookup {id}", 1000 + id),
                format!("rule add pref {} fwmark {:#x}/0x3f00 lookup {id}", 2000 + id, id << 8),
                format!("rule add pref {} fwmark {:#x}/0x3f00 unreachable", 3000 + id, id << 8),
            ] {
                network.gateway(&format!("ip {family} {command}"));
            }
        }
        network.gateway(&format!("ip {family} rule add pref 2061 fwmark 0x3d00/0x3f00 blackhole"));
        network
            .gateway(&format!("ip {family} rule add pref 2062 fwmark 0x3e00/0x3f00 unreachable"));
    }
}

/// What pbr loads into the firewall's table, with a policy that leads everything to the inspector, and
/// its routing rule.
fn load_pbr(network: &Network, priority: u32) {
    let mark = "meta mark set meta mark & 0xff00ffff | 0x00010000";
    let table = format!(
        "table inet fw4 {{\n\
         chain pbr_mark_0x010000 {{\n {mark}\n return\n }}\n\
         chain pbr_prerouting {{\n meta mark & 0x00ff0000 != 0 return\n \
         ip daddr 40.0.0.0/8 goto pbr_mark_0x010000\n ip6 daddr 2603::/16 goto pbr_mark_0x010000\n }}\n\
         chain mangle_prerouting {{\n type filter hook prerouting priority mangle; policy accept;\n \
         jump pbr_prerouting\n }}\n}}\n"
    );
    network.site.gateway.nft(&table).unwrap();
    for (family, hop) in [("-4", "10.36.3.2"), ("-6", "fd36:3::2")] {
        network.gateway(&format!("ip {family} route add default via {hop} dev insp0 table 256"));
        network.gateway(&format!(
            "ip {family} rule add fwmark 0x10000/0xff0000 lookup 256 priority {priority}"
        ));
    }
}

/// What the doctor says of marks and rules: each with how grave it is.
fn findings(product: &Product<'_>) -> BTreeSet<(String, String)> {
    let config = product.config();
    let output = product.verb(&["doctor", "--no-dns", "--config", config.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.lines().map(str::split_whitespace);
    let found = words.filter_map(|mut words| Some((words.next()?, words.next()?)));
    let wanted = found.filter(|(_, check)| ["mark-collision", "rule-order"].contains(check));
    wanted.map(|(severity, check)| (check.to_owned(), severity.to_owned())).collect()
}

fn all_is_well() -> BTreeSet<(String, String)> {
    ["mark-collision", "rule-order"].map(|check| (check.to_owned(), "ok".to_owned())).into()
}

#[test]
fn mwan3_keeps_its_flows_and_we_keep_ours() {
    let network = Network::new();
    load_mwan3(&network);
    let before = network.everything();
    network.assert_all_is_inspected();
    assert_eq!(network.way(BESIDE[1]), "direct", "mwan3's second uplink has this port");
    let product = network.product();
    let daemon = product.start();
    network.assert_it_parts();
    assert_eq!(network.way(BESIDE[1]), "direct", "still mwan3's policy, not ours");
    assert_eq!(findings(&product), all_is_well());

    // mwan3 takes its first uplink out.
    for family in ["-4", "-6"] {
        network.gateway(&format!("ip {family} route flush table 1"));
    }
    assert_eq!(DIRECT.map(|to| network.way(to)), ["direct"; 2], "that is not our uplink");
    assert_eq!(INSPECTED.map(|to| network.way(to)), ["nobody"; 2], "mwan3 says unreachable");
    for (family, lan, hop) in
        [("-4", "10.36.1.0/24", "10.36.3.2"), ("-6", "fd36:1::/64", "fd36:3::2")]
    {
        network.gateway(&format!("ip {family} route add {lan} dev lan0 table 1"));
        network.gateway(&format!("ip {family} route add default via {hop} dev insp0 table 1"));
    }
    daemon.terminate();
    product.text(&["down"]);
    assert_eq!(network.everything(), before, "mwan3's are as they were");
    network.assert_all_is_inspected();
}

#[test]
fn pbr_keeps_its_flows_and_we_keep_ours() {
    for priority in [29_999, 899] {
        let network = Network::new();
        load_pbr(&network, priority);
        let before = network.everything();
        network.assert_all_is_inspected();
        let product = network.product();
        let daemon = product.start();
        network.assert_it_parts();
        assert_eq!(findings(&product), all_is_well());
        daemon.terminate();
        product.text(&["down"]);
        assert_eq!(network.everything(), before, "pbr's are as they were");
    }
}

/// The order of rules is what decides.
#[test]
fn behind_their_rules_ours_lose_and_the_doctor_says_so() {
    let network = Network::new();
    load_mwan3(&network);
    let product = network.product();
    product.configure(&config(&format!("{EGRESS}priority = 31000\n")));
    let daemon = product.start();
    network.assert_all_is_inspected();
    let found = findings(&product);
    // Whether packets have the bits that such a rule asks for, rules do not say.
    assert!(found.contains(&("rule-order".to_owned(), "note".to_owned())), "{found:?}");
    daemon.terminate();
}
