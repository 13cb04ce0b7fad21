//! Another `[mark]`: no flow that is inspected becomes direct by it, none that is direct is handed to an
//! inspector in its middle, and nothing leaves by the main table with a mark. Needs root.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gateway_user::exit::Exit;

use crate::support::network::{DIRECT, EGRESS, Flow, INSPECTED, Network, config, counted};
use crate::support::{PATIENCE, wait_until};

/// Other bits than the default's, both of them.
const OTHER: &str = "[mark]\nvalue = 0x04000000\nmask = 0x04000000\ndecided = 0x08000000\n";
/// The default's bits, the other way round.
const SWAPPED: &str = "[mark]\nvalue = 0x02000000\nmask = 0x02000000\ndecided = 0x01000000\n";
/// Counts in the gateway what leaves by the main table although it is marked as by default.
const LEAKS: &str = "table inet leaks {
    counter leaked { }
    counter passed { }
    chain forward {
        type filter hook forward priority filter;
        iifname lan0 oifname insp0 counter name passed
        iifname lan0 oifname insp0 meta mark & 0x01000000 != 0 counter name leaked
    }
}";

#[test]
fn live_direct_flows_are_reset_and_new_ones_are_direct_by_the_other_mark() {
    for restart in [false, true] {
        let network = Network::new();
        network.count_middles();
        network.site.gateway.nft(LEAKS).unwrap();
        let product = network.product();
        let daemon = product.start();
        // So many that one after the other speaks while the daemon goes from the old words to the new.
        let mut direct: Vec<Flow> =
            DIRECT.repeat(25).into_iter().map(|to| network.flow(to).unwrap()).collect();
        let mut inspected = INSPECTED.map(|to| network.flow(to).unwrap());
        assert!(direct.iter_mut().all(|flow| flow.ask() == "direct"));
        assert_eq!(inspected.each_mut().map(Flow::ask), ["inspector"; 2]);
        product.configure(&config(&format!("{EGRESS}{OTHER}")));
        let is_over = AtomicBool::new(false);
        let daemon = thread::scope(|scope| {
            // New flows all the time, half of them to where the policy lets them go direct.
            scope.spawn(|| {
                let begin = Instant::now();
                // Ports that no later flow has: it would go on as one that was inspected.
                for port in 10_000..20_000 {
                    if is_over.load(Ordering::Relaxed) || begin.elapsed() > PATIENCE {
                        break;
                    }
                    for (to, port) in [("40.96.0.1:443", port), ("40.96.0.1:444", port + 10_000)] {
                        let from = (Ipv4Addr::UNSPECIFIED, port);
                        let send = || UdpSocket::bind(from).unwrap().send_to(b".", to);
                        network.site.client.enter(send).unwrap().ok();
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let daemon = if restart {
                daemon.terminate();
                product.start()
            } else {
                product.json(&["reload"]);
                daemon
            };
            is_over.store(true, Ordering::Relaxed);
            daemon
        });
        for flow in &mut direct {
            let answer = flow.ask_or_error();
            assert!(answer.contains("reset"), "{restart}: {answer}");
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(inspected.each_mut().map(Flow::ask), ["inspector"; 2]);
        network.assert_it_parts();
        let leaks = network.gateway("nft list counters table inet leaks");
        assert!(counted(&leaks, "passed") > 10, "{leaks}");
        assert_eq!(counted(&leaks, "leaked"), 0, "{restart}: {leaks}");
        network.assert_no_middles(&format!("{restart}"));
        assert!(network.gateway("nft list table inet breakout365").contains("0x04000000"));
        assert!(!network.gateway("nft list table inet breakout365").contains("0x01000000"));
        daemon.terminate();
    }
}

#[test]
fn bits_that_would_make_inspected_flows_look_direct_are_refused_by_name() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    let mut inspected = network.flow(INSPECTED[0]).unwrap();
    assert_eq!(inspected.ask(), "inspector");
    product.configure(&config(&format!("{EGRESS}{SWAPPED}")));
    let words = ["[mark]", "0x3000000", "choose other bits"];
    product.assert_refused(&["reload"], Exit::Egress as i32, &words);
    network.assert_it_parts();
    daemon.terminate();
    product.assert_refused(&["run"], Exit::Egress as i32, &words);
    assert_eq!(inspected.ask(), "inspector");
    network.assert_it_parts();
}

/// Where nobody knows what served before: inspected flows have a bit that says direct now.
#[test]
fn an_inspected_flow_stays_inspected_whatever_its_bits_mean_now() {
    let network = Network::new();
    let product = network.product();
    product.start().terminate();
    let mut inspected = INSPECTED.map(|to| network.flow(to).unwrap());
    let mut datagrams = network.datagrams("40.96.0.1:443");
    assert_eq!(inspected.each_mut().map(Flow::ask), ["inspector"; 2]);
    assert_eq!(datagrams.ask(), "direct");
    std::fs::remove_dir_all(product.state_dir()).unwrap();
    product.configure(&config(&format!("{EGRESS}{SWAPPED}")));
    let daemon = product.start();
    assert_eq!(inspected.each_mut().map(Flow::ask), ["inspector"; 2], "{}", network.sight());
    network.assert_it_parts();
    daemon.terminate();
}

#[test]
fn who_else_uses_the_other_bits_is_said_when_they_are_taken() {
    let network = Network::new();
    let others = "table inet others {
        chain unused {
            meta mark set meta mark | 0x04000000
        }
    }";
    network.site.gateway.nft(others).unwrap();
    let product = network.product();
    let daemon = product.start();
    product.configure(&config(&format!("{EGRESS}{OTHER}")));
    product.json(&["reload"]);
    let said = "writes our bits of the packet mark (0x4000000)";
    daemon.wait_for_log(said, 1);
    product.json(&["reload"]);
    wait_until("it has served again", || product.status()["generation"] == 3);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(daemon.log().matches(said).count(), 1, "once: {}", daemon.log());
    daemon.terminate();
}
