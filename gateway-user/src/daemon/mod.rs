//! The daemon: publishes, holds, re-attaches, follows the feed, reloads and stops.
//!
//! Packets are classified by what is pinned, whether it runs or not. Every change, an interface
//! that came back included, is a new generation; there is no second mechanism. `change` decides
//! what becomes one, `way_out` makes the way for what it marks, `redirect` is whether XDP goes it
//! alone, `missing` is what somebody has detached, `pending` and `trial` are what waits for a person,
//! `windows` is what a person opens for some clients for some time, `watch` asks the feed's source,
//! `heartbeat` is the sign of life that packets go direct by, `tally` adds counters up, `control` and
//! `observer` are the two sockets, `service` is what the service manager hears, `journal` is what is left
//! to read, `failed_start` is what becomes of an earlier daemon's generation where this one ends with a
//! failure.

mod change;
mod collisions;
pub mod control;
mod failed_start;
mod heartbeat;
mod hooks;
pub mod journal;
mod links;
mod missing;
mod observer;
mod packet_log;
mod pending;
mod redirect;
mod reply;
mod revision;
mod revoke;
mod self_check;
mod service;
mod socket;
mod start;
pub(crate) mod switched_off;
mod take_back;
mod tally;
mod trial;
mod watch;
mod way_out;
mod windows;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, info, warn};

use self::change::Serving;
use self::control::Control;
use self::heartbeat::Heartbeat;
use self::journal::{Journal, Trigger};
use self::observer::Observer;
use self::packet_log::PacketLog;
use self::pending::Pending;
pub use self::reply::PlanReport;
use self::revision::{ConfigText, Revision};
use self::service::Service;
use self::start::Left;
pub use self::start::feed_at_hand;
pub use self::take_back::{TakenBack, take_back};
use self::tally::Tally;
use self::trial::Trial;
use self::watch::FeedWatch;
pub use self::windows::WindowReport;
use self::windows::Windows;
use crate::config::OnStop;
use crate::datapath::{DatapathError, Interface, Lock, Pins, WindowCounters, require_privileges};
use crate::egress::{Keeper, Undisputed};
use crate::exit::{Exit, Failure};
use crate::feed::Store;
use crate::marks::Ours;

/// Messages can be lost, and a failed attachment has no message when it would work again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Where the daemon finds its things.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file.
    pub config: PathBuf,
    /// The pin directory.
    pub pins: Pins,
    /// Last good feed, journal, and what else outlives the daemon.
    pub state_dir: PathBuf,
    /// The sockets.
    pub run_dir: PathBuf,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// What kept the first generation from being published, or what went wrong while stopping. A
/// change that fails later is logged and changes nothing.
pub async fn run(settings: &Settings) -> Result<(), Failure> {
    let outcome = Box::pin(serve(settings)).await;
    outcome.map_err(|failure| failed_start::leave_a_deadline(settings, failure))
}

async fn serve(settings: &Settings) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let left = Left::read(&Store::peek(&settings.state_dir), &settings.config)?;
    // What was on trial is not asked what it says.
    let config = match &left.trial {
        Some(back_to) => back_to.config_text(),
        None => ConfigText::read(&settings.config)?,
    };
    require_privileges()?;
    let lock = settings.pins.lock()?;
    let store =
        Store::open(&settings.state_dir).map_err(|error| Failure::new(Exit::System, error))?;
    let mut control = Control::listen(&settings.run_dir)?;
    let mut links = links::Links::listen()?;
    let mut observer = Observer::listen(&settings.run_dir)?;
    let journal = Journal::new(&settings.state_dir);
    let counters =
        WindowCounters::open(lock.pins()).inspect_err(|error| warn!("{error}")).ok().flatten();
    let mut daemon = Daemon {
        windows: Windows::recall(&store, &journal, counters),
        watch: FeedWatch::new(&config.config, &store)?,
        journal,
        tally: Box::default(),
        plans_held: BTreeMap::new(),
        started: Timestamp::now(),
        settings,
        lock,
        store,
        wanted: None,
        was: None,
        serving: None,
        before: None,
        pending: None,
        trial: None,
        heartbeat: Heartbeat::default(),
        checked_proposals: self_check::Checked::default(),
        service: Service::of_this_process(),
        interfaces: hooks::Present::new(),
        hooked: missing::Hooked::default(),
        egress: redirect::keeper(&settings.pins),
        looked_for: None,
        translation: redirect::Translation::default(),
        undisputed: None,
        problem: None,
        failed: None,
        log: None,
    };
    daemon.tally.take_over(&daemon.lock);
    heartbeat::look_back(daemon.lock.pins());
    daemon.come_back_to_windows();
    daemon.start(config, left).await?;
    daemon.look_for_collisions();
    daemon.remember();
    // What came before the restart and was held.
    daemon.take_feed(Trigger::Start).await;
    daemon.write_down_transitions();
    daemon.tell_service_manager();
    let mut look_again = interval(LOOK_AGAIN);
    look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let serving = daemon.serving.as_ref().map(|serving| &serving.revision.snapshot);
        let serving = serving.filter(|_| daemon.wanted.is_none());
        let heartbeat = daemon.heartbeat.next();
        let window_ends = daemon.windows.next_end();
        let ping = daemon.service.next();
        let trial_ends = daemon.trial.as_ref().map(|trial| trial.until);
        tokio::select! {
            asked = observer.asked() => daemon.tell(asked).await,
            _ = signals.hangup.recv() => daemon.hangup().await,
            call = control.call() => daemon.answer(call).await,
            () = links.changed() => {
                daemon.follow_interfaces().await;
                daemon.look_at_way_out().await;
            }
            is_to_be_looked_at = daemon.egress.changed() => {
                if is_to_be_looked_at {
                    daemon.look_at_way_out().await;
                }
            }
            _ = look_again.tick() => {
                // Before anything is published: it looks at the generation that serves.
                daemon.look_at_self_check();
                daemon.follow_interfaces().await;
                daemon.look_at_hooks().await;
                daemon.look_at_way_out().await;
                daemon.look_at_the_clock().await;
                daemon.follow_windows().await;
            }
            () = until(window_ends) => daemon.follow_windows().await,
            checked = daemon.watch.checked(serving) => {
                daemon.checked(checked).await;
            }
            () = until(heartbeat) => daemon.give_sign_of_life(),
            () = until(ping) => daemon.service.ping(),
            () = until(trial_ends) => daemon.trial_is_over().await,
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
        }
        daemon.write_down_transitions();
        daemon.tell_service_manager();
    }
    Box::pin(daemon.stop()).await
}

