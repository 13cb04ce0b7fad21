//! Going back: to the generation before, and from what was applied on trial.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::{error, info};

use super::Daemon;
use super::change::{BEFORE, Change};
use super::journal::{Outcome, Trigger};
use super::revision::{Revision, Saved};
use super::watch::seconds;
use crate::exit::{Exit, Failure};

/// The revision to go back to unless somebody confirms; nothing in it while nothing is on trial.
const TRIAL: &str = "trial.json";

/// Something applied that nobody has confirmed.
pub(super) struct Trial {
    back_to: Revision,
    pub(super) until: Instant,
    pub(super) until_time: Timestamp,
}

impl Daemon<'_> {
    /// Goes to the revision before.
    pub(super) async fn rollback(&mut self) -> Result<Change, Failure> {
        if self.trial.is_some() {
            return self.go_back(Trigger::Rollback).await;
        }
        let before = match &self.before {
            Some(before) => before.clone(),
            None => self.recall(BEFORE)?.ok_or_else(|| {
                Failure::new(Exit::Usage, "there is no generation before to go back to")
            })?,
        };
        let left = self.serving.as_ref().map(|serving| serving.revision.feed());
        let away = self.known_interfaces();
        let plan = self.plan_to(&before);
        let feed = before.feed();
        let generation = self.publish(before, Trigger::Rollback, Some(&plan), &away).await?;
        if let Some(left) = left.filter(|left| *left != feed) {
            self.watch.reject(left, &self.store);
        }
        self.follow_config();
        Ok(Change::Published(generation))
    }

    /// Puts what was just published on trial, in place of `back_to`.
    pub(super) fn start_trial(
        &mut self,
        back_to: Revision,
        within: Duration,
    ) -> Result<(), Failure> {
        self.write(TRIAL, &back_to.save()?)?;
        let until_time = SignedDuration::try_from(within)
            .ok()
            .and_then(|within| Timestamp::now().checked_add(within).ok());
        let until = Instant::now().checked_add(within);
        let (Some(until), Some(until_time)) = (until, until_time) else {
            return Err(Failure::new(Exit::Usage, "--confirm-within is longer than time goes on"));
        };
        info!("`breakout365 confirm` before {}, or it goes back", seconds(until_time));
        self.trial = Some(Trial { back_to, until, until_time });
        Ok(())
    }

    /// Keeps what is on trial.
    pub(super) fn confirm(&mut self) -> Result<(), Failure> {
        if self.trial.take().is_none() {
            return Err(Failure::new(Exit::Usage, "nothing waits to be confirmed"));
        }
        let serving = self.serving.as_ref().map(|serving| &serving.revision);
        self.record(Trigger::Confirm, Outcome::Confirmed, serving, None, &[], None);
        info!("confirmed");
        self.close_trial()
    }

    /// Ends the trial by going back.
    pub(super) async fn go_back(&mut self, trigger: Trigger) -> Result<Change, Failure> {
        let Some(trial) = self.trial.take() else {
            return Err(Failure::new(Exit::Usage, "nothing is on trial"));
        };
        let away = self.known_interfaces();
        let plan = self.plan_to(&trial.back_to);
        let back_to = trial.back_to.clone();
        match self.publish(back_to, trigger, Some(&plan), &away).await {
            Ok(generation) => {
                self.close_trial()?;
                self.follow_config();
                Ok(Change::Published(generation))
            }
            Err(failure) => {
                // Once more, soon: an interface may be on its way back.
                let until = Instant::now() + Duration::from_secs(10);
                self.trial = Some(Trial { until, ..trial });
                Err(failure)
            }
        }
    }

    /// What changes the ground under a trial has to wait for its end.
    pub(super) fn refuse_on_trial(&self) -> Result<(), Failure> {
        match &self.trial {
            None => Ok(()),
            Some(trial) => Err(Failure::new(
                Exit::Guard,
                format!(
                    "what was applied is on trial until {}; `breakout365 confirm` or `breakout365 \
                     rollback` first",
                    seconds(trial.until_time)
                ),
            )),
        }
    }

    /// The revision to go back to, where the last process left a trial open.
    pub(super) fn open_trial(&self) -> Option<Revision> {
        match self.recall(TRIAL) {
            Ok(revision) => revision,
            Err(failure) => {
                error!("a trial was open, but cannot be gone back from: {failure}");
                None
            }
        }
    }

    /// Nothing is on trial any more.
    pub(super) fn close_trial(&self) -> Result<(), Failure> {
        self.store
            .write_json(TRIAL, &None::<Saved>)
            .map_err(|error| Failure::new(Exit::System, error))
    }
}
