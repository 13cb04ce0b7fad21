//! The product seen from outside: the binary, what its verbs print, and its daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
pub(super) use xtask::scenario::Hook;
use xtask::testbed::{Interrupt, Namespace, Process, Protocol};

use crate::process::cargo;

use super::topology::{INSIDE, MARK, Topology, UPLINK, Way};

/// The `breakout365` binary with the configuration and the pins of this lab.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) binary: PathBuf,
    pub(super) config: PathBuf,
    pub(super) pins: PathBuf,
    /// The state directory and the one of the sockets.
    pub(super) state_dir: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) log: PathBuf,
}

/// What `policy show --json` says that the lab needs.
#[derive(Debug, Deserialize)]
pub(super) struct Policy {
    pub(super) prefixes: Vec<PolicyPrefix>,
}

/// A prefix with everything that goes direct there.
#[derive(Debug, Deserialize)]
pub(super) struct PolicyPrefix {
    pub(super) prefix: IpNet,
    pub(super) sets: BTreeSet<u32>,
    pub(super) ports: Vec<PolicyPorts>,
}

/// A range of ports.
#[derive(Debug, Deserialize)]
pub(super) struct PolicyPorts {
    protocol: String,
    from: u16,
    to: u16,
}

/// What `feed show --json` says that the lab needs.
#[derive(Debug, Deserialize)]
pub(super) struct Feed {
    pub(super) version: Option<String>,
    pub(super) sets: Vec<FeedSet>,
}

/// An endpoint set as it was published.
#[derive(Debug, Deserialize)]
pub(super) struct FeedSet {
    pub(super) id: u32,
    pub(super) service_area: String,
    #[serde(rename = "prefixes")]
    pub(super) ips: Vec<IpNet>,
    tcp: Vec<FeedPorts>,
    udp: Vec<FeedPorts>,
}

#[derive(Debug, Deserialize)]
struct FeedPorts {
    from: u16,
    to: u16,
}

/// What `status --json` says that the lab needs.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    generation: u64,
    pub(super) sets: Vec<SetCounter>,
    pub(super) reasons: Vec<ReasonCounter>,
}

/// What went direct because of a set.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct SetCounter {
    pub(super) id: u32,
    pub(super) service_area: String,
    pub(super) category: String,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// What was decided for a reason.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ReasonCounter {
    pub(super) reason: String,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// Builds the binary and gives its path. As the tests build it: the BPF programs are always
/// optimised, and what runs in user space is not what the lab measures.
pub(crate) fn build() -> Result<PathBuf> {
    build_with("dev")
}

/// The same, with a profile of cargo.
///
/// # Errors
///
/// It does not build.
pub(crate) fn build_with(profile: &str) -> Result<PathBuf> {
    let mut child = cargo()
        .args(["build", "--package", "gateway-user", "--bin", "breakout365", "--profile", profile])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let mut binary = None;
    for line in BufReader::new(child.stdout.take().context("cargo has no output")?).lines() {
        // One message a line; only the artifact of a binary has an executable.
        let message: serde_json::Value = serde_json::from_str(&line?)?;
        if let Some(path) = message.get("executable").and_then(serde_json::Value::as_str) {
            binary = Some(PathBuf::from(path));
        }
    }
    if !child.wait()?.success() {
        bail!("the binary does not build; see above");
    }
    binary.context("cargo built no binary")
}

