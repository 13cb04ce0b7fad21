//! What the service manager hears: ready, standing, reloading, stopping, and that the loop goes round.
//!
//! The protocol of `sd_notify(3)`. Without a service manager, that is without `NOTIFY_SOCKET`, nobody
//! is told.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::warn;

use super::Daemon;

/// Pings within one watchdog interval, so that one may be late.
const PINGS: u32 = 4;
/// How often a start that waits for a feed asks for more time, in the absence of a watchdog.
const WAITING: Duration = Duration::from_secs(10);
/// The time it asks for. A start that hangs ends this much later.
const MORE_TIME: Duration = Duration::from_mins(1);

/// The service manager's view of this process.
pub(super) struct Service {
    /// How often it is pinged.
    every: Option<Duration>,
    next: Option<Instant>,
    ready: bool,
    said: String,
}

impl Service {
    /// The one that started this process, if any did.
    pub(super) fn of_this_process() -> Self {
        let every = sd_notify::watchdog_enabled().map(|interval| interval / PINGS);
        Self { every, next: Some(Instant::now()), ready: false, said: String::new() }
    }

    /// When the next ping is due; `None` is never.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// The loop has gone round.
    pub(super) fn ping(&mut self) {
        if !self.ready {
            let more = u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX);
            tell(&[NotifyState::ExtendTimeoutUsec(more)]);
        }
        if self.every.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
        let waiting = (!self.ready).then_some(WAITING);
        let pause = self.every.into_iter().chain(waiting).min();
        self.next = pause.and_then(|pause| Instant::now().checked_add(pause));
    }

    /// A reload begins that nobody waits for.
    pub(super) fn reloading(&self) {
        if self.ready
            && let Ok(now) = NotifyState::monotonic_usec_now()
        {
            tell(&[NotifyState::Reloading, now]);
        }
    }

    /// It has ended, one way or the other: what serves is in the status.
    pub(super) fn reloaded(&self) {
        if self.ready {
            tell(&[NotifyState::Ready]);
        }
    }

    /// The end of this process begins.
    pub(super) fn stopping(&mut self) {
        self.next = None;
        tell(&[NotifyState::Stopping]);
    }

    /// Says how things stand, where that is news, and once that something serves.
    fn stands(&mut self, status: String, serves: bool) {
        if self.said != status {
            tell(&[NotifyState::Status(&status)]);
            self.said = status;
        }
        if serves && !self.ready {
            self.ready = true;
            tell(&[NotifyState::Ready]);
        }
    }
}

impl Daemon<'_> {
    /// Tells the service manager how things stand. Ready is who has published.
    pub(super) fn tell_service_manager(&mut self) {
        let stands = match &self.serving {
            None => "no feed is there yet: everything is inspected".to_owned(),
            Some(serving) if serving.inspecting => {
                format!(
                    "generation {}: the feed is stale, everything is inspected",
                    serving.generation
                )
            }
            Some(serving) => {
                format!("generation {}, {}", serving.generation, serving.revision.feed())
            }
        };
        let problem = self.problem.as_ref().map(|problem| format!("; {problem}"));
        // A line is all there is room for.
        let status = (stands + &problem.unwrap_or_default()).replace('\n', " ");
        self.service.stands(status, self.serving.is_some());
    }
}

/// A service manager that does not listen is no reason to stop.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("the service manager does not listen: {error}");
    }
}
