//! `off` and `on`: the kill switch, written where the programs read it, daemon or no daemon.

use std::io;
use std::path::Path;

use clap::Args;
use gateway_common::Reason;
use jiff::Timestamp;
use serde::Serialize;

use super::{Cli, output, revoke};
use crate::daemon::control::ask;
use crate::daemon::journal::{Entry, Journal};
use crate::daemon::switched_off;
use crate::datapath::{Control, Loaded, Pins, Standing, require_privileges};
use crate::exit::{Exit, Failure};
use crate::observe::Switches;

/// Stays as it is switched over reload, restart, reboot and every new list; `down` forgets it
#[derive(Debug, Args)]
pub struct SwitchArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Stays as it is switched over reload, restart, reboot and every new list; `down` forgets it
#[derive(Debug, Args)]
pub struct OffArgs {
    #[command(flatten)]
    switch: SwitchArgs,

    /// End the direct flows there are, too; that takes a running daemon
    #[arg(long)]
    revoke: bool,
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
    /// Why a boot forgets it, if so.
    kept_problem: Option<String>,
    /// Direct flows that were ended; `None`, that was not asked for.
    flows_ended: Option<u64>,
}

/// Runs `on`.
///
/// # Errors
///
/// There is no switch, or it cannot be written.
pub(super) fn on(args: &SwitchArgs, pins: &Pins, state_dir: &Path) -> Result<(), Failure> {
    switch(args, true, pins, state_dir, &|| Ok(None))
}

/// Runs `off`.
///
/// # Errors
///
/// As [`on`]; or it is off, but flows cannot be ended.
pub(super) fn off(args: &OffArgs, pins: &Pins, cli: &Cli) -> Result<(), Failure> {
    let end = || {
        if !args.revoke {
            return Ok(None);
        }
        match ask(&cli.run_dir, &revoke::everything()) {
            Ok((_, report)) => Ok(report["flows"].as_u64()),
            Err(failure) => {
                let problem = format!("it is off, but live direct flows go on: {failure}");
                Err(Failure::new(failure.exit, problem))
            }
        }
    };
    switch(&args.switch, false, pins, &cli.state_dir, &end)
}

fn switch(
    args: &SwitchArgs,
    on: bool,
    pins: &Pins,
    state_dir: &Path,
    end: &dyn Fn() -> Result<Option<u64>, Failure>,
) -> Result<(), Failure> {
    require_privileges()?;
    let mut control = Control::open(pins)?.ok_or_else(|| no_switch(pins))?;
    let was_on = control.standing()?.on;
    control.switch(on)?;
    let standing = control.standing()?;
    let (mut kept_problem, mut journal_problem) = (None, None);
    // Without a state directory there is neither.
    if state_dir.is_dir() {
        let why = |error: io::Error| format!("{}: {error}", state_dir.display());
        kept_problem = switched_off::keep(state_dir, !on).err().map(why);
        journal_problem = record(on, pins, state_dir).err().map(why);
    }
    let flows_ended = end()?;
    if args.json {
        let switches = standing.into();
        return output::json(&Switched {
            was_on,
            switches,
            journal_problem,
            kept_problem,
            flows_ended,
        });
    }
    let ended = flows_ended.map(|ended| format!("; {ended} direct flows are ended"));
    let kept = kept_problem.map(|problem| format!("; a boot forgets it: {problem}"));
    let lacks = journal_problem.map(|problem| format!("; the journal lacks a line: {problem}"));
    let more: String = [ended, kept, lacks].into_iter().flatten().collect();
    output::text(&format!("{}{more}", said(&standing)))
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

/// Writes a line of the journal.
fn record(on: bool, pins: &Pins, state_dir: &Path) -> io::Result<()> {
    let generation = Loaded::open(pins).ok().map(|loaded| loaded.manifest().generation);
    Journal::new(state_dir).append(&Entry::switched(Timestamp::now(), on, generation))
}
