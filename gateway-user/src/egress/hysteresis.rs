//! When rounds of probes change the state of a family: not at the first that differs.

use crate::config::Health;

/// What the rounds so far mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hysteresis {
    fall: u32,
    rise: u32,
    /// `None`, too few rounds yet.
    is_up: Option<bool>,
    /// Rounds that say otherwise, one after the other.
    streak: u32,
}

impl Hysteresis {
    pub(super) fn new(health: &Health) -> Self {
        Self { fall: health.fall, rise: health.rise, is_up: None, streak: 0 }
    }

    /// `None`, nothing is known yet.
    pub(super) fn is_up(&self) -> Option<bool> {
        self.is_up
    }

    /// Takes a round in; gives whether it changes the state. The first good one says that it is up.
    pub(super) fn note(&mut self, is_good: bool) -> bool {
        if self.is_up == Some(is_good) {
            self.streak = 0;
            return false;
        }
        self.streak = self.streak.saturating_add(1);
        let enough = match (self.is_up, is_good) {
            (None, true) => 1,
            (_, false) => self.fall,
            (Some(_), true) => self.rise,
        };
        if self.streak < enough {
            return false;
        }
        (self.is_up, self.streak) = (Some(is_good), 0);
        true
    }

    /// Something else brought the family down: it comes up by good rounds, as many as after silence.
    pub(super) fn fell(&mut self) {
        (self.is_up, self.streak) = (Some(false), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of(fall: u32, rise: u32) -> Hysteresis {
        let second = Duration::from_secs(1);
        Hysteresis::new(&Health {
            probes: Vec::new(),
            interval: second,
            timeout: second,
            fall,
            rise,
        })
    }

    /// The state after each round, `+` for a good one.
    fn course(mut hysteresis: Hysteresis, rounds: &str) -> String {
        let mut state = |round| {
            let before = hysteresis.is_up();
            let changed = hysteresis.note(round == '+');
            assert_eq!(changed, before != hysteresis.is_up());
            match hysteresis.is_up() {
                None => '?',
                Some(true) => 'u',
                Some(false) => 'd',
            }
        };
        rounds.chars().map(&mut state).collect()
    }

    #[test]
    fn only_rounds_that_follow_one_another_count() {
        assert_eq!(course(of(3, 2), "+--+---+-++--+---"), "uuuuuudddduuuuuud");
    }

    #[test]
    fn nothing_is_known_before_the_first_good_round_or_enough_bad_ones() {
        assert_eq!(course(of(3, 2), "--+"), "??u");
        assert_eq!(course(of(3, 2), "---++"), "??ddu");
        assert_eq!(course(of(1, 1), "-+-+"), "dudu");
    }

    #[test]
    fn what_fell_for_another_reason_comes_up_by_good_rounds() {
        let mut hysteresis = of(3, 2);
        assert!(hysteresis.note(true));
        hysteresis.fell();
        assert_eq!(course(hysteresis, "+-++"), "dddu");
    }
}
