//! Waiting for what happens on its own.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Waits until `happened`, which is asked fifty times a second.
///
/// # Errors
///
/// It has not within `limit`, or cannot be asked. `what` ends the sentence that says so.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut happened: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !happened()? {
        if Instant::now() > deadline {
            bail!("waited in vain until {what}");
        }
        thread::sleep(TICK);
    }
    Ok(())
}

const TICK: Duration = Duration::from_millis(20);
