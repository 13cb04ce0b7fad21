//! The uplink fails, family by family, and comes back: nothing new goes direct meanwhile, direct flows
//! are reset at once, others are left alone, and after it only new flows go direct. Needs root.

use std::io::Read as _;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use serde_json::Value;

use crate::support::network::{
    DIRECT, EGRESS, Flow, INSPECTED, Network, UPLINK, config, default_routes, join,
};
use crate::support::product::{Daemon, Product};
use crate::support::{SOON, wait_until};

/// Probed five times a second, at an address beyond the next hop of each family.
const HEALTH: &str = "[egress.health]\nprobes = [\"40.96.0.1:443\", \"[2603:1006::1]:443\"]\n\
                      interval = \"200ms\"\ntimeout = \"200ms\"\nfall = 3\nrise = 4\n";
/// As [`EGRESS`], with next hops that are learned.
const LEARNED: &str = "[egress]\ninterface = \"up0\"\ngateway4 = \"auto\"\ngateway6 = \"auto\"\n";

fn start<'a>(network: &'a Network, egress: &str) -> (Product<'a>, Daemon) {
    let product = network.product();
    product.configure(&config(egress));
    let daemon = product.start();
    (product, daemon)
}

/// What is told of each family: state, and reason.
fn told(product: &Product<'_>) -> Vec<(String, Option<String>)> {
    let families = product.status()["daemon"]["egress"]["families"].clone();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let families = families.as_array().unwrap().iter();
    families.map(|it| (text(&it["state"]).unwrap(), text(&it["reason"]))).collect()
}

fn wait_for(product: &Product<'_>, state: &str, reason: Option<&str>) {
    let wanted = vec![(state.to_owned(), reason.map(str::to_owned)); 2];
    wait_until(&format!("both families are {state} {reason:?}"), || told(product) == wanted);
}

/// One direct flow of each family, one that is inspected beside it, and all of them work.
struct Flows {
    direct: [Flow; 2],
    inspected: [Flow; 2],
}

impl Flows {
    fn open(network: &Network) -> Self {
        let mut flows = Self {
            direct: DIRECT.map(|to| network.flow(to).unwrap()),
            inspected: INSPECTED.map(|to| network.flow(to).unwrap()),
        };
        assert_eq!(flows.direct.each_mut().map(Flow::ask), ["direct"; 2]);
        flows.assert_inspected_ones_live();
        flows
    }

    fn assert_inspected_ones_live(&mut self) {
        assert_eq!(self.inspected.each_mut().map(Flow::ask), ["inspector"; 2]);
    }

    /// That a client which has something to say hears at once that its direct flow is no more.
    fn assert_direct_ones_are_reset(&mut self) {
        for flow in &mut self.direct {
            let begin = Instant::now();
            let answer = flow.ask_or_error();
            assert!(answer.contains("reset"), "{answer}");
            assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        }
    }
}

/// Takes the uplink down and up by what `fail` and `mend` do, and looks at everything on the way.
fn goes_and_comes(
    network: &Network,
    product: &Product<'_>,
    reason: &str,
    fail: &dyn Fn(),
    mend: &dyn Fn(),
) {
    wait_for(product, "up", None);
    let mut flows = Flows::open(network);
    let mut datagrams = DIRECT.map(|to| network.datagrams(to));
    assert_eq!(datagrams.each_mut().map(Flow::ask), ["direct"; 2]);
    let ended =
        || product.status()["daemon"]["egress"]["flows_ended"]["uplink_down"].as_u64().unwrap_or(0);
    let before = ended();
    fail();
    wait_for(product, "down", Some(reason));
    wait_until("their entries are removed", || ended() >= before + 4);
    assert_eq!(datagrams.each_mut().map(Flow::ask), ["inspector"; 2]);
    network.assert_all_is_inspected();
    flows.assert_direct_ones_are_reset();
    flows.assert_inspected_ones_live();
    let mut meanwhile = DIRECT.map(|to| network.flow(to).unwrap());
    assert_eq!(meanwhile.each_mut().map(Flow::ask), ["inspector"; 2]);
    mend();
    wait_for(product, "up", None);
    network.assert_it_parts();
    flows.assert_inspected_ones_live();
    for flow in meanwhile.iter_mut().chain(&mut datagrams) {
        assert_eq!(flow.ask(), "inspector", "only new flows");
    }
}

