//! What the workspace depends on: allowed, and for a reason.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{Outcome, Workspace};
use crate::process::{command, run};
use crate::setup::cargo_deny;

const REASONS: &str = "docs/dependencies.md";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// The directory of one of our own.
    path: Option<String>,
}

/// [`REASONS`] has a line for each crate that a member depends on, and for no other.
pub(super) fn documented(workspace: &Workspace) -> Result<Outcome> {
    let printed = run(workspace.cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata =
        serde_json::from_str(&printed.stdout).context("cargo metadata is not understood")?;
    let used: BTreeSet<&str> = metadata
        .packages
        .iter()
        .flat_map(|package| &package.dependencies)
        .filter(|dependency| dependency.path.is_none())
        .map(|dependency| dependency.name.as_str())
        .collect();
    let text = fs::read_to_string(workspace.root.join(REASONS))
        .with_context(|| format!("cannot read {REASONS}"))?;
    let named = named_in(&text);
    if let Some(name) = used.difference(&named).next() {
        bail!("{REASONS} does not say why we depend on {name}: add a line");
    }
    if let Some(name) = named.difference(&used).next() {
        bail!("{REASONS} names {name}, which nothing depends on: remove the line");
    }
    Ok(Outcome::Holds(format!("{} crates", used.len())))
}

pub(super) fn licences_bans_sources(workspace: &Workspace) -> Result<Outcome> {
    // `--locked`: the lock file is what is built, so it is what is checked.
    run(command(cargo_deny()?)
        .args(["--locked", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"])
        .current_dir(&workspace.root))?;
    Ok(Outcome::Holds(String::new()))
}

pub(super) fn advisories(workspace: &Workspace) -> Result<Outcome> {
    let deny = cargo_deny()?;
    let fetched = run(command("timeout")
        .arg("60")
        .arg(&deny)
        .args(["--locked", "fetch", "db"])
        .current_dir(&workspace.root));
    if fetched.is_err() {
        return Ok(Outcome::LeftOut("the advisory database cannot be had from here".to_owned()));
    }
    run(command(&deny)
        .args(["--locked", "check", "--disable-fetch", "advisories"])
        .current_dir(&workspace.root))?;
    Ok(Outcome::Holds(String::new()))
}

/// The names in lines like ``- `name`: why``.
fn named_in(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("- `")?.split_once("`: "))
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_named_only_by_a_line_that_says_why() {
        let text = "# Why\n- `anyhow`: errors\n- `clap`\nAlso `toml`: no list item\n";
        assert_eq!(named_in(text), BTreeSet::from(["anyhow"]));
    }
}
