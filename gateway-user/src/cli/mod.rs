//! The verbs of `breakout365`, one file each.

mod down;
mod output;
mod run;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::datapath::Pins;
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
    /// The daemon in the foreground.
    Run(run::RunArgs),
    /// What is loaded and what it has decided.
    Status(status::StatusArgs),
    /// Take back everything that is ours.
    Down(down::DownArgs),
}

/// Parses the command line, runs the verb and prints its failure, if any, as one line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(()) => ExitCode::from(Exit::Success as u8),
        Err(failure) => {
            eprintln!("breakout365: {failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    let pins = Pins::new(&cli.pins);
    match &cli.verb {
        Verb::Run(args) => run::run(args, &pins),
        Verb::Status(args) => status::run(args, &pins),
        Verb::Down(args) => down::run(args, &pins),
    }
}

/// Runs what needs an event loop.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::System, format!("cannot start an event loop: {error}")))
}
