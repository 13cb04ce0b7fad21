//! Why the way out cannot be put in place, in the operator's words.

use std::io;

use thiserror::Error;

use super::hop::Hop;
use super::routing::Family;

/// The way out is not, or not wholly, in place. Marked packets then take the main table: they are
/// inspected.
#[derive(Debug, Error)]
pub enum EgressError {
    /// The uplink is not there.
    #[error("egress.interface {name}: not found; see `ip link`")]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// Somebody else's rule has one of our priorities.
    #[error(
        "{family} rule priority {priority} is taken by a rule that is not ours and stays (`ip {} rule`); \
         choose another egress.priority",
        .family.option()
    )]
    ForeignRule {
        /// The family.
        family: Family,
        /// The priority.
        priority: u32,
    },
    /// Somebody else's routes are in our table.
    #[error(
        "table {table} holds an {family} route that is not ours and stays (`ip {} route show table \
         {table}`); choose another egress.table",
        .family.option()
    )]
    ForeignRoute {
        /// The family.
        family: Family,
        /// The table.
        table: u32,
    },
    /// Somebody else's nftables table has our name.
    #[error(
        "nftables table inet breakout365 is not ours and stays; see `nft list table inet breakout365`, \
         and rename it"
    )]
    ForeignTable,
    /// The route is refused.
    #[error(
        "default route {hop} dev {interface}: {source}; see egress.gateway4 and \
         egress.gateway6, and whether {interface} is up (`ip address show {interface}`)"
    )]
    Route {
        /// The next hop.
        hop: Hop,
        /// The uplink.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another netlink request failed.
    #[error("netlink: cannot {what}: {source}")]
    Netlink {
        /// The request.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no `nft`, or it cannot be run.
    #[error("cannot run `nft`: {source}; install nftables")]
    NoNft {
        /// Why.
        source: io::Error,
    },
    /// `nft` fails.
    #[error("`nft {arguments}` failed: {said}")]
    Nft {
        /// Its arguments.
        arguments: String,
        /// What it said.
        said: String,
    },
    /// Flows that live now would be taken for what they are not.
    #[error(
        "[mark]: the bits {bits:#x} were \"direct\" until now and are to be \"decided\", or the other \
         way round: flows that are inspected would look direct; choose other bits"
    )]
    Confused {
        /// The bits.
        bits: u32,
    },
    /// What was put in place was not there a moment later.
    #[error("{what} does not stay: another program removes it at once; see `ip monitor`")]
    DoesNotStay {
        /// What is missing.
        what: String,
    },
}
