//! A child process that ends with its value.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running process. Dropping it asks it to end, and makes it end after a second.
#[derive(Debug)]
pub struct Process {
    child: Child,
    released: bool,
}

impl Process {
    /// Starts `command` in a process group of its own, so that Ctrl-C ends it by its value only.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run `{}`", command.get_program().display()))?;
        Ok(Self { child, released: false })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends `signal`.
    ///
    /// # Errors
    ///
    /// The process has ended and been waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().try_into().context("not a process id")?;
        kill(Pid::from_raw(pid), signal).context("cannot send a signal")
    }

    /// Its status once it has ended, waiting for that at most `limit`.
    ///
    /// # Errors
    ///
    /// It cannot be waited for.
    pub fn wait_for(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Leaves it running.
    pub fn release(mut self) {
        self.released = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.released || matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(Signal::SIGTERM).ok();
        if !matches!(self.wait_for(Duration::from_secs(1)), Ok(Some(_))) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
