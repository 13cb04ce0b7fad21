//! Which of numbered packets are drawn: a share of any, however they come, and without a number at random,
//! which costs a call for each packet.
//!
//! Multiples of 2³² over the golden ratio, modulo 2³², are spread evenly over any stretch of numbers, and
//! no period of the traffic meets one of theirs (Knuth, The Art of Computer Programming, volume 3, section
//! 6.4, on multiplicative hashing).

/// 2³² over the golden ratio, to the nearest odd number.
const MULTIPLIER: u64 = 0x9e37_79b1;

/// What [`is_drawn`] takes for one in `one_in`; zero, which is none, for zero.
#[must_use]
pub const fn limit(one_in: u32) -> u32 {
    match u32::MAX.checked_div(one_in) {
        Some(limit) => limit,
        None => 0,
    }
}

/// Whether the packet of this number is drawn, by a [`limit`]; number zero always is, unless none are.
#[inline(always)]
#[must_use]
pub fn is_drawn(number: u64, limit: u32) -> bool {
    let spread = number.wrapping_mul(MULTIPLIER) & u64::from(u32::MAX);
    limit != 0 && spread <= u64::from(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(numbers: core::ops::Range<u64>, step: usize, one_in: u32) -> usize {
        numbers.step_by(step).filter(|number| is_drawn(*number, limit(one_in))).count()
    }

    #[test]
    fn one_in_so_many_is_drawn_from_wherever_and_in_whatever_rhythm() {
        for (one_in, expected) in [(1, 1000), (2, 500), (3, 333), (10, 100), (1000, 1)] {
            for begin in [0, 1, 999, u64::from(u32::MAX) - 5_000, u64::MAX - 1_000_000] {
                for step in [1_u16, 2, 7, 10, 100] {
                    let end = begin.saturating_add(1000 * u64::from(step));
                    let drawn = drawn(begin..end, step.into(), one_in);
                    let is_near = drawn.abs_diff(expected) <= 4 + expected / 5;
                    assert!(is_near, "{drawn} for {expected} from {begin} by {step}");
                }
            }
        }
    }

    #[test]
    fn all_none_and_the_first_are_exact() {
        assert_eq!(drawn(0..1000, 1, 1), 1000);
        assert_eq!(drawn(0..1000, 1, 0), 0);
        for one_in in [2, 1000, u32::MAX] {
            assert!(is_drawn(0, limit(one_in)), "{one_in}");
        }
    }
}
