//! `down`: take back everything that is ours, and nothing else.

use clap::Args;
use serde::Serialize;

use super::output;
use crate::datapath::{Attached, Pins, attached, require_privileges, take_down};
use crate::exit::Failure;

/// Detach everything and remove every pin; the daemon must be stopped
#[derive(Debug, Args)]
pub struct DownArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `down --json` prints.
#[derive(Debug, Serialize)]
struct Removed {
    /// Hooks that were taken off.
    hooks: Vec<Attached>,
}

/// Runs the verb. Nothing loaded is success: there is nothing left of ours.
///
/// # Errors
///
/// A daemon holds the pins, or something could not be removed.
pub(super) fn run(args: &DownArgs, pins: &Pins) -> Result<(), Failure> {
    require_privileges()?;
    let hooks = attached(pins)?;
    if pins.root().exists() {
        let lock = pins.lock()?;
        super::runtime()?.block_on(take_down(lock))?;
    }
    let removed = Removed { hooks };
    if args.json {
        return output::json(&removed);
    }
    if removed.hooks.is_empty() {
        return output::text("nothing was attached");
    }
    let hooks: Vec<String> = removed.hooks.iter().map(ToString::to_string).collect();
    output::text(&format!("detached from {}; everything is inspected", hooks.join(", ")))
}
