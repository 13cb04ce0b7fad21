//! The feed's source: when it is asked, what it answered last, and whether that is too long ago.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::config::{Config, FeedOptions, FeedSource, HoldAdditions, OnStale};
use crate::exit::{Exit, Failure};
use crate::feed::{
    self, Changes, Check, Client, ClientId, FeedIdentity, FetchError, HeldAddition, Limits,
    Schedule, SetId, Snapshot, Store, StoreError,
};
use crate::observe::{FeedState, HeldState};
use crate::rfc3339::seconds;

const STATE: &str = "feed-state.json";
const INCOMING: &str = "incoming.json";
/// The version before every other: `/changes` since then are all there are.
const EVERY_VERSION: &str = "0000000000";

/// What is remembered over restarts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Memory {
    /// Where the times below are of; another source begins anew.
    source: String,
    /// When it was first to be asked.
    since: Option<Timestamp>,
    /// When it last answered as it should.
    last_success: Option<Timestamp>,
    /// Before when it does not want to be asked.
    not_before: Option<Timestamp>,
    /// The feed that a person does not want, by `plan reject` or `rollback`.
    rejected: Option<FeedIdentity>,
}

/// A feed that came and does not serve whole, with what says from when it does; kept over restarts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Incoming {
    /// Whose it is.
    source: String,
    /// Canonical, with everything that is held.
    feed: String,
    changes: Changes,
}

/// What came of a check that found something new.
#[derive(Debug)]
struct Fetched {
    check: Check,
    changes: Option<Changes>,
}

/// Asks the source and remembers.
pub(super) struct FeedWatch {
    source: FeedSource,
    options: FeedOptions,
    client: Option<Arc<Client>>,
    schedule: Schedule,
    begun: Instant,
    next: Option<Instant>,
    next_time: Option<Timestamp>,
    running: Option<JoinHandle<Result<Fetched, FetchError>>>,
    memory: Memory,
    last_check: Option<Timestamp>,
    checks: BTreeMap<String, u64>,
    problem: Option<String>,
    incoming: Option<(Snapshot, Changes)>,
    held: Vec<HeldAddition>,
    /// The feed that the policy refused, and why; a reload tries again.
    refused: Option<(FeedIdentity, String)>,
    /// What the source had when it was last asked and had something new.
    seen: Option<FeedIdentity>,
    /// Whether what serves is less than the source has, and the rest is lost.
    refetch: bool,
}

impl FeedWatch {
    /// What watches what `config` names: the first check is due at once, unless the source wants
    /// to be left alone, and nothing waits for it. Nothing is written but a new client id.
    pub(super) fn new(config: &Config, store: &Store) -> Result<Self, Failure> {
        let source = config.feed.clone();
        let client = match &source {
            FeedSource::Embedded | FeedSource::File(_) => None,
            FeedSource::Url(_) | FeedSource::WebService { .. } => {
                let ClientId { id, replaced } =
                    store.client_id().map_err(|error| Failure::new(Exit::System, error))?;
                if let Some(replaced) = replaced {
                    warn!("{replaced}");
                }
                let limits = Limits::default();
                Some(Arc::new(Client::new(&source, &config.feed_options, id, limits)?))
            }
        };
        let words = source.to_string();
        let mut memory = match store.read_json::<Memory>(STATE) {
            Ok(memory) => memory.unwrap_or_default(),
            Err(error) => {
                warn!("{error}; when the feed was last checked is forgotten");
                Memory::default()
            }
        };
        if memory.source != words {
            memory = Memory { source: words, ..Memory::default() };
        }
        let now = Timestamp::now();
        memory.since.get_or_insert(now);
        let pause = memory.not_before.and_then(|time| Duration::try_from(time - now).ok());
        let mut watch = Self {
            schedule: Schedule::new(config.feed_options.poll_interval),
            begun: Instant::now(),
            options: config.feed_options.clone(),
            source,
            next_time: None,
            next: None,
            client,
            running: None,
            memory,
            last_check: None,
            checks: BTreeMap::new(),
            problem: None,
            incoming: None,
            held: Vec::new(),
            refused: None,
            seen: None,
            refetch: false,
        };
        if watch.client.is_some() {
            watch.plan_next(pause.unwrap_or_default());
            watch.recall_incoming(store);
        }
        Ok(watch)
    }

