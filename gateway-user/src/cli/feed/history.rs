//! `breakout365 feed history`: what became of every change, from the journal.

use std::path::Path;

use serde::Serialize;

use crate::cli::output;
use crate::daemon::journal::{Entry, Journal};
use crate::exit::{Exit, Failure};

/// Every generation and every plan that was held or failed, oldest first, from the journal
#[derive(Debug, clap::Args)]
pub struct History {
    /// Only the last so many
    #[arg(long, value_name = "NUMBER")]
    last: Option<usize>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    entries: Vec<Entry>,
    /// Lines of the journal that cannot be read.
    damaged: usize,
}

pub(super) fn run(args: &History, state_dir: &Path) -> Result<(), Failure> {
    let (mut entries, damaged) = Journal::new(state_dir).read().map_err(|error| {
        let problem = format_args!(
            "{}: the journal cannot be read: {error}; --state-dir names another directory",
            state_dir.display()
        );
        Failure::new(Exit::System, problem)
    })?;
    if let Some(last) = args.last {
        entries.drain(..entries.len().saturating_sub(last));
    }
    let report = Report { entries, damaged };
    if args.json { output::json(&report) } else { output::text(&text(&report)) }
}

fn text(Report { entries, damaged }: &Report) -> String {
    if entries.is_empty() {
        return "the journal has no line yet".to_owned();
    }
    let heads = ["time", "trigger", "outcome", "generation", "feed", "prefixes", "what"];
    let mut table = output::table(&heads);
    table.add_rows(entries.iter().map(row));
    match damaged {
        0 => table.to_string(),
        damaged => format!("{table}\n{damaged} lines of the journal cannot be read"),
    }
}

fn row(entry: &Entry) -> [String; 7] {
    let dash = || "-".to_owned();
    let feed = entry
        .feed
        .as_ref()
        .map(|feed| feed.version.clone().unwrap_or_else(|| feed.digest.chars().take(12).collect()));
    let prefixes = entry.prefixes_v4.zip(entry.prefixes_v6);
    [
        entry.time.clone(),
        entry.trigger.to_string(),
        entry.outcome.to_string(),
        entry.generation.map_or_else(dash, |generation| generation.to_string()),
        feed.unwrap_or_else(dash),
        prefixes.map_or_else(dash, |(v4, v6)| format!("{v4} + {v6}")),
        entry.problem.clone().or_else(|| entry.summary.clone()).unwrap_or_else(dash),
    ]
}
