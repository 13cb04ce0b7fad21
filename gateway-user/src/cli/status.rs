//! `status`: what is loaded, where it is attached, and what it has decided.

use std::path::Path;

use clap::Args;
use gateway_common::Reason;
use serde::Serialize;

use super::output;
use super::redirecting::Redirecting;
use crate::config::Mode;
use crate::datapath::{Control, DatapathError, Pins, Scope};
use crate::exit::Failure;
use crate::observe::{
    self, Count, EgressState, FamilyState, LoadedState, Observation, OwnTraffic, ReasonTraffic,
    SelfCheck, SetTraffic, Switches, Traffic,
};

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
    #[serde(flatten)]
    loaded: LoadedState,
    /// The kill switch and the dead man's switch, as they are; `None` where there are none, so that
    /// nothing goes direct by a generation that looks for them.
    switches: Option<Switches>,
    /// Whether a daemon holds the pins.
    daemon_running: bool,
    /// All that the daemon says of itself; `None` where none answers.
    daemon: Option<Observation>,
    /// `redirect`, or `mark`: what becomes of direct packets.
    action: &'static str,
    /// Where XDP sends them; `None` where they are marked.
    redirecting: Option<Redirecting>,
    verdicts: Verdicts,
    reasons: Vec<ReasonTraffic>,
    sets: Vec<SetTraffic>,
    own: Vec<OwnTraffic>,
    metadata: MetadataCounts,
    /// What came of checking XDP's proposals.
    self_check: SelfCheck,
}

#[derive(Debug, Serialize)]
struct Verdicts {
    direct: Count,
    inspect: Count,
}

