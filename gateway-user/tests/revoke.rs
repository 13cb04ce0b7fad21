//! `revoke` ends exactly the direct flows that were named, and the packets after it are decided anew.
//! Needs root.

use std::fs;

use gateway_user::exit::Exit;
use nix::sys::signal::Signal;

use crate::support::network::{BESIDE, DIRECT, EGRESS, Flow, INSPECTED, Network, config};

const EXCLUDE: &str =
    "[[policy.exclude]]\nname = \"some\"\nprefixes = [\"40.96.0.0/16\", \"2603:1006::/48\"]\n";
/// An own entry beside the set.
const INCLUDE: &str = "[[policy.include]]\nname = \"own\"\nprefixes = [\"40.97.0.0/24\"]\n\
                       protocol = \"tcp\"\nports = \"444\"\n";

fn open(network: &Network, to: &[&str], way: &str) -> Vec<Flow> {
    let mut flows: Vec<_> = to.iter().map(|to| network.flow(to).unwrap()).collect();
    for flow in &mut flows {
        assert_eq!(flow.ask(), way);
    }
    flows
}

fn assert_reset(flows: &mut [Flow]) {
    for flow in flows {
        let answer = flow.ask_or_error();
        assert!(answer.contains("reset"), "{answer}");
    }
}

#[test]
fn a_sets_flows_end_and_no_others_and_new_packets_are_decided_anew() {
    let network = Network::new();
    let product = network.product();
    product.configure(&config(&format!("{EGRESS}{INCLUDE}")));
    let daemon = product.start();
    let mut of_the_set = open(&network, &DIRECT, "direct");
    let mut datagrams = DIRECT.map(|to| network.datagrams(to));
    assert_eq!(datagrams.each_mut().map(Flow::ask), ["direct"; 2]);
    let mut own = open(&network, &BESIDE[1..], "direct");
    let mut inspected = open(&network, &INSPECTED, "inspector");
    // The list loses the set's prefixes; live flows keep their way until they are revoked.
    product.configure(&config(&format!("{EGRESS}{INCLUDE}{EXCLUDE}")));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("published", 2);
    for flow in &mut of_the_set {
        assert_eq!(flow.ask(), "direct");
    }
    assert_eq!(product.json(&["revoke", "--set", "1"])["flows"], 4);
    assert_reset(&mut of_the_set);
    assert_eq!(datagrams.each_mut().map(Flow::ask), ["inspector"; 2]);
    assert_eq!(own[0].ask(), "direct");
    for flow in &mut inspected {
        assert_eq!(flow.ask(), "inspector");
    }
    open(&network, &DIRECT, "inspector");
    assert_eq!(product.json(&["revoke", "--set", "1"])["flows"], 0, "there is none left");
    let journal = fs::read_to_string(product.state_dir().join("journal.jsonl")).unwrap();
    assert!(journal.contains("\"trigger\":\"revoke\""), "{journal}");
    assert!(journal.contains("4 direct flows of set 1"), "{journal}");
    assert_eq!(product.status()["daemon"]["egress"]["flows_ended"]["revoked"], 4);
    daemon.terminate();
}

#[test]
fn a_prefix_and_all_are_what_they_say() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    let mut flows = open(&network, &[DIRECT[0], BESIDE[0], DIRECT[1]], "direct");
    let text = product.text(&["revoke", "--prefix", "40.96.0.0/16", "--prefix", "10.0.0.0/8"]);
    assert_eq!(text, "1 direct flows of 40.96.0.0/16, 10.0.0.0/8 are ended\n");
    assert_reset(&mut flows[..1]);
    assert_eq!(flows[1].ask(), "direct");
    assert_eq!(flows[2].ask(), "direct");
    let mut anew = open(&network, &DIRECT[..1], "direct");
    // As many as a long list has, in one request.
    let many: Vec<String> =
        (0..5000).map(|it| format!("10.{}.{}.0/24", it / 256, it % 256)).collect();
    let many: Vec<&str> = many.iter().flat_map(|prefix| ["--prefix", prefix]).collect();
    assert_eq!(product.json(&[&["revoke"], &many[..]].concat())["flows"], 0);
    daemon.wait_for_log(" 10.0.15.0/24, 4984 others are ended", 1);
    let too_many = many.repeat(4);
    let words = ["a request of more than 262144 bytes", "ask for less"];
    product.assert_refused(&[&["revoke"], &too_many[..]].concat(), Exit::Usage as i32, &words);
    assert_eq!(product.json(&["revoke", "--all"])["flows"], 3);
    assert_reset(&mut flows[1..]);
    assert_reset(&mut anew);
    network.assert_it_parts();
    daemon.terminate();
}

#[test]
fn off_can_end_the_flows_there_are() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    let mut kept = open(&network, &DIRECT, "direct");
    assert!(product.json(&["off"])["flows_ended"].is_null());
    for flow in &mut kept {
        assert_eq!(flow.ask(), "direct", "off is for new flows");
    }
    assert_eq!(product.json(&["off", "--revoke"])["flows_ended"], 2);
    assert_reset(&mut kept);
    network.assert_all_is_inspected();
    daemon.terminate();
    let words = &["it is off, but live direct flows go on", "no daemon answers"];
    product.assert_refused(&["off", "--revoke"], Exit::Daemon as i32, words);
}

#[test]
fn what_cannot_be_revoked_is_refused_by_name() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    let usage = Exit::Usage as i32;
    product.assert_refused(&["revoke", "--set", "99"], usage, &["set 99 is not in the feed"]);
    product.assert_refused(&["revoke", "--prefix", "nowhere"], usage, &["nowhere"]);
    product.assert_refused(&["revoke"], usage, &["--set"]);
    daemon.terminate();
    let daemon = {
        product.configure(&config(""));
        product.start()
    };
    product.assert_refused(&["revoke", "--all"], Exit::Egress as i32, &["no [egress] serves"]);
    daemon.terminate();
}
