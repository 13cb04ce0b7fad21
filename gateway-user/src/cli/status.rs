//! `status`: what is loaded, where it is attached, and what it has decided.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use gateway_common::Reason;
use gateway_common::abi::Counter;
use serde::Serialize;

use super::output;
use super::redirecting::Redirecting;
use crate::config::Mode;
use crate::datapath::{
    Attached, Control, Counts, DatapathError, FeedIdentity, Loaded, Manifest, Pins, Scope, attached,
};
use crate::exit::Failure;
use crate::observe::{self, EgressState, Observation, Switches};
use crate::policy::SetId;

/// Show the published generation, its hooks and its counters
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `status --json` prints.
#[derive(Debug, Serialize)]
struct Status {
    generation: u64,
    breakout365: String,
    loaded_at: u64,
    /// The kill switch and the dead man's switch, as they are; `None` where there are none, so that
    /// nothing goes direct by a generation that looks for them.
    switches: Option<Switches>,
    /// Whether a daemon holds the pins.
    daemon_running: bool,
    /// What the daemon says of itself; `None` where none answers.
    daemon: Option<Observation>,
    feed: FeedIdentity,
    mark: MarkBits,
    /// `mark`, or `shadow`: nothing is marked.
    mode: Mode,
    /// `redirect`, or `mark`: what becomes of direct packets.
    action: &'static str,
    /// Where XDP sends them; `None` where they are marked.
    redirecting: Option<Redirecting>,
    prefixes: Prefixes,
    sources: Scope,
    hooks: Vec<Attached>,
    verdicts: Verdicts,
    reasons: Vec<ReasonCount>,
    sets: Vec<SetCount>,
    own: Vec<OwnCount>,
    metadata: MetadataCounts,
}

#[derive(Debug, Serialize)]
struct MarkBits {
    value: u32,
    mask: u32,
}

