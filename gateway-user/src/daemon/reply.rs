//! What the daemon does for those who ask, and what it tells of itself.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{error, warn};

use super::Daemon;
use super::change::Change;
use super::control::{Call, Reply, Request};
use super::journal::Trigger;
use super::revision::ConfigText;
use crate::datapath::{Counts, Manifest};
use crate::exit::{Exit, Failure};
use crate::feed::{self, FetchError, SetId, Snapshot};
use crate::observe::{
    self, EgressState, LoadedState, Observation, PendingState, TableState, Traffic,
};
use crate::plan::{Plan, Refusal, Touched, touched};
use crate::rfc3339::seconds;
use crate::window::Wish;

/// What `plan show` is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanReport {
    /// Whether it waits for a person; if not, it is what a reload would do.
    pub waiting: bool,
    /// What `plan accept` and `plan reject` take.
    pub id: String,
    /// Since when it waits, RFC 3339.
    pub since: Option<String>,
    /// The plan.
    pub plan: Plan,
    /// The guards that hold it, or would.
    pub refusals: Vec<Refusal>,
    /// How much of what went direct since the generation was loaded belongs to sets that lose
    /// rules.
    pub touched: Touched,
    /// What Microsoft says of the sets that change, where it does.
    pub announced: Vec<feed::Change>,
}

