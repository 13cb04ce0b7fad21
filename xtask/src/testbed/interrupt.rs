//! Ctrl-C and its kind as something to look at between two steps, so that clean-up happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// Whether somebody wants this process to end.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP are noted instead of ending the process at once.
    /// To be called before other threads exist: they inherit it. Child processes do not, the
    /// standard library gives them an empty signal mask.
    ///
    /// # Errors
    ///
    /// The signals cannot be held back.
    pub fn watch() -> Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block().context("cannot hold back signals")?;
        let noted = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&noted);
        thread::spawn(move || {
            while signals.wait().is_ok() {
                note.store(true, Ordering::Relaxed);
            }
        });
        Ok(Self(noted))
    }

    /// Whether it has happened.
    #[must_use]
    pub fn happened(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails if it has happened, so that `?` unwinds through everything to be cleaned up.
    ///
    /// # Errors
    ///
    /// It has happened.
    pub fn check(&self) -> Result<()> {
        if self.happened() {
            bail!("interrupted");
        }
        Ok(())
    }
}
