//! What the daemon holds: the way out is put in place, looked after, and taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use super::debt::Debt;
use super::ending::{end, ways_back};
use super::flows::Flow;
use super::place::{Applied, Look, close, look};
use super::probe::Prober;
use super::routing::Family;
use super::ruleset::Past;
use super::standing::{Standings, Transition};
use super::take_back::take_back;
use super::vanished::Vanished;
use super::watch::Watch;
use super::{EgressError, Hop, Wanted, nft, reverse_path, ruleset};
use crate::config::Action;
use crate::observe::EgressState;

/// Where nothing says that something has come right.
const AGAIN: Duration = Duration::from_secs(1);
/// How long clients that are made to speak may take until they are reset: the answer to one segment.
const PARTING: Duration = Duration::from_secs(1);
/// Why flows were ended.
const DOWN: &str = "uplink_down";
const REVOKED: &str = "revoked";
/// All of them, ascending.
pub(crate) const ENDED_BY: [&str; 2] = [REVOKED, DOWN];

/// A change of the way out, to be gone back from.
struct Change {
    to: Wanted,
    /// What was owed before it.
    owed: Vec<Debt>,
    /// What the table knew before it.
    past: Past,
}

/// Hears which families are down.
type HearsDown = Box<dyn Fn(&BTreeSet<Family>) + Send + Sync>;

/// The way out of one daemon.
#[derive(Default)]
pub struct Keeper {
    wanted: Option<Wanted>,
    applied: Applied,
    watch: Option<Watch>,
    prober: Option<Prober>,
    /// Where the kernel removes entries by itself.
    vanished: Option<Vanished>,
    standings: Standings,
    hops: BTreeMap<Family, Hop>,
    /// Index of the uplink when it was last seen.
    index: Option<u32>,
    /// When to look although nothing was heard.
    again: Option<Instant>,
    /// Flows that were ended, by cause.
    ended: BTreeMap<String, u64>,
    put_back: u64,
    problem: Option<String>,
    /// Whether new flows that are marked may be led to an uplink that is down.
    has_dead_end: bool,
    /// Flows that have lost their way and could not be ended then, the latest last.
    owed: Vec<Debt>,
    /// The families that an earlier process has left closed, once that was looked at.
    found_closed: Option<BTreeSet<Family>>,
    /// A change that nobody marks for yet.
    change: Option<Change>,
    /// Why flows that are to be ended are not, as it was said last: it is tried every second.
    not_ended: Option<String>,
    /// What passes netfilter by has to hear it before netfilter does.
    hears_down: Option<HearsDown>,
}

impl Keeper {
    /// Nothing is kept yet; `hears_down` is told the families that are down, at each look, before
    /// anything else is done about them.
    #[must_use]
    pub fn telling(hears_down: impl Fn(&BTreeSet<Family>) + Send + Sync + 'static) -> Self {
        Self { hears_down: Some(Box::new(hears_down)), ..Self::default() }
    }

