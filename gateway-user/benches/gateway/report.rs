//! The figures, with what they were to reach.

use std::collections::BTreeMap;

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::way::{Hook, Way};

/// One way's figures, in nanoseconds per packet.
#[derive(Debug, Serialize)]
struct Row {
    way: &'static str,
    minimum: f64,
    median: f64,
    over_plain: f64,
}

/// What was to be reached, and what was, by the minima of this run.
#[derive(Debug, Serialize)]
struct Target {
    what: &'static str,
    wanted: f64,
    reached: f64,
    met: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    rounds: usize,
    rows: Vec<Row>,
    targets: Vec<Target>,
    not_measured: [&'static str; 1],
}

impl Report {
    pub(crate) fn new(measured: impl Iterator<Item = (Way, Vec<f64>)>) -> Self {
        let mut samples: BTreeMap<Way, Vec<f64>> = measured.collect();
        for all in samples.values_mut() {
            all.sort_by(f64::total_cmp);
        }
        let rounds = samples.values().map(Vec::len).min().unwrap_or(0);
        let of =
            |way: Way, at: fn(&[f64]) -> f64| samples.get(&way).map_or(f64::NAN, |all| at(all));
        let minimum = |way| of(way, |all| all.first().copied().unwrap_or(f64::NAN));
        let median = |way| of(way, |all| all.get(all.len() / 2).copied().unwrap_or(f64::NAN));
        let plain = minimum(Way::Plain);
        let rows = Way::ALL.into_iter().map(|way| Row {
            way: way.name(),
            minimum: minimum(way),
            median: median(way),
            over_plain: minimum(way) - plain,
        });
        Self { rounds, rows: rows.collect(), targets: targets(&minimum), not_measured: LEFT_OUT }
    }

    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    pub(crate) fn text(&self) -> String {
        let mut rows = Table::new();
        rows.load_style(presets::NOTHING);
        rows.set_header(["ns per packet", "minimum", "median", "over plain"]);
        for row in &self.rows {
            let figures = [row.minimum, row.median, row.over_plain].map(|ns| format!("{ns:.0}"));
            rows.add_row([row.way.to_owned()].into_iter().chain(figures));
        }
        let mut targets = Table::new();
        targets.load_style(presets::NOTHING);
        targets.set_header(["to reach", "wanted", "reached", ""]);
        for Target { what, wanted, reached, met } in &self.targets {
            let word = if *met { "met" } else { "missed" };
            let figures = [format!("{wanted:.1}"), format!("{reached:.1}"), word.to_owned()];
            targets.add_row([(*what).to_owned()].into_iter().chain(figures));
        }
        let left_out = self.not_measured.join("\n");
        format!("{rows}\n\n{targets}\n\n{} rounds\nnot measured: {left_out}", self.rounds)
    }
}

const LEFT_OUT: [&str; 1] = ["transfer rates through squid and Suricata against direct"];

fn targets(ns: &impl Fn(Way) -> f64) -> Vec<Target> {
    let ours = |hook, direct, firewall| ns(Way::Ours { hook, direct, firewall });
    let mark = ours(Hook::Xdp, true, false).max(ours(Hook::Tc, true, false));
    let others = [Way::NftInterval, Way::NftPipapo, Way::Ipset, Way::IptablesRules, Way::IpRules];
    let best = others.into_iter().map(ns).fold(f64::INFINITY, f64::min);
    let redirect = ours(Hook::Redirect, true, false);
    let other_traffic = [Hook::Tc, Hook::Xdp, Hook::Redirect].map(|hook| ours(hook, false, false));
    let worst = other_traffic.into_iter().fold(0.0, f64::max);
    let at_least = |what, wanted, reached| Target { what, wanted, reached, met: reached >= wanted };
    let at_most = |what, wanted, reached| Target { what, wanted, reached, met: reached <= wanted };
    vec![
        at_least("mark below every nft, ipset and rule-list way, ns", 0.0, best - mark),
        at_least("mark below nft pipapo, ns", 100.0, ns(Way::NftPipapo) - mark),
        at_least(
            "mark below the nft mark behind the firewall, ns",
            400.0,
            ns(Way::FirewallNft) - ours(Hook::Xdp, true, true),
        ),
        at_most("other traffic over plain + rule, ns", 20.0, worst - ns(Way::Rule)),
        at_least("redirect, times plain", 2.5, ns(Way::Plain) / redirect),
        at_least("redirect, times nft pipapo", 4.0, ns(Way::NftPipapo) / redirect),
    ]
}
