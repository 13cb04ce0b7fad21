//! `cargo xtask bench`: what things cost, as differences within one run.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::process::cargo;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Benchmark {
    /// Nanoseconds per classified packet over an empty program
    Classify {
        /// Print the figures as a JSON list of {case, hook, prefixes, index, `ns_over_empty`, …}
        #[arg(long)]
        json: bool,

        /// Measure the feed's own table only
        #[arg(long)]
        quick: bool,
    },
    /// Nanoseconds per forwarded packet: by us, and by the ways that gateways have without us
    Gateway {
        /// Print the figures as a JSON object
        #[arg(long)]
        json: bool,

        /// Fewer rounds
        #[arg(long)]
        quick: bool,
    },
    /// Seconds and memory that 100,000 own prefixes take from text to publication
    Scale {
        /// Print the figures as a JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Builds the benchmark in release mode and runs it.
///
/// # Errors
///
/// Not root, or the benchmark fails.
pub(crate) fn run(benchmark: &Benchmark) -> Result<()> {
    if !geteuid().is_root() {
        bail!("benchmarks load BPF programs: run `cargo xtask bench` as root");
    }
    let (name, json, quick) = match benchmark {
        Benchmark::Classify { json, quick } => ("classify", *json, *quick),
        Benchmark::Gateway { json, quick } => ("gateway", *json, *quick),
        Benchmark::Scale { json } => ("scale", *json, false),
    };
    let mut command = cargo();
    command.args(["bench", "--quiet", "--package", "gateway-user", "--bench", name, "--"]);
    command.args(json.then_some("--json")).args(quick.then_some("--quick"));
    let status = command.stdout(Stdio::inherit()).status().context("cannot run cargo bench")?;
    if status.success() { Ok(()) } else { bail!("the benchmark failed, see above") }
}
