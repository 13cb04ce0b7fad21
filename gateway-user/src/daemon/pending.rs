//! The plan that guards hold, until a person accepts or rejects it.

use jiff::Timestamp;
use tracing::{error, info};

use super::Daemon;
use super::change::{Change, held};
use super::journal::{Outcome, Trigger};
use super::revision::Revision;
use crate::exit::{Exit, Failure};
use crate::plan::{Plan, Refusal};

/// A plan that guards hold.
pub(super) struct Pending {
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
        error!(
            "plan {} waits for `breakout365 plan accept {0}` or `plan reject {0}`: {}",
            plan.id(),
            held(&refusals)
        );
        self.record(trigger, Outcome::Held, Some(&revision), Some(&plan), &refusals, None);
        self.pending = Some(Pending { revision, plan, refusals, since: Timestamp::now() });
    }

    /// Publishes the pending plan in spite of its guards.
    pub(super) async fn accept(&mut self, id: &str) -> Result<Change, Failure> {
        self.refuse_on_trial()?;
        let pending = self.take_pending(id)?;
        let away = self.known_interfaces();
        let Pending { revision, plan, refusals, since } = pending;
        let published = self.publish(revision.clone(), Trigger::Accept, Some(&plan), &away).await;
        match published {
            Ok(generation) => {
                self.watch.forget_rejection();
                self.watch.taken(&self.store);
                self.follow_config();
                Ok(Change::Published(generation))
            }
            Err(failure) => {
                self.pending = Some(Pending { revision, plan, refusals, since });
                Err(failure)
            }
        }
    }

    /// Forgets the pending plan. A feed that differs from the one that serves is not taken again.
    pub(super) fn reject(&mut self, id: &str) -> Result<(), Failure> {
        let Pending { revision, plan, refusals, .. } = self.take_pending(id)?;
        let feed = revision.feed();
        if self.serving.as_ref().is_none_or(|serving| serving.revision.feed() != feed) {
            self.watch.reject(feed, &self.store);
        }
        self.record(
            Trigger::Reject,
            Outcome::Rejected,
            Some(&revision),
            Some(&plan),
            &refusals,
            None,
        );
        info!("plan {id} is rejected");
        Ok(())
    }

    fn take_pending(&mut self, id: &str) -> Result<Pending, Failure> {
        match self.pending.take() {
            Some(pending) if pending.plan.id() == id => Ok(pending),
            Some(pending) => {
                let problem = format!(
                    "plan {id} does not wait, but {} does; `breakout365 plan show` shows it",
                    pending.plan.id()
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
