//! A daemon that ended with a failure: what is published marks on to a deadline, whoever left it
//! without one.

use std::time::Duration;

use super::Settings;
use super::change::SERVING;
use super::start::recall;
use crate::config::{Config, DEFAULT_DEADLINE};
use crate::datapath::{Control, DatapathError};
use crate::exit::{Exit, Failure};
use crate::feed::Store;

/// Sees to it that the switches have a deadline, unless what serves asks for none. One that they have
/// goes on counting: nobody follows the list. Gives the failure, with what became of that.
pub(super) fn leave_a_deadline(settings: &Settings, failure: Failure) -> Failure {
    // Whoever holds the pins gives the signs of life.
    if failure.exit == Exit::Busy {
        return failure;
    }
    let (exit, said) = (failure.exit, failure.to_string());
    match arm(settings) {
        Ok(None) => failure,
        Ok(Some(deadline)) => {
            let seconds = deadline.as_secs();
            let rest = format_args!(
                "what an earlier daemon published marks on for {seconds} s, then everything is inspected"
            );
            Failure::new(exit, format_args!("{said}; {rest}"))
        }
        // Who may not write them has changed nothing, and one defect is said once.
        Err(_) if exit == Exit::Permission => failure,
        Err(problem) if said == problem.to_string() => failure,
        Err(problem) => {
            let rest = format_args!("whether direct egress ends by itself is not known: {problem}");
            Failure::new(exit, format_args!("{said}; {rest}"))
        }
    }
}

/// Gives the deadline that was set; `None`, it is as it was.
fn arm(settings: &Settings) -> Result<Option<Duration>, DatapathError> {
    if Control::open(&settings.pins)?.is_none() {
        return Ok(None);
    }
    let _lock = settings.pins.lock()?;
    let Some(mut control) = Control::open(&settings.pins)? else { return Ok(None) };
    let Some(deadline) = wanted(settings) else { return Ok(None) };
    if control.standing()?.deadline.is_some() {
        return Ok(None);
    }
    control.renew(Some(deadline))?;
    Ok(Some(deadline))
}

/// By what serves; where that is not readable, by the configuration file; where that is not either, as
/// where nothing is said. `None` is without end.
fn wanted(settings: &Settings) -> Option<Duration> {
    let served = recall(&Store::peek(&settings.state_dir), SERVING, &settings.config);
    if let Ok(Some((served, _))) = served {
        return served.config.deadline;
    }
    Config::read(&settings.config).map_or(Some(DEFAULT_DEADLINE), |config| config.deadline)
}
