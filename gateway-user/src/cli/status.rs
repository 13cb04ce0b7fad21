//! `status`: what is loaded, where it is attached, and what it has decided.

use std::path::Path;

use clap::Args;
use gateway_common::Reason;
use serde::Serialize;
use tokio::runtime::Runtime;

use super::redirecting::Redirecting;
use super::{output, state_lines};
use crate::datapath::{Control, DatapathError, Pins, Scope};
use crate::exit::Failure;
use crate::observe::{
    self, Count, LoadedState, MissingHook, Observation, OwnTraffic, ReasonTraffic, SelfCheck,
    SetTraffic, Switches, Traffic,
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
    let runtime = super::runtime()?;
    let daemon = match (told.map_or_else(|| Seen::of_pins(&runtime, pins), Ok), daemon) {
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
        // Only root can look for it; the daemon knows.
        (Err(_), Some(daemon)) if daemon.generation.is_none() => daemon,
        (Err(error), _) => return Err(error.into()),
    };
    let waiting = Waiting { generation: None, daemon };
    if args.json {
        return output::json(&waiting);
    }
    let mut lines = vec!["nothing is loaded, everything is inspected".to_owned()];
    lines.extend(state_lines::of_daemon(&waiting.daemon).into_iter().map(|line| line.text));
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
    fn of_pins(runtime: &Runtime, pins: &Pins) -> Result<Self, DatapathError> {
        let (loaded, traffic) = runtime.block_on(LoadedState::of_pins(pins))?;
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
    let switched_off = status.switches.iter().filter_map(state_lines::switched_off);
    let mut lines: Vec<String> = switched_off.map(|line| line.text).collect();
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
    let told = status.daemon.iter().flat_map(state_lines::of_daemon);
    lines.extend(told.chain(state_lines::shadow(loaded.mode)).map(|line| line.text));
    if let Some(redirecting) = &status.redirecting {
        lines.push(redirecting.line());
    }
    if loaded.sources != Scope::default() {
        lines.push(format!("sources {}", loaded.sources));
    }
    lines.extend(loaded.hooks.iter().map(|hook| format!("hook    {hook}")));
    lines.extend(missing_hooks(status).iter().map(|hook| state_lines::missing(hook).text));
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
    lines.extend(state_lines::mismatch(status.self_check).map(|line| line.text));
    lines.join("\n")
}

/// What is missing: by what the daemon expects, or without one by the pins.
fn missing_hooks(status: &Status) -> Vec<MissingHook> {
    if let Some(daemon) = &status.daemon {
        return daemon.missing.clone();
    }
    let mut missing = Vec::new();
    for hook in &status.loaded.hooks {
        let interface = hook.interface.clone().unwrap_or_else(|| format!("#{}", hook.ifindex));
        let gone = hook.missing.iter();
        missing.extend(
            gone.map(|what| MissingHook { interface: interface.clone(), what: (*what).into() }),
        );
    }
    missing
}