/// Gives the uplink its carrier back.
fn plug_in(network: &Network) {
    network.direct.run("ip link set in0 up").unwrap();
    network.direct.run("ip address replace fd36:2::2/64 dev in0 nodad").unwrap();
    network.direct.ip(&default_routes(2, 1).replace("add", "replace")).unwrap();
}

#[test]
fn a_lost_carrier_is_noticed_within_about_a_second_and_only_new_flows_go_direct_after_it() {
    let network = Network::new();
    let (product, daemon) = start(&network, EGRESS);
    let fail = || {
        let begin = Instant::now();
        network.direct.run("ip link set in0 down").unwrap();
        daemon.wait_for_log("is down: no carrier", 2);
        let took = begin.elapsed();
        assert!(took < SOON, "{took:?}");
    };
    goes_and_comes(&network, &product, "no_carrier", &fail, &|| plug_in(&network));
    let families = product.status()["daemon"]["egress"]["families"].clone();
    assert_eq!(families[0]["transitions"], 2, "{families}");
    let text = product.text(&["status"]);
    assert!(text.contains("\nuplink  IPv4 up since "), "{text}");
    daemon.terminate();
}

#[test]
fn a_carrier_that_flaps_is_held_down_longer_each_time_and_the_journal_has_each_change() {
    let network = Network::new();
    let (product, daemon) = start(&network, EGRESS);
    wait_for(&product, "up", None);
    for (times, seconds) in [(1, 1), (2, 2), (3, 4)] {
        network.direct.run("ip link set in0 down").unwrap();
        wait_for(&product, "down", Some("no_carrier"));
        let begin = Instant::now();
        plug_in(&network);
        daemon.wait_for_log("is up again", 2 * times);
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(seconds), "{took:?} after {times} falls");
        assert!(daemon.log().contains("stays down: it came back a moment ago"), "{}", daemon.log());
        network.assert_it_parts();
    }
    let told = product.json(&["feed", "history"])["entries"].clone();
    let told = told.as_array().unwrap().iter().filter(|entry| entry["trigger"] == "uplink");
    let told: Vec<_> = told.map(|entry| (&entry["outcome"], &entry["summary"])).collect();
    let (down, up) = (Value::from("down"), Value::from("up"));
    for (family, summary) in [("IPv4", "IPv4 by up0"), ("IPv6", "IPv6 by up0")] {
        let of = told.iter().filter(|(_, it)| it.as_str().unwrap().starts_with(family));
        let of: Vec<_> = of.copied().collect();
        let (why, again) = (Value::from(format!("{summary}: no carrier")), Value::from(summary));
        assert_eq!(of, [(&down, &why), (&up, &again)].repeat(3));
    }
    daemon.terminate();
}

#[test]
fn a_lost_carrier_is_noticed_at_once_by_a_daemon_that_is_asked_all_the_time() {
    let network = Network::new();
    let (product, daemon) = start(&network, EGRESS);
    wait_for(&product, "up", None);
    let socket = product.run_dir().join("observe.sock");
    let is_over = AtomicBool::new(false);
    let took = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let mut document = Vec::new();
                UnixStream::connect(&socket).unwrap().read_to_end(&mut document).unwrap();
                thread::sleep(Duration::from_millis(10));
            }
        });
        let begin = Instant::now();
        network.direct.run("ip link set in0 down").unwrap();
        while !daemon.log().contains("is down: no carrier")
            && begin.elapsed() < Duration::from_secs(12)
        {
            thread::sleep(Duration::from_millis(20));
        }
        is_over.store(true, Ordering::Relaxed);
        begin.elapsed()
    });
    assert!(took < SOON, "{took:?}");
    daemon.terminate();
}

