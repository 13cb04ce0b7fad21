//! Packages of Debian and its relatives.

use std::cell::Cell;

use nix::unistd::geteuid;

use super::{say, show};
use crate::process::{Failed, command, find, run};

/// apt, if this process may use it. Package lists are fetched at most once, and only when those
/// at hand do not do.
#[derive(Default)]
pub(super) struct Apt {
    updated: Cell<bool>,
}

impl Apt {
    /// Whether packages can be installed.
    pub(super) fn is_usable() -> bool {
        geteuid().is_root() && find("apt-get").is_some()
    }

    /// Whether `package` can be installed in a version that `is_good`.
    pub(super) fn offers(&self, package: &str, is_good: impl Fn(&str) -> bool) -> bool {
        let good = || candidate(package).is_some_and(|version| is_good(&version));
        good() || (self.update() && good())
    }

    /// Installs `packages`; removes none, so that a conflict is an error and not a surprise.
    pub(super) fn install(&self, packages: &[&str]) -> Result<(), Failed> {
        let install = || {
            run(command("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["install", "--yes", "--no-install-recommends", "--no-remove", "--quiet"])
                .args(["-o", "DPkg::Lock::Timeout=300"])
                .args(packages))
        };
        let outcome = match install() {
            Err(_) if self.update() => install(),
            outcome => outcome,
        };
        outcome.map(drop)
    }

    /// Fetches the package lists if that was not done before; `true` if it was done now.
    fn update(&self) -> bool {
        if self.updated.replace(true) {
            return false;
        }
        say("fetching", "package lists (apt-get update): those at hand do not do");
        match run(command("apt-get").args(["update", "--quiet", "-o", "DPkg::Lock::Timeout=300"])) {
            Ok(_) => true,
            Err(failed) => {
                show(&failed);
                false
            }
        }
    }
}

/// The version of `package` that would be installed.
fn candidate(package: &str) -> Option<String> {
    let printed = run(command("apt-cache").env("LC_ALL", "C").args(["policy", package])).ok()?;
    let version =
        printed.stdout.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}
