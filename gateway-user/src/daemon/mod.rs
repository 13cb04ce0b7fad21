//! The daemon: publishes, holds, re-attaches, reloads and stops.
//!
//! It holds the lock on the pins and nothing else: packets are classified by what is pinned,
//! whether it runs or not. Every change, an interface that came back included, is a new
//! generation; there is no second mechanism.

mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::config::{Config, FeedSource, HookMode, Mode, OnStop};
use crate::datapath::{
    Blueprint, DatapathError, FeedIdentity, HookRequest, Interface, Lock, OwnIdentity, Pins,
    Published, SetIdentity, TcCarrier, XdpRequest, bring_up, require_privileges, take_down,
};
use crate::exit::{Exit, Failure};
use crate::feed::{self, Snapshot};
use crate::policy::{self, Compiled};

/// Messages can be lost, and a failed attachment has no message when it would work again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Between two looks for log records of the debug flavour.
#[cfg(feature = "packet-log")]
const LOG_PAUSE: Duration = Duration::from_millis(50);

/// Where the daemon finds its things.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file.
    pub config: PathBuf,
    /// The pin directory.
    pub pins: Pins,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// What kept the first generation from being published, or what went wrong while stopping. A
/// failed reload is logged and changes nothing.
pub async fn run(settings: &Settings) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let plan = Plan::read(&settings.config)?;
    require_privileges()?;
    let lock = settings.pins.lock()?;
    let mut links = links::Links::listen()?;
    let mut daemon = Daemon { settings, lock, plan, interfaces: BTreeMap::new(), log: None };
    daemon.publish(daemon.plan.clone(), &BTreeSet::new()).await?;
    let mut look_again = interval(LOOK_AGAIN);
    look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => daemon.reload().await,
            () = links.changed() => daemon.follow_interfaces().await,
            _ = look_again.tick() => daemon.follow_interfaces().await,
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
        }
    }
    daemon.stop().await
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::new(Exit::Internal, format!("signal handler: {error}")))
        };
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }
}

/// A configuration with everything it leads to, short of the kernel.
#[derive(Clone, Debug)]
struct Plan {
    config: Config,
    blueprint: Blueprint,
}

impl Plan {
    fn read(path: &std::path::Path) -> Result<Self, Failure> {
        let config = Config::read(path)?;
        let snapshot = match &config.feed {
            FeedSource::Embedded => feed::embedded(),
            FeedSource::File(path) => feed::read(path),
        }?;
        let compiled = policy::compile(&snapshot, &config.policy)?;
        for note in &compiled.notes {
            if note.is_warning() {
                warn!("{note}");
            } else {
                info!("{note}");
            }
        }
        let blueprint = blueprint(&config, &snapshot, compiled);
        Ok(Self { config, blueprint })
    }
}

fn blueprint(config: &Config, snapshot: &Snapshot, compiled: Compiled) -> Blueprint {
    let selected: BTreeSet<_> = compiled.table.groups().iter().flatten().copied().collect();
    let names = policy::Names::of(&config.policy);
    let own = selected
        .iter()
        .filter_map(|id| Some(OwnIdentity { id: *id, name: names.include(*id)? }))
        .collect();
    let sets = selected
        .iter()
        .filter_map(|id| snapshot.sets.get(id))
        .map(|set| SetIdentity {
            id: set.id,
            service_area: set.service_area.clone(),
            category: set.category.name().to_owned(),
        })
        .collect();
    Blueprint {
        table: compiled.table,
        mark: config.mark,
        mode: config.mode,
        feed: FeedIdentity {
            instance: snapshot.instance.clone(),
            version: snapshot.version.as_ref().map(ToString::to_string),
            digest: snapshot.digest.clone(),
        },
        sets,
        own,
    }
}

struct Daemon<'a> {
    settings: &'a Settings,
    lock: Lock,
    plan: Plan,
    /// Interfaces the published generation was asked for, by name; `None` while one is away.
    interfaces: BTreeMap<String, Option<u32>>,
    /// The task that prints the records of the debug flavour.
    log: Option<PacketLog>,
}

