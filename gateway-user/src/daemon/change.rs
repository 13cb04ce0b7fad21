//! Changes: from a wish (a start, a reload, a new feed, a person's word) through plan and guards to
//! a generation that serves, or to the reason why the one before goes on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{error, info, warn};

use super::journal::{Entry, Outcome, Trigger};
use super::packet_log::PacketLog;
use super::revision::{ConfigText, Revision};
use super::watch::FeedWatch;
use super::{Daemon, hooks, switched_off};
use crate::datapath::{Blueprint, DatapathError, HookRequest, Published, Redirect, Step, bring_up};
use crate::exit::{Exit, Failure};
use crate::feed::{FeedIdentity, Snapshot};
use crate::plan::{self, GatewayNetworks, Plan, Refusal};
use crate::policy::{PolicyError, Support, Table};

/// The revision before the one that serves.
pub(super) const BEFORE: &str = "before.json";
/// The revision that serves.
pub(super) const SERVING: &str = "serving.json";

/// What serves.
pub(super) struct Serving {
    pub(super) revision: Revision,
    pub(super) generation: u64,
    /// Whether everything is inspected because the feed is stale.
    pub(super) inspecting: bool,
    /// What support windows let go direct besides.
    pub(super) support: Support,
    /// Where it redirects to.
    pub(super) redirect: Option<Redirect>,
    /// Where it would, and could not be attached so.
    pub(super) refused: Option<Redirect>,
}

/// What came of a wish.
pub(super) enum Change {
    /// It serves.
    Published(u64),
    /// Guards hold it.
    Held,
    /// It serves as soon as a feed of its source is there.
    Awaited,
}

/// What a configuration leads to.
pub(super) struct Wish {
    /// What watches its source, if that is not what is watched now.
    pub(super) watch: Option<FeedWatch>,
    /// `None` where no feed of its source is at hand.
    pub(super) revision: Option<Revision>,
}

