//! CPU time of a turn: of the thread that sends, in whose system call the kernel does nearly all of the
//! work, and of the kernel's threads that take over what it leaves. On a machine that has other things to
//! do, time of the day measures those.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};

/// What the turns of every gateway are measured by.
pub(crate) struct Clock {
    /// Where each of the kernel's threads says how long it has run.
    threads: Vec<PathBuf>,
}

impl Clock {
    /// Finds `ksoftirqd` of each CPU.
    pub(crate) fn new() -> Result<Self> {
        let mut threads = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let process = entry?.path();
            // Others come and go meanwhile.
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            if name.starts_with("ksoftirqd/") {
                threads.push(process.join("schedstat"));
            }
        }
        ensure!(
            !threads.is_empty(),
            "the kernel's threads (ksoftirqd) are not to be seen in /proc"
        );
        Ok(Self { threads })
    }

    /// What the thread that calls this, and they, have run so far.
    pub(crate) fn now(&self) -> Result<Duration> {
        let mut sum = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
        for thread in &self.threads {
            // `include/linux/sched.h`: run, waited, slices; nanoseconds the first two.
            let text = fs::read_to_string(thread)?;
            let run = text.split_whitespace().next().context("schedstat is empty")?;
            sum += Duration::from_nanos(run.parse()?);
        }
        Ok(sum)
    }
}
