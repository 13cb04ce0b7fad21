//! Development tasks of breakout365: `cargo xtask <verb>`, one file or directory per verb.

#![forbid(unsafe_code)]

mod bench;
mod check;
mod fuzz;
mod lab;
mod package;
mod process;
mod setup;
mod test;
mod vm;

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
    /// Set up, and show Microsoft 365 traffic leaving directly and everything else inspected
    Lab(lab::Args),
    /// Set up, and run the fuzz targets
    Fuzz(fuzz::Options),
    /// Set up, and measure
    #[command(subcommand)]
    Bench(bench::Benchmark),
    /// Set up, and build the packages
    Package(package::Options),
    /// Set up, and run the product where this machine cannot
    #[command(subcommand)]
    Vm(vm::Verb),
}

fn main() -> ExitCode {
    let set_up = || setup::run(&setup::Options::default());
    let outcome = match Cli::parse().verb {
        Verb::Setup(options) => setup::run(&options),
        Verb::Check => setup_and_check(),
        Verb::Test => test::run(),
        Verb::Fuzz(options) => set_up().and_then(|()| fuzz::run(&options)),
        Verb::Bench(benchmark) => set_up().and_then(|()| bench::run(&benchmark)),
        Verb::Package(options) => set_up().and_then(|()| package::run_verb(&options)),
        Verb::Vm(verb) => set_up().and_then(|()| vm::run(&verb)),
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

fn setup_and_check() -> anyhow::Result<()> {
    setup::run(&setup::Options::default())?;
    let checks = check::run()?;
    println!("check: {checks} checks passed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::error::ErrorKind;

    use super::*;

    /// What stands for a value in the papers.
    const PLACEHOLDERS: [(&str, &str); 1] = [("NAME", "ips")];

    #[test]
    fn every_task_that_the_papers_name_is_one() {
        let commands = xtask::papers::commands(&BTreeSet::new()).expect("the papers are there");
        let mut tasks = 0;
        for (command, papers) in &commands {
            let Some(task) = command.strip_prefix("cargo ") else { continue };
            if !task.starts_with("xtask ") {
                continue;
            }
            let words = task.split(' ').map(|word| {
                PLACEHOLDERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, value)| value)
            });
            if let Err(error) = Cli::try_parse_from(words) {
                // A group of verbs is named without one.
                let group = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
                assert_eq!(error.kind(), group, "`{command}` in {papers:?}: {error}");
            }
            tasks += 1;
        }
        assert!(tasks > 5, "the papers are read wrongly");
    }
}
