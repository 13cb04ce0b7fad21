//! The two clocks of a window: the kernel's, which ends it, and the wall clock, which people read.

use std::fs;
use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Reads both clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

/// What both clocks say at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock.
    pub wall: Timestamp,
    /// Nanoseconds of `CLOCK_BOOTTIME`, which goes on while the machine sleeps: what
    /// `bpf_ktime_get_boot_ns` gives.
    pub kernel: u64,
    /// The id of this boot of the machine.
    pub boot: String,
}

impl Clock {
    /// Now.
    ///
    /// # Errors
    ///
    /// The kernel does not say, one line.
    pub fn now(self) -> Result<Moment, String> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|error| format!("/proc/sys/kernel/random/boot_id: {error}"))?;
        let kernel = kernel_now()?;
        Ok(Moment { wall: Timestamp::now(), kernel, boot: boot.trim().to_owned() })
    }
}

/// Nanoseconds of `CLOCK_BOOTTIME`.
pub(crate) fn kernel_now() -> Result<u64, String> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|error| format!("clock: {error}"))?;
    Ok(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}

/// As nanoseconds, at most what fits.
pub(super) fn nanoseconds(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}
