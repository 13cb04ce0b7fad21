//! Support windows: opened at a person's word, ended by that or by the clock, kept over restarts, and
//! read for the case file.
//!
//! The kernel ends a window by itself; what is done here is to publish a generation without it, and to
//! write down what it let go direct.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gateway_common::{Transport, Verdict};
use ipnet::IpNet;
use jiff::Timestamp;
use nix::libc;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Daemon;
use super::change::Serving;
use super::journal::{Entry, Journal, Outcome, Trigger};
use super::revision::Revision;
use crate::config::Mode;
use crate::datapath::{Blueprint, Probe, SetIdentity, WindowCounters};
use crate::egress::Flow;
use crate::exit::{Exit, Failure};
use crate::feed::{SetId, Store};
use crate::observe::WindowState;
use crate::plan::{GatewayNetworks, refuses_prefix};
use crate::policy::{Support, Table};
use crate::rfc3339::seconds;
use crate::window::{Clock, Ending, Moment, Register, RegisterError, Window, Wish};

/// The windows of this process.
pub(super) struct Windows {
    register: Register,
    /// Of the generation that serves, where it has windows.
    counters: Option<WindowCounters>,
    /// Those that were open when it was published.
    offered: Vec<u32>,
    /// Why flows of windows that are over are not ended, as it was said last: it is tried again.
    not_ended: Option<String>,
}

/// A window, as `support list` and `support report` are told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WindowReport {
    /// The window.
    #[serde(flatten)]
    pub window: Window,
    /// The sets it lets go direct by the feed that serves; none once it is over.
    pub covers: BTreeSet<SetId>,
    /// When what it let go direct was read, RFC 3339, UTC: now, or where no daemon answers, when that was
    /// written down last.
    pub as_of: Option<Timestamp>,
}

impl Windows {
    /// What an earlier process left. A damaged register has no window that is open; it is set aside, and
    /// ids go on behind those that are known.
    pub(super) fn recall(
        store: &Store,
        journal: &Journal,
        counters: Option<WindowCounters>,
    ) -> Self {
        let register = Register::read(store).unwrap_or_else(|error| {
            let entries = journal.read().map(|(entries, _)| entries).unwrap_or_default();
            let known = entries.iter().filter_map(|entry| entry.window).max();
            let (register, aside) = Register::begin_anew(store, known);
            let kept = match aside {
                Ok(path) => format!("the file is kept as {}", path.display()),
                Err(failure) => failure.to_string(),
            };
            error!("{error}; support windows that were open are over; {kept}");
            register
        });
        Self { register, counters, offered: Vec::new(), not_ended: None }
    }

    /// When the next one is over.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let end = self.register.next_end()?;
        let now = Clock.now().ok()?.kernel;
        Instant::now().checked_add(Duration::from_nanos(end.saturating_sub(now)))
    }

    /// For the observation.
    pub(super) fn state(&self) -> Vec<WindowState> {
        let open = self.register.windows().iter().filter(|window| window.is_open());
        open.map(|window| WindowState {
            id: window.id,
            clients: window.clients.clone(),
            sets: window.sets.to_string(),
            note: window.note.clone(),
            started: seconds(window.started),
            until: seconds(window.until),
        })
        .collect()
    }
}

impl From<RegisterError> for Failure {
    fn from(error: RegisterError) -> Self {
        Self::new(Exit::Usage, error)
    }
}

fn moment() -> Result<Moment, Failure> {
    Clock.now().map_err(|problem| Failure::new(Exit::System, problem))
}