#[test]
fn what_is_counted_of_families_goes_on_over_reloads_without_a_way_out() {
    let network = Network::new();
    let (product, daemon) = start(&network, EGRESS);
    network.direct.run("ip link set in0 down").unwrap();
    wait_for(&product, "down", Some("no_carrier"));
    plug_in(&network);
    wait_for(&product, "up", None);
    network.gateway("ip rule del priority 366");
    wait_until("it is put back", || product.status()["daemon"]["egress"]["put_back"] == 1);
    for (egress, times) in [("", 2), (EGRESS, 3)] {
        product.configure(&config(egress));
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_log("published", times);
    }
    wait_for(&product, "up", None);
    let egress = product.status()["daemon"]["egress"].clone();
    assert_eq!(egress["families"][1]["transitions"], 2, "{egress}");
    assert_eq!(egress["put_back"], 1, "{egress}");
    daemon.terminate();
}

#[test]
fn a_rule_of_somebody_else_in_our_place_hides_no_uplink_that_fails() {
    let network = Network::new();
    let (product, daemon) = start(&network, &format!("{EGRESS}{HEALTH}"));
    wait_for(&product, "up", None);
    network.gateway("ip rule add from 192.0.2.0/24 lookup main pref 366");
    daemon.wait_for_log("IPv4 rule priority 366 is taken", 1);
    network.assert_it_parts();
    let mut flows = Flows::open(&network);
    network.direct.run("ip link set in0 down").unwrap();
    wait_for(&product, "down", Some("no_carrier"));
    network.assert_all_is_inspected();
    flows.assert_direct_ones_are_reset();
    network.direct.run("ip link set in0 up").unwrap();
    network.direct.run("ip address replace fd36:2::2/64 dev in0 nodad").unwrap();
    network.direct.ip(&default_routes(2, 1).replace("add", "replace")).unwrap();
    wait_for(&product, "up", None);
    network.assert_it_parts();
    let far = "table inet far {
        chain input {
            type filter hook input priority raw;
            tcp dport 443 drop
        }
    }";
    network.direct.nft(far).unwrap();
    wait_for(&product, "down", Some("probes_failed"));
    network.assert_all_is_inspected();
    network.gateway("ip rule del from 192.0.2.0/24 lookup main pref 366");
    daemon.wait_for_log("is in place again", 1);
    daemon.terminate();
}

/// The kernel takes the routes of a link that is set down, also where that is in the middle of a look.
#[test]
fn what_goes_with_the_uplink_is_neither_called_removed_nor_put_back() {
    let network = Network::new();
    // In the look that is about to put its routes back.
    let script = "if test -e now && ! ip route show table 365 | grep -q default; then
        rm now
        ip link set up0 down
    fi";
    let product = network.product().with_nft(script);
    let daemon = product.start();
    wait_for(&product, "up", None);
    std::fs::write(product.file("now"), "").unwrap();
    network.gateway("ip route flush table 365");
    wait_for(&product, "down", Some("set_down"));
    network.assert_all_is_inspected();
    let log = daemon.log();
    assert_eq!(log.matches("is down: the interface is set down").count(), 2, "{log}");
    assert!(!log.contains("put back") && !log.contains("not in place"), "{log}");
    daemon.terminate();
}

