//! Two things in turn, many times, and what one costs over the other.

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

/// Times that each of the two is measured. Odd, so that there is a median.
const ROUNDS: usize = 21;

/// Differences between two things, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Median over the rounds.
    pub(crate) median: f64,
    /// First quartile.
    pub(crate) low: f64,
    /// Third quartile.
    pub(crate) high: f64,
}

impl Sample {
    /// What `tested` costs over `base`, each giving nanoseconds per packet. They take turns and
    /// change places every round.
    pub(crate) fn difference(
        mut base: impl FnMut() -> Result<f64>,
        mut tested: impl FnMut() -> Result<f64>,
    ) -> Result<Self> {
        base()?;
        tested()?;
        let mut differences = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            differences.push(if round % 2 == 0 {
                let base = base()?;
                tested()? - base
            } else {
                let tested = tested()?;
                tested - base()?
            });
        }
        differences.sort_by(f64::total_cmp);
        Ok(Self {
            median: differences[ROUNDS / 2],
            low: differences[ROUNDS / 4],
            high: differences[ROUNDS - 1 - ROUNDS / 4],
        })
    }
}

/// Nanoseconds of processor time that `work`, which handles `packets`, takes per packet. Time that
/// the machine gives to others is not counted.
pub(crate) fn per_packet(packets: u32, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let before = processor_time()?;
    work()?;
    Ok((processor_time()? - before) / f64::from(packets))
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of one process fit 53 bits")]
fn processor_time() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok((time.tv_sec() * 1_000_000_000 + time.tv_nsec()) as f64)
}
