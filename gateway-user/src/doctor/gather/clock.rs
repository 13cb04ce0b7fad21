//! Whether the kernel takes the clock for synchronised: adjtimex(2), which only reads here.

#![allow(unsafe_code, reason = "adjtimex(2) has no safe binding that reads its status")]

use std::io;
use std::mem::MaybeUninit;

use nix::libc;

/// What the kernel says since the last time that something set the clock by another one.
pub(super) fn is_synchronised() -> Result<bool, String> {
    let mut timex = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the kernel reads and writes one `timex`, which this is; all its bytes are zero, and no
    // mode is set, so that nothing is changed.
    let state = unsafe { libc::adjtimex(timex.as_mut_ptr()) };
    if state < 0 {
        return Err(format!("adjtimex: {}", io::Error::last_os_error()));
    }
    // SAFETY: it is made of numbers only, for which zeros are a value, and the kernel has filled it.
    let timex = unsafe { timex.assume_init() };
    Ok(state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0)
}
