//! What goes into the packages and is not in the repository: binary, manual, completions, licences.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::licences;
use crate::check::Workspace;
use crate::lab;
use crate::process::{command, run};

/// Directories of `pkg` that go to `/usr/share/breakout365` as they are, where there are any.
pub(super) const SHARED: [&str; 2] = ["grafana", "alerts"];

/// The directory that the packagers take things from.
#[derive(Debug)]
pub(super) struct Stage {
    directory: PathBuf,
    /// Seconds since 1970, of the last commit: the same source is the same package.
    date: u64,
}

impl Stage {
    /// Builds and writes it all anew.
    ///
    /// # Errors
    ///
    /// Something does not build or cannot be written.
    pub(super) fn fill(workspace: &Workspace, profile: &str) -> Result<Self> {
        let directory = workspace.root().join("target/package");
        fs::remove_dir_all(&directory).ok();
        let stage = Self { directory, date: date_of_last_commit(workspace)? };
        let (share, binaries) = (stage.share(), stage.directory.join("release"));
        fs::create_dir_all(&share)?;
        fs::create_dir_all(&binaries)?;
        let built = lab::build_with(profile)?;
        run(command("strip").arg("-o").arg(binaries.join("breakout365")).arg(built))?;
        run(workspace
            .cargo()
            .args(["run", "--quiet", "--package", "gateway-user", "--example", "command_line"])
            .arg("--")
            .arg(&share))?;
        for name in SHARED {
            copy(&workspace.root().join("pkg").join(name), &share.join("breakout365").join(name))?;
        }
        fs::write(stage.directory.join("copyright"), licences::copyright(workspace)?)?;
        fs::write(stage.directory.join("changelog"), stage.changelog(workspace)?)?;
        Ok(stage)
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What becomes `/usr/share`.
    pub(super) fn share(&self) -> PathBuf {
        self.directory.join("share")
    }

    /// Seconds since 1970.
    pub(super) fn date(&self) -> u64 {
        self.date
    }

    /// Debian's own form; what has changed is in `CHANGELOG.md`.
    fn changelog(&self, workspace: &Workspace) -> Result<String> {
        let date = run(command("date").env("LC_ALL", "C").args([
            "--utc",
            "--rfc-email",
            &format!("--date=@{}", self.date),
        ]))?;
        let version = workspace.version()?;
        let who = "breakout365 developers <breakout365@users.noreply.github.com>";
        Ok(format!(
            "breakout365 ({version}-1) unstable; urgency=medium\n\n  \
             * See CHANGELOG.md in the source.\n\n -- {who}  {}\n",
            date.stdout.trim()
        ))
    }
}

fn date_of_last_commit(workspace: &Workspace) -> Result<u64> {
    let printed = run(command("git")
        .args(["-c", "safe.directory=*", "log", "-1", "--format=%ct"])
        .current_dir(workspace.root()))?;
    printed.stdout.trim().parse().context("git does not say when the last commit was")
}

/// Copies the files of a directory, if it is there.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}
