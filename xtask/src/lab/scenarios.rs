//! `cargo xtask lab --scenario`: real inspection systems beside the product, one after the other.

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde_json::json;
use xtask::scenario::{Name, Outcome, Setting};
use xtask::testbed::{Interrupt, Owner};

use super::{Args, step};

/// One scenario, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    One(Name),
    All,
}

impl ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        const VARIANTS: [Choice; 7] = {
            let [a, b, c, d, e, f] = Name::ALL;
            [
                Choice::One(a),
                Choice::One(b),
                Choice::One(c),
                Choice::One(d),
                Choice::One(e),
                Choice::One(f),
                Choice::All,
            ]
        };
        &VARIANTS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::One(name) => name.to_possible_value(),
            Self::All => Some(PossibleValue::new("all").help("One after the other")),
        }
    }
}

/// Runs what was chosen.
///
/// # Errors
///
/// One cannot be set up, was skipped because something is not installed, or saw something else than
/// was expected.
pub(super) fn run(
    choice: Choice,
    args: &Args,
    binary: PathBuf,
    interrupt: Interrupt,
) -> Result<()> {
    let names = match choice {
        Choice::One(name) => vec![name],
        Choice::All if args.keep => bail!("--keep leaves one scenario up; name it"),
        Choice::All => Name::ALL.into(),
    };
    let owner = if args.keep { Owner::Person } else { Owner::Process };
    let origins = args.keep.then(env::current_exe).transpose().context("cannot find xtask")?;
    let setting = Setting { binary, hook: args.hook, owner, origins, interrupt: Some(interrupt) };
    let (mut reports, mut skipped, mut differing) = (Vec::new(), Vec::new(), 0);
    for name in &names {
        step(&format!("scenario {}", name.name()));
        match name.run(&setting)? {
            Outcome::Skipped(reason) => {
                step(&format!("scenario {} SKIPPED: {reason}", name.name()));
                skipped.push(json!({ "scenario": name, "reason": reason }));
            }
            Outcome::Ran(report, stage) => {
                if !args.json {
                    println!("{}\n", report.text());
                }
                differing += report.differing().len();
                reports.push(report);
                if args.keep {
                    step("the lab stays up. To look around:");
                    for line in stage.keep() {
                        eprintln!("    {line}");
                    }
                    eprintln!("To remove it:  cargo xtask lab --remove");
                }
            }
        }
    }
    let (ran, absent) = (reports.len(), skipped.len());
    if args.json {
        let document = json!({ "scenarios": reports, "skipped": skipped });
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        println!(
            "lab: {} scenarios, {ran} ran, {absent} skipped, {differing} expectations did not hold",
            names.len()
        );
    }
    match (differing, absent) {
        (0, 0) => Ok(()),
        (0, _) => bail!("{absent} of {} scenarios were skipped, see above", names.len()),
        _ => bail!("{differing} of the scenarios' expectations did not hold"),
    }
}
