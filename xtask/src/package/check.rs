//! What has to be true of the packages.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::stage::{SHARED, Stage};
use super::{debian, installed, red_hat};
use crate::check::Workspace;
use crate::process::{Failed, command, run};

/// In both, wherever else they differ.
const FILES: [&str; 11] = [
    "/usr/bin/breakout365",
    "/etc/breakout365/config.toml",
    "/lib/systemd/system/breakout365.service",
    "/lib/systemd/system/breakout365-exporter.service",
    "/lib/systemd/system/breakout365-pins.service",
    "/usr/lib/sysusers.d/breakout365.conf",
    "/usr/lib/tmpfiles.d/breakout365.conf",
    "/usr/share/man/man1/breakout365.1",
    "/usr/share/man/man1/breakout365-run.1",
    "/usr/share/bash-completion/completions/breakout365",
    "/usr/share/zsh/vendor-completions/_breakout365",
];
/// The newest C library that the binary may ask for: that of Debian 12.
const NEWEST_GLIBC: (u32, u32) = (2, 36);

/// Runs every check, and says what was found.
///
/// # Errors
///
/// One does not hold.
pub(super) fn run_all(workspace: &Workspace, stage: &Stage) -> Result<()> {
    let deb = stage.directory().join("breakout365.deb");
    let rpm = stage.directory().join("breakout365.rpm");
    say("binary", &binary(stage)?);
    say("deb", &content_of_deb(stage, &deb)?);
    say("lintian", &lintian(&deb)?);
    say("rpm", &content_of_rpm(stage, &rpm)?);
    let before = [fs::read(&deb)?, fs::read(&rpm)?];
    debian(workspace, stage, None)?;
    red_hat(workspace, stage, None)?;
    if before != [fs::read(&deb)?, fs::read(&rpm)?] {
        bail!("the same files do not give the same packages");
    }
    say("reproducible", "both packages, byte for byte");
    let next = red_hat(workspace, stage, Some("2"))?;
    say("rpm", &installed::rpms(&rpm, &next)?);
    Ok(())
}

fn say(what: &str, found: &str) {
    println!("package: ok {what:<14} {found}");
}

fn binary(stage: &Stage) -> Result<String> {
    let binary = stage.directory().join("release/breakout365");
    let printed = run(command("objdump").arg("-T").arg(&binary))?;
    let newest = newest_glibc(&printed.stdout).context("the binary asks for no C library")?;
    let (major, minor) = newest;
    if newest > NEWEST_GLIBC {
        bail!("the binary asks for glibc {major}.{minor}, which Debian 12 does not have");
    }
    Ok(format!("{} KiB, glibc {major}.{minor}", fs::metadata(binary)?.len() / 1024))
}

/// The newest version in `GLIBC_2.34`, `GLIBC_2.2.5` and the like.
fn newest_glibc(symbols: &str) -> Option<(u32, u32)> {
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let digits = rest.split(|next: char| !next.is_ascii_digit() && next != '.').next()?;
        let mut parts = digits.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    });
    versions.max()
}

fn content_of_deb(stage: &Stage, deb: &Path) -> Result<String> {
    let listed = run(command("dpkg-deb").arg("--contents").arg(deb))?.stdout;
    // `-rw-r--r-- root/root 3480 2026-01-01 00:00 ./etc/…`
    let lines: Vec<Vec<&str>> =
        listed.lines().map(|line| line.split_whitespace().collect()).collect();
    for line in &lines {
        if !matches!(line.get(1), Some(&"root/root" | &"0/0")) {
            bail!("not of root: {}", line.join(" "));
        }
    }
    let files: BTreeSet<String> = lines
        .iter()
        .filter_map(|line| line.get(5)?.strip_prefix('.'))
        .map(|name| name.trim_end_matches(".gz").to_owned())
        .collect();
    are_there(&files, stage, str::to_owned)?;
    let control = tempfile::tempdir()?;
    run(command("dpkg-deb").arg("--control").arg(deb).arg(control.path()))?;
    let read = |name: &str| fs::read_to_string(control.path().join(name));
    if read("conffiles")?.trim() != "/etc/breakout365/config.toml" {
        bail!("the configuration is not the one conffile");
    }
    for (script, words) in [
        ("postinst", "systemd-sysusers breakout365.conf"),
        ("prerm", "breakout365 down"),
        ("postrm", "rm -rf /var/lib/breakout365"),
    ] {
        if !read(script)?.contains(words) {
            bail!("{script} lacks `{words}`");
        }
    }
    let fields = read("control")?;
    for field in ["Package: breakout365\n", "libc6 (>= ", "systemd", "Recommends: nftables"] {
        if !fields.contains(field) {
            bail!("the control file lacks {field:?}:\n{fields}");
        }
    }
    Ok(format!("{} entries, {} KiB", files.len(), fs::metadata(deb)?.len() / 1024))
}

/// Faults that are shown although they are overridden count as faults; so they are not shown.
fn lintian(deb: &Path) -> Result<String> {
    let mut lintian = command("lintian");
    lintian.args(["--fail-on", "error,warning", "--allow-root"]).arg(deb);
    run(&mut lintian).inspect_err(|Failed { output, .. }| eprintln!("{output}"))?;
    Ok("no error, no warning".to_owned())
}

fn content_of_rpm(stage: &Stage, rpm: &Path) -> Result<String> {
    let ask = |what: &[&str]| -> Result<String> {
        Ok(run(command("rpm").args(["--query", "--package"]).args(what).arg(rpm))?.stdout)
    };
    let files: BTreeSet<String> = ask(&["--list"])?.lines().map(str::to_owned).collect();
    // A distribution where /lib is /usr/lib has it there.
    are_there(&files, stage, |file| match file.strip_prefix("/lib/") {
        Some(rest) => format!("/usr/lib/{rest}"),
        None => file.to_owned(),
    })?;
    if ask(&["--configfiles"])?.trim() != "/etc/breakout365/config.toml" {
        bail!("the configuration is not the one configuration file");
    }
    let scripts = ask(&["--scripts"])?;
    for words in ["systemd-sysusers breakout365.conf", "breakout365 down", "try-restart"] {
        if !scripts.contains(words) {
            bail!("the scripts lack `{words}`:\n{scripts}");
        }
    }
    let requires = ask(&["--requires"])?;
    for needed in ["libc.so.6", "systemd"] {
        if !requires.contains(needed) {
            bail!("it does not require {needed}:\n{requires}");
        }
    }
    Ok(format!("{} entries, {} KiB", files.len(), fs::metadata(rpm)?.len() / 1024))
}

/// Every file that has to be there, under the name that `place` gives it.
fn are_there(
    files: &BTreeSet<String>,
    stage: &Stage,
    place: impl Fn(&str) -> String,
) -> Result<()> {
    for file in FILES {
        if !files.contains(&place(file)) {
            bail!("{file} is not in it");
        }
    }
    // What tells Prometheus is shipped with what is to be made of it.
    let tells = stage.share().join("man/man1/breakout365-exporter.1").exists();
    for name in SHARED.iter().filter(|_| tells) {
        let directory = format!("/usr/share/breakout365/{name}/");
        if !files.iter().any(|file| file.starts_with(&directory) && *file != directory) {
            bail!("nothing is in {directory}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_c_library_is_found_by_number_not_by_letter() {
        let symbols = "0 DF *UND* 0 (GLIBC_2.2.5) a\n0 DF *UND* 0 (GLIBC_2.34) b\n GLIBC_2.9 c";
        assert_eq!(newest_glibc(symbols), Some((2, 34)));
        assert_eq!(newest_glibc("none"), None);
    }
}
