//! Development tasks of breakout365: `cargo xtask <verb>`, one file or directory per verb.

#![forbid(unsafe_code)]

mod check;
mod process;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development tasks of breakout365
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Find or install what build, tests and lab need
    Setup(setup::Options),
    /// Run every check that needs no kernel: format, lints, docs, dependencies, BPF object
    Check,
    /// Set up, check, and run every test (as root)
    Test,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Setup(options) => setup::run(&options),
        Verb::Check => setup_and_check(),
        Verb::Test => test::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn setup_and_check() -> anyhow::Result<()> {
    setup::run(&setup::Options::default())?;
    let checks = check::run()?;
    println!("check: {checks} checks passed");
    Ok(())
}
