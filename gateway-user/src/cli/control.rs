//! `reload`, `apply`, `confirm`, `rollback`: what changes, asked of the running daemon.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use serde::Serialize;

use super::output;
use crate::daemon::control::{Request, ask};
use crate::exit::Failure;

/// Read the configuration again and take it into use, or say which line is wrong
#[derive(Debug, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    answer: Answer,
}

/// As `reload`, and go back by itself unless confirmed
///
/// The daemon goes back to the configuration and the feed it had before unless
/// `breakout365 confirm` comes in time. It also goes back when it is restarted before that.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// How long to wait for `breakout365 confirm`, such as 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    confirm_within: Option<Duration>,

    #[command(flatten)]
    answer: Answer,
}

/// Keep what was applied
#[derive(Debug, Args)]
pub struct ConfirmArgs {
    #[command(flatten)]
    answer: Answer,
}

/// Go to the generation before
///
/// A feed version that is left this way is not taken again by itself; `plan accept` or a newer
/// version ends that. The configuration file stays as it is: the next reload takes it into use.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    answer: Answer,
}

/// How the daemon's answer is printed.
#[derive(Debug, Args)]
pub(super) struct Answer {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Answer {
    /// Asks, and prints what is said.
    pub(super) fn of(&self, run_dir: &Path, request: &Request) -> Result<(), Failure> {
        let (text, report) = ask(run_dir, request)?;
        self.print(&report, || text)
    }

    /// Prints a report, as JSON or in these words.
    pub(super) fn print(
        &self,
        report: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json { output::json(report) } else { output::text(&text()) }
    }
}

impl ReloadArgs {
    pub(super) fn run(&self, run_dir: &Path) -> Result<(), Failure> {
        self.answer.of(run_dir, &Request::Reload)
    }
}

impl ApplyArgs {
    pub(super) fn run(&self, run_dir: &Path) -> Result<(), Failure> {
        let confirm_within = self.confirm_within.map(|within| within.as_secs());
        self.answer.of(run_dir, &Request::Apply { confirm_within })
    }
}

impl ConfirmArgs {
    pub(super) fn run(&self, run_dir: &Path) -> Result<(), Failure> {
        self.answer.of(run_dir, &Request::Confirm)
    }
}

impl RollbackArgs {
    pub(super) fn run(&self, run_dir: &Path) -> Result<(), Failure> {
        self.answer.of(run_dir, &Request::Rollback)
    }
}

/// Seconds at least: what is shorter could not be confirmed by anybody.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = text
        .parse::<SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or("not a time such as 90s, 5m or 1h")?;
    if duration < Duration::from_secs(1) {
        return Err("shorter than a second".to_owned());
    }
    Ok(duration)
}
