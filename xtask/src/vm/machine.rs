//! The emulated machine: one kernel, one initramfs, a serial console, no network.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use xtask::testbed::{Interrupt, Process};

use super::{console, step};
use crate::process::command;

/// Memory of the guest.
const MEMORY: &str = "512M";
/// How often somebody who wants this to end is listened to.
const ATTENTION: Duration = Duration::from_millis(500);
/// How long a kernel may take to its first process: it takes seconds, on a busy machine half a minute.
const PATIENCE: Duration = Duration::from_mins(3);
/// How often it is booted when it takes longer.
const ATTEMPTS: u32 = 3;

/// What to boot, and where to what it says.
#[derive(Debug)]
pub(super) struct Boot<'a> {
    /// The kernel's image.
    pub(super) kernel: &'a Path,
    /// Its first and only file system.
    pub(super) initramfs: &'a Path,
    /// A `name=value` for init's environment.
    pub(super) parameter: String,
    /// Gets all that the guest says.
    pub(super) log: &'a Path,
}

impl Boot<'_> {
    /// Runs the machine until it is off, or until `limit`: whether it got to its end is said by
    /// what it said.
    ///
    /// A kernel that hangs before anything of the guest has run is booted again: that was seen once
    /// in some twenty boots, and says nothing about the product.
    ///
    /// # Errors
    ///
    /// It cannot be started, or the run was interrupted.
    pub(super) fn run(&self, limit: Duration, interrupt: &Interrupt) -> Result<()> {
        for attempt in 1..=ATTEMPTS {
            let mut machine = self.start()?;
            let start = Instant::now();
            let hangs = loop {
                interrupt.check()?;
                if machine.wait_for(ATTENTION)?.is_some() || start.elapsed() >= limit {
                    break false;
                }
                if start.elapsed() >= PATIENCE && !self.guest_has_begun() {
                    break true;
                }
            };
            if !hangs {
                break;
            }
            step(&format!("the kernel hangs while it boots, attempt {attempt} of {ATTEMPTS}"));
        }
        Ok(())
    }

    fn start(&self) -> Result<Process> {
        let log = File::create(self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut qemu = command("qemu-system-x86_64");
        // Emulated, also where there is hardware for it: the same everywhere.
        qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", MEMORY])
            .args(["-nographic", "-no-reboot", "-nic", "none"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            .arg(format!("console=ttyS0 panic=-1 {}", self.parameter))
            .stderr(log.try_clone()?)
            .stdout(log);
        Process::spawn(&mut qemu)
    }

    fn guest_has_begun(&self) -> bool {
        fs::read(self.log).is_ok_and(|said| console::has_begun(&String::from_utf8_lossy(&said)))
    }
}