#[test]
fn a_fall_that_is_over_before_the_look_at_it_ends_is_one_all_the_same() {
    let network = Network::new();
    // In the look that closes IPv4 for it.
    let script = "case \"$text\" in
        *'meta nfproto ipv4 ct mark & 0x03000000 == 0x03000000 goto lost'*)
            if test -e now; then
                rm now
                ip link set up0 up
                ip address replace fd36:2::1/64 dev up0 nodad
            fi
            ;;
    esac";
    let product = network.product().with_nft(script);
    let daemon = product.start();
    wait_for(&product, "up", None);
    let mut flows = Flows::open(&network);
    std::fs::write(product.file("now"), "").unwrap();
    network.gateway("ip link set up0 down");
    daemon.wait_for_log("is down: the interface is set down", 2);
    daemon.wait_for_log("direct flows are ended, their uplink is down", 1);
    flows.assert_direct_ones_are_reset();
    wait_for(&product, "up", None);
    network.assert_it_parts();
    flows.assert_inspected_ones_live();
    daemon.terminate();
}

/// Where `nft` fails nothing can be closed, and what is marked would be lost.
#[test]
fn an_uplink_that_fails_while_nft_does_has_everything_inspected_until_it_can_be_closed() {
    for deadline in ["1h", "0s"] {
        let network = Network::new();
        let product = network.product().with_nft("if test -e broken; then echo no >&2; exit 1; fi");
        product.configure(&format!("deadline = {deadline:?}\n{}", config(EGRESS)));
        let daemon = product.start();
        wait_for(&product, "up", None);
        let mut flows = Flows::open(&network);
        std::fs::write(product.file("broken"), "").unwrap();
        network.direct.run("ip link set in0 down").unwrap();
        wait_for(&product, "down", Some("no_carrier"));
        network.assert_all_is_inspected();
        flows.assert_inspected_ones_live();
        let told = product.status();
        assert_eq!(told["switches"]["inspecting"], "daemon_gone", "{told}");
        let text = product.text(&["status"]);
        let said = "failed: no; nothing goes direct until a family that is down is closed";
        assert!(text.contains(said), "{text}");
        // A generation that is published meanwhile changes nothing.
        product.json(&["reload"]);
        network.assert_all_is_inspected();
        std::fs::remove_file(product.file("broken")).unwrap();
        daemon.wait_for_log("is in place again", 1);
        wait_until("what is up may go direct", || {
            product.status()["switches"]["inspecting"].is_null()
        });
        network.assert_all_is_inspected();
        flows.assert_direct_ones_are_reset();
        plug_in(&network);
        wait_for(&product, "up", None);
        network.assert_it_parts();
        flows.assert_inspected_ones_live();
        assert!(!daemon.log().contains("no daemon gave a sign of life"), "{}", daemon.log());
        daemon.terminate();
    }
}

#[test]
fn a_daemon_that_stops_while_a_family_that_is_down_cannot_be_closed_leaves_everything_inspected() {
    let network = Network::new();
    let product = network.product().with_nft("if test -e broken; then echo no >&2; exit 1; fi");
    let daemon = product.start();
    wait_for(&product, "up", None);
    std::fs::write(product.file("broken"), "").unwrap();
    network.direct.run("ip link set in0 down").unwrap();
    wait_for(&product, "down", Some("no_carrier"));
    daemon.terminate();
    let log = std::fs::read_to_string(product.file("log")).unwrap();
    assert!(log.contains("stopped; everything is inspected, the way out is not as"), "{log}");
    network.assert_all_is_inspected();
    plug_in(&network);
    network.assert_all_is_inspected();
    std::fs::remove_file(product.file("broken")).unwrap();
    let daemon = product.start();
    wait_for(&product, "up", None);
    network.assert_it_parts();
    daemon.terminate();
}

