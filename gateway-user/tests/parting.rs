//! A way out that is left: no direct flow of it is handed to an inspector in its middle, or hangs. Needs
//! root.

use std::time::Duration;
use std::{fs, thread};

use gateway_user::exit::Exit;
use tokio::net::TcpSocket;
use tokio::runtime::Builder;
use xtask::testbed::Namespace;

use crate::support::network::{
    self, DIRECT, EGRESS, Flow, INSPECTED, Network, config, datagrams, flow, join,
};
use crate::support::product::{Daemon, Product};
use crate::support::{PATIENCE, wait_until};

/// A second inside interface.
const LAN1: &str = "[[interface]]\nname = \"lan1\"\n";
/// As [`EGRESS`], by the other interface.
const OTHER_UPLINK: &str = "[egress]\ninterface = \"insp0\"\ngateway4 = \"10.36.3.2\"\n";

/// A client behind the second inside interface.
fn second_client(network: &Network) -> Namespace {
    let client = Namespace::new("second").unwrap();
    join((&network.site.gateway, "lan1"), (&client, "eth0"), 4);
    client.ip(&network::default_routes(4, 1)).unwrap();
    client
}

/// Has another configuration taken by a reload, or by a restart.
fn change(product: &Product<'_>, daemon: Daemon, text: &str, restart: bool) -> Daemon {
    product.configure(text);
    if restart {
        daemon.terminate();
        return product.start();
    }
    product.json(&["reload"]);
    daemon
}

/// A new flow from the port of one that is over.
fn once_more(client: &Namespace, over: Flow, to: &str) -> Flow {
    let Flow::Tcp(stream) = over else { panic!("no TCP") };
    let from = stream.local_addr().unwrap();
    drop(stream);
    let connect = async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(from).unwrap();
        socket.connect(to.parse().unwrap()).await.unwrap().into_std().unwrap()
    };
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let stream = client.enter(|| runtime.block_on(connect)).unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Flow::Tcp(stream)
}

fn assert_are_reset(flows: &mut [Flow], after: &str) {
    for flow in flows {
        let answer = flow.ask_or_error();
        assert!(answer.contains("reset"), "{after}: {answer}");
    }
}

#[test]
fn an_interface_that_is_inside_no_longer_has_its_direct_flows_reset_and_no_others() {
    for restart in [false, true] {
        let after = if restart { "a restart" } else { "a reload" };
        let network = Network::new();
        network.count_middles();
        let second = second_client(&network);
        let product = network.product();
        let both = format!("{}{EGRESS}", config(LAN1));
        product.configure(&both);
        let daemon = product.start();
        let flows = |from: &Namespace, to: [&str; 2]| to.map(|to| flow(from, to).unwrap());
        let mut kept = flows(&network.site.client, DIRECT);
        let mut inspected = flows(&second, INSPECTED);
        let mut waiting = flow(&second, DIRECT[0]).unwrap();
        let mut datagrams = datagrams(&second, DIRECT[0]);
        // So many that one after the other speaks while the daemon changes over.
        let mut dropped: Vec<Flow> = (0..40).flat_map(|_| flows(&second, DIRECT)).collect();
        assert!(dropped.iter_mut().chain(&mut kept).all(|flow| flow.ask() == "direct"));
        assert_eq!((waiting.ask(), datagrams.ask()), ("direct".into(), "direct".into()));
        assert_eq!(inspected.each_mut().map(Flow::ask), ["inspector"; 2]);
        let (quiet, speaking) = dropped.split_at_mut(20);
        let daemon = thread::scope(|scope| {
            scope.spawn(|| {
                for flow in speaking {
                    let answer = flow.ask_or_error();
                    let is_well = answer.starts_with("direct") || answer.contains("reset");
                    assert!(is_well, "{after}: {answer}");
                    thread::sleep(Duration::from_millis(50));
                }
            });
            change(&product, daemon, &config(EGRESS), restart)
        });
        daemon.wait_for_log("in by lan1 are ended", 1);
        assert_are_reset(quiet, after);
        assert!(waiting.wait().contains("reset"), "one that only waits");
        assert_eq!(datagrams.ask(), "inspector", "{after}");
        // From the port of a flow that was ended a moment ago.
        let mut again = once_more(&second, waiting, DIRECT[0]);
        assert_eq!(again.ask(), "inspector", "{after}");
        assert_eq!(kept.each_mut().map(Flow::ask), ["direct"; 2], "{after}");
        assert_eq!(inspected.each_mut().map(Flow::ask), ["inspector"; 2], "{after}");
        assert_eq!(flows(&second, DIRECT).each_mut().map(Flow::ask), ["inspector"; 2], "{after}");
        network.assert_it_parts();
        network.assert_no_middles(after);
        let daemon = change(&product, daemon, &both, restart);
        assert_eq!(flows(&second, DIRECT).each_mut().map(Flow::ask), ["direct"; 2], "{after}");
        assert!(!network.gateway("nft list table inet breakout365").contains("outside"));
        daemon.terminate();
    }
}

