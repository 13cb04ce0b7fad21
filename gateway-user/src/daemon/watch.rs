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
    Schedule, SetId, Snapshot, Store,
};
use crate::observe::{FeedState, HeldState};

const STATE: &str = "feed-state.json";
const INCOMING: &str = "incoming.json";

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
    /// The feed that a person does not want, by `plan reject` or `rollback`.
    rejected: Option<FeedIdentity>,
}

/// A feed of which something is held, with what says until when; kept over restarts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Incoming {
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
    next: Option<Instant>,
    next_time: Option<Timestamp>,
    running: Option<JoinHandle<Result<Fetched, FetchError>>>,
    memory: Memory,
    last_check: Option<Timestamp>,
    checks: BTreeMap<String, u64>,
    problem: Option<String>,
    incoming: Option<(Snapshot, Changes)>,
    held: Vec<HeldAddition>,
    /// The feed that the policy or a failure refused; a reload tries again.
    refused: Option<FeedIdentity>,
    /// What the source had when it was last asked and had something new.
    seen: Option<FeedIdentity>,
}

impl FeedWatch {
    /// Begins to watch what `config` names: the first check is due at once, and nothing waits for
    /// it.
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
        memory.since.get_or_insert_with(Timestamp::now);
        let due = client.is_some().then(Instant::now);
        let mut watch = Self {
            schedule: Schedule::new(config.feed_options.poll_interval),
            options: config.feed_options.clone(),
            source,
            next_time: due.is_some().then(Timestamp::now),
            next: due,
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
        };
        watch.recall_incoming(store);
        watch.remember(store);
        Ok(watch)
    }

    /// Whether `config` watches another source, or in another way.
    pub(super) fn differs_from(&self, config: &Config) -> bool {
        self.source != config.feed || self.options != config.feed_options
    }

    /// The snapshot to begin with, before anything was fetched: the newest of the last good one
    /// and the one in the binary that is of this source. `None` where there is none: everything is
    /// inspected until one comes.
    pub(super) fn snapshot(
        &self,
        last_good: Option<&Snapshot>,
    ) -> Result<Option<Snapshot>, Failure> {
        Ok(feed::at_hand(&self.source, last_good, self.memory.rejected.as_ref())?)
    }

    /// Waits until a check is done; gives what is new against `serving`, which serves. May be
    /// dropped and called again at any time.
    pub(super) async fn checked(
        &mut self,
        serving: Option<&Snapshot>,
    ) -> Option<Result<Snapshot, FetchError>> {
        let Some(client) = self.client.clone() else { return std::future::pending().await };
        if self.running.is_none() {
            if let Some(next) = self.next {
                tokio::time::sleep_until(next).await;
            }
            let known = self.known(serving);
            let since = serving.and_then(|serving| serving.version.clone());
            self.running = Some(tokio::spawn(fetch(client, known, since)));
        }
        let outcome = match self.running.as_mut() {
            Some(running) => running.await,
            None => return None,
        };
        self.running = None;
        match outcome {
            Ok(outcome) => self.note(outcome),
            // The task was aborted or broke down: the next check is a new one.
            Err(error) => {
                warn!("a check of the feed broke down: {error}");
                self.plan_next(Some(Duration::from_mins(1)));
                None
            }
        }
    }

    /// The feed that need not be fetched: what the source had when it was last asked, whatever
    /// became of that, else the one that serves.
    fn known(&self, serving: Option<&Snapshot>) -> Option<FeedIdentity> {
        let incoming = self.incoming.as_ref().map(|(full, _)| full.identity());
        let serving = serving.map(Snapshot::identity);
        self.seen.clone().or_else(|| self.memory.rejected.clone()).or(incoming).or(serving)
    }

    /// Takes an outcome down; gives what is new.
    fn note(
        &mut self,
        outcome: Result<Fetched, FetchError>,
    ) -> Option<Result<Snapshot, FetchError>> {
        let now = Timestamp::now();
        self.last_check = Some(now);
        let kind = outcome.as_ref().map_or_else(FetchError::kind, |_| "ok").to_owned();
        let count = self.checks.entry(kind).or_default();
        *count = count.saturating_add(1);
        match outcome {
            Err(error) => {
                let delay = self.schedule.failed(error.retry_after(), random());
                self.plan_next(Some(delay));
                self.problem = Some(error.to_string());
                Some(Err(error))
            }
            Ok(Fetched { check, changes }) => {
                let delay = self.schedule.succeeded(random());
                self.plan_next(Some(delay));
                self.problem = None;
                self.memory.last_success = Some(now);
                match check {
                    Check::Unchanged { .. } => {
                        debug!("the feed is as before");
                        None
                    }
                    Check::New(snapshot) if self.is_turned_down(&snapshot.identity()) => {
                        self.seen = Some(snapshot.identity());
                        debug!("the feed is one that was turned down");
                        None
                    }
                    Check::New(snapshot) => {
                        self.seen = Some(snapshot.identity());
                        info!("the feed has changed: {}", snapshot.identity());
                        // Until they are effective, what earlier versions said of dates holds.
                        let mut known =
                            self.incoming.take().map_or_else(Changes::default, |(_, known)| known);
                        known.changes.extend(changes.unwrap_or_default().changes);
                        self.incoming = Some((snapshot.clone(), known));
                        Some(Ok(snapshot))
                    }
                }
            }
        }
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

    /// The feed that came last was taken: it is complete once nothing of it is held.
    pub(super) fn taken(&mut self, store: &Store) {
        if self.held.is_empty() {
            self.incoming = None;
        }
        self.remember(store);
    }

    /// What was refused under another configuration may pass now.
    pub(super) fn try_again(&mut self) {
        self.refused = None;
        self.seen = None;
    }

    /// This feed was refused: it is not taken again, but another one is.
    pub(super) fn turn_down(&mut self, feed: FeedIdentity, store: &Store) {
        self.refused = Some(feed);
        self.incoming = None;
        self.held = Vec::new();
        self.remember(store);
    }

    /// A person does not want this feed; another one, or `plan accept`, ends that.
    pub(super) fn reject(&mut self, feed: FeedIdentity, store: &Store) {
        self.memory.rejected = Some(feed);
        self.incoming = None;
        self.held = Vec::new();
        self.remember(store);
    }

    /// Another feed serves than the rejected one, by a person's will.
    pub(super) fn forget_rejection(&mut self) {
        self.memory.rejected = None;
    }

    /// Whether the source has not answered as it should for longer than `max-age`.
    pub(super) fn is_stale(&self) -> bool {
        let Some(since) = self.memory.last_success.or(self.memory.since) else { return false };
        let age = Timestamp::now().duration_since(since);
        self.client.is_some()
            && SignedDuration::try_from(self.options.max_age).is_ok_and(|limit| age > limit)
    }

    /// Whether everything is to be inspected for that.
    pub(super) fn wants_inspection(&self) -> bool {
        self.options.on_stale == OnStale::Inspect && self.is_stale()
    }

    /// Writes down what is to be remembered. Not being able to is said, and no reason to stop.
    pub(super) fn remember(&self, store: &Store) {
        let incoming = self.incoming.as_ref().and_then(|(full, changes)| {
            let feed = feed::write(full).ok()?;
            Some(Incoming { feed, changes: changes.clone() })
        });
        let outcome = store
            .write_json(STATE, &self.memory)
            .and_then(|()| store.write_json(INCOMING, &incoming));
        if let Err(error) = outcome {
            warn!("{error}; after a restart the feed counts as never checked");
        }
    }

    fn is_turned_down(&self, feed: &FeedIdentity) -> bool {
        self.memory.rejected.as_ref() == Some(feed) || self.refused.as_ref() == Some(feed)
    }

    fn recall_incoming(&mut self, store: &Store) {
        match store.read_json::<Option<Incoming>>(INCOMING) {
            Ok(Some(Some(Incoming { feed, changes }))) => {
                match feed::parse(feed.as_bytes(), INCOMING) {
                    Ok(full) => self.incoming = Some((full, changes)),
                    Err(error) => warn!("{error}; it is fetched again"),
                }
            }
            Ok(_) => {}
            Err(error) => warn!("{error}; it is fetched again"),
        }
    }

    fn plan_next(&mut self, delay: Option<Duration>) {
        self.next = delay.and_then(|delay| Instant::now().checked_add(delay));
        self.next_time = delay.and_then(|delay| {
            let delay = SignedDuration::try_from(delay).ok()?;
            Timestamp::now().checked_add(delay).ok()
        });
    }

    /// For the observation.
    pub(super) fn state(&self, serving: Option<&Snapshot>, inspecting: bool) -> FeedState {
        FeedState {
            source: self.source.to_string(),
            serving: serving.map(Snapshot::identity),
            last_check: self.last_check.map(seconds),
            last_success: self.memory.last_success.map(seconds),
            next_check: self.next_time.map(seconds),
            checks: self.checks.clone(),
            problem: self.problem.clone(),
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

/// RFC 3339 in whole seconds.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn today() -> Date {
    TimeZone::UTC.to_datetime(Timestamp::now()).date()
}

/// For jitter. The low bits of a random UUID are all random (RFC 9562, section 5.4).
fn random() -> u64 {
    u64::try_from(Uuid::new_v4().as_u128() & 0xffff_ffff_ffff).unwrap_or_default()
}