/// The change that failed has an uplink of one family alone; what served before has two.
#[test]
fn what_is_gone_back_to_is_looked_after_though_it_could_not_be_put_in_place() {
    let network = Network::new();
    let script = "case \"$text\" in
        '' | *maxseg*) ;;
        *) if test -e broken; then echo no >&2; exit 1; fi ;;
    esac";
    let product = network.product().with_nft(script);
    product.configure(&config(&format!("{EGRESS}{HEALTH}")));
    let daemon = product.start();
    wait_for(&product, "up", None);
    let mut flows = Flows::open(&network);
    let unlock = network.lock_publication();
    std::fs::write(product.file("broken"), "").unwrap();
    let of_one = EGRESS.replace("gateway6 = \"fd36:2::2\"", "clamp-mss = true");
    product.configure(&config(&of_one));
    let refused = product.verb(&["reload"]);
    assert!(!refused.status.success());
    daemon.wait_for_log("going back to the way out before failed too", 1);
    network.assert_all_is_inspected();
    unlock();
    std::fs::remove_file(product.file("broken")).unwrap();
    wait_for(&product, "up", None);
    network.assert_it_parts();
    flows.assert_inspected_ones_live();
    let far = "table inet far {
        chain input {
            type filter hook input priority raw;
            meta nfproto ipv6 tcp dport 443 drop
        }
    }";
    network.direct.nft(far).unwrap();
    let down = vec![("up".to_owned(), None), ("down".to_owned(), Some("probes_failed".to_owned()))];
    wait_until("IPv6 is down", || told(&product) == down);
    daemon.terminate();
}

#[test]
fn a_next_hop_that_is_gone_is_noticed_and_its_return_too() {
    let network = Network::new();
    let (product, daemon) = start(&network, EGRESS);
    let up = || wait_for(&product, "up", None);
    up();
    network.direct.run("ip link set in0 arp off").unwrap();
    network.direct.ip("address del fd36:2::2/64 dev in0").unwrap();
    // As when its entry has grown old; the daemon asks by itself.
    network.gateway("ip neighbour flush dev up0");
    wait_for(&product, "down", Some("next_hop_failed"));
    network.assert_all_is_inspected();
    network.direct.run("ip link set in0 arp on").unwrap();
    network.direct.ip("address add fd36:2::2/64 dev in0 nodad").unwrap();
    network.direct.ip("route replace default via fd36:2::1").unwrap();
    up();
    network.assert_it_parts();
    daemon.terminate();
}

#[test]
fn silence_beyond_the_next_hop_is_noticed_by_probes_that_take_the_way_of_direct_traffic() {
    let network = Network::new();
    let (product, daemon) = start(&network, &format!("{EGRESS}{HEALTH}"));
    wait_for(&product, "up", None);
    wait_until("round trips are measured", || {
        let families = product.status()["daemon"]["egress"]["families"].clone();
        let families = families.as_array().unwrap().clone();
        families.iter().all(|family| {
            family["probe_rtt_seconds"].as_f64().is_some_and(|rtt| rtt > 0.0 && rtt < 0.2)
        })
    });
    // Only what comes by the uplink, from the uplink's own address, is answered.
    network
        .direct
        .nft(
            "table inet count {
                chain input {
                    type filter hook input priority filter;
                    ip saddr 10.36.2.1 ip daddr 40.96.0.1 tcp dport 443 counter name four
                    ip6 saddr fd36:2::1 ip6 daddr 2603:1006::1 tcp dport 443 counter name six
                }
                counter four { }
                counter six { }
            }",
        )
        .unwrap();
    wait_until("probes come by the uplink", || {
        let counters = network.direct.run("nft list counters").unwrap();
        counters.matches("packets 0 ").count() == 0
    });
    let far = "table inet far {
        chain input {
            type filter hook input priority raw;
            tcp dport 443 drop
        }
    }";
    let fail = || network.direct.nft(far).unwrap();
    let mend = || drop(network.direct.run("nft delete table inet far").unwrap());
    goes_and_comes(&network, &product, "probes_failed", &fail, &mend);
    daemon.terminate();
}

