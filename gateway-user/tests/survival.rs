//! A download through a proxy and a direct one, in the middle of everything that happens to a gateway:
//! neither is cut off, but for the direct one whose uplink is gone. Needs root, and Squid.

use std::fs;
use std::io::ErrorKind;
use std::time::Instant;

use nix::sys::signal::Signal;
use xtask::scenario::TransparentSquid;
use xtask::testbed::{Owner, Scratch};

use crate::support::download::{Download, LISTED, OTHERS, Origin, assert_they_go_on, way};
use crate::support::network::{EGRESS, Network, config, default_routes};
use crate::support::product::{Daemon, Product};
use crate::support::{SOON, wait_until};

const DIRECT: &str = "direct through nobody";
const INSPECTED: &str = "inspector through squid";

/// New requests go to these, so that what hops count of the others is of downloads alone.
const NEW: [&str; 2] = ["40.96.0.3:80", "[2603:1006::3]:80"];
const FEED: &str = r#"[{
    "id": 1, "serviceArea": "Exchange", "category": "Optimize", "required": true,
    "ips": ["40.96.0.0/13", "2603:1006::/40"], "tcpPorts": "80"
}]"#;
const EXCLUDE: &str =
    "[[policy.exclude]]\nname = \"all\"\nprefixes = [\"40.96.0.0/16\", \"2603:1006::/48\"]\n";
const GUARDS: &str = "[guards]\nallow = [\"prefixes_leaving\", \"space_leaving\"]\n";
/// Packets of downloads, as they come in.
const COUNT: &str = "table inet count {
    counter listed { }
    counter others { }
    chain arrivals {
        type filter hook prerouting priority raw;
        iifname != \"in0\" accept
        ip daddr 40.96.0.2 tcp dport 80 counter name listed
        ip6 daddr 2603:1006::2 tcp dport 80 counter name listed
        ip daddr 203.0.113.7 tcp dport 80 counter name others
        ip6 daddr 2001:db8:7::7 tcp dport 80 counter name others
    }
}";

struct Case<'a> {
    network: &'a Network,
    origin: Origin,
    product: Product<'a>,
    listed: [Download; 2],
    others: [Download; 2],
}

impl Case<'_> {
    /// All go on, and nobody was cut off; new requests to listed hosts go this way.
    fn assert_all_go_on(&self, new: &str, after: &str) {
        assert_they_go_on(self.listed.iter().chain(&self.others).map(|it| (it, 0)), after);
        self.assert_new_go(new, after);
    }

    fn assert_new_go(&self, way_of_new: &str, after: &str) {
        for to in NEW {
            assert_eq!(way(&self.network.site.client, to), way_of_new, "{to} after {after}");
        }
    }

    fn configure(&self, more: &str) {
        self.product.configure(&format!("{}{GUARDS}{more}", config(EGRESS)));
    }

    fn set_feed(&self, feed: &str) {
        fs::write(self.product.file("feed.json"), feed).unwrap();
    }

    fn reload(&self, daemon: &Daemon) {
        let generation = || self.product.status()["generation"].as_u64().unwrap();
        let before = generation();
        daemon.signal(Signal::SIGHUP);
        wait_until("the next generation serves", || generation() > before);
    }

    /// Packets of downloads from listed hosts, and from others, that came to direct and inspector.
    fn counts(&self) -> [[u64; 2]; 2] {
        [&self.network.direct, &self.network.inspector].map(|hop| {
            ["listed", "others"].map(|name| {
                let listed = hop.run(&format!("nft list counter inet count {name}")).unwrap();
                let packets = listed.split_whitespace().skip_while(|word| *word != "packets");
                packets.skip(1).map(|word| word.parse().unwrap()).next().unwrap()
            })
        })
    }

    fn wait_for_uplink(&self, state: &str) {
        wait_until(&format!("both families are {state}"), || {
            let families = self.product.status()["daemon"]["egress"]["families"].clone();
            families.as_array().unwrap().iter().all(|family| family["state"] == state)
        });
    }
}

