//! The way out, on the way to a generation: made before it is published, so that what is marked finds
//! it, and gone back from or left when the change is decided.

use tracing::warn;

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
        let bits = before.map_or(0, |before| before.words().confused_with(wanted.words()));
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

    /// After a change to `config` that failed, the way out is `before` again, if there was one. Of a start
    /// that failed nothing stays, unless an earlier daemon's generation still marks: then it is the one
    /// that flows have been decided for, if that is known.
    pub(super) async fn go_back_to_way_out(
        &mut self,
        before: Option<Wanted>,
        of_flows: Option<Wanted>,
        config: &Config,
    ) {
        let Some(wanted) = Wanted::of(config) else { return };
        let is_marking = || attached(self.lock.pins()).is_ok_and(|hooks| !hooks.is_empty());
        let goes_back_to = if before.is_none() && self.serving.is_none() && is_marking() {
            let is_known = self.was.is_some() || self.before.is_some();
            of_flows.or_else(|| (!is_known).then(|| wanted.clone()))
        } else {
            before
        };
        if goes_back_to.as_ref() != Some(&wanted) {
            self.egress.go_back(goes_back_to.as_ref()).await;
        }
    }

    /// Leaves the way out `before`, now that nothing marks for it any more: for that of what serves, or
    /// for none, as it was or as a daemon before this one may have left it.
    pub(super) async fn leave_way_out(&mut self, before: Option<&Wanted>, is_start: bool) {
        let serving = self.serving.as_ref();
        if serving.is_some_and(|serving| serving.revision.config.egress.is_some()) {
            if let Some(before) = before {
                self.egress.leave(before).await;
            }
        } else if before.is_some() || is_start {
            self.egress.part(before).await;
            if let Err(failure) = self.egress.release().await {
                warn!(
                    "what is left of [egress] cannot be taken back: {failure}; `breakout365 down` does"
                );
            }
        }
        self.heed_way_out();
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
