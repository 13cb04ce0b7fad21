//! The emulated machine: one kernel, one initramfs, a serial console, no network.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use xtask::testbed::{Interrupt, Process};

use crate::process::command;

/// How often somebody who wants this to end is listened to.
const ATTENTION: Duration = Duration::from_millis(500);

/// What to boot, and where to what it says.
#[derive(Debug)]
pub(super) struct Boot<'a> {
    /// The kernel's image.
    pub(super) kernel: &'a Path,
    /// Its first and only file system.
    pub(super) initramfs: &'a Path,
    /// A `name=value` for init's environment.
    pub(super) parameter: String,
    /// How much memory it has, as qemu reads it.
    pub(super) memory: &'a str,
    /// Gets all that the guest says.
    pub(super) log: &'a Path,
}

impl Boot<'_> {
    /// Runs the machine until it is off, or until `limit`: whether it got to its end is said by
    /// what it said.
    ///
    /// # Errors
    ///
    /// It cannot be started, or the run was interrupted.
    pub(super) fn run(&self, limit: Duration, interrupt: &Interrupt) -> Result<()> {
        let log = File::create(self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut qemu = command("qemu-system-x86_64");
        // Emulated, also where there is hardware for it: the same everywhere. In one thread,
        // because a kernel that patches its code while another CPU runs it now and then met its
        // own breakpoint otherwise.
        qemu.args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", self.memory])
            .args(["-nographic", "-no-reboot", "-nic", "none"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            // Where the host is busy, the emulated timer is late, and the kernel gives up on it.
            .arg(format!("console=ttyS0 panic=-1 no_timer_check {}", self.parameter))
            .stderr(log.try_clone()?)
            .stdout(log);
        let mut machine = Process::spawn(&mut qemu)?;
        let end = Instant::now() + limit;
        while Instant::now() < end && machine.wait_for(ATTENTION)?.is_none() {
            interrupt.check()?;
        }
        Ok(())
    }
}