impl Daemon<'_> {
    /// Takes the configuration file into use, with the file that it names or the feed that serves.
    /// Nothing else is looked at yet: see [`Self::take_feed`].
    pub(super) async fn reload(&mut self, trigger: Trigger) -> Result<Change, Failure> {
        let config = ConfigText::read(&self.settings.config)?;
        let Wish { watch, revision } = self.wish(&config)?;
        let Some(revision) = revision else {
            if let Some(watch) = watch {
                self.watch = watch.takes_over(&self.watch);
            }
            warn!(
                "no feed of {} is at hand: what served before goes on until it is",
                config.config.feed
            );
            self.wanted = Some(config);
            return Ok(Change::Awaited);
        };
        let change = self.consider(revision, trigger).await?;
        if matches!(change, Change::Published(_)) {
            self.wanted = None;
            match watch {
                Some(watch) => self.watch = watch.takes_over(&self.watch),
                None => self.watch.try_again(),
            }
        }
        Ok(change)
    }

    /// What a configuration leads to, and its watch where it is another one. Changes nothing.
    pub(super) fn wish(&self, config: &ConfigText) -> Result<Wish, Failure> {
        let source = &config.config.feed;
        let watch = if self.watch.differs_from(&config.config) {
            Some(FeedWatch::new(&config.config, &self.store)?)
        } else {
            None
        };
        let serving = self.serving.as_ref().map(|serving| &serving.revision);
        // The feed of another source says nothing about this one.
        let serving = serving.filter(|serving| serving.is_of(source));
        let snapshot = watch
            .as_ref()
            .unwrap_or(&self.watch)
            .snapshot(serving.map(|serving| &serving.snapshot))?;
        let compile = |snapshot| Revision::compile(config.clone(), snapshot);
        Ok(Wish { watch, revision: snapshot.map(compile).transpose()? })
    }

    /// Looks at the feed that came last, if it does not serve whole yet: publishes it, or says why
    /// not. While something is on trial, it waits for the end of that.
    pub(super) async fn take_feed(&mut self, trigger: Trigger) {
        if self.trial.is_some() {
            return;
        }
        let serving = self.serving.as_ref().map(|serving| &serving.revision);
        let serving = serving.filter(|_| self.wanted.is_none());
        let Some(snapshot) = self.watch.effective(serving.map(|serving| &serving.snapshot)) else {
            return;
        };
        let feed = snapshot.identity();
        if self.pending.as_ref().is_some_and(|pending| pending.revision.feed() == feed) {
            return;
        }
        let serves_already = serving.is_some_and(|serving| serving.feed() == feed);
        let revision = match (&self.wanted, serving) {
            (Some(config), _) => Revision::compile(config.clone(), snapshot),
            (None, Some(serving)) => serving.with_feed(snapshot),
            (None, None) => return,
        };
        self.drop_pending("the source has another feed");
        if serves_already {
            self.watch.taken();
            return;
        }
        let revision = match revision {
            Ok(revision) => revision,
            Err(error) => return self.turn_down(feed, trigger, &error),
        };
        let sets = revision.snapshot.sets.keys().copied().collect();
        for change in self.watch.announced(&sets) {
            info!("Microsoft says: {change}");
        }
        match self.consider(revision, trigger).await {
            Ok(Change::Published(_)) => self.watch.taken(),
            Ok(Change::Held | Change::Awaited) => {}
            // Not the feed's fault: it is tried again after the next check.
            Err(failure) => {
                self.record_failure(trigger, None, &failure.to_string());
                let problem = format!("{feed} does not serve yet: {failure}");
                error!(event = "failed", trigger = %trigger, feed_version = feed.version, "{problem}");
                self.problem = Some(problem);
            }
        }
    }

    /// A feed that no table can be made from with this policy: the one before goes on.
    fn turn_down(&mut self, feed: FeedIdentity, trigger: Trigger, error: &PolicyError) {
        let problem = format!("{feed}: refused, the feed before goes on: {error}");
        let guards = Vec::from_iter(Refusal::of_policy_error(error));
        error!(
            event = "refused",
            trigger = %trigger,
            feed_version = feed.version,
            guards = guard_names(&guards),
            "{problem}"
        );
        self.record(trigger, Outcome::Failed, None, None, &guards, Some(&problem));
        self.watch.turn_down(feed, error.to_string());
    }

    /// Plans, asks the guards, and publishes or holds.
    async fn consider(&mut self, revision: Revision, trigger: Trigger) -> Result<Change, Failure> {
        let baseline = self.serving.as_ref().map(|serving| serving.revision.clone());
        let (plan, refusals) = self.examine(baseline.as_ref(), &revision).await?;
        if refusals.is_empty() {
            let away = self.may_be_away(None);
            let published = self.publish(revision, trigger, Some(&plan), &away).await;
            return published.map(Change::Published);
        }
        self.hold(revision, plan, refusals, trigger);
        Ok(Change::Held)
    }

    /// The plan from `baseline` to `revision`, and what the guards say of it.
    ///
    /// A change of the feed is judged by itself: against the old feed under the new policy, so that
    /// what the operator changed does not count against Microsoft, nor the other way round.
    pub(super) async fn examine(
        &self,
        baseline: Option<&Revision>,
        revision: &Revision,
    ) -> Result<(Plan, Vec<Refusal>), Failure> {
        let gateway = GatewayNetworks::read().await.map_err(|problem| {
            Failure::new(Exit::System, format!("the gateway's own networks: {problem}"))
        })?;
        let guards = &revision.config.guards;
        let side = revision.side();
        let plan = Plan::between(baseline.map(Revision::side).as_ref(), &side);
        // Another source is another list by the operator's will.
        let another_feed = baseline
            .filter(|old| old.is_of(&revision.config.feed) && old.feed() != revision.feed());
        let Some(old) = another_feed else {
            let refusals = plan::check(guards, &plan, &side, &gateway, plan::Trigger::Config);
            return Ok((plan, refusals));
        };
        // A policy that does not fit the old feed is compared as it is.
        let same_policy = revision.with_feed(old.snapshot.clone()).ok();
        let of_feed = match &same_policy {
            Some(old) => Plan::between(Some(&old.side()), &side),
            None => plan.clone(),
        };
        let refusals = plan::check(guards, &of_feed, &side, &gateway, plan::Trigger::Feed);
        Ok((plan, refusals))
    }

    /// Loads, tests and publishes; then keeps what has to outlive this process.
    pub(super) async fn publish(
        &mut self,
        revision: Revision,
        trigger: Trigger,
        plan: Option<&Plan>,
        may_be_away: &BTreeSet<String>,
    ) -> Result<u64, Failure> {
        // All that is disputed about may be another by then.
        self.give_up_undisputed();
        // All that waits for it would be as large.
        let outcome = Box::pin(self.load_and_publish(revision, trigger, plan, may_be_away)).await;
        self.claim_undisputed();
        outcome
    }

    async fn load_and_publish(
        &mut self,
        revision: Revision,
        trigger: Trigger,
        plan: Option<&Plan>,
        may_be_away: &BTreeSet<String>,
    ) -> Result<u64, Failure> {
        let (hooks, interfaces) = hooks::wanted(&revision.config, may_be_away).await?;
        let inspecting = self.watch.wants_inspection();
        let starts_off = switched_off::is_kept(&self.settings.state_dir);
        let blueprint = Blueprint { starts_off, ..revision.blueprint(inspecting) };
        let with_windows = self.with_windows(blueprint, &revision, trigger).await;
        let (mut blueprint, support) = match with_windows {
            Ok(opened) => opened,
            Err(failure) => {
                self.record_failure(trigger, Some(&revision), &failure.to_string());
                return Err(failure);
            }
        };
        let way_before = self.egress.wanted().cloned();
        let way_of_flows = self.way_of_flows();
        blueprint.redirect = match self.redirect(&revision.config, &hooks).await {
            Ok(redirect) => redirect,
            Err(problem) => {
                self.record_failure(trigger, Some(&revision), &problem.to_string());
                return Err(problem.into());
            }
        };
        let way_out = self.make_way_out(&revision.config, way_of_flows.as_ref(), trigger).await;
        if self.egress.wants_inspection() {
            blueprint.deadline = Some(Duration::ZERO);
        }
        let published = match way_out {
            Ok(()) => self.bring_up_redirecting(&mut blueprint, &revision.config, &hooks),
            Err(failure) => Err(failure),
        };
        let (published, refused) = match published {
            Ok(published) => published,
            Err(failure) => {
                self.give_sign_of_life();
                self.go_back_to_way_out(way_before, way_of_flows, &revision.config).await;
                self.heed_way_out();
                self.record_failure(trigger, Some(&revision), &failure.to_string());
                return Err(failure);
            }
        };
        let generation = published.manifest.generation;
        hooks::report(&revision.config, &published, trigger);
        self.hooked.take(&published.attached);
        self.log = PacketLog::start(published).inspect_err(|error| warn!("{error}")).ok().flatten();
        self.interfaces = interfaces;
        (self.problem, self.failed) = (None, None);
        self.heartbeat.take(self.lock.pins());
        let is_start = self.serving.is_none();
        let redirect = blueprint.redirect;
        let now = Serving { revision, generation, inspecting, support, redirect, refused };
        let before = self.serving.replace(now);
        let before = before.map(|serving| serving.revision).or_else(|| self.was.take());
        // Before anything is written to a disk that may be slow.
        self.give_sign_of_life();
        self.leave_way_out(way_of_flows.as_ref(), is_start).await;
        self.look_for_collisions();
        self.windows_are_published().await;
        let Some(Serving { revision, .. }) = &self.serving else { return Ok(generation) };
        let is_new = before.as_ref().is_none_or(|before| !before.is_same(revision));
        if is_new {
            revision.log_notes();
        }
        self.record(trigger, Outcome::Published, Some(revision), plan, &[], None);
        // What nobody has confirmed is nothing to go back to, and what is on trial may be gone from.
        let is_trial = self.trial.is_some() || trigger == Trigger::Unconfirmed;
        self.keep(before.filter(|_| is_new && !is_trial));
        if is_new {
            self.wanted = None;
            self.drop_pending("what it started from has changed");
        }
        Ok(generation)
    }

    /// Loads, tests and publishes, and counts on with the counters of what serves then.
    pub(super) fn bring_up(
        &mut self,
        blueprint: &Blueprint,
        hooks: &[HookRequest],
    ) -> Result<Published, DatapathError> {
        let start = Instant::now();
        let number = self.lock.next_generation()?;
        let (tally, lock) = (&mut self.tally, &self.lock);
        let published = bring_up(lock, blueprint, hooks, &mut |step| {
            if matches!(step, Step::Tc(_) | Step::Xdp(_)) {
                tally.comes(lock, number);
            }
            Ok(())
        });
        match &published {
            Ok(published) => tally.serves(lock, published.manifest.generation, start.elapsed()),
            Err(error) => tally.failed(error),
        }
        published
    }

    /// The plan that waits, if any, does so no longer.
    fn drop_pending(&mut self, why: &str) {
        if let Some(pending) = self.pending.take() {
            info!("plan {} waits no longer: {why}", pending.id);
        }
    }

    /// Writes down what serves and what served `before`, if that was something else. The data plane
    /// is right already; what fails here is said and left.
    fn keep(&mut self, before: Option<Revision>) {
        let Some(Serving { revision, generation, .. }) = &self.serving else { return };
        let outcome = before
            .as_ref()
            .map_or(Ok(()), |before| self.write(BEFORE, before, false))
            .and_then(|()| self.write(SERVING, revision, self.watch.is_partial()))
            .and_then(|()| {
                let kept = self.store.accept(&revision.snapshot);
                kept.map_err(|error| Failure::new(Exit::System, error))
            });
        if before.is_some() {
            self.before = before;
        }
        if let Err(failure) = outcome {
            warn!("{failure}; a restart would not know of generation {generation}");
            self.problem = Some(failure.to_string());
        }
    }

    /// Keeps a revision.
    pub(super) fn write(&self, name: &str, kept: &Revision, partial: bool) -> Result<(), Failure> {
        let written = self.store.write_json(name, &kept.save(partial)?);
        written.map_err(|error| Failure::new(Exit::System, error))
    }

    /// The configuration that serves says which source is watched.
    pub(super) fn follow_config(&mut self) {
        let Some(serving) = &self.serving else { return };
        if self.watch.differs_from(&serving.revision.config) {
            match FeedWatch::new(&serving.revision.config, &self.store) {
                Ok(watch) => self.watch = watch.takes_over(&self.watch),
                Err(failure) => error!("the feed is not watched: {failure}"),
            }
        }
    }

    /// The plan from what serves to `revision`.
    pub(super) fn plan_to(&self, revision: &Revision) -> Plan {
        let serving = self.serving.as_ref().map(|serving| serving.revision.side());
        Plan::between(serving.as_ref(), &revision.side())
    }

    /// Interfaces that may be away: what was once there may come back, and what a revision had that
    /// served before is no reason not to go back to it.
    pub(super) fn may_be_away(&self, revision: Option<&Revision>) -> BTreeSet<String> {
        let named = revision.into_iter().flat_map(Revision::interfaces);
        self.interfaces.keys().cloned().chain(named).collect()
    }

    /// Republishes where the feed has become stale or is so no longer.
    pub(super) async fn look_at_the_clock(&mut self) {
        if self.watch.has_become_effective() {
            self.take_feed(Trigger::Effective).await;
        }
        let Some(serving) = &self.serving else { return };
        if serving.inspecting == self.watch.wants_inspection() {
            return;
        }
        if self.watch.wants_inspection() {
            error!(
                event = "stale",
                "the feed is older than max-age: everything is inspected (on-stale)"
            );
        } else {
            info!(event = "fresh", "the feed is no longer stale");
        }
        let (revision, away) = (serving.revision.clone(), self.may_be_away(None));
        if let Err(failure) = self.publish(revision, Trigger::Stale, None, &away).await {
            error!(event = "failed", trigger = %Trigger::Stale, "{failure}");
            self.problem = Some(failure.to_string());
        }
    }

    /// Writes a failure down, once: what is tried again and fails alike is no news.
    pub(super) fn record_failure(
        &mut self,
        trigger: Trigger,
        revision: Option<&Revision>,
        problem: &str,
    ) {
        if self.failed.as_deref() != Some(problem) {
            self.record(trigger, Outcome::Failed, revision, None, &[], Some(problem));
            self.failed = Some(problem.to_owned());
        }
    }

    /// Writes a line of the journal.
    pub(super) fn record(
        &self,
        trigger: Trigger,
        outcome: Outcome,
        revision: Option<&Revision>,
        plan: Option<&Plan>,
        refusals: &[Refusal],
        problem: Option<&str>,
    ) {
        let table = revision.map(|revision| &revision.compiled.table);
        let (prefixes_v4, prefixes_v6) = table.map(Table::count_by_family).unzip();
        let generation = self.serving.as_ref().map(|serving| serving.generation);
        let entry = Entry {
            feed_before: plan.and_then(|plan| plan.old_feed.clone()),
            feed: revision.map(Revision::feed),
            table: table.map(Table::digest),
            prefixes_v4,
            prefixes_v6,
            summary: plan.map(Plan::summary),
            guards: refusals.iter().map(|refusal| refusal.guard.name().to_owned()).collect(),
            problem: problem
                .map(str::to_owned)
                .or_else(|| (!refusals.is_empty()).then(|| held(refusals))),
            ..Entry::new(Timestamp::now(), trigger, outcome, generation)
        };
        self.write_down(&entry);
    }

    /// Writes a line of the journal that is there already.
    pub(super) fn write_down(&self, entry: &Entry) {
        if let Err(error) = self.journal.append(entry) {
            warn!("{}: the journal lacks a line: {error}", self.settings.state_dir.display());
        }
    }

    /// The feed that serves.
    pub(super) fn snapshot(&self) -> Option<&Snapshot> {
        self.serving.as_ref().map(|serving| &serving.revision.snapshot)
    }
}

/// All refusals in one line; how to accept them is said once, by who prints it.
pub(super) fn held(refusals: &[Refusal]) -> String {
    let told = refusals
        .iter()
        .map(|Refusal { guard, what, limit, .. }| format!("{guard}: {what}; {limit}"));
    told.collect::<Vec<_>>().join("; ")
}

/// The guards that refuse, by name, in one word for a field.
pub(super) fn guard_names(refusals: &[Refusal]) -> String {
    refusals.iter().map(|refusal| refusal.guard.name()).collect::<Vec<_>>().join(",")
}
