//! Squid in the gateway, transparent and explicit.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::testbed::Namespace;

use super::chain::ChainFormat;
use super::program::{Program, directory, text_of, wait_until};
use super::site::{Site, hosts_file};
use super::{Stage, missing, text};

/// Where it takes what TPROXY gives it.
pub(super) const TPROXY_PORT: u16 = 3129;
/// Where clients ask it.
pub(super) const PORT: u16 = 3128;

/// A Squid that runs.
#[derive(Debug)]
pub(super) struct Squid(PathBuf);

/// A Squid that takes what clients send to port 80, over both families, and is the only way past a
/// gateway but for direct flows.
#[derive(Debug)]
pub struct TransparentSquid {
    squid: Squid,
    _program: Program,
}

impl TransparentSquid {
    /// The inspectors of its chains, for `export --to`.
    pub const CHAINS: [&str; 2] = ["tproxy:3129/80", "drop"];

    /// Starts it in `gateway`, with its files in `files`, and loads the rules that lead to it: what
    /// `export --format chain-nft` writes for [`TransparentSquid::CHAINS`].
    ///
    /// # Errors
    ///
    /// It is not installed or does not start, or the rules are refused.
    pub fn start(gateway: &Namespace, files: &Path, chains: &str) -> Result<Self> {
        let (squid, program) = Squid::run(gateway, files, "")?;
        ChainFormat::Nft.load(gateway, chains)?;
        Ok(Self { squid, _program: program })
    }

    /// What is missing on this machine, with what installs it.
    #[must_use]
    pub fn missing() -> Option<String> {
        missing(&[("squid", "squid")])
    }

    /// Its access log: one line for each request that has ended.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn access_log(&self) -> Result<String> {
        text_of(&self.squid.log())
    }
}

impl Squid {
    /// Starts it in the gateway and waits until it is ready. `more` is added to its configuration.
    pub(super) fn start(stage: &mut Stage, more: &str) -> Result<Self> {
        let (squid, program) = Self::run(&stage.network.gateway, &stage.files(), more)?;
        stage.keep_running(program)?;
        Ok(squid)
    }

    fn run(gateway: &Namespace, files: &Path, more: &str) -> Result<(Self, Program)> {
        let files = directory(files, "squid")?;
        let config = files.join("squid.conf");
        fs::write(files.join("hosts"), hosts_file())?;
        fs::write(&config, configuration(text(&files)?, more))?;
        let mut squid = Program::start(gateway, "squid", &files, &["-N", "-f", text(&config)?])?;
        squid.wait_for_port(gateway, PORT)?;
        Ok((Self(files), squid))
    }

    /// Expects exactly so many requests for a host in its access log.
    pub(super) fn check_log(
        &self,
        stage: &mut Stage,
        site: Site,
        shows: &str,
        expected: u64,
    ) -> Result<()> {
        wait_until("squid has written its log", || Ok(self.requests(site)? >= expected))?;
        let seen = self.requests(site)?;
        let what = format!("requests for {} in squid's access log", site.host);
        stage.expectations().count(&what, shows, expected, seen);
        Ok(())
    }

    fn requests(&self, site: Site) -> Result<u64> {
        let log = text_of(&self.log())?;
        Ok(log.lines().filter(|line| line.contains(site.host)).count().try_into()?)
    }

    fn log(&self) -> PathBuf {
        Path::join(&self.0, "access.log")
    }
}

fn configuration(files: &str, more: &str) -> String {
    format!(
        "http_port {PORT}\n\
         http_port {TPROXY_PORT} tproxy\n\
         http_access allow all\n\
         cache deny all\n\
         visible_hostname inspector.example\n\
         hosts_file {files}/hosts\n\
         access_log stdio:{files}/access.log\n\
         cache_log {files}/cache.log\n\
         coredump_dir {files}\n\
         pid_filename none\n\
         pinger_enable off\n\
         shutdown_lifetime 0 seconds\n\
         {more}"
    )
}