impl Daemon<'_> {
    /// Does what was asked for and replies.
    pub(super) async fn answer(&mut self, call: Call) {
        let reply = match self.work(&call.request).await {
            Ok((text, report)) => Reply::Done { text, report },
            Err(failure) => {
                warn!("{:?} is refused: {failure}", call.request);
                failure.into()
            }
        };
        // Who asked may be gone.
        drop(call.reply.send(reply));
    }

    async fn work(&mut self, request: &Request) -> Result<(String, Value), Failure> {
        match request {
            Request::Reload => {
                let change = self.reload_and_follow(Trigger::Reload).await?;
                self.said(&change)
            }
            Request::Apply { confirm_within: None } => {
                let change = self.reload_and_follow(Trigger::Apply).await?;
                self.said(&change)
            }
            Request::Apply { confirm_within: Some(within) } => self.apply(*within).await,
            Request::Confirm => {
                self.confirm()?;
                self.take_feed(Trigger::Feed).await;
                Ok(("confirmed".to_owned(), json!({"confirmed": true})))
            }
            Request::Rollback => {
                let change = self.rollback().await?;
                self.take_feed(Trigger::Feed).await;
                self.said(&change)
            }
            Request::PlanShow => {
                let report = self.plan_report().await?;
                let report = serde_json::to_value(report).map_err(|error| {
                    Failure::new(Exit::Internal, format!("the plan as JSON: {error}"))
                })?;
                Ok((String::new(), report))
            }
            Request::PlanAccept { id } => {
                let change = self.accept(id).await?;
                let said = self.said(&change);
                self.take_feed(Trigger::Feed).await;
                said
            }
            Request::SupportStart { clients, sets, length, note } => {
                let (clients, sets, note) = (clients.clone(), sets.clone(), note.clone());
                let length = Duration::from_secs(*length);
                self.start_window(Wish { clients, sets, length, note }).await
            }
            Request::SupportList => self.list_windows(),
            Request::SupportStop { id } => self.stop_window(*id).await,
            Request::SupportReport { id } => self.report_window(*id),
            Request::PlanReject { id } => {
                self.reject(id)?;
                Ok((format!("plan {id} is rejected"), json!({"rejected": id})))
            }
            Request::Revoke { sets, prefixes, all } => self.revoke(sets, prefixes, *all).await,
        }
    }

    /// Reloads, and looks at what came before and was held or waits, with this configuration.
    pub(super) async fn reload_and_follow(&mut self, trigger: Trigger) -> Result<Change, Failure> {
        self.refuse_on_trial()?;
        let change = match self.reload(trigger).await {
            Ok(change) => change,
            Err(failure) => {
                self.record_failure(trigger, None, &failure.to_string());
                return Err(failure);
            }
        };
        if !matches!(change, Change::Held) {
            self.take_feed(trigger).await;
        }
        Ok(change)
    }

    async fn apply(&mut self, within: u64) -> Result<(String, Value), Failure> {
        self.refuse_on_trial()?;
        let change = match self.try_out(Duration::from_secs(within)).await {
            Ok(change) => change,
            Err(failure) => {
                self.record_failure(Trigger::Apply, None, &failure.to_string());
                return Err(failure);
            }
        };
        let (text, mut report) = self.said(&change)?;
        let Some(until) = self.trial.as_ref().map(|trial| seconds(trial.until_time)) else {
            return Ok((text, report));
        };
        if let Some(report) = report.as_object_mut() {
            report.insert("confirm_until".to_owned(), json!(until));
        }
        Ok((format!("{text}\n`breakout365 confirm` before {until}, or it goes back"), report))
    }

    /// What to say of a change; a held one is a refusal.
    fn said(&self, change: &Change) -> Result<(String, Value), Failure> {
        match change {
            Change::Published(generation) => {
                let prefixes = self
                    .serving
                    .as_ref()
                    .map_or(0, |serving| serving.revision.compiled.table.prefixes().len());
                let feed = self.snapshot().map(Snapshot::identity);
                let words = feed.as_ref().map(ToString::to_string).unwrap_or_default();
                Ok((
                    format!("generation {generation} serves {prefixes} prefixes; {words}"),
                    json!({"generation": generation, "prefixes": prefixes, "feed": feed}),
                ))
            }
            Change::Awaited => Ok((
                "no feed of this source is at hand; what served before goes on until it is"
                    .to_owned(),
                json!({"awaited": true}),
            )),
            Change::Held => {
                let pending = self.pending.as_ref();
                let id = pending.map(|pending| pending.id.clone()).unwrap_or_default();
                let refusals = pending.map(|pending| super::change::held(&pending.refusals));
                Err(Failure::new(
                    Exit::Guard,
                    format!(
                        "plan {id} is held: {}; what served before goes on; see `breakout365 plan \
                         show`, then `plan accept {id}` or `plan reject {id}`",
                        refusals.unwrap_or_default()
                    ),
                ))
            }
        }
    }

    /// The pending plan, or what a reload would do now.
    async fn plan_report(&self) -> Result<PlanReport, Failure> {
        if let Some(pending) = &self.pending {
            return Ok(PlanReport {
                waiting: true,
                id: pending.id.clone(),
                since: Some(seconds(pending.since)),
                touched: self.touched(&pending.plan),
                announced: self.announced(&pending.plan),
                plan: pending.plan.clone(),
                refusals: pending.refusals.clone(),
            });
        }
        let config = ConfigText::read(&self.settings.config)?;
        let revision = self.wish(&config)?.revision.ok_or_else(|| {
            let problem = "no feed of this source is at hand yet, so there is no plan";
            Failure::new(Exit::Feed, problem)
        })?;
        let serving = self.serving.as_ref().map(|serving| &serving.revision);
        let (plan, refusals) = self.examine(serving, &revision).await?;
        Ok(PlanReport {
            waiting: false,
            id: plan.id(),
            since: None,
            touched: self.touched(&plan),
            announced: Vec::new(),
            plan,
            refusals,
        })
    }

    fn announced(&self, plan: &Plan) -> Vec<feed::Change> {
        self.watch.announced(&plan.sets.iter().map(|change| change.set).collect())
    }

    /// Nothing, where the counters cannot be read: they only enrich.
    fn touched(&self, plan: &Plan) -> Touched {
        match self.tally.of_current() {
            Ok(Some((manifest, counts))) => touched(plan, &direct_bytes(manifest, &counts)),
            Ok(None) | Err(_) => Touched::default(),
        }
    }

    /// The source was asked.
    pub(super) async fn checked(&mut self, checked: Result<(), FetchError>) {
        // First, so that nothing of it is lost in between.
        self.remember();
        match checked {
            Ok(()) => self.take_feed(Trigger::Feed).await,
            Err(error) => warn!(event = "feed_failed", kind = error.kind(), "{error}"),
        }
        self.look_at_the_clock().await;
    }

    /// Writes down what is to be remembered of the source.
    pub(super) fn remember(&mut self) {
        if let Err(error) = self.watch.remember(&self.store) {
            warn!("{error}; a restart would ask the source anew");
            self.problem = Some(error.to_string());
        }
    }

    /// Nobody has confirmed.
    pub(super) async fn trial_is_over(&mut self) {
        warn!(event = "not_confirmed", "nobody confirmed: going back");
        if let Err(failure) = self.go_back(Trigger::Unconfirmed).await {
            error!(
                event = "failed",
                trigger = %Trigger::Unconfirmed,
                "cannot go back, trying again in a moment: {failure}"
            );
            self.problem = Some(failure.to_string());
        }
        self.take_feed(Trigger::Feed).await;
    }

    /// Everything there is to see.
    pub(super) fn observation(&self, traffic: Traffic, loaded: Option<LoadedState>) -> Observation {
        let inspecting = self.serving.as_ref().is_some_and(|serving| serving.inspecting);
        let standing = self.heartbeat.standing();
        let left = standing.as_ref().and_then(|standing| standing.deadline);
        let until = left
            .and_then(|left| Timestamp::now().checked_add(Duration::from_secs(left)).ok())
            .map(seconds);
        Observation {
            version: observe::VERSION,
            pid: std::process::id(),
            started: seconds(self.started),
            generation: self.serving.as_ref().map(|serving| serving.generation),
            switches: standing.map(Into::into),
            feed: self.watch.state(self.snapshot(), inspecting),
            pending: self.pending.as_ref().map(|pending| PendingState {
                id: pending.id.clone(),
                since: seconds(pending.since),
                feed: pending.revision.feed(),
                summary: pending.summary.clone(),
                refusals: pending.refusals.iter().map(ToString::to_string).collect(),
            }),
            confirm_until: self.trial.as_ref().map(|trial| seconds(trial.until_time)),
            problem: self.problem.clone(),
            egress: self
                .egress
                .state()
                .map(|egress| EgressState { disputed: self.disputes(), ..egress }),
            breakout365: env!("CARGO_PKG_VERSION").to_owned(),
            loaded,
            traffic,
            table: self
                .serving
                .as_ref()
                .map(|serving| TableState::of(&serving.revision.compiled.table)),
            publications: self.tally.publications.clone(),
            plans_held: self.plans_held.clone(),
            deadline: until,
            support: self.windows.state(),
            missing: Vec::new(),
        }
    }
}

/// Bytes that went direct, by combination of endpoint sets.
fn direct_bytes(manifest: &Manifest, counts: &Counts) -> Vec<(BTreeSet<SetId>, u64)> {
    let decided = counts.decided();
    let groups = manifest.groups.iter().cloned();
    groups.zip(decided.groups()).map(|(sets, counter)| (sets, counter.bytes)).collect()
}
