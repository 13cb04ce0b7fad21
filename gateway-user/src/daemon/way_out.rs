//! The way out, on the way to a generation: made before it is published, so that what is marked finds
//! it, and gone back from or left when the change is decided.

use tracing::{error, info, warn};

use super::Daemon;
use super::journal::{Entry, Outcome, Trigger};
use crate::config::Config;
use crate::datapath::attached;
use crate::egress::{EgressError, Transition, Wanted};
use crate::exit::Failure;

impl Daemon<'_> {
    /// Makes the way out that `config` asks for, if any. At a start the uplink may come later, and
    /// on the way back: what served before is no typing error. `before` is the way out that flows have
    /// been decided for so far.
    pub(super) async fn make_way_out(
        &mut self,
        config: &Config,
        before: Option<&Wanted>,
        trigger: Trigger,
    ) -> Result<(), Failure> {
        let is_way_back = matches!(trigger, Trigger::Rollback | Trigger::Unconfirmed);
        let may_wait = is_way_back || self.serving.is_none();
        let Some(wanted) = Wanted::of(config) else { return Ok(()) };
        let before = before.map(Wanted::words);
        let bits = before.map_or(0, |before| before.confused_with(wanted.words()));
        if bits != 0 {
            return Err(EgressError::Confused { bits }.into());
        }
        Ok(self.egress.establish(&wanted, before, may_wait).await?)
    }

    /// The way out that live flows have been decided for: this daemon's, or before it has published, of
    /// what served last.
    pub(super) fn way_of_flows(&self) -> Option<Wanted> {
        let of_before = || {
            let served = self.was.as_ref().or(self.before.as_ref());
            served.filter(|_| self.serving.is_none()).and_then(|it| Wanted::of(&it.config))
        };
        self.egress.wanted().cloned().or_else(of_before)
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

    /// Ends the direct flows of the way out `before`, where another uplink or `[mark]` serves from now on:
    /// they would go on in their middle, from another address or to an inspector.
    pub(super) async fn leave_uplink(&mut self, before: Option<&Wanted>) {
        let (Some(before), Some(now)) = (before, self.egress.wanted()) else { return };
        let (uplink, serves) = (before.egress.interface.clone(), now.egress.interface.clone());
        if uplink == serves && before.words() == now.words() {
            return;
        }
        match self.egress.leave(before).await {
            Ok(ended) if uplink == serves => {
                info!(
                    event = "flows_ended",
                    cause = "other_mark",
                    flows = ended,
                    "{ended} direct flows of another [mark] are ended"
                );
            }
            Ok(ended) => {
                info!(
                    event = "flows_ended",
                    cause = "other_uplink",
                    flows = ended,
                    "{ended} direct flows of uplink {uplink} are ended, {serves} serves now"
                );
            }
            Err(failure) => {
                let problem = format!("direct flows of uplink {uplink} are not ended: {failure}");
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
