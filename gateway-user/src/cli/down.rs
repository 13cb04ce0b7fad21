//! `down`: take back everything that is ours, and nothing else.

use clap::Args;
use serde::Serialize;

use super::output;
use crate::datapath::{Attached, Pins, attached, require_privileges, take_down};
use crate::egress;
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
    /// What `[egress]` had installed.
    egress: egress::Removed,
}

/// Runs the verb. Nothing loaded is success: there is nothing left of ours.
///
/// # Errors
///
/// A daemon holds the pins, or something could not be removed.
pub(super) fn run(args: &DownArgs, pins: &Pins) -> Result<(), Failure> {
    require_privileges()?;
    let hooks = attached(pins)?;
    let lock = if pins.root().exists() { Some(pins.lock()?) } else { None };
    let runtime = super::runtime()?;
    // Under the lock, so that no daemon installs it anew meanwhile.
    let egress = runtime.block_on(egress::take_back());
    if let Some(lock) = lock {
        runtime.block_on(take_down(lock))?;
    }
    let removed = Removed { hooks, egress: egress? };
    if args.json {
        return output::json(&removed);
    }
    if !removed.egress.is_nothing() {
        let egress::Removed { rules, routes, table } = removed.egress;
        let table = if table { ", and the nftables table" } else { "" };
        output::text(&format!(
            "removed {rules} rules, {routes} routes{table} of the direct uplink"
        ))?;
    }
    if removed.hooks.is_empty() {
        return output::text("nothing was attached");
    }
    let hooks: Vec<String> = removed.hooks.iter().map(ToString::to_string).collect();
    output::text(&format!("detached from {}; everything is inspected", hooks.join(", ")))
}
