//! The first generation of a process: from what an earlier one left, if anything.

use std::path::Path;

use tracing::{info, warn};

use super::Daemon;
use super::change::{SERVING, held};
use super::journal::{Outcome, Trigger};
use super::revision::{ConfigText, Revision, Saved};
use crate::config::FeedSource;
use crate::datapath::withdraw;
use crate::exit::{Exit, Failure};
use crate::feed::{self, FeedError, Snapshot, Store};

/// What an earlier process left.
pub(super) struct Left {
    /// What served last, and whether additions of its feed were held.
    pub(super) serving: Option<(Revision, bool)>,
    /// What to go back to: something was on trial.
    pub(super) trial: Option<Revision>,
}

impl Daemon<'_> {
    /// Publishes for the first time. Where the guards hold what the configuration leads to now,
    /// what served before goes on, as far as it can.
    pub(super) async fn start(&mut self, config: ConfigText, left: Left) -> Result<(), Failure> {
        let partial = left.serving.as_ref().is_some_and(|(_, partial)| *partial);
        self.was = left.serving.map(|(revision, _)| revision);
        if let Some(revision) = left.trial {
            warn!("what was applied before the restart was not confirmed: going back");
            let away = self.may_be_away(Some(&revision));
            self.publish(revision, Trigger::Unconfirmed, None, &away).await?;
            return self.close_trial();
        }
        let source = &config.config.feed;
        let (last_good, skipped) = served_last(&self.store, self.was.as_ref(), source);
        for skipped in skipped {
            warn!("{skipped}");
        }
        let Some(snapshot) = self.watch.snapshot(last_good.as_ref())? else {
            withdraw(&self.lock).await?;
            info!("no feed is there yet: everything is inspected until one comes");
            self.before = self.was.take();
            self.wanted = Some(config);
            return Ok(());
        };
        if partial {
            self.watch.is_partly_served();
        }
        let revision = Revision::compile(config, snapshot)?;
        let was = self.was.clone();
        if let Some(was) = was.as_ref().filter(|was| was.is_same(&revision)) {
            // It was published before: what a person accepted then stays accepted.
            let away = self.may_be_away(None);
            self.publish(was.clone(), Trigger::Start, None, &away).await?;
            return Ok(());
        }
        let (plan, refusals) = self.examine(was.as_ref(), &revision).await?;
        if refusals.is_empty() {
            let away = self.may_be_away(None);
            self.publish(revision, Trigger::Start, Some(&plan), &away).await?;
            return Ok(());
        }
        let Some(instead) = self.instead_of(&revision).await? else {
            let refusal = held(&refusals);
            let plan = Some(&plan);
            self.record(Trigger::Start, Outcome::Held, Some(&revision), plan, &refusals, None);
            let problem = format!(
                "{refusal}; nothing served before that could go on: change the policy, or the \
                 limits in [guards]"
            );
            return Err(Failure::new(Exit::Guard, problem));
        };
        warn!("what served before goes on: {}", instead.feed());
        let away = self.may_be_away(Some(&instead));
        self.publish(instead, Trigger::Start, None, &away).await?;
        let serving = self.serving.as_ref().map(|serving| serving.revision.clone());
        let (plan, refusals) = self.examine(serving.as_ref(), &revision).await?;
        self.hold(revision, plan, refusals, Trigger::Start);
        Ok(())
    }

    /// What can serve in place of `revision`, which the guards hold: the new configuration with the
    /// feed that served, else all of what served.
    async fn instead_of(&self, revision: &Revision) -> Result<Option<Revision>, Failure> {
        let Some(was) = &self.was else { return Ok(None) };
        if was.is_of(&revision.config.feed)
            && let Ok(with_old_feed) = revision.with_feed(was.snapshot.clone())
            && self.examine(Some(was), &with_old_feed).await?.1.is_empty()
        {
            return Ok(Some(with_old_feed));
        }
        Ok(Some(was.clone()))
    }
}

/// The feed of `source` that served last, as the state directory has it; damaged files are named
/// in the second part.
fn served_last(
    store: &Store,
    served: Option<&Revision>,
    source: &FeedSource,
) -> (Option<Snapshot>, Vec<String>) {
    if let Some(served) = served {
        return (served.is_of(source).then(|| served.snapshot.clone()), Vec::new());
    }
    let last_good = store.last_good();
    // Whose it is, it says by its instance alone.
    let ours = last_good.snapshot.filter(|_| matches!(source, FeedSource::WebService { .. }));
    (ours, last_good.skipped)
}

/// The feed of `source` that a daemon with this state directory would begin with, if there is one.
///
/// # Errors
///
/// It is a file, which cannot be read or is refused.
pub fn feed_at_hand(
    source: &FeedSource,
    state_dir: &Path,
    config: &Path,
) -> Result<Option<Snapshot>, FeedError> {
    let store = Store::peek(state_dir);
    let served = recall(&store, SERVING, config).ok().flatten();
    let served = served.as_ref().map(|(revision, _)| revision);
    feed::at_hand(source, served_last(&store, served, source).0.as_ref())
}

impl Left {
    /// Looks at what is in the state directory. A damaged record of what served is named and
    /// skipped.
    ///
    /// # Errors
    ///
    /// Something was on trial, and what to go back to is not readable: what is on trial must not
    /// serve.
    pub(super) fn read(store: &Store, config: &Path) -> Result<Self, Failure> {
        let serving = recall(store, SERVING, config).unwrap_or_else(|failure| {
            warn!("{failure}; skipped");
            None
        });
        let trial = recall(store, super::trial::TRIAL, config).map_err(|failure| {
            let problem = format!("{failure}; something was on trial: remove the file to keep it");
            Failure::new(Exit::System, problem)
        })?;
        Ok(Self { serving, trial: trial.map(|(revision, _)| revision) })
    }
}

/// A revision as it was kept, and whether it was partial.
pub(super) fn recall(
    store: &Store,
    name: &str,
    config: &Path,
) -> Result<Option<(Revision, bool)>, Failure> {
    let saved: Option<Option<Saved>> =
        store.read_json(name).map_err(|error| Failure::new(Exit::System, error))?;
    let restored = saved.flatten().map(|saved| Revision::restore(&saved, config)).transpose();
    restored.map_err(|failure| {
        let path = store.directory().join(name);
        Failure::new(Exit::System, format!("{}: {failure}", path.display()))
    })
}
