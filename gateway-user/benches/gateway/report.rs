//! The figures, with what they were to reach.

use std::collections::BTreeMap;

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::rates::Rate;
use crate::way::{Hook, Way};

/// One way's figures, in nanoseconds of CPU time per packet.
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
    rates: Vec<Rate>,
    /// Turns that were done again, because rings of veth pairs were full.
    overrun: usize,
    not_measured: Vec<String>,
}

impl Report {
    pub(crate) fn new(
        measured: impl Iterator<Item = (Way, Vec<f64>)>,
        overrun: usize,
        rates: Vec<Rate>,
        not_measured: Vec<String>,
    ) -> Self {
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
        let targets = targets(&minimum);
        Self { rounds, rows: rows.collect(), targets, rates, overrun, not_measured }
    }

    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    pub(crate) fn text(&self) -> String {
        let mut rows = Table::new();
        rows.load_style(presets::NOTHING);
        rows.set_header(["ns of CPU per packet", "minimum", "median", "over plain"]);
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
        let mut rates = Table::new();
        rates.load_style(presets::NOTHING);
        rates.set_header(["MiB/s of a download", "inspected", "direct", "times"]);
        for Rate { inspector, inspected, direct, ratio } in &self.rates {
            let figures =
                [format!("{inspected:.0}"), format!("{direct:.0}"), format!("{ratio:.1}")];
            rates.add_row([(*inspector).to_owned()].into_iter().chain(figures));
        }
        let mut left_out = String::new();
        for what in &self.not_measured {
            left_out += "\nnot measured: ";
            left_out += what;
        }
        format!(
            "{rows}\n\n{targets}\n\n{rates}\n\n{} rounds; {} turns were done again for full \
             rings{left_out}",
            self.rounds, self.overrun
        )
    }
}

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
