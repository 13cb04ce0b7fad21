//! `down`: take back everything that is ours, and nothing else.

use std::path::Path;

use clap::Args;

use super::output;
use crate::daemon::{switched_off, take_back};
use crate::datapath::{Pins, require_privileges};
use crate::exit::{Exit, Failure};

/// Detach everything and remove every pin; the daemon must be stopped
#[derive(Debug, Args)]
pub struct DownArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb. Nothing loaded is success: there is nothing left of ours.
///
/// # Errors
///
/// A daemon holds the pins, or something could not be removed; what could be is printed all the same.
pub(super) fn run(args: &DownArgs, pins: &Pins, state_dir: &Path) -> Result<(), Failure> {
    require_privileges()?;
    let lock = if pins.root().exists() { Some(pins.lock()?) } else { None };
    let taken_back = super::runtime()?.block_on(take_back(pins, lock));
    if args.json {
        output::json(&taken_back)?;
    } else {
        output::text(&taken_back.to_string())?;
    }
    taken_back.outcome()?;
    switched_off::keep(state_dir, false).map_err(|error| {
        let problem =
            format!("the next start is off, as was said: {}: {error}", state_dir.display());
        Failure::new(Exit::System, problem)
    })
}
