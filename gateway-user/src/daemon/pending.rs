//! The plan that guards hold, until a person accepts or rejects it.

use jiff::Timestamp;
use tracing::{error, info};

use super::Daemon;
use super::change::{Change, guard_names, held};
use super::journal::{Outcome, Trigger};
use super::revision::Revision;
use crate::exit::{Exit, Failure};
use crate::plan::{Plan, Refusal};

/// A plan that guards hold.
pub(super) struct Pending {
    /// [`Plan::id`].
    pub(super) id: String,
    /// [`Plan::summary`].
    pub(super) summary: String,
    pub(super) revision: Revision,
    pub(super) plan: Plan,
    pub(super) refusals: Vec<Refusal>,
    pub(super) since: Timestamp,
}

impl Daemon<'_> {
    /// Keeps a plan that guards refuse for a person to decide.
    pub(super) fn hold(
        &mut self,
        revision: Revision,
        plan: Plan,
        refusals: Vec<Refusal>,
        trigger: Trigger,
    ) {
        let (id, summary) = (plan.id(), plan.summary());
        error!(
            event = "held",
            plan = id,
            trigger = %trigger,
            feed_version = revision.feed().version,
            guards = guard_names(&refusals),
            "plan {id} waits for `breakout365 plan accept {id}` or `plan reject {id}`: {}",
            held(&refusals)
        );
        self.record(trigger, Outcome::Held, Some(&revision), Some(&plan), &refusals, None);
        for refusal in &refusals {
            let held = self.plans_held.entry(refusal.guard.name().to_owned()).or_default();
            *held = held.saturating_add(1);
        }
        self.pending =
            Some(Pending { id, summary, revision, plan, refusals, since: Timestamp::now() });
    }

    /// Publishes the pending plan in spite of its guards. It is about what serves: whatever changes
    /// that ends its waiting.
    pub(super) async fn accept(&mut self, id: &str) -> Result<Change, Failure> {
        self.refuse_on_trial()?;
        let pending = self.take_pending(id)?;
        let away = self.may_be_away(None);
        let (revision, plan) = (pending.revision.clone(), Some(&pending.plan));
        match self.publish(revision, Trigger::Accept, plan, &away).await {
            Ok(generation) => {
                self.watch.accept(&pending.revision.feed());
                self.follow_config();
                Ok(Change::Published(generation))
            }
            Err(failure) => {
                self.pending = Some(pending);
                Err(failure)
            }
        }
    }

    /// Forgets the pending plan. A feed that differs from the one that serves is not taken again.
    pub(super) fn reject(&mut self, id: &str) -> Result<(), Failure> {
        let Pending { revision, plan, refusals, .. } = self.take_pending(id)?;
        let feed = revision.feed();
        if self.serving.as_ref().is_none_or(|serving| serving.revision.feed() != feed) {
            self.watch.reject(Some(feed));
            self.remember();
        }
        let (trigger, outcome) = (Trigger::Reject, Outcome::Rejected);
        self.record(trigger, outcome, Some(&revision), Some(&plan), &refusals, None);
        info!(event = "rejected", plan = id, "plan {id} is rejected");
        Ok(())
    }

    fn take_pending(&mut self, id: &str) -> Result<Pending, Failure> {
        match self.pending.take() {
            Some(pending) if pending.id == id => Ok(pending),
            Some(pending) => {
                let problem = format!(
                    "plan {id} does not wait, but {} does; `breakout365 plan show` shows it",
                    pending.id
                );
                self.pending = Some(pending);
                Err(Failure::new(Exit::Guard, problem))
            }
            None => Err(Failure::new(
                Exit::Guard,
                format!("plan {id} does not wait: no plan does; see `breakout365 plan show`"),
            )),
        }
    }
}
