//! The product in the gateway of a scenario: the binary, its configuration, its daemon.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use serde_json::Value;

use crate::testbed::{Namespace, Process};

use super::network::{INSIDE, UPLINK, next_hops};
use super::program::last_lines;

/// Not the default, so that nothing here holds by chance.
const MARK: u32 = 0x1000_0000;

/// How the inside interface is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// XDP and tc
    Xdp,
    /// tc alone
    Tc,
}

/// The binary with files and pins of its own.
#[derive(Debug)]
pub(super) struct Product {
    binary: PathBuf,
    files: PathBuf,
    pins: PathBuf,
}

impl Product {
    /// Writes a configuration with these categories.
    pub(super) fn new(
        binary: &Path,
        (files, pins): (PathBuf, PathBuf),
        hook: Hook,
        categories: &[&str],
    ) -> Result<Self> {
        let hook = hook.name();
        let [gateway4, gateway6] = next_hops();
        let text = format!(
            "version = 1\n\n[[interface]]\nname = \"{INSIDE}\"\nhook = \"{hook}\"\n\n\
             [mark]\nvalue = {MARK:#x}\nmask = {MARK:#x}\n\n\
             [egress]\ninterface = \"{UPLINK}\"\ngateway4 = \"{gateway4}\"\n\
             gateway6 = \"{gateway6}\"\n\n[policy]\ncategories = {categories:?}\n"
        );
        let product = Self { binary: binary.to_owned(), files, pins };
        fs::write(product.config(), text)?;
        Ok(product)
    }

    /// Its configuration.
    pub(super) fn config(&self) -> PathBuf {
        self.files.join("breakout365.toml")
    }

    /// Its daemon's log.
    pub(super) fn log(&self) -> PathBuf {
        self.files.join("breakout365.log")
    }

    /// The prefixes that the policy selects.
    pub(super) fn selected(&self) -> Result<BTreeSet<IpNet>> {
        let printed = self.offline(&["policy", "show", "--json"])?;
        let policy: Value = serde_json::from_slice(&printed)?;
        let prefixes = policy["prefixes"].as_array().context("no prefixes are selected")?;
        let prefix = |row: &Value| Ok(row["prefix"].as_str().context("no prefix")?.parse()?);
        prefixes.iter().map(prefix).collect()
    }

    /// What `export` prints.
    pub(super) fn export(&self, arguments: &[&str]) -> Result<String> {
        let printed = self.offline(&[&["export"], arguments].concat())?;
        Ok(String::from_utf8(printed)?)
    }

    /// Runs a verb that needs no daemon.
    fn offline(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = self.command(arguments).arg("--config").arg(self.config()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("`breakout365 {}` failed: {said}", arguments.join(" "));
        }
        Ok(output.stdout)
    }

    /// Starts the daemon in `gateway` and waits until it has published.
    pub(super) fn start(&self, gateway: &Namespace) -> Result<Process> {
        let log = File::create(self.log())?;
        let mut command = self.command(&["run"]);
        command.arg("--config").arg(self.config());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut daemon = gateway.spawn(&mut command)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = daemon.wait_for(Duration::from_millis(100))? {
                bail!("the daemon ended ({status}): {}", last_lines(&self.log()));
            }
            let status = self.status(gateway);
            if status.is_ok_and(|status| status["generation"].as_u64() >= Some(1)) {
                return Ok(daemon);
            }
            if Instant::now() > deadline {
                bail!("the daemon publishes nothing: {}", last_lines(&self.log()));
            }
        }
    }

    /// What the daemon in `gateway` says of itself.
    pub(super) fn status(&self, gateway: &Namespace) -> Result<Value> {
        Ok(serde_json::from_str(&gateway.output(&mut self.command(&["status", "--json"]))?)?)
    }

    /// A command line for people.
    pub(super) fn shown(&self, verb: &str) -> String {
        let command = self.command(&[verb]);
        let words = [command.get_program()].into_iter().chain(command.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--pins").arg(&self.pins);
        command.arg("--state-dir").arg(self.files.join("state"));
        command.arg("--run-dir").arg(self.files.join("run"));
        command.args(arguments).env_remove("RUST_LOG");
        command
    }
}

impl Hook {
    /// The word of the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// How long the daemon may take to publish on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