    /// Takes over from the watch before, and counts on where that has come to.
    pub(super) fn takes_over(mut self, before: &Self) -> Self {
        for (outcome, count) in &before.checks {
            let sum = self.checks.entry(outcome.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
        self
    }

    /// Whether `config` watches another source, or in another way.
    pub(super) fn differs_from(&self, config: &Config) -> bool {
        self.source != config.feed || self.options != config.feed_options
    }

    /// The snapshot to begin with, before anything was fetched; see [`feed::at_hand`].
    pub(super) fn snapshot(
        &self,
        last_good: Option<&Snapshot>,
    ) -> Result<Option<Snapshot>, Failure> {
        Ok(feed::at_hand(&self.source, last_good)?)
    }

    /// What serves, of this source, lacks additions that were held. Where they are not at hand,
    /// all of the feed is fetched again.
    pub(super) fn is_partly_served(&mut self) {
        self.refetch = self.incoming.is_none();
    }

    /// Waits until a check is done; gives what is new against `serving`, which serves. May be
    /// dropped and called again at any time.
    pub(super) async fn checked(&mut self, serving: Option<&Snapshot>) -> Result<(), FetchError> {
        let Some(client) = self.client.clone() else { return std::future::pending().await };
        if self.running.is_none() {
            if let Some(next) = self.next {
                tokio::time::sleep_until(next).await;
            }
            let known = self.known(serving);
            let version = serving.and_then(|serving| serving.version.clone());
            let since =
                version.map(|version| if self.refetch { EVERY_VERSION.into() } else { version });
            self.running = Some(tokio::spawn(fetch(client, known, since)));
        }
        let outcome = match self.running.as_mut() {
            Some(running) => running.await,
            None => return Ok(()),
        };
        self.running = None;
        match outcome {
            Ok(outcome) => self.note(outcome),
            // The task was aborted or broke down: the next check is a new one.
            Err(error) => {
                warn!("a check of the feed broke down: {error}");
                self.plan_next(Duration::from_mins(1));
                Ok(())
            }
        }
    }

    /// The feed that need not be fetched: what the source had when it was last asked, whatever
    /// became of that, else what waits, else what serves.
    fn known(&self, serving: Option<&Snapshot>) -> Option<FeedIdentity> {
        if self.refetch {
            return None;
        }
        let incoming = self.incoming.as_ref().map(|(full, _)| full.identity());
        self.seen.clone().or(incoming).or_else(|| serving.map(Snapshot::identity))
    }

    /// Takes an outcome down.
    fn note(&mut self, outcome: Result<Fetched, FetchError>) -> Result<(), FetchError> {
        let now = Timestamp::now();
        self.last_check = Some(now);
        let kind = outcome.as_ref().map_or_else(FetchError::kind, |_| "ok").to_owned();
        let count = self.checks.entry(kind).or_default();
        *count = count.saturating_add(1);
        self.memory.not_before = None;
        let Fetched { check, changes } = match outcome {
            Ok(fetched) => fetched,
            Err(error) => {
                let delay = self.schedule.failed(error.retry_after(), random());
                self.plan_next(delay);
                if error.retry_after().is_some() {
                    self.memory.not_before = self.next_time;
                }
                self.problem = Some(error.to_string());
                return Err(error);
            }
        };
        let delay = self.schedule.succeeded(random());
        self.plan_next(delay);
        self.problem = None;
        self.memory.last_success = Some(now);
        let Check::New(snapshot) = check else {
            debug!("the feed is as before");
            return Ok(());
        };
        self.refetch = false;
        let feed = snapshot.identity();
        self.seen = Some(feed.clone());
        if self.is_turned_down(&feed) {
            debug!("the feed is one that was turned down");
            return Ok(());
        }
        info!(event = "feed_changed", feed_version = feed.version, "the feed has changed: {feed}");
        // Until they are effective, what earlier versions said of dates holds.
        let mut known = self.incoming.take().map_or_else(Changes::default, |(_, known)| known);
        for change in changes.unwrap_or_default().changes {
            if !known.changes.contains(&change) {
                known.changes.push(change);
            }
        }
        self.incoming = Some((snapshot, known));
        Ok(())
    }

    /// The incoming feed without what is not effective yet, seen from `serving`; `None` where
    /// nothing has come.
    pub(super) fn effective(&mut self, serving: Option<&Snapshot>) -> Option<Snapshot> {
        let (full, changes) = self.incoming.as_ref()?;
        let Some(serving) = serving else { return Some(full.clone()) };
        if self.options.hold_additions == HoldAdditions::Never {
            self.held = Vec::new();
            return Some(full.clone());
        }
        let held = feed::hold(serving, full, changes, today());
        self.held = held.held;
        Some(held.snapshot)
    }

    /// What Microsoft says of the feed that came last and was not taken whole, as far as it is
    /// about `sets`.
    pub(super) fn announced(&self, sets: &BTreeSet<SetId>) -> Vec<feed::Change> {
        let changes = self.incoming.iter().flat_map(|(_, changes)| &changes.changes);
        changes.filter(|change| sets.contains(&change.set)).cloned().collect()
    }

    /// Whether the day has come for something that is held.
    pub(super) fn has_become_effective(&self) -> bool {
        let today = today();
        self.held.iter().any(|held| held.effective <= today)
    }

    /// Whether something of the feed that serves is held.
    pub(super) fn is_partial(&self) -> bool {
        !self.held.is_empty()
    }

    /// The feed that came last serves; nothing is left to wait for once nothing of it is held.
    pub(super) fn taken(&mut self) {
        if self.held.is_empty() {
            self.incoming = None;
        }
    }

    /// What was refused under another configuration may pass now.
    pub(super) fn try_again(&mut self) {
        if self.refused.take().is_some() {
            self.seen = None;
        }
    }

    /// The policy refuses this feed: it is not taken again, but another one is.
    pub(super) fn turn_down(&mut self, feed: FeedIdentity, why: String) {
        self.drop_incoming(&feed);
        self.refused = Some((feed, why));
    }

    /// A person does not want this feed; `None` again wants every feed. Gives the one that was not
    /// wanted before.
    pub(super) fn reject(&mut self, feed: Option<FeedIdentity>) -> Option<FeedIdentity> {
        if let Some(feed) = &feed {
            self.drop_incoming(feed);
        }
        std::mem::replace(&mut self.memory.rejected, feed)
    }

    /// This feed serves, by a person's will.
    pub(super) fn accept(&mut self, feed: &FeedIdentity) {
        if self.memory.rejected.as_ref().is_some_and(|rejected| is_same(rejected, feed)) {
            self.memory.rejected = None;
        }
    }

    fn drop_incoming(&mut self, feed: &FeedIdentity) {
        if self.incoming.as_ref().is_some_and(|(full, _)| is_same(&full.identity(), feed)) {
            self.incoming = None;
            self.held = Vec::new();
        }
    }

    /// Whether the source has not answered as it should for longer than `max-age`.
    pub(super) fn is_stale(&self) -> bool {
        let age =
            |since: Timestamp| Duration::try_from(Timestamp::now().duration_since(since)).ok();
        let times = [self.memory.last_success, self.memory.since];
        // A time in the future is of a clock that was wrong, or it is now: then as long as this runs.
        let age = times.into_iter().flatten().find_map(age).unwrap_or(self.begun.elapsed());
        self.client.is_some() && age > self.options.max_age
    }

    /// Whether everything is to be inspected for that.
    pub(super) fn wants_inspection(&self) -> bool {
        self.options.on_stale == OnStale::Inspect && self.is_stale()
    }

    /// Writes down what is to be remembered.
    pub(super) fn remember(&self, store: &Store) -> Result<(), StoreError> {
        let incoming = self.incoming.as_ref().and_then(|(full, changes)| {
            let feed = feed::write(full).ok()?;
            Some(Incoming { source: self.source.to_string(), feed, changes: changes.clone() })
        });
        store.write_json(INCOMING, &incoming)?;
        store.write_json(STATE, &self.memory)
    }

    fn is_turned_down(&self, feed: &FeedIdentity) -> bool {
        let refused = self.refused.as_ref().map(|(refused, _)| refused);
        self.memory.rejected.iter().chain(refused).any(|other| is_same(other, feed))
    }

    fn recall_incoming(&mut self, store: &Store) {
        match store.read_json::<Option<Incoming>>(INCOMING) {
            Ok(Some(Some(Incoming { source, feed, changes })))
                if source == self.source.to_string() =>
            {
                match feed::parse(feed.as_bytes(), INCOMING) {
                    Ok(full) => self.incoming = Some((full, changes)),
                    Err(error) => warn!("{error}; it is fetched again"),
                }
            }
            Ok(_) => {}
            Err(error) => warn!("{error}; it is fetched again"),
        }
    }

    fn plan_next(&mut self, delay: Duration) {
        self.next = Instant::now().checked_add(delay);
        self.next_time = SignedDuration::try_from(delay)
            .ok()
            .and_then(|delay| Timestamp::now().checked_add(delay).ok());
    }

    /// For the observation.
    pub(super) fn state(&self, serving: Option<&Snapshot>, inspecting: bool) -> FeedState {
        FeedState {
            source: self.source.to_string(),
            serving: serving.map(Snapshot::identity),
            last_check: self.last_check.map(seconds),
            last_success: self.memory.last_success.map(seconds),
            next_check: self.next_time.map(seconds),
            since: self.memory.since.filter(|_| self.client.is_some()).map(seconds),
            poll_interval: self.client.as_ref().map(|_| self.options.poll_interval.as_secs()),
            checks: self.checks.clone(),
            problem: self.problem.clone(),
            refused: self.refused.as_ref().map(|(feed, why)| format!("{feed}: {why}")),
            stale: self.is_stale(),
            inspecting,
            held: self
                .held
                .iter()
                .map(|held| HeldState {
                    set: held.set,
                    prefix: held.prefix,
                    effective: held.effective.to_string(),
                })
                .collect(),
        }
    }
}

impl Drop for FeedWatch {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

async fn fetch(
    client: Arc<Client>,
    known: Option<FeedIdentity>,
    since: Option<String>,
) -> Result<Fetched, FetchError> {
    let check = client.check(known.as_ref()).await?;
    let mut changes = None;
    if let (Check::New(_), Some(since)) = (&check, since) {
        match client.changes(&since).await {
            Ok(found) => changes = Some(found),
            // They only enrich: without them additions are effective at once.
            Err(error) => {
                warn!("{error}; what changes is shown without dates, and nothing is held");
            }
        }
    }
    Ok(Fetched { check, changes })
}

/// Whether the two are one version, whatever of it is held; where there is no version, one content.
fn is_same(one: &FeedIdentity, other: &FeedIdentity) -> bool {
    one.instance == other.instance
        && match (&one.version, &other.version) {
            (Some(one), Some(other)) => one == other,
            _ => one.digest == other.digest,
        }
}

fn today() -> Date {
    TimeZone::UTC.to_datetime(Timestamp::now()).date()
}

/// For jitter. The low bits of a random UUID are all random (RFC 9562, section 5.4).
fn random() -> u64 {
    u64::try_from(Uuid::new_v4().as_u128() & 0xffff_ffff_ffff).unwrap_or_default()
}
