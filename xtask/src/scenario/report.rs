//! What a scenario showed, as a table for people or as JSON.

use comfy_table::{Table, presets};
use serde::Serialize;

use super::{Hook, Name};

/// Everything that one scenario expected and saw.
#[derive(Debug, Serialize)]
pub struct Report {
    scenario: Name,
    hook: Hook,
    rows: Vec<Row>,
    seconds: u64,
}

/// One thing.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    shows: String,
    expected: String,
    seen: String,
    ok: bool,
}

impl Report {
    pub(super) fn new(scenario: Name, hook: Hook) -> Self {
        Self { scenario, hook, rows: Vec::new(), seconds: 0 }
    }

    pub(super) fn took(&mut self, seconds: u64) {
        self.seconds = seconds;
    }

    /// Expects exactly this.
    pub(super) fn check(&mut self, what: &str, shows: &str, expected: &str, seen: String) {
        let ok = seen == expected;
        self.add(what, shows, expected.to_owned(), seen, ok);
    }

    /// Expects a number.
    pub(super) fn count(&mut self, what: &str, shows: &str, expected: u64, seen: u64) {
        self.add(what, shows, expected.to_string(), seen.to_string(), seen == expected);
    }

    /// Expects a number or more.
    pub(super) fn at_least(&mut self, what: &str, shows: &str, expected: u64, seen: u64) {
        let ok = seen >= expected;
        self.add(what, shows, format!("at least {expected}"), seen.to_string(), ok);
    }

    fn add(&mut self, what: &str, shows: &str, expected: String, seen: String, ok: bool) {
        let (what, shows) = (what.to_owned(), shows.to_owned());
        self.rows.push(Row { what, shows, expected, seen, ok });
    }

    /// What did not come out as expected, one line each.
    #[must_use]
    pub fn differing(&self) -> Vec<String> {
        let differs = self.rows.iter().filter(|row| !row.ok);
        let line = |row: &Row| {
            format!("{} ({}): expected {}, seen {}", row.what, row.shows, row.expected, row.seen)
        };
        differs.map(line).collect()
    }

    /// Its table and one summary line.
    #[must_use]
    pub fn text(&self) -> String {
        let mut table = Table::new();
        let rows = self.rows.iter().map(|row| {
            let mark = if row.ok { "" } else { "  <-- differs" };
            [&row.what, &row.shows, &row.expected, &format!("{}{mark}", row.seen)].map(Clone::clone)
        });
        let header = ["what", "what it shows", "expected", "seen"];
        table.load_style(presets::UTF8_BORDERS_ONLY).set_header(header).add_rows(rows);
        let verdict = match self.differing().len() {
            0 => "all as expected".to_owned(),
            differing => format!("{differing} NOT as expected"),
        };
        let (name, hook) = (self.scenario.name(), self.hook.name());
        let (rows, seconds) = (self.rows.len(), self.seconds);
        format!("{table}\nscenario {name} ({hook}): {rows} expectations, {seconds} s: {verdict}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_said_and_marked() {
        let mut report = Report::new(Name::Ips, Hook::Tc);
        report.check("a", "b", "direct", "direct".to_owned());
        report.count("c", "d", 0, 0);
        report.at_least("e", "f", 1, 2);
        assert!(report.differing().is_empty());
        assert!(report.text().ends_with("3 expectations, 0 s: all as expected"));
        report.count("packets", "leaks", 0, 7);
        assert_eq!(report.differing(), ["packets (leaks): expected 0, seen 7"]);
        assert!(report.text().contains("7  <-- differs"), "{}", report.text());
        assert!(report.text().ends_with("1 NOT as expected"), "{}", report.text());
    }
}
