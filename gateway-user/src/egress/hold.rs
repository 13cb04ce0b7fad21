//! When a family whose link or next hop has come back counts as up, where no probe says it: once that
//! has lasted a while, and longer where it does not last.

use std::time::{Duration, Instant};

/// After a first failure: a cable that is being plugged in bounces for less.
const SHORTEST: Duration = Duration::from_secs(1);
/// After many: a link that flaps for an hour is tried a hundred times.
const LONGEST: Duration = Duration::from_secs(32);
/// Who was up for so long begins anew.
const CALM: Duration = Duration::from_mins(1);

/// How long one family is held, and since when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hold {
    length: Option<Duration>,
    /// When what it was down for was over.
    good: Option<Instant>,
    /// When it was last let go.
    up: Option<Instant>,
}

impl Hold {
    /// It is down.
    pub(super) fn fell(&mut self, now: Instant) {
        let length = match self.length {
            Some(length) if self.up.is_some_and(|up| now.duration_since(up) < CALM) => {
                length.saturating_mul(2).min(LONGEST)
            }
            Some(_) | None => SHORTEST,
        };
        *self = Self { length: Some(length), good: None, up: None };
    }

    /// While it is down: whether what it is down for is over.
    pub(super) fn note(&mut self, is_good: bool, now: Instant) {
        self.good = is_good.then(|| self.good.unwrap_or(now));
    }

    /// It is up.
    pub(super) fn rose(&mut self, now: Instant) {
        (self.good, self.up) = (None, Some(now));
    }

    /// Whether it is to stay down although nothing else is wrong.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.length.is_some_and(|length| {
            self.up.is_none() && self.good.is_none_or(|good| now.duration_since(good) < length)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Falls, is good at once, and is let go; gives how long that took, in seconds.
    fn held_for(hold: &mut Hold, now: &mut Instant) -> u64 {
        hold.fell(*now);
        let mut seconds = 0;
        while hold.holds(*now) {
            hold.note(true, *now);
            if hold.holds(*now) {
                *now += SHORTEST;
                seconds += 1;
            }
        }
        hold.rose(*now);
        seconds
    }

    #[test]
    fn what_never_fell_is_not_held() {
        assert!(!Hold::default().holds(Instant::now()));
    }

    #[test]
    fn each_fall_soon_after_the_last_holds_twice_as_long_and_a_calm_minute_forgives() {
        let (mut hold, mut now) = (Hold::default(), Instant::now());
        let course: Vec<u64> = (0..8).map(|_| held_for(&mut hold, &mut now)).collect();
        assert_eq!(course, [1, 2, 4, 8, 16, 32, 32, 32]);
        now += CALM;
        assert_eq!(held_for(&mut hold, &mut now), 1);
    }

    #[test]
    fn only_time_without_a_break_counts() {
        let (mut hold, now) = (Hold::default(), Instant::now());
        let at = |milliseconds| now + Duration::from_millis(milliseconds);
        hold.fell(at(0));
        hold.note(true, at(100));
        hold.note(false, at(900));
        hold.note(true, at(1000));
        assert!(hold.holds(at(1999)));
        hold.note(true, at(1500));
        assert!(!hold.holds(at(2000)));
    }
}
