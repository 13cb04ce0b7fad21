//! `cargo xtask package`: a Debian package and an RPM, and what has to be true of both.

mod check;
mod installed;
mod licences;
mod stage;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::check::Workspace;
use crate::process::{command, run};
use crate::setup::{cargo_deb, cargo_generate_rpm, packaging};

use stage::Stage;

/// Options of `cargo xtask package`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only the Debian package
    #[arg(long)]
    deb: bool,

    /// Only the RPM
    #[arg(long, conflicts_with = "deb")]
    rpm: bool,

    /// Build both, and check what is in them
    #[arg(long, conflicts_with_all = ["deb", "rpm"])]
    check: bool,

    /// Profile of cargo that the binary is built with
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
}

/// Builds what is asked for, and says where it is.
///
/// # Errors
///
/// Something does not build, or is not in a package as it should be.
pub(crate) fn run_verb(options: &Options) -> Result<()> {
    let workspace = Workspace::here();
    let stage = Stage::fill(&workspace, &options.profile)?;
    let (deb, rpm) = (!options.rpm, !options.deb);
    if deb {
        println!("package: {}", debian(&workspace, &stage, None)?.display());
    }
    if rpm {
        println!("package: {}", red_hat(&workspace, &stage, None)?.display());
    }
    if options.check {
        packaging()?;
        check::run_all(&workspace, &stage)?;
    }
    Ok(())
}

/// Debian packages of the binary that tests and lab have, in these versions.
///
/// # Errors
///
/// It does not build.
pub(crate) fn debian_of_the_lab(versions: &[&str]) -> Result<Vec<PathBuf>> {
    let workspace = Workspace::here();
    let stage = Stage::fill(&workspace, "dev")?;
    versions.iter().map(|version| debian(&workspace, &stage, Some(version))).collect()
}

/// Writes the Debian package, and gives its path.
fn debian(workspace: &Workspace, stage: &Stage, version: Option<&str>) -> Result<PathBuf> {
    let name = version.unwrap_or("breakout365");
    let package = stage.directory().join(format!("{name}.deb"));
    let mut build = packager(&cargo_deb()?, workspace, stage);
    build.args(["--no-build", "--no-strip", "--quiet", "--package", "gateway-user", "--output"]);
    build.arg(&package);
    if let Some(version) = version {
        // For one boot: small does not matter.
        build.args(["--fast", "--deb-version", version]);
    }
    run(&mut build)?;
    Ok(package)
}

/// Writes the RPM, and gives its path.
fn red_hat(workspace: &Workspace, stage: &Stage, release: Option<&str>) -> Result<PathBuf> {
    let name = release.unwrap_or("breakout365");
    let package = stage.directory().join(format!("{name}.rpm"));
    let mut build = packager(&cargo_generate_rpm()?, workspace, stage);
    // Built in: the system's own finder of libraries is there on some machines only.
    build.args(["--package", "gateway-user", "--auto-req", "builtin", "--output"]);
    build.arg(&package).arg("--target-dir").arg(stage.directory());
    build.args(["--source-date", &stage.date().to_string()]);
    if let Some(release) = release {
        build.args(["--set-metadata", &format!("release = {release:?}")]);
    }
    run(&mut build)?;
    Ok(package)
}

/// A packager finds the binary in what it takes for cargo's directory of releases.
fn packager(program: &Path, workspace: &Workspace, stage: &Stage) -> std::process::Command {
    let mut packager = command(program);
    packager
        .current_dir(workspace.root())
        .env("CARGO_TARGET_DIR", stage.directory())
        .env("SOURCE_DATE_EPOCH", stage.date().to_string());
    packager
}
