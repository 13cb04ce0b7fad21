//! `cargo xtask fuzz`: runs the targets of `fuzz/`, one after the other, each for a while.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::process::command;
use crate::setup::cargo_fuzz;

/// The targets, each with a directory to start from, where the repository has one.
const TARGETS: [(&str, Option<&str>); 4] = [
    ("feed", Some("gateway-user/tests/fixtures")),
    ("config", Some("pkg/config")),
    ("classify", None),
    ("plan_laws", None),
];
/// Longest input in bytes: the feed has 50 KiB, and long inputs are slow ones.
const LONGEST: u32 = 64 << 10;

/// What `cargo xtask fuzz` can be told.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,

    /// Only this target
    #[arg(long)]
    target: Option<String>,
}

/// Runs each target; stops at the first that finds something.
///
/// What was found to be worth trying is kept in `fuzz/corpus` for the next time, and an input that
/// breaks a promise in `fuzz/artifacts`.
///
/// # Errors
///
/// cargo-fuzz cannot be had, a target does not build, or it found something.
pub(crate) fn run(options: &Options) -> Result<()> {
    let fuzzer = cargo_fuzz()?;
    let xtask =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let xtask = PathBuf::from(xtask);
    let root = xtask.parent().unwrap_or(Path::new("."));
    let chosen = |name: &str| options.target.as_ref().is_none_or(|target| target == name);
    let targets: Vec<_> = TARGETS.into_iter().filter(|(name, _)| chosen(name)).collect();
    if targets.is_empty() {
        bail!("no such target; there are {}", TARGETS.map(|(name, _)| name).join(", "));
    }
    for (name, seeds) in &targets {
        println!("fuzz: {name}, {} s", options.seconds);
        let corpus = Path::new("corpus").join(name);
        let directory = root.join("fuzz");
        std::fs::create_dir_all(directory.join(&corpus)).context("cannot create the corpus")?;
        let mut command = command(&fuzzer);
        if let Some(cargo) = env::var_os("CARGO") {
            command.env("CARGO", cargo);
        }
        // Of a sanitizer's findings there are none in code without `unsafe`, and without one a
        // stable compiler will do.
        command.args(["fuzz", "run", "--sanitizer", "none", name]).arg(&corpus);
        command.args(seeds.map(|seeds| root.join(seeds)));
        command.arg("--").arg(format!("-max_total_time={}", options.seconds));
        command.args([format!("-max_len={LONGEST}"), "-print_final_stats=1".to_owned()]);
        let status = command
            .current_dir(&directory)
            .stdout(Stdio::inherit())
            .status()
            .context("cannot run cargo-fuzz")?;
        if !status.success() {
            bail!(
                "target {name}: {status}; the input is in fuzz/artifacts/{name}: mend the code, and \
                 keep the input as a test"
            );
        }
    }
    println!("fuzz: {} targets found nothing", targets.len());
    Ok(())
}
