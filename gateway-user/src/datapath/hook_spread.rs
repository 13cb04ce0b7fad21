//! Counters by hook: which of them a packet of an interface is counted under.
//!
//! A program finds them by one multiplication and one load, so the interfaces are spread over a
//! table of fixed size by a multiplier that puts no two of them into the same bucket.

use gateway_common::abi::{HOOK_BUCKETS, HookBucket};

/// The first multiplier that is tried, and what the next one is further on: 2^32 by the golden
/// ratio, odd, which spreads neighbouring numbers widely.
const GOLDEN: u32 = 0x9e37_79b1;
/// With 64 interfaces one multiplier in fifty does; nobody waits for so many attempts.
const ATTEMPTS: u32 = 20_000;

/// Buckets for the interfaces of a generation.
#[derive(Debug)]
pub(super) struct HookSpread {
    /// What an index is multiplied with.
    pub(super) multiplier: u32,
    /// [`HookBucket`]s.
    pub(super) buckets: Vec<u64>,
}

impl HookSpread {
    /// Spreads `hooks`, by index, of which each has this many counters; the first counters are of
    /// no hook. Where so many interfaces cannot be spread, the last ones have none of their own.
    pub(super) fn of(hooks: &[u32], counters: u32) -> Self {
        let mut multiplier = GOLDEN;
        for _ in 0..ATTEMPTS {
            if let Some(spread) = Self::with(multiplier, hooks, counters, false) {
                return spread;
            }
            // The step is even, so all of them are odd.
            multiplier = multiplier.wrapping_add(GOLDEN.wrapping_mul(2));
        }
        let empty = || Self { multiplier, buckets: vec![0; HOOK_BUCKETS] };
        Self::with(multiplier, hooks, counters, true).unwrap_or_else(empty)
    }

    fn with(multiplier: u32, hooks: &[u32], counters: u32, leave_out: bool) -> Option<Self> {
        let mut buckets = vec![0; HOOK_BUCKETS];
        let mut first = counters;
        for ifindex in hooks {
            let bucket = buckets.get_mut(HookBucket::number(*ifindex, multiplier))?;
            if *bucket == 0 {
                *bucket = HookBucket::new(*ifindex, first).0;
            } else if !leave_out {
                return None;
            }
            first = first.saturating_add(counters);
        }
        Some(Self { multiplier, buckets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_counter(spread: &HookSpread, ifindex: u32) -> u32 {
        let bucket = HookBucket::number(ifindex, spread.multiplier);
        HookBucket(spread.buckets[bucket]).first_counter(ifindex)
    }

    #[test]
    fn every_interface_has_counters_of_its_own() {
        let sequences: [Vec<u32>; 5] = [
            vec![],
            vec![2],
            vec![1, 2, 1025, 2049, u32::MAX],
            (3..67).collect(),
            (0..64).map(|number| number * 4096 + 7).collect(),
        ];
        for hooks in sequences {
            let spread = HookSpread::of(&hooks, 23);
            for (number, ifindex) in (1..).zip(&hooks) {
                assert_eq!(first_counter(&spread, *ifindex), number * 23, "{ifindex} of {hooks:?}");
            }
            assert_eq!(first_counter(&spread, 999_999), 0, "{hooks:?}");
        }
    }

    #[test]
    fn interfaces_that_cannot_be_spread_count_under_none_rather_than_under_another() {
        let hooks: Vec<u32> = (1..=2000).collect();
        let spread = HookSpread::of(&hooks, 21);
        let mut own = 0;
        for (number, ifindex) in (1..).zip(&hooks) {
            let first = first_counter(&spread, *ifindex);
            assert!(first == number * 21 || first == 0, "{ifindex}");
            own += u32::from(first != 0);
        }
        assert!(own > 500, "{own}");
    }
}