impl Daemon<'_> {
    /// Looks at the windows that an earlier process left, before anything is published.
    pub(super) fn come_back_to_windows(&mut self) {
        match moment() {
            Ok(now) => {
                self.windows.register.come_back(&now);
            }
            Err(failure) => {
                error!("{failure}; support windows that were open are not opened again");
                self.windows.register.end_in_doubt(Timestamp::now());
            }
        }
    }

    /// Opens a window.
    pub(super) async fn start_window(&mut self, wish: Wish) -> Result<(String, Value), Failure> {
        let Some(serving) = &self.serving else {
            let problem = "no generation serves yet, so no support window can be opened";
            return Err(Failure::new(Exit::Datapath, problem));
        };
        if serving.inspecting {
            let problem = "the feed is stale and everything is inspected (on-stale), with a support \
                           window or without; see `breakout365 status`";
            return Err(Failure::new(Exit::Feed, problem));
        }
        let revision = serving.revision.clone();
        refuse_what_cannot_help(&revision, &wish)?;
        let now = moment()?;
        self.windows.register.end_what_is_over(&now);
        let id = self.windows.register.start(wish, &now)?;
        if let Err(failure) = self.open_window(id, revision, &now).await {
            self.windows.register.withdraw(id);
            self.keep_windows(&now);
            return Err(failure);
        }
        self.say(id, Trigger::SupportStart, Outcome::Opened);
        let report = self.window_report(id)?;
        let covers: Vec<_> = report.covers.iter().map(ToString::to_string).collect();
        let mut text = format!("{}; sets {}", report.window.summary(), covers.join(", "));
        if let Some(refusal) = self.heartbeat.standing().and_then(|standing| standing.refusal) {
            text = format!("{text}; but nothing goes direct at this moment ({})", refusal.name());
        }
        Ok((text, json!(report)))
    }

    async fn open_window(
        &mut self,
        id: u32,
        revision: Revision,
        now: &Moment,
    ) -> Result<(), Failure> {
        let support = self.support_of(&revision).await?;
        let slot = support.windows().iter().position(|window| window.id == id);
        let groups = support.groups();
        let of_window = slot.and_then(|slot| groups.chunks(support.group_count().max(1)).nth(slot));
        if of_window.is_none_or(|groups| groups.iter().all(BTreeSet::is_empty)) {
            let problem = "none of these sets has a prefix that may go direct: excluded, of a family \
                           that is off, or without prefixes";
            return Err(Failure::new(Exit::Policy, problem));
        }
        // First, so that nothing goes direct that no record has.
        self.windows.register.write(&self.store, now)?;
        let away = self.may_be_away(None);
        self.publish(revision, Trigger::SupportStart, None, &away).await?;
        Ok(())
    }

    /// Ends a window before its time.
    pub(super) async fn stop_window(&mut self, id: u32) -> Result<(String, Value), Failure> {
        let now = moment()?;
        self.windows.register.stop(id, &now)?;
        self.keep_windows(&now);
        self.publish_windows(Trigger::SupportStop).await.map_err(|failure| {
            Failure::new(
                failure.exit,
                format!(
                    "support window {id} is stopped, but still loaded, and that is tried again: \
                     {failure}; `breakout365 off` inspects everything at once"
                ),
            )
        })?;
        let report = self.window_report(id)?;
        let total = report.window.tally().total();
        let text = format!(
            "support window {id} is over: {} flows, {} packets, {} bytes went direct",
            total.flows, total.packets, total.bytes
        );
        Ok((text, json!(report)))
    }

    /// Every window that is known.
    pub(super) fn list_windows(&mut self) -> Result<(String, Value), Failure> {
        self.read_windows();
        let ids: Vec<u32> =
            self.windows.register.windows().iter().map(|window| window.id).collect();
        let reports =
            ids.into_iter().map(|id| self.window_report(id)).collect::<Result<Vec<_>, _>>()?;
        Ok((String::new(), json!(reports)))
    }

    /// What a window let go direct.
    pub(super) fn report_window(&mut self, id: u32) -> Result<(String, Value), Failure> {
        self.read_windows();
        Ok((String::new(), json!(self.window_report(id)?)))
    }

    fn window_report(&self, id: u32) -> Result<WindowReport, Failure> {
        let window = self.windows.register.window(id)?.clone();
        let table = self.serving.as_ref().map(|serving| &serving.support);
        let covers = table.map(|support| support.sets_of(id)).unwrap_or_default();
        Ok(WindowReport { window, covers, as_of: Some(Timestamp::now()) })
    }

    /// Ends what is over, publishes where the windows that are open are not those that were published,
    /// and writes down what they let go direct.
    pub(super) async fn follow_windows(&mut self) {
        let now = match moment() {
            Ok(now) => now,
            Err(failure) => return error!("{failure}"),
        };
        let before = self.windows.register.clone();
        self.windows.register.end_what_is_over(&now);
        self.read_windows();
        if before != self.windows.register {
            self.keep_windows(&now);
        }
        let open: Vec<u32> = self.windows.register.open().iter().map(|window| window.id).collect();
        if self.serving.is_some()
            && open != self.windows.offered
            && let Err(failure) = self.publish_windows(Trigger::SupportEnd).await
        {
            error!("support windows that are over are still loaded, and end nothing: {failure}");
            self.problem = Some(failure.to_string());
        }
        self.close_what_is_over().await;
    }

    /// Ends the flows of windows that are over and that the kernel no longer has open, which are decided
    /// anew, and says it, once what they let go direct is final. What fails is tried again.
    async fn close_what_is_over(&mut self) {
        let Some(Serving { support, .. }) = &self.serving else { return };
        let Ok(now) = moment() else { return };
        let loaded = |id: u32| {
            let mut windows = support.windows().iter();
            windows.any(|window| window.id == id && now.kernel < window.end)
        };
        let owing = self.windows.register.owing().filter(|window| !loaded(window.id));
        let owing: Vec<Window> = owing.cloned().collect();
        for window in &owing {
            let Window { id, clients, ended, .. } = window;
            match self.end_flows_of(clients).await {
                Ok(flows) => {
                    if flows > 0 {
                        info!(
                            event = "flows_ended",
                            cause = "window_closed",
                            flows,
                            window = id,
                            "{flows} direct flows of support window {id} are ended"
                        );
                    }
                    let is_stopped = matches!(ended, Some((_, Ending::Stopped)));
                    let trigger =
                        if is_stopped { Trigger::SupportStop } else { Trigger::SupportEnd };
                    self.windows.register.settle(*id);
                    self.windows.not_ended = None;
                    self.say(*id, trigger, Outcome::Closed);
                    self.keep_windows(&now);
                }
                Err(failure) => {
                    let problem = format!("flows of support window {id} are not ended: {failure}");
                    if self.windows.not_ended.as_ref() != Some(&problem) {
                        error!("{problem}; it is tried again");
                    }
                    self.problem = Some(problem.clone());
                    self.windows.not_ended = Some(problem);
                }
            }
        }
    }

    async fn publish_windows(&mut self, trigger: Trigger) -> Result<(), Failure> {
        let Some(Serving { revision, .. }) = &self.serving else { return Ok(()) };
        let (revision, away) = (revision.clone(), self.may_be_away(None));
        self.publish(revision, trigger, None, &away).await.map(|_| ())
    }

    /// `blueprint` with the windows that are open, and what they are in the kernel. Where that cannot
    /// be, it goes without them: their clients are inspected as everybody is, and they are over once it
    /// is published.
    ///
    /// # Errors
    ///
    /// That cannot be, and opening a window is all that the change is for.
    pub(super) async fn with_windows(
        &mut self,
        blueprint: Blueprint,
        revision: &Revision,
        trigger: Trigger,
    ) -> Result<(Blueprint, Support), Failure> {
        if let Ok(now) = moment() {
            self.windows.register.end_what_is_over(&now);
        }
        // In shadow nothing is marked, so there would be nothing to report.
        if self.windows.register.open().is_empty() || blueprint.mode == Mode::Shadow {
            return Ok((blueprint, Support::default()));
        }
        let opened = match self.support_of(revision).await {
            Ok(support) => blueprint
                .table
                .clone()
                .with_support(support.clone())
                .map_or_else(|error| Err(Failure::from(error)), |table| Ok((table, support))),
            Err(failure) => Err(failure),
        };
        match opened {
            Ok((table, support)) => {
                let mut sets = blueprint.sets.clone();
                for set in support.groups().iter().flatten().collect::<BTreeSet<_>>() {
                    if let Some(set) = revision.snapshot.sets.get(set)
                        && !sets.iter().any(|known| known.id == set.id)
                    {
                        sets.push(SetIdentity {
                            id: set.id,
                            service_area: set.service_area.clone(),
                            category: set.category.name().to_owned(),
                        });
                    }
                }
                sets.sort_by_key(|set| set.id);
                Ok((Blueprint { table, sets, ..blueprint }, support))
            }
            Err(failure) if trigger == Trigger::SupportStart => Err(failure),
            Err(failure) => {
                error!("support windows are not loaded, their clients are inspected: {failure}");
                Ok((blueprint, Support::default()))
            }
        }
    }

    /// The windows that are open, by the feed and the excludes of `revision`. What the guards of
    /// content would hold is left out: nobody has looked at the sets that the policy leaves alone.
    async fn support_of(&self, revision: &Revision) -> Result<Support, Failure> {
        let gateway = GatewayNetworks::read().await.map_err(|problem| {
            Failure::new(Exit::System, format!("the gateway's own networks: {problem}"))
        })?;
        let guards = &revision.config.guards;
        let prefixes = revision.snapshot.sets.values().flat_map(|set| &set.prefixes);
        let left_out: BTreeSet<IpNet> =
            prefixes.copied().filter(|prefix| refuses_prefix(guards, &gateway, *prefix)).collect();
        if !left_out.is_empty() {
            let all: Vec<_> = left_out.iter().map(ToString::to_string).collect();
            warn!("no support window lets {} go direct: the guards refuse it", all.join(", "));
        }
        let (policy, open) = (&revision.config.policy, self.windows.register.open());
        Ok(Support::compile(&revision.snapshot, policy, &open, &left_out)?)
    }

    /// A generation was published: what the one before let go direct is final now.
    pub(super) async fn windows_are_published(&mut self) {
        self.read_windows();
        self.end_what_is_not_loaded();
        let open = self.windows.register.open();
        self.windows.offered = open.iter().map(|window| window.id).collect();
        let pins = self.lock.pins();
        self.windows.counters =
            WindowCounters::open(pins).inspect_err(|error| warn!("{error}")).ok().flatten();
        self.read_windows();
        if !open.is_empty() || self.windows.register.owing().next().is_some() {
            match moment() {
                Ok(now) => self.keep_windows(&now),
                Err(failure) => error!("{failure}"),
            }
        }
        self.close_what_is_over().await;
    }

    /// A window that a generation which marks does not have is over: it would come back by itself with a
    /// later one.
    fn end_what_is_not_loaded(&mut self) {
        let Some(Serving { revision, support, inspecting, .. }) = &self.serving else { return };
        if *inspecting || revision.config.mode == Mode::Shadow {
            return;
        }
        self.windows.register.end_unloadable(support.windows(), Timestamp::now());
    }

    /// Reads what windows let go direct so far.
    fn read_windows(&mut self) {
        let Some(counters) = &self.windows.counters else { return };
        match counters.read() {
            Ok(tallies) => self.windows.register.note(counters.generation(), &tallies),
            Err(error) => warn!("{error}"),
        }
    }

    /// Writes down what is to be remembered of windows.
    fn keep_windows(&mut self, now: &Moment) {
        if let Err(error) = self.windows.register.write(&self.store, now) {
            error!("{error}; a restart would not know of the last support windows");
            self.problem = Some(error.to_string());
        }
    }

    /// The last word of this process about windows.
    pub(super) fn leave_windows(&mut self) {
        if self.windows.counters.is_none() {
            return;
        }
        self.read_windows();
        match moment() {
            Ok(now) => self.keep_windows(&now),
            Err(failure) => error!("{failure}"),
        }
    }

    /// Writes a line of the journal.
    fn say(&self, id: u32, trigger: Trigger, outcome: Outcome) {
        let Ok(window) = self.windows.register.window(id) else { return };
        let mut summary = window.summary();
        if outcome == Outcome::Closed {
            let total = window.tally().total();
            summary = format!(
                "{summary}: {} flows, {} packets, {} bytes went direct",
                total.flows, total.packets, total.bytes
            );
            info!(event = "window_closed", window = id, trigger = %trigger, "{outcome}: {summary}");
        } else {
            info!(event = "window_opened", window = id, "{outcome}: {summary}");
        }
        let generation = self.serving.as_ref().map(|serving| serving.generation);
        let entry = Entry {
            summary: Some(summary),
            window: Some(id),
            ..Entry::new(Timestamp::now(), trigger, outcome, generation)
        };
        self.write_down(&entry);
    }

    /// Ends the direct flows of these clients that would not go direct any more.
    async fn end_flows_of(&mut self, clients: &BTreeSet<IpNet>) -> Result<u64, Failure> {
        let Some(Serving { revision, support, .. }) = &self.serving else { return Ok(0) };
        let still_open = support.clone().at(moment()?.kernel);
        let table = revision.compiled.table.clone().with_support(still_open)?;
        let is_of_client =
            |flow: &Flow| clients.iter().any(|client| client.contains(&flow.source.ip()));
        // An entry does not say where its flow came in: where the way back to its client leads.
        let ways = if table.sources().interfaces.is_empty() {
            BTreeMap::new()
        } else {
            self.egress.ways_back(is_of_client).await?
        };
        let inside = &self.interfaces;
        let ingress = |flow: &Flow| {
            let index = ways.get(&flow.source.ip())?;
            inside.iter().find(|(_, one)| **one == Some(*index)).map(|(name, _)| name.as_str())
        };
        let ended = self
            .egress
            .revoke(|flow| is_of_client(flow) && !goes_direct(&table, flow, ingress(flow)));
        Ok(ended.await?)
    }
}

