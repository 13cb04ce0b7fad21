//! The RPM, installed, upgraded and removed: which programs its scripts call, in which order, and what is
//! there afterwards. The Debian package is tried under a real systemd, by `cargo xtask vm systemd`.

use std::path::Path;

use anyhow::{Result, bail};

use crate::process::{Failed, command, run};

/// Runs in mounts and a network of its own: `breakout365 down` is the real one.
const SCRIPT: &str = include_str!("installed.sh");

/// What has to happen. An upgrade runs the new package's scripts before those of the old one.
const EXPECTED: &str = "\
install
  systemd-sysusers breakout365.conf
  systemctl --system daemon-reload
  as packed
  with users
  a program
upgrade
  systemd-sysusers breakout365.conf
  systemctl --system daemon-reload
  systemctl --system daemon-reload
  systemctl try-restart breakout365.service breakout365-exporter.service
  one package
  with the configuration as it was
remove
  systemctl --no-reload disable --now breakout365-exporter.service breakout365.service
  breakout365 down
  systemctl --system daemon-reload
  gone
  with its configuration put aside
";

/// Installs the first of two RPMs, upgrades to the second, and removes it.
///
/// # Errors
///
/// Something does not run, or happens otherwise.
pub(super) fn rpms(first: &Path, second: &Path) -> Result<String> {
    let place = tempfile::tempdir()?;
    let mut script = command("unshare");
    script.args(["--mount", "--net", "sh", "-ec", SCRIPT, "sh"]);
    script.arg(place.path()).args([first, second]);
    let happened = run(&mut script).inspect_err(|Failed { output, .. }| eprintln!("{output}"))?;
    if happened.stdout != EXPECTED {
        bail!("what happened is not\n{EXPECTED}but\n{}{}", happened.stdout, happened.stderr);
    }
    Ok("installed, upgraded and removed".to_owned())
}