#[test]
fn what_probes_have_found_down_stays_down_over_a_restart() {
    let network = Network::new();
    let (product, daemon) = start(&network, &format!("{EGRESS}{HEALTH}"));
    wait_for(&product, "up", None);
    let far = "table inet far {
        chain input {
            type filter hook input priority raw;
            tcp dport 443 drop
        }
    }";
    network.direct.nft(far).unwrap();
    wait_for(&product, "down", Some("probes_failed"));
    daemon.end(Signal::SIGKILL);
    // Rounds that are far apart: what is known of the uplink at first is what was left.
    let slow = HEALTH.replace("interval = \"200ms\"", "interval = \"1s\"");
    product.configure(&config(&format!("{EGRESS}{slow}")));
    let daemon = product.start();
    network.assert_all_is_inspected();
    assert_eq!(told(&product)[0], ("down".to_owned(), Some("probes_failed".to_owned())));
    network.direct.run("nft delete table inet far").unwrap();
    wait_for(&product, "up", None);
    network.assert_it_parts();
    daemon.terminate();
}

#[test]
fn one_lost_round_changes_nothing_and_one_answered_round_neither() {
    let network = Network::new();
    let (product, daemon) = start(&network, &format!("{EGRESS}{HEALTH}"));
    wait_for(&product, "up", None);
    let rounds =
        |key: &str| product.status()["daemon"]["egress"]["families"][0][key].as_u64().unwrap();
    let far = "table ip far {
        chain input {
            type filter hook input priority raw;
            tcp dport 443 drop
        }
    }";
    let before = rounds("probes_failed");
    network.direct.nft(far).unwrap();
    wait_until("a round is lost", || rounds("probes_failed") > before);
    network.direct.run("nft delete table ip far").unwrap();
    thread::sleep(Duration::from_secs(1));
    // On a machine too busy to look in time three may have been lost, and then it is down by right.
    let is_by_right = rounds("probes_failed") >= before + 3;
    assert!(is_by_right || rounds("transitions") == 0, "by less than three rounds");
    wait_until("IPv4 is up", || told(&product)[0].0 == "up");
    network.direct.nft(far).unwrap();
    let family4 = || told(&product)[0].clone();
    wait_until("IPv4 is down", || family4().1.as_deref() == Some("probes_failed"));
    assert_eq!(told(&product)[1].0, "up", "IPv6 is a family of its own");
    assert_eq!(network.way(DIRECT[0]), "inspector");
    assert_eq!(network.way(DIRECT[1]), "direct");
    let before = rounds("probes_answered");
    network.direct.run("nft delete table ip far").unwrap();
    wait_until("IPv4 is up", || family4().0 == "up");
    assert!(rounds("probes_answered") >= before + 4, "by four rounds");
    daemon.terminate();
}

#[test]
fn a_client_that_only_waits_for_data_is_reset_at_once_too() {
    let network = Network::new();
    let (product, daemon) = start(&network, &format!("{EGRESS}masquerade = true\n"));
    wait_for(&product, "up", None);
    let mut flows = Flows::open(&network);
    network.direct.run("ip link set in0 down").unwrap();
    for flow in &mut flows.direct {
        let heard = flow.wait();
        assert!(heard.contains("reset"), "{heard}");
    }
    flows.assert_inspected_ones_live();
    daemon.terminate();
}

#[test]
fn flows_that_were_ended_are_not_forgotten_when_the_other_family_fails_too() {
    let network = Network::new();
    let (product, daemon) = start(&network, &format!("{EGRESS}{HEALTH}"));
    wait_for(&product, "up", None);
    let mut flow = network.flow(DIRECT[0]).unwrap();
    assert_eq!(flow.ask(), "direct");
    // So that it is not made to speak.
    let deaf = "table inet deaf {
        chain input {
            type filter hook input priority raw;
            tcp sport 443 drop
        }
    }";
    network.site.client.nft(deaf).unwrap();
    let middle = "table inet middle {
        chain input {
            type filter hook input priority raw;
            tcp dport 443 tcp flags & (syn | rst) == 0x0 counter name middle
        }
        counter middle { }
    }";
    network.inspector.nft(middle).unwrap();
    for (family, at) in [("ip", 0), ("ip6", 1)] {
        let far = format!(
            "table {family} far {{
                chain input {{
                    type filter hook input priority raw;
                    tcp dport 443 drop
                }}
            }}"
        );
        network.direct.nft(&far).unwrap();
        wait_until("the family is down", || told(&product)[at].0 == "down");
    }
    network.site.client.run("nft delete table inet deaf").unwrap();
    let answer = flow.ask_or_error();
    assert!(answer.contains("reset"), "{answer}");
    let seen = network.inspector.run("nft list counters").unwrap();
    assert!(seen.contains("packets 0 "), "an inspector saw the middle of a flow: {seen}");
    daemon.terminate();
}