#[test]
fn downloads_outlive_changes_restarts_and_upgrades_and_only_a_lost_uplink_resets_the_direct_one() {
    let network = Network::new();
    let scratch = Scratch::owned(Owner::Process).unwrap();
    let gateway = &network.site.gateway;
    for hop in [&network.direct, &network.inspector] {
        hop.nft(COUNT).unwrap();
    }
    let origin = Origin::start(&network);
    let product = network.product();
    let file = product.config();
    let mut export = vec!["export", "--format", "chain-nft", "--config", file.to_str().unwrap()];
    export.extend(TransparentSquid::CHAINS.iter().flat_map(|inspector| ["--to", inspector]));
    let chains = product.text(&export);
    let squid = TransparentSquid::start(gateway, &scratch.path(), &chains).unwrap();
    let client = &network.site.client;
    fs::write(product.file("feed.json"), FEED).unwrap();
    product.configure(&format!("{}{GUARDS}", config(EGRESS)));
    let mut daemon = product.start();
    let [listed, others] =
        [LISTED, OTHERS].map(|hosts| hosts.map(|to| Download::start(client, to)));
    let mut case = Case { network: &network, origin, product, listed, others };
    case.assert_all_go_on(DIRECT, "the start");

    let without =
        FEED.replace("40.96.0.0/13", "40.100.0.0/14").replace("1006::/40", "1006:80::/41");
    case.set_feed(&without);
    case.reload(&daemon);
    case.assert_all_go_on(INSPECTED, "a list without their prefixes");
    case.set_feed(FEED);
    case.reload(&daemon);
    case.assert_all_go_on(DIRECT, "a list with their prefixes");

    case.configure(EXCLUDE);
    case.reload(&daemon);
    case.assert_all_go_on(INSPECTED, "a policy without their prefixes");
    case.configure("");
    case.reload(&daemon);
    case.assert_all_go_on(DIRECT, "a policy with their prefixes");

    daemon.terminate();
    case.assert_all_go_on(DIRECT, "a stop");
    daemon = case.product.start();
    case.assert_all_go_on(DIRECT, "the start after a stop");

    daemon.end(Signal::SIGKILL);
    case.assert_all_go_on(DIRECT, "kill -9");
    daemon = case.product.start();
    case.assert_all_go_on(DIRECT, "the start after kill -9");

    let version = case.product.upgrade();
    daemon.terminate();
    daemon = case.product.start();
    assert_eq!(case.product.status()["daemon"]["breakout365"], version.as_str());
    case.assert_all_go_on(DIRECT, "an upgrade");

    case.product.json(&["off"]);
    case.assert_all_go_on(INSPECTED, "off");
    case.product.json(&["on"]);
    case.assert_all_go_on(DIRECT, "on");

    let [direct, inspector] = case.counts();
    assert!(direct[0] > 0 && inspector[1] > 0, "{direct:?} {inspector:?}");
    assert_eq!([direct[1], inspector[0]], [0, 0], "packets on the other way");
    lose_and_regain_the_uplink(&case, &daemon);
    assert_eq!(case.counts()[0][1], 0, "packets of others on the direct uplink");

    assert_they_are_whole(case, &squid);
    daemon.terminate();
}

fn lose_and_regain_the_uplink(case: &Case<'_>, daemon: &Daemon) {
    let begin = Instant::now();
    case.network.direct.run("ip link set in0 down").unwrap();
    assert_they_are_reset(&case.listed, begin, "no carrier");
    let assert_all_go_on = |after: &str| {
        let listed = case.listed.iter().map(|it| (it, 1));
        assert_they_go_on(listed.chain(case.others.iter().map(|it| (it, 0))), after);
    };
    assert_all_go_on("the loss of the uplink");
    case.assert_new_go(INSPECTED, "the loss of the uplink");

    case.network.direct.run("ip link set in0 up").unwrap();
    case.network.direct.run("ip address replace fd36:2::2/64 dev in0 nodad").unwrap();
    case.network.direct.ip(&default_routes(2, 1).replace("add", "replace")).unwrap();
    case.wait_for_uplink("up");
    daemon.wait_for_log("is up again", 2);
    case.assert_new_go(DIRECT, "the uplink's return");
    assert_all_go_on("the uplink's return");
}

/// At once: within what the kernel takes to tell of a lost carrier, and a moment.
fn assert_they_are_reset(downloads: &[Download], since: Instant, what: &str) {
    for download in downloads {
        wait_until(&format!("{} is reset: {what}", download.to), || !download.cuts().is_empty());
        let (at, how) = download.cuts()[0];
        assert_eq!(how, ErrorKind::ConnectionReset, "{}: {what}", download.to);
        let took = at.duration_since(since);
        assert!(took < SOON, "{} is reset after {took:?}: {what}", download.to);
    }
}

/// Ends the downloads, and compares what clients have with what servers and proxy gave.
fn assert_they_are_whole(case: Case<'_>, squid: &TransparentSquid) {
    case.origin.finish();
    for download in case.listed.into_iter().chain(case.others) {
        let to = download.to;
        let received = download.assert_it_is_whole();
        let asked = case.origin.asked(to);
        let seen: Vec<_> = asked.iter().map(|asked| (asked.hop.as_str(), asked.by_proxy)).collect();
        let inspected = ("inspector", true);
        let is_listed = LISTED.contains(&to);
        let expected = if is_listed { vec![("direct", false), inspected] } else { vec![inspected] };
        assert_eq!(seen, expected, "{to}");
        assert_eq!(asked[0].from, 0, "{to}");
        assert_eq!(asked.last().unwrap().until, received, "{to}");
        if let [direct, rest] = &asked[..] {
            assert!(rest.from > 0 && rest.from <= direct.until, "{to}: {asked:?}");
        }
        let host = to.trim_end_matches(":80");
        wait_until(&format!("squid has written of {host}"), || {
            let log = squid.access_log().unwrap();
            log.matches(&format!("http://{host}/download")).count() == 1
        });
    }
}
