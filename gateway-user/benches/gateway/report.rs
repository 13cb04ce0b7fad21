//! The figures, with what they were to reach.

use std::collections::BTreeMap;

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::paired::Paired;
use crate::rates::Rate;
use crate::way::{By, Hook, Way};

/// One way's figures, in nanoseconds of CPU time per packet.
#[derive(Debug, Serialize)]
struct Row {
    way: String,
    minimum: f64,
    median: f64,
    over_plain: Paired,
}

/// What was to be reached, and what was in this run.
#[derive(Debug, Serialize)]
struct Target {
    what: &'static str,
    wanted: f64,
    reached: Paired,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Met,
    Missed,
    /// This run is too noisy, or has too few rounds, to say.
    Undecided,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::Undecided => "undecided",
        }
    }
}

impl Target {
    fn at_least(what: &'static str, wanted: f64, reached: Paired) -> Self {
        let outcome = Self::outcome(reached.low >= wanted, reached.high < wanted);
        Self { what, wanted, reached, outcome }
    }

    fn at_most(what: &'static str, wanted: f64, reached: Paired) -> Self {
        let outcome = Self::outcome(reached.high <= wanted, reached.low > wanted);
        Self { what, wanted, reached, outcome }
    }

    const fn outcome(is_met: bool, is_missed: bool) -> Outcome {
        match (is_met, is_missed) {
            (true, _) => Outcome::Met,
            (_, true) => Outcome::Missed,
            (false, false) => Outcome::Undecided,
        }
    }
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
        let samples = Samples(measured.collect());
        let rows = Way::all().map(|way| Row {
            way: way.name(),
            minimum: samples.of(way).iter().copied().fold(f64::INFINITY, f64::min),
            median: samples.paired(way, way, |one, _| one).median,
            over_plain: samples.over(way, By::Plain.alone()),
        });
        let rounds = samples.0.values().map(Vec::len).min().unwrap_or(0);
        let (rows, targets) = (rows.collect(), samples.targets());
        Self { rounds, rows, targets, rates, overrun, not_measured }
    }

    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    pub(crate) fn text(&self) -> String {
        let mut rows = Table::new();
        rows.load_style(presets::NOTHING);
        rows.set_header(["ns of CPU per packet", "minimum", "median", "over plain", ""]);
        for Row { way, minimum, median, over_plain } in &self.rows {
            let figures = [*minimum, *median, over_plain.median].map(|ns| format!("{ns:.0}"));
            let between = format!("{:.0} to {:.0}", over_plain.low, over_plain.high);
            rows.add_row([way.clone()].into_iter().chain(figures).chain([between]));
        }
        let mut targets = Table::new();
        targets.load_style(presets::NOTHING);
        targets.set_header(["to reach", "wanted", "reached", "", ""]);
        for Target { what, wanted, reached, outcome } in &self.targets {
            let Paired { median, low, high } = reached;
            let figures =
                [format!("{wanted:.1}"), format!("{median:.1}"), format!("{low:.1} to {high:.1}")];
            let row = [(*what).to_owned()].into_iter().chain(figures);
            targets.add_row(row.chain([outcome.name().to_owned()]));
        }
        let mut rates = Table::new();
        rates.load_style(presets::NOTHING);
        rates.set_header(["MiB/s of a download", "inspected", "direct", "times"]);
        for Rate { inspector, inspected, direct, times } in &self.rates {
            let Paired { median, low, high } = times;
            let times = format!("{median:.1} ({low:.1} to {high:.1})");
            let figures = [format!("{inspected:.0}"), format!("{direct:.0}"), times];
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

/// By way, in the order of the rounds.
struct Samples(BTreeMap<Way, Vec<f64>>);

impl Samples {
    fn of(&self, way: Way) -> &[f64] {
        self.0.get(&way).map_or(&[], Vec::as_slice)
    }

    fn paired(&self, one: Way, other: Way, by: fn(f64, f64) -> f64) -> Paired {
        Paired::of(self.of(one), self.of(other), by)
    }

    /// What `one` costs more than `other`.
    fn over(&self, one: Way, other: Way) -> Paired {
        self.paired(one, other, |one, other| one - other)
    }

    fn targets(&self) -> Vec<Target> {
        let ours = |hook, direct| By::Ours { hook, direct };
        let hooks = [Hook::Xdp, Hook::Tc];
        let below =
            |other: By| hooks.map(|hook| self.over(other.alone(), ours(hook, true).alone()));
        let others = [By::NftInterval, By::NftPipapo, By::Ipset, By::IptablesRules, By::IpRules];
        let other_traffic = [Hook::Tc, Hook::Xdp, Hook::Redirect]
            .map(|hook| self.over(ours(hook, false).alone(), By::Rule.alone()));
        let redirect = ours(Hook::Redirect, true).alone();
        let times = |by: By| self.paired(by.alone(), redirect, |way, redirect| way / redirect);
        let behind_firewall =
            |other: By| self.over(other.behind_firewall(), ours(Hook::Xdp, true).behind_firewall());
        vec![
            Target::at_least(
                "mark below every nft, ipset and rule-list way, ns",
                0.0,
                Paired::each(others.into_iter().flat_map(below), f64::min),
            ),
            Target::at_least(
                "mark below nft pipapo, ns",
                100.0,
                Paired::each(below(By::NftPipapo), f64::min),
            ),
            Target::at_least(
                "mark below the nft interval set behind the firewall, ns",
                400.0,
                behind_firewall(By::NftInterval),
            ),
            Target::at_least(
                "mark below nft pipapo behind the firewall, ns",
                400.0,
                behind_firewall(By::NftPipapo),
            ),
            Target::at_most(
                "other traffic over plain + rule, ns",
                20.0,
                Paired::each(other_traffic, f64::max),
            ),
            Target::at_least("redirect, times plain", 2.5, times(By::Plain)),
            Target::at_least("redirect, times nft pipapo", 4.0, times(By::NftPipapo)),
        ]
    }
}
