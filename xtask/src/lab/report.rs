//! What the lab saw, as a table for people or one JSON document.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::{Serialize, Serializer};

use super::probes::Probe;
use super::product::{Hook, ReasonCounter, SetCounter, Status};
use super::topology::Way;

/// Everything that was asked and counted.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    hook: Hook,
    feed_version: Option<String>,
    rows: Vec<Row>,
    checks: Vec<Check>,
    sets: Vec<SetCounter>,
    reasons: Vec<ReasonCounter>,
}

/// One question with its answer.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    address: IpAddr,
    protocol: &'static str,
    port: u16,
    shows: String,
    expected: Way,
    seen: Seen,
    ok: bool,
}

/// What a client learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Which way it came.
    Way(Way),
    /// No answer, or an odd one.
    Other(String),
}

/// Something that was counted.
#[derive(Debug, Serialize)]
struct Check {
    what: String,
    expected: String,
    seen: u64,
    ok: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a Report,
    totals: Totals,
}

#[derive(Serialize)]
struct Totals {
    rows: usize,
    direct: usize,
    inspected: usize,
    checks: usize,
    differing: usize,
}

impl Row {
    pub(super) fn new(probe: &Probe, seen: Seen) -> Self {
        Self {
            address: probe.destination.ip(),
            protocol: probe.protocol.name(),
            port: probe.destination.port(),
            shows: probe.shows.clone(),
            expected: probe.expected,
            ok: seen == Seen::Way(probe.expected),
            seen,
        }
    }

    fn cells(&self) -> [String; 5] {
        let mark = if self.ok { "" } else { "  <-- differs" };
        [
            self.address.to_string(),
            format!("{}/{}", self.protocol, self.port),
            self.shows.clone(),
            self.expected.name().to_owned(),
            format!("{}{mark}", self.seen.text()),
        ]
    }
}

impl Report {
    pub(super) fn new(hook: Hook, feed_version: Option<String>, rows: Vec<Row>) -> Self {
        let (checks, sets, reasons) = (Vec::new(), Vec::new(), Vec::new());
        Self { hook, feed_version, rows, checks, sets, reasons }
    }

    /// Expects a count.
    pub(super) fn check_exactly(&mut self, what: &str, expected: u64, seen: u64) {
        let ok = seen == expected;
        let (what, expected) = (what.to_owned(), expected.to_string());
        self.checks.push(Check { what, expected, seen, ok });
    }

    /// Expects a count or more.
    pub(super) fn check_at_least(&mut self, what: &str, expected: u64, seen: u64) {
        let ok = seen >= expected;
        let (what, expected) = (what.to_owned(), format!("at least {expected}"));
        self.checks.push(Check { what, expected, seen, ok });
    }

    /// Takes the counters, and expects every set that a direct probe was for to have counted.
    pub(super) fn check_sets(&mut self, status: Status, probes: &[Probe]) {
        let asked: BTreeSet<u32> = probes
            .iter()
            .filter(|probe| probe.expected == Way::Direct)
            .filter_map(|probe| probe.set)
            .collect();
        for id in asked {
            let counted = status.sets.iter().find(|set| set.id == id).map_or(0, |set| set.packets);
            self.check_at_least(&format!("packets counted for set {id}"), 1, counted);
        }
        self.sets = status.sets;
        self.reasons = status.reasons;
    }

    /// How much did not come out as expected.
    pub(super) fn differing(&self) -> usize {
        self.rows.iter().filter(|row| !row.ok).count()
            + self.checks.iter().filter(|check| !check.ok).count()
    }

    /// Prints one JSON document.
    ///
    /// # Errors
    ///
    /// None that a report can cause; the JSON writer's interface has one.
    pub(super) fn print_json(&self) -> Result<()> {
        let document = Document { report: self, totals: self.totals() };
        println!("{}", serde_json::to_string_pretty(&document)?);
        Ok(())
    }

