//! `off` and `on`: the kill switch, written where the programs read it, daemon or no daemon.

use std::path::Path;

use clap::Args;
use gateway_common::Reason;
use jiff::Timestamp;
use serde::Serialize;

use super::output;
use crate::daemon::journal::{Entry, Journal};
use crate::datapath::{Control, Loaded, Pins, Standing, require_privileges};
use crate::exit::{Exit, Failure};
use crate::observe::Switches;

/// Stays as it is switched over reload, restart and every new list; `down` forgets it
#[derive(Debug, Args)]
pub struct SwitchArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `off --json` and `on --json` print.
#[derive(Debug, Serialize)]
struct Switched {
    /// Whether it was on before.
    was_on: bool,
    #[serde(flatten)]
    switches: Switches,
    /// Why the journal lacks a line, if so.
    journal_problem: Option<String>,
}

/// Runs the verb.
///
/// # Errors
///
/// There is no switch, or it cannot be written.
pub(super) fn run(
    args: &SwitchArgs,
    on: bool,
    pins: &Pins,
    state_dir: &Path,
) -> Result<(), Failure> {
    require_privileges()?;
    let mut control = Control::open(pins)?.ok_or_else(|| no_switch(pins))?;
    let was_on = control.standing()?.on;
    control.switch(on)?;
    let standing = control.standing()?;
    let problem = record(on, pins, state_dir);
    if args.json {
        let journal_problem = problem;
        return output::json(&Switched { was_on, switches: standing.into(), journal_problem });
    }
    let text = said(&standing);
    match problem {
        None => output::text(text),
        Some(problem) => output::text(&format!("{text}; the journal lacks a line: {problem}")),
    }
}

fn said(standing: &Standing) -> &'static str {
    match standing.refusal {
        None => "on: what is selected goes direct",
        Some(Reason::DaemonGone) => {
            "on, but no daemon has given a sign of life within its deadline: everything is inspected \
             until one does"
        }
        Some(_) => "off: everything is inspected until `breakout365 on`",
    }
}

fn no_switch(pins: &Pins) -> Failure {
    let problem = format_args!(
        "{}: no switch is there: either nothing is loaded and everything is inspected, or an older \
         breakout365 loaded it, and `breakout365 down` inspects everything",
        pins.root().display()
    );
    Failure::new(Exit::Datapath, problem)
}

/// Writes a line of the journal; says why not. Without a state directory there is no journal.
fn record(on: bool, pins: &Pins, state_dir: &Path) -> Option<String> {
    if !state_dir.is_dir() {
        return None;
    }
    let generation = Loaded::open(pins).ok().map(|loaded| loaded.manifest().generation);
    let entry = Entry::switched(Timestamp::now(), on, generation);
    let appended = Journal::new(state_dir).append(&entry);
    appended.err().map(|error| format!("{}: {error}", state_dir.display()))
}
