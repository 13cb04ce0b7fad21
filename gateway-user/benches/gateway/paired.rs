//! What two ways differ by: their turns in the same round are compared, so that what slows a machine
//! down for a while slows both.

use serde::Serialize;

/// The median over rounds, and between which values it is in 19 of 20 runs, whatever the distribution of
/// what disturbs them: the order statistics of the sign test.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Paired {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Paired {
    /// Of `by` of the two samples of each round.
    pub(crate) fn of(one: &[f64], other: &[f64], by: fn(f64, f64) -> f64) -> Self {
        let mut all: Vec<_> = one.iter().zip(other).map(|(one, other)| by(*one, *other)).collect();
        all.sort_by(f64::total_cmp);
        let at = |place: usize| all.get(place).copied().unwrap_or(f64::NAN);
        let (below, last) = (below(all.len()), all.len().saturating_sub(1));
        Self { median: at(all.len() / 2), low: at(below), high: at(last.saturating_sub(below)) }
    }

    /// The worst of several, by its least or its greatest: what holds of it holds of each.
    pub(crate) fn each(all: impl IntoIterator<Item = Self>, worst: fn(f64, f64) -> f64) -> Self {
        let combine = |one: Self, other: Self| Self {
            median: worst(one.median, other.median),
            low: worst(one.low, other.low),
            high: worst(one.high, other.high),
        };
        let none = Self { median: f64::NAN, low: f64::NAN, high: f64::NAN };
        all.into_iter().reduce(combine).unwrap_or(none)
    }
}

/// How many of the sorted values of so many rounds are left out at either end: a fair coin thrown as often
/// shows so few heads in at most one of 40 runs. None of less than six rounds, which are too few.
fn below(rounds: usize) -> usize {
    let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
    // The chance of exactly that many heads, and of that many or fewer.
    let mut chance = 0.5_f64.powf(f64::from(rounds));
    let mut sum = chance;
    let mut heads = 0_u32;
    while heads < rounds {
        chance *= f64::from(rounds - heads) / f64::from(heads + 1);
        sum += chance;
        if sum > 0.025 {
            break;
        }
        heads += 1;
    }
    usize::try_from(heads).unwrap_or(0)
}
