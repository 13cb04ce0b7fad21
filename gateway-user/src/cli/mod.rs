//! The verbs of `breakout365`, one file each.

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
pub enum Verb {}

/// Parses the command line, runs the verb and prints its failure, if any, as one line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::from(Exit::Success as u8),
        Err(failure) => {
            eprintln!("breakout365: {failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    match cli.verb {}
}
