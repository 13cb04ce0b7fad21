//! A gateway with a played web service: the daemon on both, and what it says.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use gateway_common::Transport;
use serde_json::{Value, json};

use super::product::Product;
use super::web_service::{Script, WebService};
use super::{CLIENT, LAN, Marked, PATIENCE, Site, frame, wait_until};

pub(crate) const FIRST: &str = "2026063000";
pub(crate) const SECOND: &str = "2026073100";
pub(crate) const THIRD: &str = "2026083100";

/// Direct by every list here.
pub(crate) const ALWAYS: (Transport, &str) = (Transport::Tcp, "40.96.0.1:443");
/// Direct by [`more`] only.
pub(crate) const ADDED: (Transport, &str) = (Transport::Tcp, "52.112.0.1:443");

/// A set with these prefixes.
pub(crate) fn list(prefixes: &[&str]) -> String {
    json!([{
        "id": 1, "serviceArea": "Exchange", "category": "Optimize", "required": true,
        "ips": prefixes, "tcpPorts": "443"
    }])
    .to_string()
}

pub(crate) fn base() -> String {
    list(&["40.96.0.0/13", "2603:1006::/40"])
}

pub(crate) fn more() -> String {
    list(&["40.96.0.0/13", "52.112.0.0/14", "2603:1006::/40"])
}

pub(crate) fn serving(version: &str, list: &str) -> Script {
    Script::serving("Worldwide", version, list)
}

/// A gateway with a web service of its own, and the product on both.
pub(crate) struct Stage<'a> {
    pub(crate) site: &'a Site,
    pub(crate) service: WebService,
    pub(crate) product: Product<'a>,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(site: &'a Site, script: Script) -> Self {
        let service = site.gateway.enter(|| WebService::start(script)).unwrap();
        let stage = Self { site, service, product: Product::new(site, "auto") };
        stage.configure("", "");
        stage
    }

    /// With more keys under `[feed]`, and more text behind it.
    pub(crate) fn configure(&self, feed: &str, more: &str) {
        self.product.configure(&format!(
            "version = 1\n[[interface]]\nname = \"{LAN}\"\n[feed]\ninstance = \"Worldwide\"\n\
             service = \"{}\"\nca-file = \"{}\"\npoll-interval = \"1s\"\n{feed}\n{more}\n",
            self.service.base_url(),
            self.service.ca_file().display()
        ));
    }

    /// What the daemon says of itself.
    pub(crate) fn daemon(&self) -> Value {
        self.product.status()["daemon"].clone()
    }

    pub(crate) fn wait_for_version(&self, version: &str) {
        wait_until(&format!("version {version} serves"), || {
            self.product.verb(&["status"]).status.success()
                && self.product.status()["feed"]["version"] == version
        });
    }

    pub(crate) fn assert_direct(&self, destinations: &[(Transport, &str)]) {
        let frames: Vec<_> = destinations.iter().map(|to| frame(*to)).collect();
        let direct = u64::try_from(frames.len()).unwrap();
        let marked = self.site.send_from(CLIENT, &frames);
        assert_eq!(marked, Marked { direct, none: 0, odd: 0 }, "{destinations:?}");
    }

    pub(crate) fn assert_inspected(&self, destinations: &[(Transport, &str)]) {
        let frames: Vec<_> = destinations.iter().map(|to| frame(*to)).collect();
        let none = u64::try_from(frames.len()).unwrap();
        let marked = self.site.send_from(CLIENT, &frames);
        assert_eq!(marked, Marked { direct: 0, none, odd: 0 }, "{destinations:?}");
    }

    /// The id of the plan that waits.
    pub(crate) fn wait_for_plan(&self) -> String {
        wait_until("a plan waits", || self.daemon()["pending"].is_object());
        self.daemon()["pending"]["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the source has been asked `times` times more.
    pub(crate) fn wait_for_checks(&self, times: u64) {
        let checks = || {
            let checks = self.daemon()["feed"]["checks"].clone();
            checks.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum::<u64>()
        };
        let before = checks();
        wait_until("the source is asked", || checks() >= before + times);
    }

    /// Waits until the daemon says `word` of the feed, of a problem or of a plan that waits.
    pub(crate) fn wait_for_problem(&self, what: &str, word: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let daemon = self.daemon();
            let feed = &daemon["feed"];
            let places =
                [&feed["problem"], &feed["refused"], &daemon["problem"], &daemon["pending"]];
            if places.iter().any(|place| place.to_string().contains(word)) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {word:?} is not in {daemon:#}");
            sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn journal(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.product.state_dir().join("journal.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
