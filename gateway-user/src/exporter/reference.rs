//! The reference of all series, as `docs/metrics.md` has it.

use std::fmt::Write as _;

use super::series::{SERIES, Source};

const OPENING: &str = "\
# Metrics

Every series of `breakout365 exporter`, written from `gateway-user/src/exporter/series/catalogue.rs`
by `BREAKOUT365_WRITE=1 cargo test --package gateway-user --test all metrics::`. How to scrape them, and what
each alert asks for: [operations.md](operations.md#metrics).

Counters begin with the daemon (those of the exporter with the exporter) and never go back while it
runs, whatever generations come and go. Times are seconds since the epoch. While no daemon answers,
only the series of the exporter are there. In OpenMetrics the type of a counter is told under its name
without `_total`.
";

/// The page.
#[must_use]
pub fn reference() -> String {
    // Writing to a string does not fail.
    let mut page = OPENING.to_owned();
    for (title, is_here) in [
        ("The exporter", (|source| matches!(source, Source::Exporter(_))) as fn(&Source) -> bool),
        ("The daemon", |source| matches!(source, Source::Daemon(_))),
    ] {
        let _ = write!(page, "\n## {title}\n\n| series | type | unit | labels | what it says |\n");
        page.push_str("|---|---|---|---|---|\n");
        for series in SERIES.iter().filter(|series| is_here(&series.read)) {
            let labels: Vec<String> = series.labels.iter().map(|it| format!("`{it}`")).collect();
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} | {} |",
                series.name,
                series.kind.name(),
                series.unit().unwrap_or_default(),
                labels.join(", "),
                series.help.replace('|', "\\|"),
            );
        }
    }
    page
}