#[test]
fn a_proxys_own_segments_in_a_servers_name_stay_tracked() {
    let network = Network::new();
    let (product, daemon) = start(&network, EGRESS);
    wait_for(&product, "up", None);
    let count = "table inet count {
        chain output {
            type filter hook output priority filter;
            ip saddr 40.96.0.9 tcp sport 4443 ct state untracked counter name untracked
            ip saddr 40.96.0.9 tcp sport 4443 ct state new counter name tracked
        }
        counter untracked { }
        counter tracked { }
    }";
    network.site.gateway.nft(count).unwrap();
    // A transparent proxy whose sockets have taken over the connection mark of an inspected flow.
    let speak = || {
        let socket =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
        setsockopt(&socket, sockopt::IpTransparent, &true).unwrap();
        setsockopt(&socket, sockopt::Mark, &0x0200_0000).unwrap();
        let (from, to) = ("40.96.0.9:4443", "10.36.1.2:9");
        let name = |address: &str| SockaddrStorage::from(address.parse::<SocketAddr>().unwrap());
        bind(socket.as_raw_fd(), &name(from)).unwrap();
        assert!(connect(socket.as_raw_fd(), &name(to)).is_err(), "it goes on by itself");
    };
    network.site.gateway.enter(speak).unwrap();
    let seen = network.gateway("nft list counters");
    let seen = seen.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(seen.contains("counter untracked { packets 0 "), "{seen}");
    assert!(!seen.contains("counter tracked { packets 0 "), "{seen}");
    daemon.terminate();
}

#[test]
fn block_refuses_new_direct_flows_while_the_uplink_is_down_and_nothing_else() {
    let network = Network::new();
    let egress = EGRESS.replace("gateway4", "on-failure = \"block\"\ngateway4");
    let (product, daemon) = start(&network, &egress);
    wait_for(&product, "up", None);
    let mut flows = Flows::open(&network);
    network.direct.run("ip link set in0 down").unwrap();
    wait_for(&product, "down", Some("no_carrier"));
    flows.assert_direct_ones_are_reset();
    for to in DIRECT {
        // A segment that is lost is sent again after a second. So may a busy machine take that long, once.
        let is_refused = (0..3).any(|_| {
            let begin = Instant::now();
            assert!(network.flow(to).is_none(), "{to}");
            begin.elapsed() < Duration::from_secs(1)
        });
        assert!(is_refused, "refused, not lost: {to}");
        let answer = network.datagrams(to).answer();
        let is_refused = answer.starts_with("nobody (") && !answer.contains("temporarily");
        assert!(is_refused, "an error of ICMP, no silence: {answer}");
    }
    for to in INSPECTED {
        assert_eq!(network.way(to), "inspector");
    }
    flows.assert_inspected_ones_live();
    assert!(product.text(&["status"]).contains("new flows are refused"));
    daemon.terminate();
}

