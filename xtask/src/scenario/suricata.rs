//! Suricata in the gateway, behind a queue that everything forwarded goes through.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::testbed::Namespace;

use super::chain::ChainFormat;
use super::program::{Program, directory, text_of};
use super::{missing, text};

/// What the scenario, and whoever else starts it, needs.
pub(super) const NEEDS: &[(&str, &str)] =
    &[("suricata", "suricata"), ("iptables-restore", "iptables")];

/// The queue that it takes packets from.
const QUEUE: &str = "0";

/// A Suricata that gets all that a gateway forwards but for direct flows.
#[derive(Debug)]
pub struct InlineSuricata {
    _program: Program,
}

impl InlineSuricata {
    /// The inspectors of its chains, for `export --to`.
    pub const CHAINS: [&str; 1] = ["queue:0"];

    /// Starts it in `gateway`, with its files in `files` and no rule that drops anything, and loads the
    /// rules that lead to it: what `export --format chain-iptables` writes for [`InlineSuricata::CHAINS`].
    ///
    /// # Errors
    ///
    /// It is not installed or does not start, or the rules are refused.
    pub fn start(gateway: &Namespace, files: &Path, chains: &str) -> Result<Self> {
        let (_, program) = run(gateway, files, "")?;
        ChainFormat::Iptables.load(gateway, chains)?;
        Ok(Self { _program: program })
    }

    /// What is missing on this machine, with what installs it.
    #[must_use]
    pub fn missing() -> Option<String> {
        missing(NEEDS)
    }

    /// Packets that it was given.
    ///
    /// # Errors
    ///
    /// The kernel does not say, or it has left its queue.
    pub fn queued(gateway: &Namespace) -> Result<u64> {
        queued(gateway)?.context("suricata has left its queue")
    }
}

/// Starts it with `rules` and no others, and waits until it takes packets; gives its directory.
pub(super) fn run(gateway: &Namespace, files: &Path, rules: &str) -> Result<(PathBuf, Program)> {
    let files = directory(files, "suricata")?;
    let file = files.join("own.rules");
    fs::write(&file, rules)?;
    let mut suricata = Program::start(
        gateway,
        "suricata",
        &files,
        &[
            "-c",
            "/etc/suricata/suricata.yaml",
            // These rules and no others.
            "-S",
            text(&file)?,
            "-l",
            text(&files)?,
            "-q",
            QUEUE,
            // Packets between namespaces have no checksums yet.
            "-k",
            "none",
            "--set",
            "unix-command.enabled=no",
        ],
    )?;
    suricata.wait(|| Ok(queued(gateway)?.is_some()))?;
    let log = files.join("suricata.log");
    suricata.wait(|| Ok(text_of(&log)?.contains("Engine started")))?;
    Ok((files, suricata))
}

/// Packets that the queue has given out; `None` where nobody takes any. Columns of the kernel's
/// `nfnetlink_queue.c`: queue, process, length, mode, range, dropped twice, the last packet's number.
pub(super) fn queued(gateway: &Namespace) -> Result<Option<u64>> {
    let table = gateway.run("cat /proc/net/netfilter/nfnetlink_queue")?;
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = rows.find(|row| row.first() == Some(&QUEUE));
    own.map(|row| Ok(row.get(7).context("a queue without a count")?.parse()?)).transpose()
}
