//! The way out: direct traffic leaves by the uplink, everything else by the main table, flows keep
//! their way, and what is not ours stays as it is. Needs root.

use std::thread;
use std::time::{Duration, Instant};

use gateway_user::exit::Exit;
use nix::sys::signal::Signal;

use crate::support::network::{
    DIRECT, EGRESS, Flow, INSPECTED, Network, UPLINK, config, default_routes, join,
};
use crate::support::{SOON, wait_until};

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
            assert_eq!(flow.ask(), way, "{}", network.sight());
        }
        flows
    };
    let assert_they_keep = |flows: &mut Vec<Flow>, way: &str, after: &str| {
        for (number, flow) in flows.iter_mut().enumerate() {
            assert_eq!(flow.ask(), way, "flow {number} after {after}: {}", network.sight());
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
        let begin = Instant::now();
        network.gateway(command);
        daemon.wait_for_log("put back", times);
        assert!(begin.elapsed() < SOON, "{command}: {:?}", begin.elapsed());
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
    daemon.wait_for_log("is down: the interface is set down", 2);
    network.assert_all_is_inspected();
    let mut meanwhile = DIRECT.map(|to| network.flow(to).unwrap());
    assert_eq!(meanwhile.each_mut().map(Flow::ask), ["inspector"; 2]);
    // What comes meanwhile is published all the same.
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("published", 2);
    let families = &product.status()["daemon"]["egress"]["families"];
    assert_eq!(
        (&families[0]["reason"], &families[1]["reason"]),
        (&"set_down".into(), &"set_down".into())
    );
    network.gateway("ip link set up0 up");
    network.gateway("ip address replace fd36:2::1/64 dev up0 nodad");
    daemon.wait_for_log("is up again", 2);
    wait_until("direct again", || DIRECT.iter().all(|to| network.way(to) == "direct"));
    assert_eq!(meanwhile.each_mut().map(Flow::ask), ["inspector"; 2], "only new flows");
    // And one that is made anew, which has another index.
    network.gateway("ip link delete up0");
    daemon.wait_for_log("down: the interface is not there", 2);
    network.assert_all_is_inspected();
    join((&network.site.gateway, UPLINK), (&network.direct, "in0"), 2);
    network.direct.ip(&default_routes(2, 1)).unwrap();
    daemon.wait_for_log("is up again", 4);
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
    // One that comes anew has settings of its own.
    network.gateway("ip link delete up0");
    daemon.wait_for_log("down: the interface is not there", 2);
    network.site.gateway.sysctl("net/ipv4/conf/default/rp_filter", "1").unwrap();
    join((&network.site.gateway, UPLINK), (&network.direct, "in0"), 2);
    daemon.wait_for_log(advice, 1);
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

#[test]
fn another_uplink_ends_the_direct_flows_of_the_one_before() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    let mut direct = network.flow(DIRECT[0]).unwrap();
    let mut inspected = network.flow(INSPECTED[0]).unwrap();
    assert_eq!((direct.ask(), inspected.ask()), ("direct".into(), "inspector".into()));
    network.count_middles();
    product.configure(&config("[egress]\ninterface = \"insp0\"\ngateway4 = \"10.36.3.2\"\n"));
    product.json(&["reload"]);
    let answer = direct.ask_or_error();
    assert!(answer.contains("reset"), "{answer}");
    network.assert_no_middles("another uplink");
    assert_eq!(inspected.ask(), "inspector");
    daemon.terminate();
}

#[test]
fn a_trial_of_another_uplink_is_gone_back_from_though_the_one_before_has_gone() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    network.assert_it_parts();
    let other = "[egress]\ninterface = \"insp0\"\ngateway4 = \"10.36.3.2\"\n";
    product.configure(&config(other));
    product.json(&["apply", "--confirm-within", "5s"]);
    network.gateway("ip link delete up0");
    daemon.wait_for_log("nobody confirmed: going back", 1);
    wait_until("what was before serves", || {
        let told = product.status();
        told["daemon"]["egress"]["interface"] == UPLINK && told["daemon"]["confirm_until"].is_null()
    });
    network.assert_all_is_inspected();
    join((&network.site.gateway, UPLINK), (&network.direct, "in0"), 2);
    network.direct.ip(&default_routes(2, 1)).unwrap();
    wait_until("it is up", || {
        let families = product.status()["daemon"]["egress"]["families"].clone();
        families.as_array().unwrap().iter().all(|family| family["state"] == "up")
    });
    network.assert_it_parts();
    daemon.terminate();
}
