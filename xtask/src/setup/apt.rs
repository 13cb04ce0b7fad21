//! Packages of Debian and its relatives.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

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

    /// Installs `packages`; removes none, so that a conflict is an error and not a surprise. Of
    /// those with a daemon only the programs are wanted: it is neither started now nor at boot.
    pub(super) fn install(&self, packages: &[&str]) -> Result<(), Failed> {
        let _policy = NoDaemons::declare();
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
        for (_, unit) in DAEMONS.iter().filter(|(daemon, _)| {
            // With or without the suite that it comes from.
            packages.iter().any(|package| package.split('/').next() == Some(daemon))
        }) {
            // Where there is no systemd, nothing starts at boot either.
            run(command("systemctl").args(["disable", "--quiet", unit])).ok();
        }
        outcome.map(drop)
    }

    /// Lets the package lists be fetched once more: there is a new source.
    pub(super) fn forget(&self) {
        self.updated.set(false);
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

/// Packages that bring a daemon, and its unit.
const DAEMONS: [(&str, &str); 5] = [
    ("squid", "squid.service"),
    ("bird2", "bird.service"),
    ("prometheus", "prometheus.service"),
    ("c-icap", "c-icap.service"),
    ("suricata", "suricata.service"),
];
/// What packages ask before they start a daemon: invoke-rc.d(8).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// While it lives, packages start no daemon. A policy that is there already stays.
struct NoDaemons(Option<&'static Path>);

impl NoDaemons {
    fn declare() -> Self {
        let path = Path::new(POLICY);
        let created = OpenOptions::new().write(true).create_new(true).mode(0o755).open(path);
        let Ok(mut file) = created else { return Self(None) };
        // 101 is "not allowed". Where even that cannot be written, an empty policy allows all.
        file.write_all(b"#!/bin/sh\nexit 101\n").ok();
        Self(Some(path))
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            fs::remove_file(path).ok();
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
