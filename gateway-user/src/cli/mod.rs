//! The verbs of `breakout365`, one file each.

mod explain;
mod feed;
mod input;
mod output;
mod policy;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::{Exit, Failure};

/// Direct egress for Microsoft 365 traffic on Linux gateways.
#[derive(Debug, Parser)]
#[command(name = "breakout365", version, about)]
pub struct Cli {
    /// Directory on a BPF file system that holds what is loaded
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf/breakout365")]
    pub pins: PathBuf,

    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Microsoft's endpoint list
    #[command(subcommand)]
    Feed(feed::Verb),
    /// What the policy sends direct
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Where packets to a destination go, and why
    Explain(explain::Arguments),
}

/// Parses the command line, runs the verb and prints its failure, if any, as one line.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => run(&cli),
        Err(error) if error.use_stderr() && !asks_for_help(&error) => Err(usage(&error)),
        // Help and version, or help where a verb is missing.
        Err(error) => error.exit(),
    };
    match outcome {
        Ok(()) => ExitCode::from(Exit::Success as u8),
        Err(failure) => {
            // With standard error closed, the exit code is all that can still be said.
            let _ = writeln!(std::io::stderr(), "breakout365: {failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    match &cli.verb {
        Verb::Feed(verb) => feed::run(verb),
        Verb::Policy(verb) => policy::run(verb),
        Verb::Explain(arguments) => explain::run(arguments),
    }
}

fn asks_for_help(error: &clap::Error) -> bool {
    error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// clap's message without the usage below it.
fn usage(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let problem = text.split("\n\nUsage:").next().unwrap_or_default();
    let problem = problem.strip_prefix("error: ").unwrap_or(problem);
    let problem = problem.split("\n\nFor more information").next().unwrap_or_default();
    Failure::new(Exit::Usage, format_args!("{problem}; see `breakout365 --help`"))
}
