//! Counters that never go back: those of all generations that served while the daemon ran.
//!
//! A generation begins at zero and its pins go when the next one serves, so its counters are held
//! open. What still is in its programs while the hooks are switched is counted there, too: they are
//! read on until nothing can be in them any more, and only then taken into the sum.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, warn};

use super::Daemon;
use super::observer::{Asked, document};
use crate::datapath::{
    Attached, Counts, DatapathError, Lock, Manifest, Meter, attached, attached_now,
};
use crate::observe::{LoadedState, Observation, Publications, Traffic};

/// A program that was replaced runs on until the packets are through that were in it: some
/// milliseconds (an RCU grace period).
const STRAGGLERS: Duration = Duration::from_secs(2);
/// Counters are not read more often: anyone on the machine may ask, as fast as they can.
const FRESH: Duration = Duration::from_millis(5);

/// The sum over generations.
#[derive(Default)]
pub(super) struct Tally {
    /// Of generations whose counters stand still.
    sum: Traffic,
    /// Generations that were replaced, or put back before they served, and since when.
    leaving: Vec<(Meter, Instant)>,
    /// The one that is about to be switched to.
    coming: Option<Meter>,
    current: Option<Meter>,
    /// What became of generations.
    pub(super) publications: Publications,
    last: Option<(Instant, Traffic)>,
}

impl Tally {
    /// Begins with the counters of the generation that an earlier process left.
    pub(super) fn take_over(&mut self, lock: &Lock) {
        match Meter::of_current(lock) {
            Ok(meter) => self.current = meter,
            // A generation of another version: what it counted is not understood.
            Err(error) => warn!("{error}; what it has counted is not added up"),
        }
    }

    /// Generation `number` is pinned, and the hooks are about to be switched to it.
    pub(super) fn comes(&mut self, lock: &Lock, number: u64) {
        if self.coming.is_none() {
            match Meter::of_generation(lock, number) {
                Ok(meter) => self.coming = Some(meter),
                Err(error) => error!("{error}; what it counts is not added up"),
            }
        }
    }

    /// Generation `number` serves, after so long.
    pub(super) fn serves(&mut self, lock: &Lock, number: u64, took: Duration) {
        // Without a hook no step has said that it comes.
        self.comes(lock, number);
        let before = std::mem::replace(&mut self.current, self.coming.take());
        self.leave(before);
        let publications = &mut self.publications;
        publications.published = publications.published.saturating_add(1);
        publications.last_milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        publications.total_milliseconds =
            publications.total_milliseconds.saturating_add(publications.last_milliseconds);
        publications.last = Some(crate::rfc3339::seconds(jiff::Timestamp::now()));
        self.last = None;
    }

    /// What was to come does not; some hooks may have been switched to it for a moment.
    pub(super) fn failed(&mut self, failure: &DatapathError) {
        let coming = self.coming.take();
        self.leave(coming);
        let publications = &mut self.publications;
        publications.failed = publications.failed.saturating_add(1);
        if failure.is_of_self_test() {
            publications.self_test_failed = publications.self_test_failed.saturating_add(1);
        }
        self.last = None;
    }

    fn leave(&mut self, meter: Option<Meter>) {
        self.leaving.extend(meter.map(|meter| (meter, Instant::now())));
        // Also where nobody ever asks: each holds descriptors.
        if let Err(error) = self.settle() {
            error!("{error}");
        }
    }

    /// Takes into the sum what stands still by now.
    fn settle(&mut self) -> Result<(), DatapathError> {
        while let Some((meter, since)) = self.leaving.first() {
            if since.elapsed() < STRAGGLERS {
                break;
            }
            self.sum = self.sum.plus(&read(meter, &[])?);
            self.leaving.remove(0);
        }
        Ok(())
    }

    /// What the generation that serves has counted, all hooks added up; `None` while nothing does.
    pub(super) fn of_current(&self) -> Result<Option<(&Manifest, Counts)>, DatapathError> {
        let Some(meter) = &self.current else { return Ok(None) };
        let hooks = meter.read()?;
        let all = hooks.values().fold(Counts::default(), |sum, counts| sum.plus(counts));
        Ok(Some((meter.manifest(), all)))
    }

    /// Everything so far. All of it, or an error: what left something out would go back.
    fn traffic(&mut self, hooks: &[Attached]) -> Result<Traffic, DatapathError> {
        if let Some((_, traffic)) = self.last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(traffic.clone());
        }
        self.settle()?;
        let mut traffic = self.sum.clone();
        for (meter, _) in &self.leaving {
            traffic = traffic.plus(&read(meter, &[])?);
        }
        if let Some(meter) = &self.current {
            traffic = traffic.plus(&read(meter, hooks)?);
        }
        self.last = Some((Instant::now(), traffic.clone()));
        Ok(traffic)
    }
}

fn read(meter: &Meter, hooks: &[Attached]) -> Result<Traffic, DatapathError> {
    Ok(Traffic::of_generation(meter.manifest(), &meter.read()?, &meter.runs(), hooks))
}

impl Daemon<'_> {
    /// Tells who asks.
    pub(super) async fn tell(&mut self, asked: Asked) {
        match self.look().await {
            // Who asked may be gone.
            Ok(observation) => drop(asked.send(document(&observation))),
            // No document is better than one whose counters go back.
            Err(error) => error!("the state cannot be told: {error}"),
        }
    }

    async fn look(&mut self) -> Result<Observation, DatapathError> {
        // What is missing for a moment keeps its series.
        let traffic = self.tally.traffic(&attached(self.lock.pins())?)?;
        let hooks = attached_now(self.lock.pins()).await?;
        let missing = self.missing(&hooks);
        let current = self.tally.current.as_ref();
        let loaded = current.map(|meter| LoadedState::new(meter.manifest(), hooks));
        Ok(Observation { missing, ..self.observation(traffic, loaded) })
    }
}
