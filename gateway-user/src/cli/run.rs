//! `run`: the daemon in the foreground.

use std::io;
use std::path::PathBuf;

use clap::Args;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use super::Cli;
use crate::daemon::{self, Settings};
use crate::datapath::Pins;
use crate::exit::Failure;

/// Publish, hold and follow changes, in the foreground
///
/// SIGHUP reads the configuration again; SIGTERM stops and, unless `on-stop = "detach"`, leaves
/// the data plane marking until its deadline. Log lines go to the journal where systemd has started it,
/// else to standard error; `RUST_LOG` changes how many.
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
    log();
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

/// Records with their fields to the journal where that is where standard error goes, else lines of
/// text, which say in words what fields say.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    if is_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        return registry.with(journal.with_field_prefix(Some("B365".to_owned()))).init();
    }
    let message =
        debug_fn(
            |writer, field, value| {
                if field.name() == "message" { write!(writer, "{value:?}") } else { Ok(()) }
            },
        );
    let lines = fmt::layer().with_writer(io::stderr).with_target(false).without_time();
    registry.with(lines.fmt_fields(message)).init();
}

/// Whether standard error is the stream that systemd has connected with the journal: it says so by
/// device and inode (systemd.exec(5), `JOURNAL_STREAM`), since the variable is inherited by what has its
/// standard error elsewhere.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    nix::sys::stat::fstat(io::stderr())
        .is_ok_and(|file| stream == format!("{}:{}", file.st_dev, file.st_ino))
}