#[test]
fn a_start_with_an_uplink_that_is_down_inspects_and_comes_up_by_itself() {
    let set_down = &["ip link set up0 down"][..];
    let missing = &["ip link delete up0"][..];
    let no_address =
        &["ip address del 10.36.2.1/24 dev up0", "ip address del fd36:2::1/64 dev up0"][..];
    for fail in [set_down, missing, no_address] {
        let network = Network::new();
        for command in fail {
            network.gateway(command);
        }
        let (product, daemon) = start(&network, EGRESS);
        wait_until("both families are down", || told(&product).iter().all(|it| it.0 == "down"));
        network.assert_all_is_inspected();
        if fail == missing {
            join((&network.site.gateway, UPLINK), (&network.direct, "in0"), 2);
            network.direct.ip(&default_routes(2, 1)).unwrap();
        } else {
            network.gateway("ip link set up0 up");
            network.gateway("ip address replace 10.36.2.1/24 dev up0");
            network.gateway("ip address replace fd36:2::1/64 dev up0 nodad");
        }
        wait_for(&product, "up", None);
        network.assert_it_parts();
        daemon.terminate();
    }
}

#[test]
fn a_next_hop_that_is_learned_follows_the_default_route_on_the_uplink_and_no_other() {
    let network = Network::new();
    let (product, daemon) = start(&network, LEARNED);
    // The one there is leads to the inspector.
    wait_for(&product, "down", Some("no_next_hop"));
    network.assert_all_is_inspected();
    // As a DHCP client and the kernel for a router advertisement put them, in whatever table.
    network.gateway("ip route add default via 10.36.2.2 dev up0 proto dhcp metric 1024");
    network.gateway("ip -6 route add default via fd36:2::2 dev up0 proto ra table 77");
    wait_for(&product, "up", None);
    network.assert_it_parts();
    let hops = || {
        let egress = product.status()["daemon"]["egress"].clone();
        (egress["gateway4"].clone(), egress["gateway6"].clone())
    };
    assert_eq!(hops(), ("10.36.2.2".into(), "fd36:2::2".into()));
    // Another lease, another gateway.
    network.direct.run("ip address add 10.36.2.3/24 dev in0").unwrap();
    network.gateway("ip route replace default via 10.36.2.3 dev up0 proto dhcp metric 1024");
    wait_until("it is followed", || hops().0 == "10.36.2.3");
    wait_until("the kernel has it", || {
        network.gateway("ip route show table 365").contains("via 10.36.2.3 ")
    });
    network.assert_it_parts();
    network.gateway("ip route del default via 10.36.2.3 dev up0 metric 1024");
    wait_until("IPv4 is down", || told(&product)[0].1.as_deref() == Some("no_next_hop"));
    assert_eq!(network.way(DIRECT[0]), "inspector");
    assert_eq!(network.way(DIRECT[1]), "direct");
    daemon.terminate();
}

#[test]
fn three_capabilities_are_enough_for_probes_and_for_ending_flows() {
    let all_but_three = ["--bounding-set", "-all,+bpf,+net_admin,+perfmon", "--inh-caps", "-all"];
    let wrapper: Vec<_> = ["setpriv"].into_iter().chain(all_but_three).collect();
    let network = Network::new();
    let product = network.product().through(&wrapper);
    product.configure(&config(&format!("{EGRESS}{HEALTH}")));
    let daemon = product.start();
    let fail = || drop(network.direct.run("ip link set in0 down").unwrap());
    let mend = || {
        network.direct.run("ip link set in0 up").unwrap();
        network.direct.run("ip address replace fd36:2::2/64 dev in0 nodad").unwrap();
        network.direct.ip(&default_routes(2, 1).replace("add", "replace")).unwrap();
    };
    wait_for(&product, "up", None);
    let mut waiting = DIRECT.map(|to| network.flow(to).unwrap());
    assert_eq!(waiting.each_mut().map(Flow::ask), ["direct"; 2]);
    goes_and_comes(&network, &product, "no_carrier", &fail, &mend);
    for flow in &mut waiting {
        let heard = flow.wait();
        assert!(heard.contains("reset"), "{heard}");
    }
    daemon.terminate();
}
