//! Development tasks of breakout365.

#![forbid(unsafe_code)]

mod lab;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "xtask", about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows Microsoft 365 traffic leaving directly and everything else inspected
    Lab(lab::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Lab(args) => lab::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