impl Daemon<'_> {
    /// Publishes `plan`. Interfaces that do not exist are refused, but for those in `may_be_away`.
    async fn publish(&mut self, plan: Plan, may_be_away: &BTreeSet<String>) -> Result<(), Failure> {
        let mut hooks = Vec::new();
        let mut interfaces = BTreeMap::new();
        for wanted in &plan.config.interfaces {
            match Interface::find(&wanted.name).await {
                Ok(interface) => {
                    interfaces.insert(wanted.name.clone(), Some(interface.index));
                    hooks.push(hook_request(interface, wanted.hook));
                }
                Err(DatapathError::NoInterface { name }) if may_be_away.contains(&name) => {
                    interfaces.insert(name, None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let published = bring_up(&self.lock, &plan.blueprint, &hooks, &mut |_| Ok(()))?;
        report(&published);
        for name in &plan.config.interfaces {
            if plan_wanted_xdp(name.hook) && !has_xdp(&published, &name.name) {
                warn!("interface {}: no native XDP here, tc classifies alone", name.name);
            }
        }
        self.plan = plan;
        self.interfaces = interfaces;
        self.log = PacketLog::start(published).inspect_err(|error| warn!("{error}")).ok().flatten();
        Ok(())
    }

    async fn reload(&mut self) {
        let known: BTreeSet<String> = self.interfaces.keys().cloned().collect();
        let outcome = match Plan::read(&self.settings.config) {
            Ok(plan) => self.publish(plan, &known).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = outcome {
            error!("reload refused, the policy before stays: {failure}");
        }
    }

    /// Publishes anew when an interface has come back, or come anew under its name.
    async fn follow_interfaces(&mut self) {
        let mut came = false;
        for (name, index) in &mut self.interfaces {
            match Interface::find(name).await {
                Ok(interface) if *index == Some(interface.index) => {}
                Ok(_) => came = true,
                Err(DatapathError::NoInterface { .. }) => {
                    if index.take().is_some() {
                        warn!("interface {name}: gone; it is attached again when it comes back");
                    }
                }
                Err(failure) => error!("{failure}"),
            }
        }
        if came {
            let known = self.interfaces.keys().cloned().collect();
            if let Err(failure) = self.publish(self.plan.clone(), &known).await {
                error!("an interface came back, but cannot be attached: {failure}");
            }
        }
    }

    async fn stop(self) -> Result<(), Failure> {
        match self.plan.config.on_stop {
            OnStop::Keep => info!("stopped; the data plane goes on marking"),
            OnStop::Detach => {
                take_down(self.lock).await?;
                info!("stopped; the data plane is taken back");
            }
        }
        Ok(())
    }
}

fn hook_request(interface: Interface, mode: HookMode) -> HookRequest {
    let xdp = match mode {
        HookMode::Auto => XdpRequest::IfPossible,
        HookMode::Xdp => XdpRequest::Native,
        HookMode::Tc => XdpRequest::No,
        HookMode::Generic => XdpRequest::Generic,
    };
    HookRequest { interface, xdp, tc: TcCarrier::Best }
}

fn plan_wanted_xdp(mode: HookMode) -> bool {
    mode == HookMode::Auto
}

fn has_xdp(published: &Published, name: &str) -> bool {
    published
        .attached
        .iter()
        .any(|hook| hook.interface.as_deref() == Some(name) && hook.xdp.is_some())
}

fn report(published: &Published) {
    let manifest = &published.manifest;
    let hooks: Vec<String> = published.attached.iter().map(ToString::to_string).collect();
    info!(
        "generation {} published: feed {}, {} IPv4 and {} IPv6 prefixes, {} probes agreed, on {}",
        manifest.generation,
        manifest.feed.version.as_deref().unwrap_or("without version"),
        manifest.prefixes_v4,
        manifest.prefixes_v6,
        published.self_test.probes,
        hooks.join(", "),
    );
    if manifest.mode == Mode::Shadow {
        warn!("mode is shadow: direct packets are counted, none is marked");
    }
}

/// Prints the log records of the debug flavour while the generation serves; the shipped flavour
/// has none.
struct PacketLog {
    #[cfg(feature = "packet-log")]
    task: tokio::task::JoinHandle<()>,
}

impl PacketLog {
    #[cfg(not(feature = "packet-log"))]
    #[expect(clippy::unnecessary_wraps, reason = "the debug flavour can fail")]
    fn start(published: Published) -> Result<Option<Self>, Failure> {
        drop(published);
        Ok(None)
    }

    #[cfg(feature = "packet-log")]
    fn start(mut published: Published) -> Result<Option<Self>, Failure> {
        let mut logger = aya_log::EbpfLogger::init(published.generation.ebpf_mut())
            .map_err(|error| Failure::new(Exit::Internal, format!("packet log: {error}")))?;
        let task = tokio::spawn(async move {
            let mut pause = interval(LOG_PAUSE);
            loop {
                pause.tick().await;
                logger.flush();
            }
        });
        Ok(Some(Self { task }))
    }
}

#[cfg(feature = "packet-log")]
impl Drop for PacketLog {
    fn drop(&mut self) {
        self.task.abort();
    }
}
