//! Taking everything back: first what marks, then the way out, then the pins.

use std::fmt;

use serde::Serialize;

use crate::datapath::{Attached, Lock, Pins, attached, take_down, withdraw};
use crate::egress;
use crate::exit::Failure;

/// What was taken back, and what was not.
#[derive(Debug, Serialize)]
pub struct TakenBack {
    /// Hooks that were taken off.
    pub hooks: Vec<Attached>,
    /// What `[egress]` had installed.
    pub egress: egress::Removed,
    /// Why the rest is not taken back.
    #[serde(skip)]
    problems: Vec<Failure>,
}

/// Takes back everything that is ours, under the lock of `pins` where they are there, so that no daemon
/// installs it anew meanwhile. What cannot be taken back is no reason to leave the rest.
///
/// In this order nothing is marked that has no way out: it would go past an inspector on this machine,
/// and not out of the uplink.
pub async fn take_back(pins: &Pins, lock: Option<Lock>) -> TakenBack {
    let mut problems = Vec::new();
    let mut hooks_now = || attached(pins).map_err(|error| problems.push(error.into()));
    let before = hooks_now().unwrap_or_default();
    let withdrawn = match &lock {
        Some(lock) => withdraw(lock).await,
        None => Ok(()),
    };
    let left = if withdrawn.is_ok() { Vec::new() } else { hooks_now().unwrap_or_default() };
    let is_withdrawn = withdrawn.is_ok();
    problems.extend(withdrawn.err().map(Failure::from));
    let (egress, of_egress) = egress::take_back().await;
    problems.extend(of_egress.into_iter().map(Failure::from));
    if let Some(lock) = lock
        && is_withdrawn
    {
        problems.extend(take_down(lock).await.err().map(Failure::from));
    }
    let hooks = before.into_iter().filter(|hook| !left.contains(hook)).collect();
    TakenBack { hooks, egress, problems }
}

impl TakenBack {
    /// # Errors
    ///
    /// Something is not taken back: all of it in one line, with the code of the first.
    pub fn outcome(&self) -> Result<(), Failure> {
        let Some(first) = self.problems.first() else { return Ok(()) };
        let lines: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        Err(Failure::new(first.exit, lines.join("; ")))
    }
}

/// One line for the way out, if there was any, and one for the hooks.
impl fmt::Display for TakenBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.egress.is_nothing() {
            writeln!(f, "removed {} of the direct uplink", self.egress)?;
        }
        let hooks: Vec<String> = self.hooks.iter().map(ToString::to_string).collect();
        match (hooks.is_empty(), self.problems.is_empty()) {
            (true, true) => f.write_str("nothing was attached"),
            (true, false) => f.write_str("nothing was detached"),
            (false, true) => {
                write!(f, "detached from {}; everything is inspected", hooks.join(", "))
            }
            (false, false) => write!(f, "detached from {}", hooks.join(", ")),
        }
    }
}