/// Whether a packet of this flow, which comes in by `ingress`, would go direct if it were the first one.
fn goes_direct(table: &Table, flow: &Flow, ingress: Option<&str>) -> bool {
    let transport = match i32::from(flow.protocol) {
        libc::IPPROTO_TCP => Transport::Tcp,
        libc::IPPROTO_UDP => Transport::Udp,
        // No window has let it go direct.
        _ => return true,
    };
    let (source, destination) = (flow.source.ip(), flow.destination);
    let probe = Probe::new(destination.ip(), transport, destination.port()).from(source);
    table.decide_frame(&probe.frame(), ingress).verdict() == Verdict::Direct
}

/// A window over nothing, or against the operator's own word.
fn refuse_what_cannot_help(revision: &Revision, wish: &Wish) -> Result<(), Failure> {
    let refuse = |problem: String| Err(Failure::new(Exit::Policy, problem));
    if revision.config.mode == Mode::Shadow {
        return refuse(
            "mode is shadow: nothing is marked, with a support window or without".into(),
        );
    }
    let excluded = &revision.config.policy.exclude_sets;
    for set in &wish.sets.named {
        if !revision.snapshot.sets.contains_key(set) {
            return refuse(format!(
                "the feed that serves has no set {set}; `breakout365 feed show` lists the sets"
            ));
        }
        if excluded.contains(set) {
            return refuse(format!(
                "set {set} is in policy.exclude-sets, which wins over a window"
            ));
        }
    }
    Ok(())
}
