//! `cargo xtask vm`: the product under kernels and a service manager that this machine does not run.

mod archive;
mod console;
mod image;
mod machine;
mod report;
mod series;
mod systemd;

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use xtask::testbed::Interrupt;

use crate::lab;
use crate::setup::{cache_dir, emulator};

use archive::Kernel;
use console::Console;
use report::{Report, Verdict};
use series::Series;

/// What to run there.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Boot Debian's kernels in an emulator, and load, attach, ask and take down there
    Kernels(Options),
    /// Boot Debian 12 in an emulator, and install, run, upgrade and remove the package there
    Systemd(systemd::Options),
}

/// Options of `cargo xtask vm kernels`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these kernels
    #[arg(long = "kernel", value_name = "SERIES", num_args = 1..)]
    kernels: Vec<Series>,

    /// How many seconds each may take
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

/// Memory of a guest that is busybox and the product.
const MEMORY: &str = "512M";

/// Runs what was asked for.
///
/// # Errors
///
/// Something does not hold there, or cannot be tried.
pub(crate) fn run(verb: &Verb) -> Result<()> {
    if ARCH != "x86_64" {
        bail!("kernels are fetched and emulated for x86-64 only, and this is {ARCH}");
    }
    emulator()?;
    match verb {
        Verb::Kernels(options) => kernels(options),
        Verb::Systemd(options) => systemd::run_trial(options),
    }
}

/// Boots each kernel, one after the other, and says what came of it. One that cannot be had is
/// skipped.
///
/// # Errors
///
/// The product does not work under a kernel, or there was none to try.
fn kernels(options: &Options) -> Result<()> {
    step("building breakout365");
    let binary = lab::build()?;
    let cache = cache_dir()?.join("vm");
    let interrupt = Interrupt::watch()?;
    let chosen = |series: &&Series| options.kernels.is_empty() || options.kernels.contains(series);
    let mut report = Report::default();
    for series in Series::ALL.iter().filter(chosen) {
        interrupt.check()?;
        let directory = cache.join(series.name());
        let kernel = match archive::kernel(*series, &directory) {
            Ok(kernel) => kernel,
            Err(error) => {
                report.add(*series, Verdict::Skipped(format!("{error:#}")));
                continue;
            }
        };
        step(&format!("booting {}", kernel.release));
        let trial = Trial { series: *series, binary: &binary, directory: &directory };
        let limit = Duration::from_secs(options.timeout);
        report.add(*series, Verdict::Tried(trial.run(&kernel, limit, &interrupt)?));
    }
    report.print();
    report.judge()
}

/// One kernel's turn.
struct Trial<'a> {
    series: Series,
    binary: &'a Path,
    directory: &'a Path,
}

impl Trial<'_> {
    fn run(&self, kernel: &Kernel, limit: Duration, interrupt: &Interrupt) -> Result<Console> {
        let files = tempfile::tempdir().context("cannot make a temporary directory")?;
        let initramfs = image::build(files.path(), self.binary, kernel)?;
        let log = self.log();
        let boot = machine::Boot {
            kernel: &kernel.image,
            initramfs: &initramfs,
            parameter: format!("tc={}", self.series.tc()),
            memory: MEMORY,
            log: &log,
        };
        boot.run(limit, interrupt)?;
        let said = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let console = Console::read(&String::from_utf8_lossy(&said));
        for problem in console.problems() {
            step(&format!("{}: {problem}", self.series.name()));
        }
        if !console.passed() {
            step(&format!("{}: all it said is in {}", self.series.name(), log.display()));
        }
        Ok(console)
    }

    fn log(&self) -> PathBuf {
        self.directory.join("console.log")
    }
}

/// Says what happens next, where it does not mix with the result.
fn step(text: &str) {
    eprintln!("vm: {text}");
}
