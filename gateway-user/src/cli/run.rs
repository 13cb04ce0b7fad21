//! `run`: the daemon in the foreground.

use std::io;
use std::path::PathBuf;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::Cli;
use crate::daemon::{self, Settings};
use crate::datapath::Pins;
use crate::exit::Failure;

/// Publish, hold and follow changes, in the foreground
///
/// SIGHUP reads the configuration again; SIGTERM stops and, unless `on-stop = "detach"`, leaves
/// the data plane marking. Log lines go to standard error; `RUST_LOG` changes how many.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = crate::config::DEFAULT_PATH)]
    config: PathBuf,
}

/// Runs the verb.
///
/// # Errors
///
/// As [`daemon::run`].
pub(super) fn run(args: &RunArgs, cli: &Cli) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .without_time()
        .init();
    let settings = Settings {
        config: args.config.clone(),
        pins: Pins::new(&cli.pins),
        state_dir: cli.state_dir.clone(),
        run_dir: cli.run_dir.clone(),
    };
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(daemon::run(&settings));
    // A resolver that does not answer would keep the process until it gives up.
    runtime.shutdown_background();
    outcome
}