#[test]
fn without_a_way_out_any_more_direct_flows_are_reset_before_the_table_goes() {
    for how in ["a reload", "a restart", "on-stop"] {
        let network = Network::new();
        network.count_middles();
        let before = network.everything();
        let product = network.product();
        let egress = format!("{EGRESS}on-failure = \"block\"\n");
        let on_stop = if how == "on-stop" { "on-stop = \"detach\"\n" } else { "" };
        product.configure(&format!("{on_stop}{}", config(&egress)));
        let daemon = product.start();
        let mut direct =
            DIRECT.repeat(3).iter().map(|to| network.flow(to)).collect::<Option<Vec<_>>>().unwrap();
        let mut inspected = INSPECTED.map(|to| network.flow(to).unwrap());
        let mut datagrams = network.datagrams(DIRECT[1]);
        assert!(direct.iter_mut().all(|flow| flow.ask() == "direct"));
        assert_eq!((datagrams.ask(), inspected[0].ask()), ("direct".into(), "inspector".into()));
        let daemon = if how == "on-stop" {
            daemon.terminate();
            None
        } else {
            Some(change(&product, daemon, &config(""), how == "a restart"))
        };
        // What only waits has been reset while there was something to reset it.
        for flow in &mut direct {
            assert!(flow.wait().contains("reset"), "{how}");
        }
        wait_until("it is taken back", || network.everything() == before);
        assert_eq!(datagrams.ask(), "inspector", "{how}");
        assert_eq!(inspected.each_mut().map(Flow::ask), ["inspector"; 2], "{how}");
        network.assert_all_is_inspected();
        network.assert_no_middles(how);
        if let Some(daemon) = daemon {
            daemon.terminate();
        }
    }
}

#[test]
fn while_the_flows_of_the_uplink_before_cannot_be_ended_they_are_reset_and_nothing_goes_direct() {
    let network = Network::new();
    network.count_middles();
    let script = "if test -e broken; then
        case \"$text\" in 'add element'*) echo no >&2; exit 1;; esac
    fi";
    let product = network.product().with_nft(script);
    product.configure(&config(OTHER_UPLINK));
    let daemon = product.start();
    let mut before: Vec<Flow> = (0..40).map(|_| network.flow(DIRECT[0]).unwrap()).collect();
    assert!(before.iter_mut().all(|flow| flow.ask() == "inspector"), "which is that uplink");
    fs::write(product.file("broken"), "").unwrap();
    product.configure(&config(EGRESS));
    let (quiet, speaking) = before.split_at_mut(10);
    thread::scope(|scope| {
        scope.spawn(|| {
            for flow in speaking {
                let answer = flow.ask_or_error();
                assert!(answer.starts_with("inspector") || answer.contains("reset"), "{answer}");
                thread::sleep(Duration::from_millis(50));
            }
        });
        product.json(&["reload"]);
    });
    assert_are_reset(&mut quiet[..5], "the uplink is another one");
    network.assert_all_is_inspected();
    let problem = product.status()["daemon"]["egress"]["problem"].clone();
    let problem = problem.as_str().unwrap_or_default();
    assert!(problem.starts_with("direct flows are not ended yet: "), "{problem}");
    fs::remove_file(product.file("broken")).unwrap();
    daemon.wait_for_log("direct flows of uplink insp0 are ended, up0 serves now", 1);
    wait_until("new flows go direct", || network.way(DIRECT[0]) == "direct");
    assert_are_reset(&mut quiet[5..], "they are ended");
    network.assert_it_parts();
    network.assert_no_middles("another uplink");
    assert!(product.status()["daemon"]["egress"]["problem"].is_null());
    daemon.terminate();
}

/// No flow goes by the uplink of the change meanwhile.
#[test]
fn another_uplink_that_is_gone_back_from_has_carried_nothing() {
    let network = Network::new();
    network.count_middles();
    let product = network.product();
    let daemon = product.start();
    let mut flows: Vec<Flow> = (0..40).map(|_| network.flow(DIRECT[0]).unwrap()).collect();
    assert!(flows.iter_mut().all(|flow| flow.ask() == "direct"));
    let unlock = network.lock_publication();
    product.configure(&config(OTHER_UPLINK));
    let (quiet, speaking) = flows.split_at_mut(10);
    thread::scope(|scope| {
        scope.spawn(|| {
            for flow in speaking {
                let answer = flow.ask_or_error();
                assert!(answer.starts_with("direct") || answer.contains("reset"), "{answer}");
                thread::sleep(Duration::from_millis(20));
            }
        });
        for _ in 0..3 {
            product.assert_refused(&["reload"], Exit::Datapath as i32, &["not the control map"]);
        }
    });
    unlock();
    assert!(quiet.iter_mut().all(|flow| flow.ask() == "direct"), "their way is as it was");
    network.assert_it_parts();
    network.assert_no_middles("the uplink of a change that failed");
    product.configure(&config(EGRESS));
    product.json(&["reload"]);
    assert!(quiet.iter_mut().all(|flow| flow.ask() == "direct"), "nothing is owed");
    daemon.terminate();
}

/// What an earlier daemon has published goes on, and so does its way out.
#[test]
fn a_start_that_fails_leaves_the_way_out_of_what_serves() {
    let network = Network::new();
    let product = network.product();
    product.start().terminate();
    let mut direct = DIRECT.map(|to| network.flow(to).unwrap());
    let before = network.everything();
    let unlock = network.lock_publication();
    product.configure(&config(OTHER_UPLINK));
    product.assert_refused(&["run"], Exit::Datapath as i32, &["not the control map"]);
    unlock();
    assert_eq!(direct.each_mut().map(Flow::ask), ["direct"; 2]);
    network.assert_it_parts();
    let after = network.everything();
    assert_eq!(before[..4], after[..4], "rules and routes");
}
