//! When the feed is asked for next: an interval, or a growing pause after failures.

use std::time::Duration;

/// The pause after a first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_mins(1);
/// Part of a pause that chance may add: a fifth. It only adds, because Microsoft asks for no more
/// than one check an hour.
const JITTER_PART: u64 = 5;

/// The next delay, from what happened so far. Chance comes in from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    interval: Duration,
    failures: u32,
}

impl Schedule {
    /// A schedule of one check per `interval`.
    #[must_use]
    pub const fn new(interval: Duration) -> Self {
        Self { interval, failures: 0 }
    }

    /// Failures since the last success.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// The delay after a check that succeeded: from one interval to a fifth more. `random` is any
    /// number, each equally likely.
    pub fn succeeded(&mut self, random: u64) -> Duration {
        self.failures = 0;
        jittered(self.interval, random)
    }

    /// The delay after a check that failed: a minute, doubled with each failure in a row, at most
    /// the interval; a fifth more by chance; and no less than the server asked for.
    pub fn failed(&mut self, retry_after: Option<Duration>, random: u64) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        let pause = pause.min(self.interval);
        jittered(pause.max(retry_after.unwrap_or_default()), random)
    }
}

/// `pause` to a fifth more, in milliseconds.
fn jittered(pause: Duration, random: u64) -> Duration {
    let most = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX) / JITTER_PART;
    // A span of weeks in milliseconds is so far below 2^64 that the remainder prefers nothing.
    let added = most.checked_add(1).map_or(0, |choices| random % choices);
    pause.saturating_add(Duration::from_millis(added))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn pauses_double_from_a_minute_to_the_interval_and_begin_anew_after_a_success() {
        let mut schedule = Schedule::new(HOUR);
        let minutes = |schedule: &mut Schedule| -> u64 { schedule.failed(None, 0).as_secs() / 60 };
        let grown: Vec<u64> = (0..8).map(|_| minutes(&mut schedule)).collect();
        assert_eq!(grown, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(schedule.failures(), 8);
        assert_eq!(schedule.succeeded(0), HOUR);
        assert_eq!(minutes(&mut schedule), 1);
    }

    #[test]
    fn no_interval_is_shorter_than_its_pauses() {
        assert_eq!(Schedule::new(Duration::from_secs(1)).failed(None, 0), Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn a_success_waits_for_the_interval_and_at_most_a_fifth_more(
            seconds in 1u64..40_000_000,
            random: u64,
        ) {
            let interval = Duration::from_secs(seconds);
            let delay = Schedule::new(interval).succeeded(random);
            prop_assert!(delay >= interval && delay <= interval * 6 / 5, "{delay:?}");
        }

        #[test]
        fn a_failure_waits_no_longer_than_a_success_may_unless_the_server_asks(
            seconds in 1u64..40_000_000,
            failures in 0u32..200,
            asked in prop::option::of(0u64..100_000),
            random: u64,
        ) {
            let interval = Duration::from_secs(seconds);
            let asked = asked.map(Duration::from_secs);
            let mut schedule = Schedule::new(interval);
            for _ in 0..failures {
                schedule.failed(None, random);
            }
            let delay = schedule.failed(asked, random);
            let longest = interval.max(asked.unwrap_or_default()) * 6 / 5;
            prop_assert!(delay <= longest, "{delay:?}");
            prop_assert!(delay >= asked.unwrap_or_default(), "{delay:?}");
            prop_assert!(delay >= interval.min(FIRST_PAUSE), "{delay:?}");
        }

        #[test]
        fn after_too_many_requests_it_waits_an_hour(seconds in 1u64..40_000_000, random: u64) {
            let delay = Schedule::new(Duration::from_secs(seconds)).failed(Some(HOUR), random);
            prop_assert!(delay >= HOUR);
        }
    }
}