#[derive(Debug, Serialize)]
struct Prefixes {
    ipv4: u64,
    ipv6: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Count {
    packets: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Verdicts {
    direct: Count,
    inspect: Count,
}

#[derive(Debug, Serialize)]
struct ReasonCount {
    reason: &'static str,
    #[serde(flatten)]
    count: Count,
}

#[derive(Debug, Serialize)]
struct SetCount {
    id: SetId,
    service_area: String,
    category: String,
    #[serde(flatten)]
    count: Count,
}

#[derive(Debug, Serialize)]
struct OwnCount {
    name: String,
    #[serde(flatten)]
    count: Count,
}

/// What became of XDP's proposals.
#[derive(Debug, Serialize)]
struct MetadataCounts {
    /// Taken by tc.
    accepted: Count,
    /// Not written: the driver has no XDP metadata. tc classified these packets itself.
    unsupported: Count,
}

impl From<Counter> for Count {
    fn from(counter: Counter) -> Self {
        Self { packets: counter.packets, bytes: counter.bytes }
    }
}

impl Count {
    fn add(&mut self, other: Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}

/// Runs the verb.
///
/// # Errors
///
/// Nothing is loaded, or the pins cannot be read.
pub(super) fn run(args: &StatusArgs, pins: &Pins, run_dir: &Path) -> Result<(), Failure> {
    // What is loaded is worth seeing also where the daemon does not answer, and the other way round.
    let (daemon, silence) = match observe::read(run_dir) {
        Ok(daemon) => (daemon, None),
        Err(failure) => (None, Some(failure)),
    };
    let daemon = match (Loaded::open(pins), daemon) {
        (Ok(loaded), daemon) => {
            let status = status(pins, loaded.manifest(), &loaded.counts()?, daemon)?;
            return if args.json {
                output::json(&status)
            } else {
                let silence = silence.map(|failure| format!("{failure}\n")).unwrap_or_default();
                output::text(&format!("{silence}{}", text(&status)))
            };
        }
        (Err(DatapathError::NothingLoaded { .. }), Some(daemon)) => daemon,
        (Err(error), _) => return Err(error.into()),
    };
    let waiting = Waiting { generation: None, daemon };
    if args.json {
        return output::json(&waiting);
    }
    let mut lines = vec!["nothing is loaded, everything is inspected".to_owned()];
    lines.extend(daemon_lines(&waiting.daemon));
    output::text(&lines.join("\n"))
}

/// A daemon that has nothing to publish yet.
#[derive(Debug, Serialize)]
struct Waiting {
    generation: Option<u64>,
    daemon: Observation,
}

fn status(
    pins: &Pins,
    manifest: &Manifest,
    counts: &Counts,
    daemon: Option<Observation>,
) -> Result<Status, Failure> {
    let decided = counts.decided();
    let reasons: Vec<ReasonCount> = Reason::ALL
        .into_iter()
        .map(|reason| ReasonCount { reason: reason.name(), count: decided.reason(reason).into() })
        .collect();
    let mut inspect = Count::default();
    for reason in Reason::ALL.into_iter().filter(|reason| *reason != Reason::Matched) {
        inspect.add(decided.reason(reason).into());
    }
    // A packet of a group counts for each endpoint set of that group.
    let mut by_set: BTreeMap<SetId, Count> = BTreeMap::new();
    for (group, counter) in manifest.groups.iter().zip(decided.groups()) {
        for set in group {
            by_set.entry(*set).or_default().add((*counter).into());
        }
    }
    let sets = manifest
        .sets
        .iter()
        .map(|set| SetCount {
            id: set.id,
            service_area: set.service_area.clone(),
            category: set.category.clone(),
            count: by_set.get(&set.id).copied().unwrap_or_default(),
        })
        .collect();
    let own = manifest
        .own
        .iter()
        .map(|own| OwnCount {
            name: own.name.clone(),
            count: by_set.get(&own.id).copied().unwrap_or_default(),
        })
        .collect();
    Ok(Status {
        generation: manifest.generation,
        breakout365: manifest.breakout365.clone(),
        loaded_at: manifest.loaded_at,
        switches: match Control::open(pins)? {
            Some(control) => Some(control.standing()?.into()),
            None => None,
        },
        daemon_running: pins.is_locked(),
        daemon,
        feed: manifest.feed.clone(),
        mark: MarkBits { value: manifest.mark_value, mask: manifest.mark_mask },
        mode: manifest.mode,
        action: if manifest.redirects_to.is_some() { "redirect" } else { "mark" },
        redirecting: manifest.redirects_to.as_ref().map(|to| Redirecting::of(to, counts)),
        prefixes: Prefixes { ipv4: manifest.prefixes_v4, ipv6: manifest.prefixes_v6 },
        sources: manifest.sources.clone(),
        hooks: attached(pins)?,
        verdicts: Verdicts { direct: decided.reason(Reason::Matched).into(), inspect },
        reasons,
        sets,
        own,
        metadata: MetadataCounts {
            accepted: counts.tc_behind_xdp.metadata_accepted().into(),
            unsupported: counts.xdp.metadata_unsupported().into(),
        },
    })
}

fn text(status: &Status) -> String {
    let mut lines: Vec<String> = status.switches.iter().filter_map(switched_off).collect();
    lines.extend([
        format!(
            "generation {}, feed {} {}, {} IPv4 and {} IPv6 prefixes, mark {:#x}/{:#x}",
            status.generation,
            status.feed.instance.as_deref().unwrap_or("(file)"),
            status.feed.version.as_deref().unwrap_or("without version"),
            status.prefixes.ipv4,
            status.prefixes.ipv6,
            status.mark.value,
            status.mark.mask,
        ),
        format!("daemon  {}", if status.daemon_running { "running" } else { "not running" }),
    ]);
    lines.extend(status.daemon.iter().flat_map(daemon_lines));
    if status.mode == Mode::Shadow {
        lines.push("mode    shadow: direct packets are counted, none is marked".to_owned());
    }
    lines.extend(status.redirecting.as_ref().map(Redirecting::line));
    if status.sources != Scope::default() {
        lines.push(format!("sources {}", status.sources));
    }
    lines.extend(status.hooks.iter().map(|hook| format!("hook    {hook}")));
    if status.hooks.is_empty() {
        lines.push("hook    none: no interface is attached, everything is inspected".to_owned());
    }
    lines.push(String::new());
    let mut verdicts = output::table(&["verdict", "packets", "bytes"]);
    for (name, count) in [("direct", status.verdicts.direct), ("inspect", status.verdicts.inspect)]
    {
        verdicts.add_row([name.to_owned(), count.packets.to_string(), count.bytes.to_string()]);
    }
    lines.push(verdicts.to_string());
    let mut reasons = output::table(&["reason", "packets", "bytes"]);
    for ReasonCount { reason, count } in
        status.reasons.iter().filter(|reason| reason.count.packets > 0)
    {
        reasons.add_row([(*reason).to_owned(), count.packets.to_string(), count.bytes.to_string()]);
    }
    if reasons.row_count() > 0 {
        lines.push(reasons.to_string());
    }
    let mut sets = output::table(&["set", "area", "category", "packets", "bytes"]);
    for set in &status.sets {
        sets.add_row([
            set.id.to_string(),
            set.service_area.clone(),
            set.category.clone(),
            set.count.packets.to_string(),
            set.count.bytes.to_string(),
        ]);
    }
    lines.push(sets.to_string());
    let mut own = output::table(&["include", "packets", "bytes"]);
    for OwnCount { name, count } in &status.own {
        own.add_row([name.clone(), count.packets.to_string(), count.bytes.to_string()]);
    }
    if own.row_count() > 0 {
        lines.push(own.to_string());
    }
    if status.metadata.unsupported.packets > 0 {
        lines.push(format!(
            "{} packets without XDP metadata: the driver has none, tc classified them",
            status.metadata.unsupported.packets
        ));
    }
    lines.join("\n")
}

/// Why nothing goes direct, for the first line.
fn switched_off(switches: &Switches) -> Option<String> {
    if !switches.on {
        return Some("OFF     everything is inspected until `breakout365 on`".to_owned());
    }
    switches.inspecting.as_ref().map(|_| {
        "GONE    no daemon has given a sign of life within its deadline: everything is inspected until \
         one does"
            .to_owned()
    })
}

/// Where the feed stands and what waits for a person; nothing where all is as it should be.
fn daemon_lines(daemon: &Observation) -> Vec<String> {
    let feed = &daemon.feed;
    let mut lines = vec![format!("source  {}", feed.source)];
    if let Some(success) = &feed.last_success {
        let next = feed.next_check.as_deref().unwrap_or("never");
        lines.push(format!("checked {success}, next {next}"));
    }
    if feed.stale {
        let kept = if feed.inspecting { "everything is inspected" } else { "the last one is kept" };
        lines.push(format!("STALE   the feed was not checked within max-age; {kept}"));
    }
    lines.extend(feed.problem.iter().map(|problem| format!("feed    {problem}")));
    lines.extend(feed.refused.iter().map(|refused| format!("refused {refused}")));
    lines.extend(
        feed.held.iter().map(|held| {
            format!("held    set {}: {} until {}", held.set, held.prefix, held.effective)
        }),
    );
    if let Some(egress) = &daemon.egress {
        lines.push(egress_line(egress));
        lines.extend(egress.problem.iter().map(|problem| format!("EGRESS  {problem}")));
    }
    if let Some(pending) = &daemon.pending {
        lines.push(format!(
            "PLAN    {} waits since {}: {}",
            pending.id, pending.since, pending.summary
        ));
        lines.extend(pending.refusals.iter().map(|refusal| format!("        {refusal}")));
    }
    if let Some(until) = &daemon.confirm_until {
        lines.push(format!("TRIAL   `breakout365 confirm` before {until}, or it goes back"));
    }
    lines.extend(daemon.problem.iter().map(|problem| format!("PROBLEM {problem}")));
    lines
}

fn egress_line(egress: &EgressState) -> String {
    let hop = |family, gateway: Option<String>| {
        gateway.map_or_else(|| format!("{family} inspected"), |hop| format!("{family} via {hop}"))
    };
    format!(
        "egress  {}, {}, {}, table {}, rules {} and {}, put back {} times",
        egress.interface,
        hop("IPv4", egress.gateway4.map(|hop| hop.to_string())),
        hop("IPv6", egress.gateway6.map(|hop| hop.to_string())),
        egress.table,
        egress.priority,
        egress.priority.saturating_add(1),
        egress.put_back,
    )
}
