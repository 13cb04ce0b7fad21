//! `breakout365 explain`: where packets to one destination go, and why.

mod answer;
mod near;
mod question;

use gateway_common::Reason;
use std::collections::BTreeSet;
use std::path::Path;

use super::input::Input;
use super::output;
use crate::config::Interface;
use crate::datapath::{self, Control, DatapathError, Pins, require_privileges};
use crate::exit::{Exit, Failure};
use crate::policy::{SupportIdentity, Table, feed_ids};
use crate::window::kernel_now;
use answer::{ProgramAnswer, ask_oracle};
use question::Question;

/// Where packets to a destination go, and why
#[derive(Debug, clap::Args)]
#[command(override_usage = "breakout365 explain [OPTIONS] [SOURCE] <DESTINATION> <PROTOCOL/PORT>")]
pub struct ExplainArgs {
    /// Source address, if it matters; destination address; protocol and destination port, such as
    /// tcp/443
    #[arg(value_name = "QUESTION", num_args = 2..=3, required = true)]
    question: Vec<String>,

    /// The inside interface that packets come in by, if it matters
    #[arg(long = "in", value_name = "INTERFACE")]
    ingress: Option<String>,

    #[command(flatten)]
    input: Input,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &ExplainArgs, pins: &Pins, state_dir: &Path) -> Result<(), Failure> {
    let said = Question::read(&arguments.question, arguments.ingress.clone())?;
    let mut loaded = arguments.input.load(state_dir)?;
    refuse_unclassified(&said, &loaded.interfaces)?;
    let question = said.clone().with_a_listed_source(&loaded.policy.sources);
    let windows = open_windows(pins)?;
    let answer = loop {
        let before = kernel_now().map_err(|problem| Failure::new(Exit::System, problem))?;
        loaded.open_windows(&windows, before)?;
        let mut answer = ask_oracle(&loaded, &said, &question);
        answer.loaded = ask_program(pins, &question, &loaded.compiled.table)?;
        let after = kernel_now().map_err(|problem| Failure::new(Exit::System, problem))?;
        // One that ended in between was open for the one and over for the other.
        if !windows.windows.iter().any(|window| (before..=after).contains(&window.end)) {
            break answer;
        }
    };
    if arguments.json {
        output::json(&answer)?;
    } else {
        output::text(&answer.to_string())?;
    }
    answer.check()
}

/// The support windows of what is loaded; none where nothing is, or where it may not be looked at.
fn open_windows(pins: &Pins) -> Result<SupportIdentity, Failure> {
    if require_privileges().is_err() {
        return Ok(SupportIdentity::default());
    }
    match datapath::Loaded::open(pins) {
        Err(DatapathError::NothingLoaded { .. }) => Ok(SupportIdentity::default()),
        other => Ok(other?.manifest().support.clone()),
    }
}

/// Of an interface that is not attached there is nothing to explain.
fn refuse_unclassified(question: &Question, inside: &[Interface]) -> Result<(), Failure> {
    match &question.ingress {
        Some(name)
            if !inside.is_empty() && !inside.iter().any(|interface| interface.name == *name) =>
        {
            let problem = format_args!(
                "{name:?} is no [[interface]] of the configuration: what comes in by it is not \
                 classified, so it is inspected"
            );
            Err(Failure::new(Exit::Usage, problem))
        }
        Some(_) | None => Ok(()),
    }
}

/// What the loaded program says. Nothing loaded, or no right to ask, is no answer; anything else
/// that goes wrong is a failure.
fn ask_program(
    pins: &Pins,
    question: &Question,
    table: &Table,
) -> Result<Option<ProgramAnswer>, Failure> {
    if require_privileges().is_err() {
        return Ok(None);
    }
    let loaded = match datapath::Loaded::open(pins) {
        Err(DatapathError::NothingLoaded { .. }) => return Ok(None),
        other => other?,
    };
    let manifest = loaded.manifest();
    // An interface that is not listed there is as good as any other one.
    let listed = question.ingress.as_ref().and_then(|name| manifest.sources.interfaces.get(name));
    let ingress = match listed {
        Some(Some(index)) => *index,
        // It did not exist: no packet has come in by it.
        Some(None) => return Ok(None),
        None => 0,
    };
    let Some(probe) = question.probe(ingress) else { return Ok(None) };
    // Somebody may switch in between: either answer is right then.
    let before = refusal(pins)?;
    let said = loaded.ask(&probe)?;
    let after = refusal(pins)?;
    let own = manifest.own.iter().filter(|own| said.sets.contains(&own.id));
    Ok(Some(ProgramAnswer {
        generation: manifest.generation,
        feed: manifest.feed.version.clone(),
        mode: manifest.mode,
        verdict: if said.reason == Reason::Matched { "direct" } else { "inspect" },
        reason: said.reason.name(),
        own: own.map(|own| own.name.clone()).collect(),
        sets: feed_ids(&said.sets),
        matched: said.sets.iter().copied().collect(),
        same_table: manifest.table == table.digest(),
        inspecting: after.map(Reason::name),
        refusals: BTreeSet::from([before, after]),
    }))
}

/// Why nothing goes direct at this moment, if so.
fn refusal(pins: &Pins) -> Result<Option<Reason>, DatapathError> {
    match Control::open(pins)? {
        Some(control) => Ok(control.standing()?.refusal),
        None => Ok(None),
    }
}
