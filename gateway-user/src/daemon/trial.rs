//! Going back: to the generation before, and from what was applied on trial.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::info;

use super::Daemon;
use super::change::{BEFORE, Change};
use super::journal::{Outcome, Trigger};
use super::revision::{ConfigText, Revision, Saved};
use super::start::recall;
use crate::exit::{Exit, Failure};
use crate::rfc3339::seconds;

/// The revision to go back to unless somebody confirms; nothing in it while nothing is on trial.
pub(super) const TRIAL: &str = "trial.json";
/// Before going back is tried again.
const PAUSE: Duration = Duration::from_secs(10);

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
        let before = if let Some(before) = &self.before {
            before.clone()
        } else {
            let recalled = recall(&self.store, BEFORE, &self.settings.config)?;
            recalled.map(|(revision, _)| revision).ok_or_else(|| {
                Failure::new(Exit::Usage, "there is no generation before to go back to")
            })?
        };
        let left = self.serving.as_ref().map(|serving| serving.revision.feed());
        // First, so that a restart in between does not take it again.
        let rejected = match left.filter(|left| *left != before.feed()) {
            Some(left) => {
                let rejected = self.watch.reject(Some(left));
                self.remember();
                Some(rejected)
            }
            None => None,
        };
        let plan = self.plan_to(&before);
        let away = self.may_be_away(Some(&before));
        match self.publish(before, Trigger::Rollback, Some(&plan), &away).await {
            Ok(generation) => {
                self.wanted = None;
                self.follow_config();
                Ok(Change::Published(generation))
            }
            Err(failure) => {
                if let Some(rejected) = rejected {
                    self.watch.reject(rejected);
                }
                Err(failure)
            }
        }
    }

    /// Reloads on trial: unless confirmed within so long, what serves now comes back.
    pub(super) async fn try_out(&mut self, within: Duration) -> Result<Change, Failure> {
        let until_time = SignedDuration::try_from(within)
            .ok()
            .and_then(|within| Timestamp::now().checked_add(within).ok());
        let until = Instant::now().checked_add(within);
        let (Some(until), Some(until_time)) = (until, until_time) else {
            return Err(Failure::new(Exit::Usage, "--confirm-within is longer than time goes on"));
        };
        let Some(back_to) = self.serving.as_ref().map(|serving| serving.revision.clone()) else {
            let problem = "nothing serves yet, so there is nothing to go back to; use `reload`";
            return Err(Failure::new(Exit::Usage, problem));
        };
        // What comes with the first list, some time later, would not be on trial any more.
        let config = ConfigText::read(&self.settings.config)?;
        if self.wish(&config)?.revision.is_none() {
            let problem = format!(
                "no feed of {} is at hand, so there is nothing to try out; `breakout365 reload` waits \
                 for one",
                config.config.feed
            );
            return Err(Failure::new(Exit::Feed, problem));
        }
        // First, so that a restart at any moment from here on goes back.
        self.write(TRIAL, &back_to, false)?;
        self.trial = Some(Trial { back_to, until, until_time });
        let change = self.reload(Trigger::Apply).await;
        if matches!(change, Ok(Change::Published(_))) {
            let end = seconds(until_time);
            info!(
                event = "on_trial",
                until = end,
                "`breakout365 confirm` before {end}, or it goes back"
            );
        } else {
            self.trial = None;
            self.close_trial()?;
        }
        change
    }

    /// Keeps what is on trial.
    pub(super) fn confirm(&mut self) -> Result<(), Failure> {
        let Some(trial) = &self.trial else {
            return Err(Failure::new(Exit::Usage, "nothing waits to be confirmed"));
        };
        let serving = self.serving.as_ref().map(|serving| &serving.revision);
        let back_to = &trial.back_to;
        if serving.is_none_or(|serving| !serving.is_same(back_to)) {
            self.write(BEFORE, back_to, false)?;
            self.before = Some(back_to.clone());
        }
        self.close_trial()?;
        self.trial = None;
        let serving = self.serving.as_ref().map(|serving| &serving.revision);
        self.record(Trigger::Confirm, Outcome::Confirmed, serving, None, &[], None);
        info!(event = "confirmed", "confirmed");
        Ok(())
    }

    /// Ends the trial by going back.
    pub(super) async fn go_back(&mut self, trigger: Trigger) -> Result<Change, Failure> {
        let Some(back_to) = self.trial.as_ref().map(|trial| trial.back_to.clone()) else {
            return Err(Failure::new(Exit::Usage, "nothing is on trial"));
        };
        let plan = self.plan_to(&back_to);
        let away = self.may_be_away(Some(&back_to));
        match self.publish(back_to, trigger, Some(&plan), &away).await {
            Ok(generation) => {
                self.trial = None;
                self.follow_config();
                // It has gone back; a restart would once more, to the same.
                if let Err(failure) = self.close_trial() {
                    self.problem = Some(failure.to_string());
                }
                Ok(Change::Published(generation))
            }
            Err(failure) => {
                // Once more, soon.
                if let Some(trial) = &mut self.trial {
                    trial.until = Instant::now() + PAUSE;
                }
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

    /// Nothing is on trial any more.
    pub(super) fn close_trial(&self) -> Result<(), Failure> {
        self.store
            .write_json(TRIAL, &None::<Saved>)
            .map_err(|error| Failure::new(Exit::System, error))
    }
}
