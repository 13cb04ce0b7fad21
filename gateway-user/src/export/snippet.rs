//! Snippets for what an operator has already: inspection chains that let direct flows past, and a
//! drop-in that keeps our rules from being removed. They follow from the configuration alone.

use super::Inspector;
use super::chains;
use crate::config::Config;

/// What a snippet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Snippet {
    /// A table of inspection chains for `nft -f`
    ChainNft,
    /// Inspection chains for `iptables-restore --noflush`, and `ip6tables-restore`
    ChainIptables,
    /// A drop-in for systemd-networkd
    Networkd,
}

impl Snippet {
    /// Whether it has inspection chains in it.
    #[must_use]
    pub fn has_chains(self) -> bool {
        self != Self::Networkd
    }

    /// The snippet, ending in a line break. `to` is what its chains hand packets to.
    #[must_use]
    pub fn render(self, config: &Config, to: &[Inspector]) -> String {
        match self {
            Self::ChainNft => chains::nft(config, to),
            Self::ChainIptables => chains::iptables(config, to),
            Self::Networkd => NETWORKD.to_owned(),
        }
    }
}

const NETWORKD: &str = "\
# /etc/systemd/networkd.conf.d/breakout365.conf
# systemd-networkd removes rules and routes that are in no .network file, and so ours, whenever it
# starts or an interface changes. Then: systemctl restart systemd-networkd
[Network]
ManageForeignRoutingPolicyRules=no
ManageForeignRoutes=no
";