/// What became of XDP's proposals.
#[derive(Debug, Serialize)]
struct MetadataCounts {
    /// Taken by tc.
    accepted: Count,
    /// Not written: the driver has no XDP metadata. tc classified these packets itself.
    unsupported: Count,
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
    let told = daemon.as_ref().and_then(|daemon| {
        let loaded = daemon.loaded.clone()?;
        Some(Seen { loaded, traffic: daemon.traffic.clone(), switches: daemon.switches.clone() })
    });
    let daemon = match (told.map_or_else(|| Seen::of_pins(pins), Ok), daemon) {
        (Ok(seen), daemon) => {
            let status = status(pins, seen, daemon);
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

/// What is loaded and what it has decided: as the daemon tells, with all that was decided while it
/// ran, or else as the pins have it, since the generation was loaded.
struct Seen {
    loaded: LoadedState,
    traffic: Traffic,
    switches: Option<Switches>,
}

impl Seen {
    fn of_pins(pins: &Pins) -> Result<Self, DatapathError> {
        let (loaded, traffic) = LoadedState::of_pins(pins)?;
        let switches = match Control::open(pins)? {
            Some(control) => Some(control.standing()?.into()),
            None => None,
        };
        Ok(Self { loaded, traffic, switches })
    }
}

fn status(pins: &Pins, seen: Seen, daemon: Option<Observation>) -> Status {
    let Seen { loaded, traffic, switches } = seen;
    let reasons: Vec<ReasonTraffic> = Reason::ALL
        .into_iter()
        .map(|reason| ReasonTraffic {
            reason: reason.name().to_owned(),
            count: traffic.reason(reason),
        })
        .collect();
    let inspected = Reason::ALL.into_iter().filter(|reason| *reason != Reason::Matched);
    let inspect = inspected.map(|reason| traffic.reason(reason));
    let to = loaded.redirects_to.as_deref();
    Status {
        action: if to.is_some() { "redirect" } else { "mark" },
        redirecting: to.map(|to| Redirecting::of(to, &traffic)),
        loaded,
        switches,
        daemon_running: daemon.is_some() || pins.is_locked(),
        daemon,
        verdicts: Verdicts {
            direct: traffic.reason(Reason::Matched),
            inspect: inspect.fold(Count::default(), Count::plus),
        },
        reasons,
        metadata: MetadataCounts {
            accepted: traffic.metadata_accepted,
            unsupported: traffic.metadata_unsupported(),
        },
        self_check: traffic.self_check,
        sets: traffic.sets,
        own: traffic.own,
    }
}

fn text(status: &Status) -> String {
    let mut lines: Vec<String> = status.switches.iter().filter_map(switched_off).collect();
    let loaded = &status.loaded;
    lines.extend([
        format!(
            "generation {}, feed {} {}, {} IPv4 and {} IPv6 prefixes, mark {:#x}/{:#x}",
            loaded.generation,
            loaded.feed.instance.as_deref().unwrap_or("(file)"),
            loaded.feed.version.as_deref().unwrap_or("without version"),
            loaded.prefixes.ipv4,
            loaded.prefixes.ipv6,
            loaded.mark.value,
            loaded.mark.mask,
        ),
        format!("daemon  {}", if status.daemon_running { "running" } else { "not running" }),
    ]);
    lines.extend(status.daemon.iter().flat_map(daemon_lines));
    if loaded.mode == Mode::Shadow {
        lines.push("mode    shadow: direct packets are counted, none is marked".to_owned());
    }
    lines.extend(status.redirecting.as_ref().map(Redirecting::line));
    if loaded.sources != Scope::default() {
        lines.push(format!("sources {}", loaded.sources));
    }
    lines.extend(loaded.hooks.iter().map(|hook| format!("hook    {hook}")));
    if loaded.hooks.is_empty() {
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
    for ReasonTraffic { reason, count } in
        status.reasons.iter().filter(|reason| reason.count.packets > 0)
    {
        reasons.add_row([reason.clone(), count.packets.to_string(), count.bytes.to_string()]);
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
    for OwnTraffic { name, count } in &status.own {
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
    if status.self_check.disagreed > 0 {
        lines.push(format!(
            "MISMATCH {} of {} proposals of XDP that tc checked were wrong, and inspected; report this",
            status.self_check.disagreed, status.self_check.checked
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
        lines.extend(egress.families.iter().map(|family| family_line(egress, family)));
        lines.extend(egress.problem.iter().map(|problem| format!("EGRESS  {problem}")));
    }
    lines.extend(daemon.support.iter().map(|window| {
        let clients: Vec<_> = window.clients.iter().map(ToString::to_string).collect();
        format!(
            "SUPPORT window {} for {}: {}, until {} ({})",
            window.id,
            clients.join(", "),
            window.sets,
            window.until,
            window.note
        )
    }));
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
    let hop = |family: &str, gateway: Option<String>| {
        let is_this = |it: &&FamilyState| it.family.eq_ignore_ascii_case(family);
        let state = egress.families.iter().find(is_this);
        let is_up = state.is_some_and(|it| it.reason.is_none());
        match gateway {
            Some(hop) => format!("{family} via {hop}"),
            // A point-to-point link.
            None if is_up => format!("{family} without next hop"),
            None => format!("{family} inspected"),
        }
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

/// In capitals where it is down.
fn family_line(egress: &EgressState, family: &FamilyState) -> String {
    let FamilyState { state, since, transitions, probes_answered, probes_failed, .. } = family;
    let name = family.family.replace("ipv", "IPv");
    let changes = format!("{transitions} changes");
    if let Some(reason) = &family.reason {
        let new = if egress.on_failure == "block" { "refused" } else { "inspected" };
        return format!("DOWN    {name} since {since}: {reason}; new flows are {new}; {changes}");
    }
    let probes = match family.probe_rtt_seconds {
        Some(rtt) => format!(
            "; answered in {:.1} ms, {probes_answered} of {} rounds",
            rtt * 1000.0,
            probes_answered.saturating_add(*probes_failed)
        ),
        None => String::new(),
    };
    format!("uplink  {name} {state} since {since}; {changes}{probes}")
}
