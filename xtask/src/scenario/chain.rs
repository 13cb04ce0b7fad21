//! The rules that an inspection system on the gateway needs beside the product: what `export` writes,
//! loaded as it says.

use anyhow::{Result, ensure};

use crate::testbed::Namespace;

/// Which program takes the chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainFormat {
    /// nftables.
    Nft,
    /// iptables, both families.
    Iptables,
}

impl ChainFormat {
    /// Its name for `export --format`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nft => "chain-nft",
            Self::Iptables => "chain-iptables",
        }
    }

    /// Loads what `export` wrote into `gateway`, and runs what it says has to be run once.
    ///
    /// # Errors
    ///
    /// The rules or one of the commands are refused, or rules for iptables have no command, which would
    /// leave them without packets.
    pub fn load(self, gateway: &Namespace, exported: &str) -> Result<()> {
        match self {
            Self::Nft => gateway.nft(exported)?,
            Self::Iptables => gateway.iptables(exported)?,
        }
        let commands: Vec<&str> = exported.lines().filter_map(command).collect();
        ensure!(
            self == Self::Nft || !commands.is_empty(),
            "no chain of iptables leads to {exported}"
        );
        commands.into_iter().try_for_each(|command| gateway.run(command).map(drop))
    }
}

/// The command in a line of comment.
fn command(line: &str) -> Option<&str> {
    let command = line.strip_prefix("# ")?;
    let program = command.split(' ').next()?;
    ["ip", "iptables", "ip6tables"].contains(&program).then_some(command)
}
