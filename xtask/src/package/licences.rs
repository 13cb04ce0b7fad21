//! The copyright file: our own licences, and those of every crate that is linked into the binary.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::check::Workspace;
use crate::process::run;

/// How files of licences begin.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "UNLICENSE", "NOTICE"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
}

/// The text of the copyright file.
///
/// # Errors
///
/// A crate is without licence, or cargo does not say what is linked.
pub(super) fn copyright(workspace: &Workspace) -> Result<String> {
    let read = |name: &str| {
        fs::read_to_string(workspace.root().join(name))
            .with_context(|| format!("cannot read {name}"))
    };
    let mut text = format!(
        "breakout365 is licensed under MIT or Apache-2.0, as you like. The text of the second, here and\n\
         below, is in /usr/share/common-licenses/Apache-2.0 where Debian is installed, and beside this\n\
         file elsewhere.\n\n{}\n\
         The binary has crates of others linked into it, under these licences:\n",
        read("LICENSE-MIT")?
    );
    // Most crates have the very same texts.
    let mut by_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in linked(workspace)? {
        let Package { name, version, license, .. } = &package;
        let Some(license) = license else { bail!("{name} {version} has no licence") };
        write!(text, "\n{name} {version}: {license}")?;
        for file in texts(&package)? {
            by_text.entry(file).or_default().push(name.clone());
        }
    }
    text.push('\n');
    for (file, names) in by_text {
        writeln!(text, "\n---- {} ----\n\n{}", names.join(", "), file.trim_end())?;
    }
    Ok(text)
}

/// Crates of others in the binary and in the BPF object that it has in it, by name.
fn linked(workspace: &Workspace) -> Result<Vec<Package>> {
    let mut names = Vec::new();
    for package in ["gateway-user", "gateway-ebpf"] {
        let printed = run(workspace.cargo().args([
            "tree",
            "--package",
            package,
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ]))?;
        names.extend(printed.stdout.lines().filter_map(name_and_version));
    }
    let printed = run(workspace.cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Metadata =
        serde_json::from_str(&printed.stdout).context("cargo metadata is not understood")?;
    let is_linked = |package: &Package| {
        package.source.is_some() && names.contains(&(package.name.clone(), package.version.clone()))
    };
    let mut linked: Vec<_> = metadata.packages.into_iter().filter(is_linked).collect();
    linked.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(linked)
}

/// `name v1.2.3`, with or without more behind it.
fn name_and_version(line: &str) -> Option<(String, String)> {
    let mut words = line.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some((name.to_owned(), version.to_owned()))
}

/// The licences beside a crate's manifest.
fn texts(package: &Package) -> Result<Vec<String>> {
    let directory = package.manifest_path.parent().unwrap_or(Path::new("."));
    let mut files: Vec<PathBuf> = fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file() && is_licence(path))
        .collect();
    files.sort();
    let read = |file: &PathBuf| Ok(String::from_utf8_lossy(&fs::read(file)?).into_owned());
    let texts: Result<Vec<String>> = files.iter().map(read).collect();
    Ok(texts?.into_iter().filter(|text| !is_apache(text)).collect())
}

/// Whether it is the one licence that Debian wants to be named, not repeated.
fn is_apache(text: &str) -> bool {
    text.contains("Apache License") && text.contains("TERMS AND CONDITIONS FOR USE, REPRODUCTION")
}

fn is_licence(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
    NAMES.iter().any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_are_read_with_and_without_more_behind_them() {
        let read = |line| name_and_version(line).unwrap();
        assert_eq!(read("aya v0.14.0"), ("aya".to_owned(), "0.14.0".to_owned()));
        assert_eq!(read("gateway-common v0.1.0 (/a/b) (*)").1, "0.1.0");
        assert_eq!(name_and_version(""), None);
    }

    #[test]
    fn the_licence_that_debian_has_is_known_by_its_terms() {
        let ours = fs::read_to_string(Workspace::here().root().join("LICENSE-APACHE")).unwrap();
        assert!(is_apache(&ours));
        assert!(!is_apache("Licensed under the Apache License, Version 2.0"), "a notice");
    }

    #[test]
    fn licences_are_known_by_their_names() {
        for name in ["LICENSE-MIT", "license.txt", "COPYING", "LICENCE", "NOTICE.md"] {
            assert!(is_licence(Path::new(name)), "{name}");
        }
        assert!(!is_licence(Path::new("README.md")));
    }
}
