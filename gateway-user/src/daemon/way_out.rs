//! The way out, on the way to a generation: made before it is published, so that what is marked finds
//! it, and gone back from or left when the change is decided.

use tracing::{error, info, warn};

use super::Daemon;
use super::journal::{Entry, Outcome, Trigger};
use crate::config::Config;
use crate::datapath::attached;
use crate::egress::{Transition, Wanted};
use crate::exit::Failure;

impl Daemon<'_> {
    /// Makes the way out that `config` asks for, if any. At a start the uplink may come later, and
    /// on the way back: what served before is no typing error.
    pub(super) async fn make_way_out(
        &mut self,
        config: &Config,
        trigger: Trigger,
    ) -> Result<(), Failure> {
        let is_way_back = matches!(trigger, Trigger::Rollback | Trigger::Unconfirmed);
        let may_wait = is_way_back || self.serving.is_none();
        match Wanted::of(config) {
            Some(wanted) => Ok(self.egress.establish(&wanted, may_wait).await?),
            None => Ok(()),
        }
    }

    /// After a change to `config` that failed, the way out is `before` again. Of a start that
    /// failed nothing stays, unless an earlier daemon's generation still marks: then its way out may
    /// be this one.
    pub(super) async fn go_back_to_way_out(&mut self, before: Option<Wanted>, config: &Config) {
        let wanted = Wanted::of(config);
        if wanted.is_none() || wanted == before {
            return;
        }
        let is_marking = || attached(self.lock.pins()).is_ok_and(|hooks| !hooks.is_empty());
        if before.is_some() || self.serving.is_some() || !is_marking() {
            self.egress.go_back(before.as_ref()).await;
        }
    }

    /// Ends the direct flows of the way out `before`, where another uplink serves from now on: by that
    /// one they would go on in their middle, from another address.
    pub(super) async fn leave_uplink(&mut self, before: Option<&Wanted>) {
        let (Some(before), Some(now)) = (before, self.egress.wanted()) else { return };
        let (before, now) = (before.egress.interface.clone(), now.egress.interface.clone());
        if before == now {
            return;
        }
        match self.egress.revoke(|_| true).await {
            Ok(ended) => {
                info!(
                    event = "flows_ended",
                    cause = "other_uplink",
                    flows = ended,
                    "{ended} direct flows of uplink {before} are ended, {now} serves now"
                );
            }
            Err(failure) => {
                let problem = format!("direct flows of uplink {before} are not ended: {failure}");
                error!("{problem}");
                self.problem = Some(problem);
            }
        }
    }

    /// Takes the way out back where `config`, which serves from now on, asks for none: the one
    /// before it did, or that of a daemon before this one may have.
    pub(super) async fn leave_way_out(&mut self, config: &Config) {
        let may_be_there = self.egress.wanted().is_some() || self.serving.is_none();
        if config.egress.is_some() || !may_be_there {
            return;
        }
        if let Err(failure) = self.egress.release().await {
            warn!(
                "what is left of [egress] cannot be taken back: {failure}; `breakout365 down` does"
            );
        }
    }

    /// Writes down which families of the uplink went down or came up.
    pub(super) fn write_down_transitions(&mut self) {
        let generation = self.serving.as_ref().map(|serving| serving.generation);
        for transition in self.egress.news() {
            self.write_down(&entry(&transition, generation));
        }
    }
}

fn entry(transition: &Transition, generation: Option<u64>) -> Entry {
    let Transition { time, interface, family, fault } = transition;
    let outcome = if fault.is_some() { Outcome::Down } else { Outcome::Up };
    let summary = match fault {
        Some(fault) => format!("{family} by {interface}: {fault}"),
        None => format!("{family} by {interface}"),
    };
    Entry { summary: Some(summary), ..Entry::new(*time, Trigger::Uplink, outcome, generation) }
}