    /// Prints tables and one summary line; what differs once more, right before it.
    pub(super) fn print(&self) {
        let header = ["destination", "port", "what it shows", "expected", "seen"];
        println!("{}\n", table(header, self.rows.iter().map(Row::cells), &[]));
        let sets = self.sets.iter().map(|set| {
            let id = format!("{} {} {}", set.id, set.service_area, set.category);
            [id, set.packets.to_string(), set.bytes.to_string()]
        });
        println!("{}\n", table(["direct, by set", "packets", "bytes"], sets, &[1, 2]));
        let reasons = self.reasons.iter().filter(|reason| reason.packets > 0).map(|reason| {
            [reason.reason.clone(), reason.packets.to_string(), reason.bytes.to_string()]
        });
        println!("{}\n", table(["by reason", "packets", "bytes"], reasons, &[1, 2]));
        let checks = self.checks.iter().map(Check::cells);
        println!("{}\n", table(["counted", "expected", "seen"], checks, &[]));
        if self.differing() > 0 {
            println!("What differs:");
            let rows = self.rows.iter().filter(|row| !row.ok).map(Row::cells);
            println!("{}", table(header, rows, &[]));
            for check in self.checks.iter().filter(|check| !check.ok) {
                let [what, expected, seen] = check.cells();
                println!("{what}: expected {expected}, seen {seen}");
            }
            println!();
        }
        println!("{}", self.summary());
    }

    fn summary(&self) -> String {
        let Totals { rows, direct, inspected, checks, differing } = self.totals();
        let feed = self.feed_version.as_deref().unwrap_or("without a version");
        let hook = self.hook.name();
        let verdict = match differing {
            0 => "all as expected".to_owned(),
            _ => format!("{differing} NOT as expected"),
        };
        format!(
            "lab ({hook}, feed {feed}): {rows} destinations, {direct} direct, {inspected} \
             inspected, {checks} counts: {verdict}"
        )
    }

    fn totals(&self) -> Totals {
        let seen = |way| self.rows.iter().filter(|row| row.seen == Seen::Way(way)).count();
        Totals {
            rows: self.rows.len(),
            direct: seen(Way::Direct),
            inspected: seen(Way::Inspected),
            checks: self.checks.len(),
            differing: self.differing(),
        }
    }
}

impl Check {
    fn cells(&self) -> [String; 3] {
        let mark = if self.ok { "" } else { "  <-- differs" };
        [self.what.clone(), self.expected.clone(), format!("{}{mark}", self.seen)]
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Inspected => "inspected",
        }
    }
}

impl Seen {
    fn text(&self) -> &str {
        match self {
            Self::Way(way) => way.name(),
            Self::Other(text) => text,
        }
    }
}

impl Serialize for Seen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

fn table<const N: usize>(
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    numbers: &[usize],
) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(header).add_rows(rows);
    for column in numbers {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use xtask::testbed::Protocol;

    use super::*;

    fn probe(expected: Way) -> Probe {
        Probe {
            destination: "40.96.0.1:443".parse().unwrap(),
            protocol: Protocol::Tcp,
            payload: 0,
            set: Some(1),
            shows: "a test".to_owned(),
            expected,
        }
    }

    fn report(seen: Seen) -> Report {
        Report::new(Hook::Tc, None, vec![Row::new(&probe(Way::Direct), seen)])
    }

    #[test]
    fn anything_but_the_expected_way_differs() {
        assert_eq!(report(Seen::Way(Way::Direct)).differing(), 0);
        assert_eq!(report(Seen::Way(Way::Inspected)).differing(), 1);
        assert_eq!(report(Seen::Other("timed out".to_owned())).differing(), 1);
    }

    #[test]
    fn a_set_that_counted_nothing_differs() {
        let mut report = report(Seen::Way(Way::Direct));
        let status = r#"{"generation": 1, "sets": [], "reasons": []}"#;
        report.check_sets(serde_json::from_str(status).unwrap(), &[probe(Way::Direct)]);
        assert_eq!(report.differing(), 1);
        assert!(report.summary().contains("1 NOT as expected"), "{}", report.summary());
    }
}
