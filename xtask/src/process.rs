//! Commands that xtask runs: a clean environment, output kept, failures in one line.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A command that failed, with all it printed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// What failed and how, in one line.
    pub(crate) what: String,
    /// Its standard output and error, for whoever wants more than the one line.
    pub(crate) output: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failed {}

/// What a successful command printed.
#[derive(Debug)]
pub(crate) struct Printed {
    /// On standard output.
    pub(crate) stdout: String,
    /// On standard error.
    pub(crate) stderr: String,
}

/// `program`, without standard input and without what `cargo run` has told this process about
/// the package xtask: build scripts further down would take it for theirs, and be run again by
/// every second cargo.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_about_xtask) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The cargo that runs xtask. It calls the rustc of its own toolchain, by `RUSTUP_TOOLCHAIN` where
/// rustup is in use.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// Runs `command` to its end.
///
/// # Errors
///
/// It cannot be started, or does not end with success.
pub(crate) fn run(command: &mut Command) -> Result<Printed, Failed> {
    let what = shown(command);
    let output = command.output().map_err(|error| Failed {
        what: format!("cannot run `{what}`: {error}"),
        output: String::new(),
    })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(Printed { stdout, stderr });
    }
    Err(Failed { what: format!("`{what}`: {}", output.status), output: stdout + &stderr })
}

/// Where `program` is, by `PATH` and by the directories of system tools that the `PATH` of an
/// ordinary user leaves out.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

fn is_about_xtask(variable: &str) -> bool {
    matches!(
        variable,
        "CARGO" | "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE" | "OUT_DIR"
    ) || variable.starts_with("CARGO_MANIFEST_")
        || variable.starts_with("CARGO_PKG_")
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
