//! Looks at this machine. Nothing is changed, and what cannot be looked at is said.

mod clock;
mod flowtables;
mod genetlink;
mod habits;
mod links;
mod resolve;
mod settings;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use jiff::Timestamp;

use super::{Facts, InterfaceFacts, Metadata, Role, Seen};
use crate::config::{self, Config, HookMode, Mark};
use crate::datapath::{Control, DatapathError, Loaded, Pins, attached, xdp_features};
use crate::egress::{reverse_path_filter, rules, unmarked_way};
use crate::marks::{Ours, look};
use crate::observe::{self, Observation, Switches};

/// What is to be looked at.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The configuration; `None`, the one in the usual place, if there is one.
    pub config: Option<PathBuf>,
    /// Interfaces; none, those of the configuration.
    pub interfaces: BTreeSet<String>,
    /// The pin directory.
    pub pins: PathBuf,
    /// Last good feed.
    pub state_dir: PathBuf,
    /// The daemon's sockets.
    pub run_dir: PathBuf,
    /// Whether names are asked for.
    pub dns: bool,
}

/// Looks at everything.
pub async fn gather(ask: &Ask) -> Facts {
    let config = read_config(ask.config.as_deref());
    let path = ask.config.as_deref().unwrap_or(Path::new(config::DEFAULT_PATH));
    let known = config.as_ref().ok().and_then(Option::as_ref);
    let pins = Pins::new(&ask.pins);
    let daemon = observe::read(&ask.run_dir).map_err(|error| error.to_string());
    let told = daemon.as_ref().ok().and_then(Option::as_ref);
    let rules = rules().await.map_err(|error| error.to_string());
    let ours = known.map_or(Ours { mark: Mark::default(), decided: 0 }, Ours::of);
    let seen_rules = rules.clone().unwrap_or_default();
    let marks = look(seen_rules, ours).await;
    let interfaces = interfaces(known, &ask.interfaces, &pins).await;
    let dns = match (ask.dns, known) {
        (false, _) => Err("left out by --no-dns".to_owned()),
        (true, None) => Err("there is no configuration".to_owned()),
        (true, Some(config)) => resolve::answers(config, &ask.state_dir, path).await,
    };
    let habits = habits::read(Path::new("/"), &interfaces);
    Facts {
        bpf: settings::bpf(&ask.pins, missing(told.map(|told| told.pid))),
        interfaces,
        metadata: metadata(&pins),
        rules,
        switches: switches(&pins, told),
        daemon,
        unmarked_way: unmarked_way().await.map_err(|error| error.to_string()),
        flowtables: flowtables::read(&marks).await,
        marks,
        habits,
        clock: clock::is_synchronised(),
        now: Timestamp::now().as_second(),
        dns,
        config_path: path.to_owned(),
        config,
    }
}

/// From the pins, which have them without a daemon too; else what the daemon tells.
fn switches(pins: &Pins, told: Option<&Observation>) -> Seen<Option<Switches>> {
    let standing = Control::open(pins)
        .and_then(|control| control.map(|control| control.standing()).transpose());
    match (standing, told.and_then(|told| told.switches.clone())) {
        (Ok(Some(standing)), _) => Ok(Some(standing.into())),
        (_, Some(switches)) => Ok(Some(switches)),
        (Ok(None), None) => Ok(None),
        (Err(error), None) => Err(error.to_string()),
    }
}

fn read_config(path: Option<&Path>) -> Seen<Option<Config>> {
    if let Some(path) = path {
        return Config::read(path).map(Some).map_err(|error| error.to_string());
    }
    let path = Path::new(config::DEFAULT_PATH);
    match path.try_exists() {
        Ok(false) => Ok(None),
        // One that may not be seen says why.
        Ok(true) | Err(_) => Config::read(path).map(Some).map_err(|error| error.to_string()),
    }
}

async fn interfaces(
    config: Option<&Config>,
    only: &BTreeSet<String>,
    pins: &Pins,
) -> Vec<InterfaceFacts> {
    let mut wanted: Vec<(String, Role)> = Vec::new();
    if let Some(config) = config {
        let inside = config.interfaces.iter();
        wanted.extend(inside.map(|inside| (inside.name.clone(), Role::Inside(inside.hook))));
        wanted.extend(config.egress.iter().map(|it| (it.interface.clone(), Role::Uplink)));
    }
    if !only.is_empty() {
        wanted.retain(|(name, _)| only.contains(name));
        let others = only.iter().filter(|name| !wanted.iter().any(|(known, _)| known == *name));
        let others: Vec<_> =
            others.map(|name| (name.clone(), Role::Inside(HookMode::Auto))).collect();
        wanted.extend(others);
    }
    let hooks = attached(pins).map_err(|error| error.to_string());
    let links = links::Links::read().await;
    let mut found = Vec::new();
    for (name, role) in wanted {
        let link = links.link(&name, hooks.as_deref().unwrap_or_default());
        let index = link.as_ref().ok().and_then(Option::as_ref).map(|link| link.index);
        let absent = || "the interface is not there".to_owned();
        found.push(InterfaceFacts {
            offloads: genetlink::offloads(&name).await,
            xdp_features: match index {
                Some(index) => xdp_features(index).await,
                None => Err(absent()),
            },
            driver: index.ok_or_else(absent).and_then(|index| settings::driver(&name, index)),
            tcx: links::tcx(&name),
            filters: match index {
                Some(index) => links.filters(index).await,
                None => Err(absent()),
            },
            pinned: hooks
                .as_ref()
                .map_err(Clone::clone)
                .map(|hooks| hooks.iter().find(|hook| Some(hook.ifindex) == index).cloned()),
            rp_filter: reverse_path_filter(&name),
            forwarding: settings::forwarding(&name),
            advertisements: settings::advertisements(&name),
            name,
            role,
            link,
        });
    }
    found
}

fn metadata(pins: &Pins) -> Seen<Option<Metadata>> {
    let counts = match Loaded::open(pins).and_then(|loaded| loaded.counts()) {
        Ok(counts) => counts,
        Err(DatapathError::NothingLoaded { .. }) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    Ok(Some(Metadata {
        direct: counts.xdp.reason(gateway_common::Reason::Matched).packets,
        redirected: counts.xdp.redirected().packets,
        unsupported: counts.xdp.metadata_unsupported().packets,
        accepted: counts.tc_behind_xdp.metadata_accepted().packets,
    }))
}

/// What the daemon lacks or, without one, this process.
fn missing(daemon: Option<u32>) -> Seen<BTreeSet<String>> {
    let needed = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];
    let has: Box<dyn Fn(Capability) -> bool> = if let Some(pid) = daemon {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
        let bits = bits.ok_or_else(|| format!("{path}: no CapEff"))?;
        Box::new(move |capability| bits & capability.bitmask() != 0)
    } else {
        let effective = caps::read(None, CapSet::Effective).map_err(|error| error.to_string())?;
        Box::new(move |capability| effective.contains(&capability))
    };
    let lacking = needed.into_iter().filter(|capability| !has(*capability));
    Ok(lacking.map(|capability| capability.to_string()).collect())
}
