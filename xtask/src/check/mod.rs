//! `cargo xtask check`: everything that can be said of the source without running it.

mod dependencies;
mod lint;
mod object;
mod units;

use std::env;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

pub(crate) use lint::USER_SPACE;

use crate::process::{self, Failed, cargo, command};

/// What a check that did not fail has to say.
enum Outcome {
    /// It holds; a few words on what was looked at, or none.
    Holds(String),
    /// It could not be looked at here, for this reason.
    LeftOut(String),
}

/// One check: what holds if it passes.
struct Check {
    promise: &'static str,
    run: fn(&Workspace) -> Result<Outcome>,
}

/// In the order of what is quickest to fail, and such that later ones use what earlier ones
/// compiled.
const CHECKS: [Check; 12] = [
    Check { promise: "source is formatted", run: lint::format },
    Check { promise: "no BPF object is committed", run: object::none_committed },
    Check { promise: "every dependency has its reason", run: dependencies::documented },
    Check { promise: "services are sandboxed", run: units::sandboxed },
    Check { promise: "licences, bans, sources", run: dependencies::licences_bans_sources },
    Check { promise: "no known vulnerability", run: dependencies::advisories },
    Check { promise: "no lint in user space", run: lint::user_space },
    Check { promise: "no lint in user space, packet-log", run: lint::user_space_packet_log },
    Check { promise: "no lint in the BPF programs", run: lint::bpf_programs },
    Check { promise: "documentation builds", run: lint::documentation },
    Check { promise: "user space leaves the BPF object alone", run: object::left_alone },
    Check { promise: "the BPF object is reproducible", run: object::reproducible },
];

/// Runs every check, stops at the first that fails, and says how many there were.
///
/// # Errors
///
/// A check fails; what its tools printed has been shown.
pub(crate) fn run() -> Result<usize> {
    let workspace = Workspace::here();
    for check in &CHECKS {
        print!("check: {:<40} ", check.promise);
        std::io::stdout().flush()?;
        let start = Instant::now();
        let outcome = (check.run)(&workspace);
        let seconds = start.elapsed().as_secs_f32();
        match outcome {
            Ok(Outcome::Holds(detail)) => println!("ok       {seconds:>6.1} s  {detail}"),
            Ok(Outcome::LeftOut(reason)) => println!("left out {seconds:>6.1} s  {reason}"),
            Err(error) => {
                println!("FAILED   {seconds:>6.1} s");
                if let Some(failed) = error.downcast_ref::<Failed>() {
                    eprintln!("{}", failed.output.trim_end());
                }
                return Err(error.context(format!("check failed: {}", check.promise)));
            }
        }
    }
    Ok(CHECKS.len())
}

/// The workspace that is checked.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The one that xtask is in.
    pub(crate) fn here() -> Self {
        // What cargo says now, not when xtask was compiled: the directory may have moved.
        let xtask = env::var_os("CARGO_MANIFEST_DIR")
            .unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
        let xtask = PathBuf::from(xtask);
        Self { root: xtask.parent().map_or_else(|| xtask.clone(), Path::to_path_buf) }
    }

    /// Its directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The version of all its packages.
    ///
    /// # Errors
    ///
    /// Its manifest says none.
    pub(crate) fn version(&self) -> Result<String> {
        let manifest = std::fs::read_to_string(self.root.join("Cargo.toml"))?;
        let line = manifest.lines().find_map(|line| line.strip_prefix("version = "));
        match line {
            Some(version) => Ok(version.trim_matches('"').to_owned()),
            None => bail!("Cargo.toml does not say the version"),
        }
    }

    /// cargo, in the workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = cargo();
        cargo.current_dir(&self.root);
        cargo
    }

    /// The files that git has, or would add with `also` options, relative to the root.
    fn git_files(&self, also: &[&str]) -> Result<Vec<PathBuf>> {
        let printed = process::run(
            command("git")
                // As root in somebody else's clone git would refuse to say.
                .args(["-c", "safe.directory=*", "ls-files", "-z"])
                .args(also)
                .current_dir(&self.root),
        )?;
        let files: Vec<_> = printed.stdout.split_terminator('\0').map(PathBuf::from).collect();
        if files.is_empty() {
            bail!("git knows no file in {}: run this in a clone", self.root.display());
        }
        Ok(files)
    }
}
