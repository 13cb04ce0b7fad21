//! Changes: from a wish (a start, a reload, a new feed, a person's word) through plan and guards to
//! a generation that serves, or to the reason why the one before goes on.

use std::collections::BTreeSet;

use jiff::Timestamp;
use tracing::{error, info, warn};

use super::journal::{Entry, Outcome, Trigger};
use super::packet_log::PacketLog;
use super::revision::{ConfigText, Revision, Saved};
use super::watch::{FeedWatch, seconds};
use super::{Daemon, hooks};
use crate::datapath::bring_up;
use crate::exit::{Exit, Failure};
use crate::feed::{FeedIdentity, Snapshot};
use crate::plan::{self, GatewayNetworks, Plan, Refusal};

/// The revision before the one that serves.
pub(super) const BEFORE: &str = "before.json";

/// What serves.
pub(super) struct Serving {
    pub(super) revision: Revision,
    pub(super) generation: u64,
    /// Whether everything is inspected because the feed is stale.
    pub(super) inspecting: bool,
}

/// What came of a wish.
pub(super) enum Change {
    /// It serves.
    Published(u64),
    /// Guards hold it.
    Held,
}

impl Daemon<'_> {
    /// Publishes for the first time: what serves afterwards, if anything, is the newest feed that
    /// the guards let through.
    pub(super) async fn start(&mut self, config: ConfigText) -> Result<(), Failure> {
        let nobody = BTreeSet::new();
        if let Some(revision) = self.open_trial() {
            warn!("what was applied before the restart was not confirmed: going back");
            self.publish(revision, Trigger::Unconfirmed, None, &nobody).await?;
            return self.close_trial();
        }
        let last_good = self.store.last_good();
        for skipped in &last_good.skipped {
            warn!("{skipped}");
        }
        let last_good = last_good.snapshot;
        let Some(snapshot) = self.watch.snapshot(last_good.as_ref())? else {
            info!("no feed is there yet: everything is inspected until one comes");
            self.config = Some(config);
            return Ok(());
        };
        let baseline = match last_good {
            Some(last) if last.digest != snapshot.digest => {
                Revision::compile(config.clone(), last).ok()
            }
            _ => None,
        };
        let revision = Revision::compile(config, snapshot)?;
        let (plan, refusals) = self.examine(baseline.as_ref(), &revision).await?;
        if refusals.is_empty() {
            self.publish(revision, Trigger::Start, Some(&plan), &nobody).await?;
            return Ok(());
        }
        let Some(baseline) = baseline else {
            // Nothing was accepted before, so there is nothing to serve in its place.
            let refusal = held(&refusals);
            self.record(
                Trigger::Start,
                Outcome::Held,
                Some(&revision),
                Some(&plan),
                &refusals,
                None,
            );
            return Err(Failure::new(Exit::Guard, refusal));
        };
        warn!("the last good feed serves in place of {}", revision.feed());
        self.publish(baseline, Trigger::Start, None, &nobody).await?;
        self.hold(revision, plan, refusals, Trigger::Start);
        Ok(())
    }

    /// Takes the configuration file into use, with the file that it names or the feed that serves.
    pub(super) async fn reload(&mut self, trigger: Trigger) -> Result<Change, Failure> {
        self.refuse_on_trial()?;
        let config = ConfigText::read(&self.settings.config)?;
        let (revision, watch) = self.wish(config)?;
        let Some(revision) = revision else {
            return Err(Failure::new(
                Exit::Feed,
                "no feed is there yet; the configuration is taken into use with the first one",
            ));
        };
        // It was for the configuration before.
        let waited = self.pending.take();
        let change = match self.consider(revision, trigger).await {
            Ok(change) => change,
            Err(failure) => {
                self.pending = waited;
                return Err(failure);
            }
        };
        if matches!(change, Change::Published(_)) {
            match watch {
                Some(watch) => self.watch = watch,
                None => self.watch.try_again(),
            }
            // What came before and was held or waits is looked at with this configuration.
            self.take_feed(trigger).await;
        }
        Ok(change)
    }

    /// What a configuration leads to, and its watch where it is another one.
    fn wish(
        &mut self,
        config: ConfigText,
    ) -> Result<(Option<Revision>, Option<FeedWatch>), Failure> {
        let watch = if self.watch.differs_from(&config.config) {
            Some(FeedWatch::new(&config.config, &self.store)?)
        } else {
            None
        };
        let serving = self.serving.as_ref().map(|serving| &serving.revision.snapshot);
        let snapshot = match &watch {
            Some(watch) => watch.snapshot(serving)?,
            None => self.watch.snapshot(serving)?,
        };
        let Some(snapshot) = snapshot else {
            self.config = Some(config);
            return Ok((None, watch));
        };
        Ok((Some(Revision::compile(config, snapshot)?), watch))
    }

    /// Another feed has come.
    pub(super) async fn take_feed(&mut self, trigger: Trigger) {
        let serving = self.serving.as_ref().map(|serving| &serving.revision.snapshot);
        let Some(snapshot) = self.watch.effective(serving) else { return };
        let feed = snapshot.identity();
        // The plan that waits, if any, was for what the source had before.
        self.pending = None;
        let serving = self.serving.as_ref().map(|serving| &serving.revision);
        if serving.is_some_and(|serving| serving.feed() == feed) {
            self.watch.taken(&self.store);
            return;
        }
        let revision = match (serving, &self.config) {
            (Some(serving), _) => serving.with_feed(snapshot),
            (None, Some(config)) => Revision::compile(config.clone(), snapshot),
            (None, None) => return,
        };
        let revision = match revision {
            Ok(revision) => revision,
            Err(error) => {
                let refusals = Vec::from_iter(Refusal::of_policy_error(&error));
                return self.turn_down(feed, trigger, &refusals, &error.to_string());
            }
        };
        let sets = revision.snapshot.sets.keys().copied().collect();
        for change in self.watch.announced(&sets) {
            info!("Microsoft says: {change}");
        }
        match self.consider(revision, trigger).await {
            Ok(Change::Published(_)) => self.watch.taken(&self.store),
            Ok(Change::Held) => {}
            Err(failure) => self.turn_down(feed, trigger, &[], &failure.to_string()),
        }
    }

    /// A feed that cannot serve: the one before does, and this one is not tried again by itself.
    fn turn_down(&mut self, feed: FeedIdentity, trigger: Trigger, guards: &[Refusal], why: &str) {
        let problem = format!("{feed}: refused, the feed before stays: {why}");
        error!("{problem}");
        self.record(trigger, Outcome::Failed, None, None, guards, Some(&problem));
        self.problem = Some(problem);
        self.watch.turn_down(feed, &self.store);
    }

    /// Plans, asks the guards, and publishes or holds.
    async fn consider(&mut self, revision: Revision, trigger: Trigger) -> Result<Change, Failure> {
        let baseline = self.serving.as_ref().map(|serving| serving.revision.clone());
        let (plan, refusals) = self.examine(baseline.as_ref(), &revision).await?;
        if refusals.is_empty() {
            let away = self.known_interfaces();
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
        let another_feed =
            baseline.filter(|old| old.snapshot.identity() != revision.snapshot.identity());
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
        let (hooks, interfaces) = hooks::wanted(&revision.config, may_be_away).await?;
        let inspecting = self.watch.wants_inspection();
        let blueprint = revision.blueprint(inspecting);
        let before = self.egress.wanted().cloned();
        let published = match self.make_way_out(&revision.config).await {
            Ok(()) => {
                bring_up(&self.lock, &blueprint, &hooks, &mut |_| Ok(())).map_err(Failure::from)
            }
            Err(failure) => Err(failure),
        };
        let published = match published {
            Ok(published) => published,
            Err(failure) => {
                self.go_back_to_way_out(before, &revision.config).await;
                let problem = failure.to_string();
                self.record(trigger, Outcome::Failed, Some(&revision), plan, &[], Some(&problem));
                return Err(failure);
            }
        };
        self.leave_way_out(&revision.config).await;
        let generation = published.manifest.generation;
        hooks::report(&revision.config, &published);
        if self.serving.as_ref().is_none_or(|serving| !serving.revision.is_same(&revision)) {
            revision.log_notes();
        }
        self.log = PacketLog::start(published).inspect_err(|error| warn!("{error}")).ok().flatten();
        self.interfaces = interfaces;
        self.problem = None;
        let old = self.serving.replace(Serving { revision, generation, inspecting });
        self.keep(old);
        let serving = self.serving.as_ref().map(|serving| &serving.revision);
        self.record(trigger, Outcome::Published, serving, plan, &[], None);
        if self.pending.as_ref().is_some_and(|pending| {
            serving.is_some_and(|serving| serving.is_same(&pending.revision))
        }) {
            self.pending = None;
        }
        Ok(generation)
    }

    /// Writes down what serves and what served before. The data plane is right already; what fails
    /// here is said and left.
    fn keep(&mut self, old: Option<Serving>) {
        let Some(serving) = &self.serving else { return };
        let mut problems = Vec::new();
        if self.kept.as_ref() != Some(&serving.revision.feed()) {
            match self.store.accept(&serving.revision.snapshot) {
                Ok(()) => self.kept = Some(serving.revision.feed()),
                Err(error) => problems.push(error.to_string()),
            }
        }
        if let Some(old) = old.filter(|old| !old.revision.is_same(&serving.revision)) {
            let saved = old.revision.save();
            let written = saved.and_then(|saved| self.write(BEFORE, &saved));
            problems.extend(written.err().map(|error| error.to_string()));
            self.before = Some(old.revision);
        }
        if let Some(problem) = problems.into_iter().next() {
            warn!("{problem}; a restart would not know of generation {}", serving.generation);
            self.problem = Some(problem);
        }
    }

    /// Keeps a revision.
    pub(super) fn write(&self, name: &str, saved: &Saved) -> Result<(), Failure> {
        self.store.write_json(name, saved).map_err(|error| Failure::new(Exit::System, error))
    }

    /// The configuration that serves says which source is watched.
    pub(super) fn follow_config(&mut self) {
        let Some(serving) = &self.serving else { return };
        if self.watch.differs_from(&serving.revision.config) {
            match FeedWatch::new(&serving.revision.config, &self.store) {
                Ok(watch) => self.watch = watch,
                Err(failure) => error!("the feed is not watched: {failure}"),
            }
        }
    }

    /// A revision as it was kept.
    pub(super) fn recall(&self, name: &str) -> Result<Option<Revision>, Failure> {
        let saved: Option<Option<Saved>> =
            self.store.read_json(name).map_err(|error| Failure::new(Exit::System, error))?;
        saved.flatten().map(|saved| Revision::restore(&saved, &self.settings.config)).transpose()
    }

    /// The plan from what serves to `revision`.
    pub(super) fn plan_to(&self, revision: &Revision) -> Plan {
        let serving = self.serving.as_ref().map(|serving| serving.revision.side());
        Plan::between(serving.as_ref(), &revision.side())
    }

    pub(super) fn known_interfaces(&self) -> BTreeSet<String> {
        self.interfaces.keys().cloned().collect()
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
            error!("the feed is older than max-age: everything is inspected (on-stale)");
        } else {
            info!("the feed is no longer stale");
        }
        let (revision, away) = (serving.revision.clone(), self.known_interfaces());
        if let Err(failure) = self.publish(revision, Trigger::Stale, None, &away).await {
            error!("{failure}");
            self.problem = Some(failure.to_string());
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
        let prefixes = |v6| {
            let table = &revision?.compiled.table;
            let of_family = table.prefixes().filter(|(net, _)| net.addr().is_ipv6() == v6);
            u64::try_from(of_family.count()).ok()
        };
        let entry = Entry {
            time: seconds(Timestamp::now()),
            trigger,
            outcome,
            generation: self.serving.as_ref().map(|serving| serving.generation),
            feed_before: plan.and_then(|plan| plan.old_feed.clone()),
            feed: revision.map(Revision::feed),
            table: revision.map(|revision| revision.compiled.table.digest()),
            prefixes_v4: prefixes(false),
            prefixes_v6: prefixes(true),
            summary: plan.map(Plan::summary),
            guards: refusals.iter().map(|refusal| refusal.guard.name().to_owned()).collect(),
            problem: problem
                .map(str::to_owned)
                .or_else(|| (!refusals.is_empty()).then(|| held(refusals))),
        };
        if let Err(error) = self.journal.append(&entry) {
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