/// Waits until then; without a time, for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
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

struct Daemon<'a> {
    settings: &'a Settings,
    lock: Lock,
    store: Store,
    journal: Journal,
    tally: Box<Tally>,
    /// Plans that guards held, by guard.
    plans_held: BTreeMap<String, u64>,
    watch: FeedWatch,
    started: Timestamp,
    /// The configuration that waits for a first feed of its source.
    wanted: Option<ConfigText>,
    /// What served when the last process ended, until something serves.
    was: Option<Revision>,
    serving: Option<Serving>,
    before: Option<Revision>,
    pending: Option<Pending>,
    trial: Option<Trial>,
    heartbeat: Heartbeat,
    checked_proposals: self_check::Checked,
    service: Service,
    interfaces: hooks::Present,
    hooked: missing::Hooked,
    egress: Keeper,
    /// The bits that others were last looked for.
    looked_for: Option<Ours>,
    translation: redirect::Translation,
    /// While what serves redirects.
    undisputed: Option<Undisputed>,
    windows: Windows,
    /// What went wrong last and has not come right since.
    problem: Option<String>,
    /// The failure that the journal has last, while nothing has come right since.
    failed: Option<String>,
    /// The task that prints the records of the debug flavour.
    log: Option<PacketLog>,
}

impl Daemon<'_> {
    async fn hangup(&mut self) {
        self.service.reloading();
        if let Err(failure) = self.reload_and_follow(Trigger::Reload).await {
            error!(
                event = "failed",
                trigger = %Trigger::Reload,
                "reload refused, the policy before stays: {failure}"
            );
            self.problem = Some(format!("reload refused: {failure}"));
        }
        self.service.reloaded();
    }

    /// Publishes anew when an interface has come back, or come anew under its name, or can be
    /// redirected to again or no longer.
    async fn follow_interfaces(&mut self) {
        let mut came = false;
        for (name, index) in &mut self.interfaces {
            match Interface::find(name).await {
                Ok(interface) if *index == Some(interface.index) => {}
                Ok(_) => came = true,
                Err(DatapathError::NoInterface { .. }) => {
                    if index.take().is_some() {
                        warn!(
                            event = "interface_gone",
                            interface = name,
                            "interface {name}: gone; it is attached again when it comes back"
                        );
                    }
                }
                Err(failure) => error!("{failure}"),
            }
        }
        if came || self.redirect_has_changed().await {
            self.publish_again("an interface has changed").await;
        }
    }

    async fn look_at_way_out(&mut self) {
        self.egress.look_again().await;
        self.heed_way_out();
        self.follow_redirect().await;
    }

    async fn publish_again(&mut self, why: &str) {
        let Some(serving) = &self.serving else { return };
        let (revision, away) = (serving.revision.clone(), self.may_be_away(None));
        if let Err(failure) = self.publish(revision, Trigger::Interface, None, &away).await {
            let problem = failure.to_string();
            // What is tried again and fails alike is no news.
            if self.problem.as_ref() != Some(&problem) {
                error!(
                    event = "failed",
                    trigger = %Trigger::Interface,
                    "{why}, but what follows from that cannot be published: {failure}"
                );
            }
            self.problem = Some(problem);
        }
    }

    async fn stop(mut self) -> Result<(), Failure> {
        self.service.stopping();
        self.give_up_undisputed();
        self.leave_windows();
        let on_stop = self.serving.as_ref().map(|serving| serving.revision.config.on_stop);
        match on_stop.unwrap_or_default() {
            OnStop::Keep => {
                self.give_sign_of_life();
                match self.serving.as_ref().map(|serving| serving.revision.config.deadline) {
                    Some(_) if self.heartbeat.withholds() => info!(
                        event = "stopped",
                        "stopped; everything is inspected, the way out is not as it should be"
                    ),
                    Some(Some(deadline)) => info!(
                        event = "stopped",
                        "stopped; the data plane marks on for {} s, then everything is inspected",
                        deadline.as_secs()
                    ),
                    Some(None) => {
                        info!(event = "stopped", "stopped; the data plane goes on marking");
                    }
                    None => info!(event = "stopped", "stopped; nothing was published"),
                }
            }
            OnStop::Detach => {
                self.egress.part(None).await;
                // It would put back what is taken back.
                drop(std::mem::take(&mut self.egress));
                let taken_back = take_back(&self.settings.pins, Some(self.lock)).await;
                taken_back.outcome()?;
                info!(event = "stopped", "stopped; the data plane is taken back");
            }
        }
        Ok(())
    }
}
