//! The sign of life: while the daemon's loop goes round, it moves the deadline of direct egress on.

use std::time::Duration;

use gateway_common::Reason;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Daemon;
use crate::datapath::{Control, DatapathError, Pins, Standing};

/// Signs of life within one deadline: three may be late before anything is inspected for it.
const SIGNS: u32 = 4;

/// Where one cannot be given.
const AGAIN: Duration = Duration::from_secs(1);

/// The switches that the generation is under, and when the next sign of life is due.
#[derive(Default)]
pub(super) struct Heartbeat {
    control: Option<Control>,
    next: Option<Instant>,
    /// Whether direct egress was on when last looked at.
    was_on: Option<bool>,
    /// Whether it is this process that lets the deadline pass.
    withholds: bool,
}

impl Heartbeat {
    /// Takes the switches of what was just published.
    pub(super) fn take(&mut self, pins: &Pins) {
        match Control::open(pins) {
            Ok(control) => self.control = control,
            Err(error) => error!("{error}"),
        }
    }

    /// Whether the deadline has passed by this process's will.
    pub(super) fn withholds(&self) -> bool {
        self.withholds
    }

    /// When the next sign of life is due; `None` is never.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// What the switches say.
    pub(super) fn standing(&self) -> Option<Standing> {
        self.control.as_ref()?.standing().inspect_err(|error| error!("{error}")).ok()
    }

    fn beat(&mut self, deadline: Option<Duration>) -> Result<(), DatapathError> {
        let due = deadline.filter(|deadline| !deadline.is_zero());
        self.next = due.and_then(|deadline| Instant::now().checked_add(deadline / SIGNS));
        match &mut self.control {
            Some(control) => control.renew(deadline),
            None => Ok(()),
        }
    }

    /// Says it where a person has switched since.
    fn notice(&mut self) {
        let Some(Standing { on, refusal, .. }) = self.standing() else { return };
        if self.was_on == Some(on) || (self.was_on.is_none() && on) {
            self.was_on = Some(on);
            return;
        }
        self.was_on = Some(on);
        if refusal == Some(Reason::SwitchedOff) {
            warn!(
                event = "switched_off",
                "switched off: everything is inspected until `breakout365 on`"
            );
        } else {
            info!(event = "switched_on", "switched on: what is selected goes direct");
        }
    }
}

/// Says it where the deadline of a daemon before this one has passed.
pub(super) fn look_back(pins: &Pins) {
    let control = Control::open(pins).ok().flatten();
    say_if_it_was_gone(control.and_then(|control| control.standing().ok()));
}

fn say_if_it_was_gone(standing: Option<Standing>) {
    if standing.is_some_and(|standing| standing.refusal == Some(Reason::DaemonGone)) {
        warn!(
            event = "daemon_gone",
            "no daemon gave a sign of life within the deadline: everything was inspected until now"
        );
    }
}

impl Daemon<'_> {
    /// Has the deadline pass where the way out wants nothing to go direct from now on, and moves it on
    /// where it wants that no longer.
    pub(super) fn heed_way_out(&mut self) {
        if self.heartbeat.withholds != self.egress.wants_inspection() {
            self.give_sign_of_life();
        }
    }

    /// Moves the deadline on, by the configuration that serves; or has it pass at once, while the way out
    /// wants nothing to go direct.
    pub(super) fn give_sign_of_life(&mut self) {
        let Some(serving) = &self.serving else { return };
        let withholds = self.egress.wants_inspection();
        let deadline =
            if withholds { Some(Duration::ZERO) } else { serving.revision.config.deadline };
        if !withholds && !self.heartbeat.withholds {
            say_if_it_was_gone(self.heartbeat.standing());
        }
        match self.heartbeat.beat(deadline) {
            Ok(()) => self.heartbeat.withholds = withholds,
            Err(error) => {
                error!("no sign of life: {error}");
                self.heartbeat.next = Instant::now().checked_add(AGAIN);
                self.problem = Some(error.to_string());
            }
        }
        self.heartbeat.notice();
    }
}