    /// What is kept; `None`, nothing is.
    #[must_use]
    pub fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_ref()
    }

    /// Whether a family has a way out at the moment.
    #[must_use]
    pub fn is_up(&self, family: Family) -> bool {
        self.standings.families.get(&family).is_some_and(|standing| standing.fault.is_none())
    }

    /// Whether nothing may go direct for a time: new flows could be led to an uplink that is down, whose
    /// family is not closed in the nftables table because `nft` fails.
    #[must_use]
    pub fn wants_inspection(&self) -> bool {
        self.has_dead_end
    }

    /// The next hop of a family, if there is one.
    #[must_use]
    pub fn next_hop(&self, family: Family) -> Option<IpAddr> {
        self.hops.get(&family)?.address()
    }

    /// Puts `wanted` in place. What only waits for the uplink (it has no carrier, no address yet) is
    /// no reason to refuse: it is said, and looked after. An uplink that is not there, or a next hop
    /// that cannot be reached, is one unless the way out `may_wait`, as at a start: then it may come
    /// later.
    ///
    /// `before` is what programs still mark for, until [`Keeper::leave`]. What comes in by its inside
    /// interfaces goes on as it did; where it has other words or another uplink, nothing new goes direct
    /// and what was direct is reset.
    ///
    /// # Errors
    ///
    /// It cannot be put in place. What was done by then stays until [`Keeper::go_back`].
    pub async fn establish(
        &mut self,
        wanted: &Wanted,
        before: Option<&Wanted>,
        may_wait: bool,
    ) -> Result<(), EgressError> {
        if self.wanted.as_ref() == Some(wanted) {
            self.look_again().await;
            return Ok(());
        }
        let owed = std::mem::take(&mut self.owed);
        self.owed = owed.iter().cloned().filter_map(|debt| debt.under(wanted)).collect();
        let past = self.applied.past.clone();
        self.change = Some(Change { to: wanted.clone(), owed, past });
        // Whatever has its name may be of another process; and it is another one now.
        self.applied = Applied::after(self.applied.past.under(wanted, before, &self.owed));
        let egress = &wanted.egress;
        let before = self.wanted.as_ref().and_then(|wanted| wanted.egress.health.as_ref());
        let is_same_health = before.is_some() && before == egress.health.as_ref();
        let mut standings = self.standings.with(egress, is_same_health);
        if self.standings.families.is_empty() {
            // Later on it is a table of this process.
            if self.found_closed.is_none() {
                let listing = nft::listing().await?.unwrap_or_default();
                self.found_closed = Some(ruleset::closed_in(&listing));
            }
            standings.were_closed(self.found_closed.as_ref().unwrap_or(&BTreeSet::new()));
        }
        let down = |look: &Look| tell(self.hears_down.as_ref(), look);
        let look = look(wanted, &mut self.applied, &standings, may_wait, down).await?;
        if self.watch.is_none() {
            self.watch = Some(Watch::listen()?);
        }
        info!(
            "direct traffic leaves by {} (table {}, rules {} and {})",
            egress.interface,
            egress.table,
            egress.priority,
            egress.priority.saturating_add(1)
        );
        self.keep(wanted, standings);
        self.settle(look).await;
        Ok(())
    }

    /// From now on this is what is looked after.
    fn keep(&mut self, wanted: &Wanted, standings: Standings) {
        let egress = &wanted.egress;
        // Probes take the mark with them.
        self.prober = egress
            .health
            .as_ref()
            .map(|health| Prober::start(wanted, health, standings.families.keys().copied()));
        self.vanished = None;
        if egress.masquerade {
            match Vanished::listen(wanted.words()) {
                Ok(vanished) => self.vanished = Some(vanished),
                Err(problem) => warn!("flows that the kernel ends are not reset: {problem}"),
            }
        }
        self.wanted = Some(wanted.clone());
        self.standings = standings;
        (self.problem, self.index) = (None, None);
    }

    /// Puts back what somebody removed or changed since, and says so in one line; opens and closes
    /// families as the uplink stands now.
    pub async fn look_again(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let down = |look: &Look| tell(self.hears_down.as_ref(), look);
        let look = match look(wanted, &mut self.applied, &self.standings, true, down).await {
            Ok(look) => look,
            Err(problem) => {
                // Else flows that are inspected now would be taken for direct ones, and moved once
                // the way is there again.
                let closed = close(wanted, &mut self.applied, &self.standings).await;
                let as_before = |_| Look::as_before(&self.applied, &self.standings);
                let look = closed.unwrap_or_else(as_before);
                Look { problem: Some(problem), ..look }
            }
        };
        self.settle(look).await;
    }

    /// Takes in what was seen and done, and ends the flows of families that are down.
    async fn settle(&mut self, look: Look) {
        let Some(wanted) = &self.wanted else { return };
        // Also of what could not be put in place.
        tell(self.hears_down.as_ref(), &look);
        let Look { words, faults, hops, index, problem, has_dead_end, mtus: _ } = look;
        self.has_dead_end = has_dead_end;
        if !words.is_empty() {
            self.put_back = self.put_back.saturating_add(1);
            warn!(
                event = "put_back",
                interface = wanted.egress.interface,
                "somebody removed or changed what is ours, put back: {}",
                words.join(", ")
            );
        }
        let dead_end = if has_dead_end {
            "; nothing goes direct until a family that is down is closed"
        } else {
            ""
        };
        let problem = problem.map(|problem| format!("{problem}{dead_end}"));
        match (&self.problem, &problem) {
            (Some(_), None) => {
                info!(
                    event = "egress_in_place",
                    interface = wanted.egress.interface,
                    "the way out by {} is in place again",
                    wanted.egress.interface
                );
            }
            (before, Some(problem)) if before.as_ref() != Some(problem) => {
                error!(
                    event = "egress_failed",
                    interface = wanted.egress.interface,
                    "the way out is not in place, what it lacks is inspected: {problem}"
                );
            }
            (_, _) => {}
        }
        self.problem = problem;
        for (family, hop) in &hops {
            if self.hops.get(family).is_some_and(|before| before != hop) {
                info!("uplink {}: {family} goes {hop} now", wanted.egress.interface);
            }
        }
        self.hops.extend(hops);
        if let (Some(watch), Some(index)) = (&self.watch, index) {
            watch.follow(index);
            // One that comes anew has settings of its own.
            if self.index.replace(index) != Some(index)
                && index != 0
                && wanted.egress.gateway4.is_some()
                && let Some(problem) = reverse_path::problem(&wanted.egress.interface)
            {
                warn!("{problem}");
            }
        }
        self.standings.take(&wanted.egress, &faults);
        self.end_what_is_down().await;
        let is_waiting = has_dead_end || self.standings.is_waiting();
        self.again = is_waiting.then(|| Instant::now() + AGAIN);
        self.pay().await;
    }

    /// Ends the flows of a change of the way out that are still owed.
    async fn pay(&mut self) {
        let (Some(wanted), Some(debt)) = (&self.wanted, self.owed.last().cloned()) else { return };
        match debt.pay(wanted).await {
            Ok(ended) => {
                self.owed.pop();
                self.not_ended = None;
                self.count(REVOKED, ended.removed);
                self.applied.paid(&debt);
                if self.applied.is_behind() || !self.owed.is_empty() {
                    self.again = Some(Instant::now());
                }
            }
            Err(failure) => {
                self.say_not_ended(&failure);
                self.again = Some(Instant::now() + AGAIN);
            }
        }
    }

    fn say_not_ended(&mut self, failure: &EgressError) {
        let failure = failure.to_string();
        if self.not_ended.as_ref() != Some(&failure) {
            warn!("direct flows are not ended yet: {failure}");
            self.not_ended = Some(failure);
        }
    }

    async fn end_what_is_down(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let standings = self.standings.families.iter();
        let owed = standings.filter(|(_, standing)| standing.owes).map(|(family, _)| *family);
        let owed: BTreeSet<Family> = owed.collect();
        if owed.is_empty() {
            return;
        }
        let vanished = self.vanished.as_ref();
        match end(wanted, wanted.words(), vanished, |flow| owed.contains(&flow.family())).await {
            Ok(ended) => {
                info!(
                    event = "flows_ended",
                    cause = DOWN,
                    flows = ended.removed,
                    "{} direct flows are ended, their uplink is down",
                    ended.removed
                );
                self.not_ended = None;
                for standing in self.standings.families.values_mut() {
                    standing.owes = false;
                }
                self.count(DOWN, ended.removed);
            }
            Err(failure) => self.say_not_ended(&failure),
        }
    }

    fn count(&mut self, cause: &str, flows: u64) {
        let count = self.ended.entry(cause.to_owned()).or_default();
        *count = count.saturating_add(flows);
    }

    /// Ends the direct flows that are picked by protocol, source and destination; gives how many.
    ///
    /// # Errors
    ///
    /// They cannot be listed or removed.
    pub async fn revoke(&mut self, picked: impl Fn(&Flow) -> bool) -> Result<u64, EgressError> {
        let Some(wanted) = &self.wanted else { return Ok(0) };
        let ended = end(wanted, wanted.words(), None, picked).await?;
        self.count(REVOKED, ended.removed);
        Ok(ended.removed)
    }

    /// Leaves what was kept `before`, now that nothing marks for it any more: ends the flows that have no
    /// way any more, or would go on in their middle from another address or to an inspector. Where that
    /// fails it is tried again every second.
    pub async fn leave(&mut self, before: &Wanted) {
        self.change = None;
        let Some(debt) = self.wanted.as_ref().and_then(|now| Debt::between(before, now)) else {
            return;
        };
        // What was owed before may be paid by now, and have opened the table.
        self.applied.past.is_parting |= matches!(debt, Debt::Uplink { .. });
        self.owed.push(debt);
        self.pay().await;
        // Not before: what the table resets would in between go to an inspector.
        if self.applied.is_behind() {
            self.look_again().await;
        }
    }

    /// By which interface, as an index, the source of each direct flow that is picked is reached; those of
    /// which the kernel does not say are left out.
    ///
    /// # Errors
    ///
    /// Flows cannot be listed, or the kernel cannot be asked.
    pub async fn ways_back(
        &self,
        picked: impl Fn(&Flow) -> bool,
    ) -> Result<BTreeMap<IpAddr, u32>, EgressError> {
        let Some(wanted) = &self.wanted else { return Ok(BTreeMap::new()) };
        ways_back(wanted.words(), picked).await
    }

    /// Waits until something may have to be done, or to be told; gives whether it is to be looked
    /// at. For ever where nothing is kept. May be dropped and called again at any time.
    pub async fn changed(&mut self) -> bool {
        let Self { watch: Some(watch), prober, standings, again, .. } = self else {
            return std::future::pending().await;
        };
        let again = *again;
        tokio::select! {
            () = watch.changed() => true,
            () = async {
                match again {
                    Some(again) => sleep_until(again).await,
                    None => std::future::pending().await,
                }
            } => true,
            (family, round) = async {
                match prober {
                    Some(prober) => prober.next().await,
                    None => std::future::pending().await,
                }
            } => standings.note(family, round),
        }
    }

    /// Puts in place what was kept before a change that failed; `None`, nothing was.
    pub async fn go_back(&mut self, before: Option<&Wanted>) {
        let failed = self.change.take().map(|Change { to, owed, past }| {
            (self.owed, self.applied.past) = (owed, past);
            to
        });
        let outcome = if let Some(before) = before {
            let past = self.applied.past.clone();
            self.wanted = None;
            // Until the routes are back, nothing goes by those of the change that failed.
            let outcome = self.establish(before, failed.as_ref(), true).await;
            self.applied.past = past.under(before, None, &self.owed);
            if outcome.is_ok() && self.applied.is_behind() {
                self.look_again().await;
            }
            outcome
        } else {
            self.part(None).await;
            self.release().await
        };
        self.change = None;
        let Err(failure) = outcome else { return };
        error!("going back to the way out before failed too: {failure}");
        // It serves again, whatever of it is there, and is put in place as soon as it can be.
        if let Some(before) = before {
            self.keep(before, self.standings.with(&before.egress, false));
            let look = Look::as_before(&self.applied, &self.standings);
            self.settle(Look { problem: Some(failure), has_dead_end: true, ..look }).await;
        }
    }

    /// Ends all direct flows of what is kept, or else of what was `before`, while there is a table that
    /// resets them. Nothing new goes direct from then on. Takes a second, if there may be any.
    pub async fn part(&mut self, before: Option<&Wanted>) {
        let Some(wanted) = self.wanted.as_ref().or(before) else { return };
        if let Some(hears) = &self.hears_down {
            hears(&Family::ALL.into());
        }
        let mut words: Vec<_> = self.owed.iter().map(Debt::words).collect();
        words.push(wanted.words());
        words.dedup();
        let mut removed = 0_u64;
        let mut problem = self.applied.part(wanted).await.err();
        for words in words {
            match end(wanted, words, None, |_| true).await {
                Ok(ended) => removed = removed.saturating_add(ended.removed),
                Err(failure) => problem = problem.or(Some(failure)),
            }
        }
        if removed > 0 {
            info!(
                event = "flows_ended",
                cause = "no_egress",
                flows = removed,
                "{removed} direct flows are ended, [egress] is no more"
            );
        }
        if let Some(problem) = problem {
            warn!("direct flows may go on in their middle, to an inspector: {problem}");
        }
        // conntrack does not know what XDP has redirected.
        if removed > 0 || wanted.egress.action == Action::Redirect {
            sleep(PARTING).await;
        }
        self.count(REVOKED, removed);
    }

    /// Takes back whatever is ours, also what another process left.
    ///
    /// # Errors
    ///
    /// Something of ours cannot be removed.
    pub async fn release(&mut self) -> Result<(), EgressError> {
        *self = Self {
            ended: std::mem::take(&mut self.ended),
            put_back: self.put_back,
            standings: self.standings.without_families(),
            hears_down: self.hears_down.take(),
            ..Self::default()
        };
        let (removed, problems) = take_back().await;
        if !removed.is_nothing() {
            info!("of the direct uplink are taken back: {removed}");
        }
        problems.into_iter().next().map_or(Ok(()), Err)
    }

    /// The families that went down or came up since the last call.
    pub fn news(&mut self) -> Vec<Transition> {
        self.standings.news()
    }

    /// For the observation.
    #[must_use]
    pub fn state(&self) -> Option<EgressState> {
        let egress = &self.wanted.as_ref()?.egress;
        let hop = |family| self.hops.get(&family).copied().and_then(Hop::address);
        Some(EgressState {
            interface: egress.interface.clone(),
            gateway4: match hop(Family::V4) {
                Some(IpAddr::V4(hop)) if egress.gateway4.is_some() => Some(hop),
                Some(_) | None => None,
            },
            gateway6: match hop(Family::V6) {
                Some(IpAddr::V6(hop)) if egress.gateway6.is_some() => Some(hop),
                Some(_) | None => None,
            },
            table: egress.table,
            priority: egress.priority,
            put_back: self.put_back,
            problem: self.problem.clone().or_else(|| {
                let failure = self.not_ended.as_ref()?;
                Some(format!("direct flows are not ended yet: {failure}"))
            }),
            on_failure: egress.on_failure.name().to_owned(),
            families: self.standings.states(),
            flows_ended: self.ended.clone(),
            disputed: BTreeMap::new(),
        })
    }
}

fn tell(hears_down: Option<&HearsDown>, look: &Look) {
    if let Some(hears) = hears_down {
        hears(&look.down());
    }
}
