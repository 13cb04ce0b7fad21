//! The verbs of `breakout365`, one file each.

mod control;
mod doctor;
mod down;
mod explain;
mod export;
mod exporter;
mod feed;
mod input;
mod output;
mod plan;
pub mod plan_text;
mod policy;
mod redirecting;
mod replay;
mod revoke;
mod run;
mod state_lines;
mod status;
mod support;
mod switch;
mod top;
mod trace;

use std::io::Write as _;
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

    /// Directory for what outlives the daemon: last good feed, journal
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/breakout365")]
    pub state_dir: PathBuf,

    /// Directory of the daemon's sockets
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/breakout365")]
    pub run_dir: PathBuf,

    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// The daemon in the foreground.
    Run(run::RunArgs),
    /// What is in the way of direct traffic.
    Doctor(doctor::DoctorArgs),
    /// What is loaded and what it has decided.
    Status(status::StatusArgs),
    /// Where packets to a destination go, and why.
    Explain(explain::ExplainArgs),
    /// Microsoft's endpoint list.
    #[command(subcommand)]
    Feed(feed::FeedVerb),
    /// What the policy makes of the feed.
    #[command(subcommand)]
    Policy(policy::PolicyVerb),
    /// What waits for a person, and what a reload would change.
    #[command(subcommand)]
    Plan(plan::PlanVerb),
    /// Take the configuration into use.
    Reload(control::ReloadArgs),
    /// Take the configuration into use, on trial.
    Apply(control::ApplyArgs),
    /// Keep what was applied.
    Confirm(control::ConfirmArgs),
    /// Go to the generation before.
    Rollback(control::RollbackArgs),
    /// What goes direct, for the programs that stand beside a gateway.
    Export(export::ExportArgs),
    /// The daemon's state for Prometheus.
    Exporter(exporter::ExporterArgs),
    /// Packets and what is decided of them, as it happens.
    Trace(trace::TraceArgs),
    /// Rates and state, as a terminal shows them.
    Top(top::TopArgs),
    /// What would become of the packets of a capture.
    Replay(replay::ReplayArgs),
    /// Windows in which some clients go direct while a support case is open.
    #[command(subcommand)]
    Support(support::SupportVerb),
    /// Inspect everything from the next packet on, until `on`.
    Off(switch::OffArgs),
    /// Let what is selected go direct again.
    On(switch::SwitchArgs),
    /// End direct flows, so that they are decided anew.
    Revoke(revoke::RevokeArgs),
    /// Take back everything that is ours.
    Down(down::DownArgs),
}

/// Parses the command line, runs the verb and prints its failure, if any, as one line.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => dispatch(&cli),
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

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    let pins = Pins::new(&cli.pins);
    match &cli.verb {
        Verb::Run(args) => run::run(args, cli),
        Verb::Doctor(args) => doctor::run(args, cli),
        Verb::Status(args) => status::run(args, &pins, &cli.run_dir),
        Verb::Explain(args) => explain::run(args, &pins, &cli.state_dir),
        Verb::Feed(verb) => feed::run(verb, &cli.state_dir),
        Verb::Policy(verb) => policy::run(verb, &cli.state_dir),
        Verb::Plan(verb) => verb.run(&cli.run_dir),
        Verb::Reload(args) => args.run(&cli.run_dir),
        Verb::Apply(args) => args.run(&cli.run_dir),
        Verb::Confirm(args) => args.run(&cli.run_dir),
        Verb::Rollback(args) => args.run(&cli.run_dir),
        Verb::Export(args) => export::run(args, &cli.state_dir),
        Verb::Exporter(args) => exporter::run(args, &cli.run_dir),
        Verb::Trace(args) => trace::run(args, &pins),
        Verb::Top(args) => top::run(args, &cli.run_dir),
        Verb::Replay(args) => replay::run(args, &cli.state_dir),
        Verb::Support(verb) => verb.run(&cli.run_dir, &cli.state_dir),
        Verb::Off(args) => switch::off(args, &pins, cli),
        Verb::On(args) => switch::on(args, &pins, &cli.state_dir),
        Verb::Revoke(args) => args.run(&cli.run_dir),
        Verb::Down(args) => down::run(args, &pins, &cli.state_dir),
    }
}

/// Runs what needs an event loop.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::System, format!("cannot start an event loop: {error}")))
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