impl Product {
    /// Writes the configuration; `files` also gets the daemon's log.
    pub(super) fn new(binary: PathBuf, hook: Hook, files: &Path, pins: PathBuf) -> Result<Self> {
        let config = files.join("breakout365.toml");
        let hook = hook.name();
        let hops = Topology::next_hops()
            .map(|hop| format!("gateway{} = \"{hop}\"", if hop.is_ipv4() { 4 } else { 6 }));
        let hops = hops.collect::<Vec<_>>().join("\n");
        let text = format!(
            "version = 1\n\n\
             [[interface]]\nname = \"{INSIDE}\"\nhook = \"{hook}\"\n\n\
             [mark]\nvalue = {MARK:#x}\nmask = {MARK:#x}\n\n\
             [egress]\ninterface = \"{UPLINK}\"\n{hops}\n"
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        Ok(Self {
            binary,
            config,
            pins,
            state_dir: files.join("state"),
            run_dir: files.join("run"),
            log: files.join("breakout365.log"),
        })
    }

    /// What the policy selects.
    pub(super) fn policy(&self) -> Result<Policy> {
        json(
            Command::new(&self.binary)
                .args(["policy", "show", "--json"])
                .arg("--config")
                .arg(&self.config),
        )
    }

    /// What is published.
    pub(super) fn feed(&self) -> Result<Feed> {
        json(Command::new(&self.binary).args(["feed", "show", "--json"]))
    }

    /// The binary with the directories of this lab.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (flag, directory) in self.directories() {
            command.arg(flag).arg(directory);
        }
        command
    }

    /// Where this lab's daemon has its things, by the flags that say so.
    pub(super) fn directories(&self) -> [(&'static str, &Path); 3] {
        [("--pins", &self.pins), ("--state-dir", &self.state_dir), ("--run-dir", &self.run_dir)]
    }

    /// What the daemon in `gateway` says of itself.
    pub(super) fn status(&self, gateway: &Namespace) -> Result<Status> {
        let printed = gateway.output(self.command().args(["status", "--json"]))?;
        serde_json::from_str(&printed).context("`breakout365 status --json` prints something else")
    }

    /// Starts the daemon in `gateway` and waits until it has published.
    pub(super) fn start(&self, gateway: &Namespace, interrupt: &Interrupt) -> Result<Process> {
        let log = File::create(&self.log)
            .with_context(|| format!("cannot create {}", self.log.display()))?;
        let mut command = self.command();
        command.arg("run").arg("--config").arg(&self.config);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut daemon = gateway.spawn(&mut command)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            interrupt.check()?;
            if let Some(status) = daemon.wait_for(Duration::from_millis(100))? {
                bail!("the daemon ended ({status}): {}", self.last_words());
            }
            match self.status(gateway) {
                Ok(status) if status.generation >= 1 => return Ok(daemon),
                Ok(_) | Err(_) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(100));
                }
                Ok(_) => bail!("the daemon publishes nothing: {}", self.last_words()),
                Err(error) => {
                    return Err(
                        error.context(format!("no status of the daemon: {}", self.last_words()))
                    );
                }
            }
        }
    }

    /// The end of the daemon's log, in one line.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Status {
    /// Packets that were decided for `reason`.
    pub(super) fn reason(&self, reason: &str) -> u64 {
        let counter = self.reasons.iter().find(|counter| counter.reason == reason);
        counter.map_or(0, |counter| counter.packets)
    }
}

impl Policy {
    /// Which way a packet is to go: the lab's own, slow answer.
    pub(super) fn way(&self, address: IpAddr, protocol: Protocol, port: u16) -> Way {
        let direct = self.longest(address).is_some_and(|prefix| {
            prefix.ports.iter().any(|ports| {
                ports.protocol == protocol.name() && (ports.from..=ports.to).contains(&port)
            })
        });
        if direct { Way::Direct } else { Way::Inspected }
    }

    /// The longest prefix that covers `address`.
    pub(super) fn longest(&self, address: IpAddr) -> Option<&PolicyPrefix> {
        let covering = self.prefixes.iter().filter(|prefix| prefix.prefix.contains(&address));
        covering.max_by_key(|prefix| prefix.prefix.prefix_len())
    }

    /// Every set that is selected.
    pub(super) fn sets(&self) -> BTreeSet<u32> {
        self.prefixes.iter().flat_map(|prefix| &prefix.sets).copied().collect()
    }
}

impl FeedSet {
    /// Its port ranges by protocol.
    pub(super) fn ports(&self) -> BTreeMap<Protocol, Vec<RangeInclusive<u16>>> {
        [(Protocol::Tcp, &self.tcp), (Protocol::Udp, &self.udp)]
            .into_iter()
            .map(|(protocol, ports)| {
                (protocol, ports.iter().map(|range| range.from..=range.to).collect())
            })
            .collect()
    }
}

/// How long the daemon may take to publish.
const PATIENCE: Duration = Duration::from_secs(30);

fn json<T: DeserializeOwned>(command: &mut Command) -> Result<T> {
    let line = format!("{command:?}").replace('"', "");
    let output = command.output().with_context(|| format!("cannot run `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("`{line}` prints something else than expected"))
}
