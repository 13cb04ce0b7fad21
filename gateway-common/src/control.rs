//! The control words: the kill switch, the dead man's switch and what is drawn for `trace`, shared by
//! all generations.
//!
//! They are the entries of one BPF array of [`WORDS`] values of 64 bits, each with one writer at a
//! time, so that no writer undoes what another has just written:
//!
//! | entry | what | written by |
//! |---|---|---|
//! | [`SWITCH`] | [`ON`], or direct egress is off | `breakout365 on` and `off` |
//! | [`DEADLINE`] | when direct egress ends by itself, or [`NEVER`] | the daemon |
//! | [`SAMPLE`] | one packet in so many is drawn for `trace`; zero is none | `breakout365 trace`; programs put it back to zero |
//! | [`SAMPLE_UNTIL`] | when the drawing ends by itself | `breakout365 trace` |
//! | [`REDIRECT_V4`], [`REDIRECT_V6`] | the interface that Direct packets may be redirected to | the daemon |
//! | [`UNDISPUTED_V4`], [`UNDISPUTED_V6`] | until when the direct table alone has the say over where Direct packets go | the daemon |
//!
//! Doubt is off: an entry that is missing, zero, or of another layout is not [`ON`], and a deadline
//! of zero is long past. A layout that differs from this one has another [`ON`].

use crate::Reason;

/// Entries of the array.
pub const WORDS: u32 = 8;
/// The entry of the kill switch.
pub const SWITCH: u32 = 0;
/// The entry of the dead man's switch: nanoseconds of `CLOCK_MONOTONIC`, less [`COARSENESS`], since it may be
/// compared with a clock that is so late (`bpf_ktime_get_coarse_ns`). While a machine sleeps no packet
/// comes and that clock stands still, so waking up is not a daemon that has gone.
pub const DEADLINE: u32 = 1;
/// How many nanoseconds the coarse clock may be late. It moves on at each tick, by whole ticks
/// (`timekeeping_advance`), so what is missing is less than one that is not taken in yet and one that is under
/// way: 20 ms where ticks are slowest (`CONFIG_HZ_100`), and the rest for a tick that is late itself.
pub const COARSENESS: u64 = 30_000_000;
/// The entry that says how many packets there are to one that is drawn for `trace`: at most `u32::MAX`.
/// It is no switch: nothing about where a packet goes depends on it.
pub const SAMPLE: u32 = 2;
/// The entry that says when drawing ends by itself: nanoseconds of `CLOCK_MONOTONIC`. The first packet that
/// is drawn after it is not recorded and puts [`SAMPLE`] to zero, so that a tracer may be killed.
pub const SAMPLE_UNTIL: u32 = 3;
/// The entry that says the index of the interface that Direct packets of IPv4 may be redirected to. A
/// generation that redirects elsewhere marks instead, so zero ends redirecting from the next packet on,
/// before a generation that marks is there.
pub const REDIRECT_V4: u32 = 4;
/// The same for IPv6.
pub const REDIRECT_V6: u32 = 5;

/// The entry that says until when what is redirected of IPv4 may be looked up in the direct table alone:
/// nanoseconds of `CLOCK_MONOTONIC`, compared with the coarse clock, so that a daemon that is gone leaves
/// look-ups by all rules. Zero is never.
pub const UNDISPUTED_V4: u32 = 6;
/// The same for IPv6.
pub const UNDISPUTED_V6: u32 = 7;

/// Direct egress is on: "B365 ON" with a layout version in the low byte.
pub const ON: u64 = 0x4233_3635_204f_4e01;
/// Direct egress is off: the value that `breakout365 off` writes. Any other but [`ON`] does the
/// same.
pub const OFF: u64 = 0x4233_3635_4f46_4601;
/// The deadline that does not pass.
pub const NEVER: u64 = u64::MAX;

/// Why nothing goes direct, if so, by the words of [`SWITCH`] and [`DEADLINE`]. `now` is asked only
/// where there is a deadline to compare with.
#[inline(always)]
#[must_use]
pub fn refusal(switch: u64, deadline: u64, now: impl FnOnce() -> u64) -> Option<Reason> {
    if switch != ON {
        return Some(Reason::SwitchedOff);
    }
    if deadline != NEVER && now() > deadline {
        return Some(Reason::DaemonGone);
    }
    None
}

const _: () = {
    assert!(ON != 0 && OFF != 0 && ON != OFF);
    assert!(SWITCH == 0 && DEADLINE == 1 && SAMPLE == 2 && SAMPLE_UNTIL == 3);
    assert!(REDIRECT_V4 == 4 && REDIRECT_V6 == 5);
    assert!(UNDISPUTED_V4 == 6 && UNDISPUTED_V6 == 7 && WORDS == 8);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Decision;

    #[test]
    fn only_on_before_its_deadline_lets_anything_go_direct() {
        let (off, gone) = (Some(Reason::SwitchedOff), Some(Reason::DaemonGone));
        for (switch, deadline, now, expected) in [
            (ON, NEVER, 0, None),
            (ON, NEVER, u64::MAX, None),
            (ON, 1_000, 999, None),
            (ON, 1_000, 1_000, None),
            (ON, 1_000, 1_001, gone),
            // As a map is that nobody has written to.
            (ON, 0, 1, gone),
            (0, NEVER, 0, off),
            (0, 0, 1, off),
            // The switch comes first.
            (OFF, 1_000, 1_001, off),
            (OFF, NEVER, 0, off),
            // Another layout.
            (ON + 1, NEVER, 0, off),
            (u64::MAX, NEVER, 0, off),
        ] {
            let refusal = refusal(switch, deadline, || now);
            assert_eq!(refusal, expected, "{switch:#x} until {deadline} at {now}");
        }
    }

    #[test]
    fn a_refusal_takes_direct_decisions_only() {
        let off = || Some(Reason::SwitchedOff);
        assert_eq!(Decision::by_group(3).unless(off), Decision::inspect(Reason::SwitchedOff));
        assert_eq!(Decision::by_group(3).unless(|| None), Decision::by_group(3));
        let inspected = Decision::inspect(Reason::NoPrefix);
        assert_eq!(inspected.unless(|| unreachable!("nothing to refuse")), inspected);
    }
}
