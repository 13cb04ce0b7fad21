//! Probes: TCP connections out of the uplink, by the way that direct traffic takes.
//!
//! A probe's socket is bound to the uplink and has the packet mark of direct traffic, so that our
//! rules route it. Each family has a task of its own; names are resolved by the system's resolver,
//! on threads of the runtime. The daemon's loop only hears of rounds.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, lookup_host};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Wanted;
use super::routing::Family;
use crate::config::{Health, Target};

/// How long addresses serve before a name is looked up again.
const FRESH: Duration = Duration::from_mins(1);

/// What became of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// The first of those asked that answered did so after this time.
    Answered(Duration),
    /// None did.
    Silent,
    /// None was asked: no name has an address of this family, or no resolver says so. That says
    /// nothing of the uplink.
    Unasked,
}

/// The tasks. They end with this value.
pub(super) struct Prober {
    rounds: mpsc::Receiver<(Family, Round)>,
    tasks: Vec<JoinHandle<()>>,
}

impl Prober {
    /// Begins with a round at once.
    pub(super) fn start(
        wanted: &Wanted,
        health: &Health,
        families: impl Iterator<Item = Family>,
    ) -> Self {
        let (sender, rounds) = mpsc::channel(1);
        let tasks = families.map(|family| {
            let way = Way {
                family,
                interface: wanted.egress.interface.clone(),
                mark: wanted.mark.value,
                patience: health.timeout,
            };
            tokio::spawn(probe(way, health.clone(), sender.clone()))
        });
        Self { tasks: tasks.collect(), rounds }
    }

    /// The next round. May be dropped and called again at any time.
    pub(super) async fn next(&mut self) -> (Family, Round) {
        match self.rounds.recv().await {
            Some(round) => round,
            // Its senders live as long as the tasks.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// How a family's probes go out.
#[derive(Clone, Debug)]
struct Way {
    family: Family,
    interface: String,
    mark: u32,
    patience: Duration,
}

/// A target, and the addresses it had last; the first one is asked next.
struct Asked {
    target: Target,
    addresses: Vec<SocketAddr>,
    looked_up: Option<Instant>,
}

async fn probe(way: Way, health: Health, rounds: mpsc::Sender<(Family, Round)>) {
    let asked = |target| Asked { target, addresses: Vec::new(), looked_up: None };
    let mut targets: Vec<_> = health.probes.iter().cloned().map(asked).collect();
    let mut ticks = interval(health.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for target in &mut targets {
            target.look_up(&way).await;
        }
        let round = way.round(&mut targets).await;
        if rounds.send((way.family, round)).await.is_err() {
            return;
        }
    }
}

impl Asked {
    /// Where the resolver fails, the addresses it had serve on.
    async fn look_up(&mut self, way: &Way) {
        if self.looked_up.is_some_and(|time| time.elapsed() < FRESH) {
            return;
        }
        let name = (self.target.host.as_str(), self.target.port);
        if let Ok(Ok(found)) = timeout(way.patience, lookup_host(name)).await {
            let next = self.addresses.first().copied();
            self.addresses =
                found.filter(|address| Family::of(address.ip()) == way.family).collect();
            self.looked_up = Some(Instant::now());
            // What is known to answer, or has not been asked yet, is not put back.
            let mut addresses = self.addresses.iter();
            if let Some(place) = addresses.position(|address| Some(*address) == next) {
                self.addresses.rotate_left(place);
            }
        }
    }

    /// Its first address has not answered: the next one is asked next.
    fn turn(&mut self) {
        if let [_, _, ..] = self.addresses[..] {
            self.addresses.rotate_left(1);
        }
    }
}

impl Way {
    /// Asks one address of every target, all at once.
    async fn round(&self, targets: &mut [Asked]) -> Round {
        let mut attempts = JoinSet::new();
        for (place, target) in targets.iter().enumerate() {
            let Some(address) = target.addresses.first().copied() else { continue };
            let way = self.clone();
            attempts.spawn(async move { (place, way.connect(address).await) });
        }
        if attempts.is_empty() {
            return Round::Unasked;
        }
        while let Some(attempt) = attempts.join_next().await {
            let Ok((place, outcome)) = attempt else { continue };
            if let Some(time) = outcome {
                return Round::Answered(time);
            }
            targets.get_mut(place).into_iter().for_each(Asked::turn);
        }
        Round::Silent
    }

    /// How long a connection took; `None`, there was none. A refusal is none: whoever stands in
    /// between may refuse.
    async fn connect(&self, address: SocketAddr) -> Option<Duration> {
        let socket = match self.family {
            Family::V4 => TcpSocket::new_v4(),
            Family::V6 => TcpSocket::new_v6(),
        };
        let socket = socket.ok()?;
        socket.bind_device(Some(self.interface.as_bytes())).ok()?;
        setsockopt(&socket, sockopt::Mark, &self.mark).ok()?;
        let begin = Instant::now();
        timeout(self.patience, socket.connect(address)).await.ok()?.ok()?;
        Some(begin.elapsed())
    }
}
