//! `revoke`: ends direct flows, so that they are decided anew.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Args;
use ipnet::IpNet;

use super::control::Answer;
use crate::daemon::control::Request;
use crate::exit::Failure;

/// End direct flows, so that they are decided anew
///
/// A flow keeps the way of its first packet, whatever changes. This removes the conntrack entries of
/// direct flows to a set's prefixes and ports, to a prefix, or of all: TCP clients are reset and
/// connect anew, other protocols are decided anew by their next packet.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// An endpoint set of the feed that serves, whether it is selected now or not
    #[arg(long = "set", value_name = "ID", required_unless_present_any = ["prefixes", "all"])]
    sets: Vec<u32>,

    /// A prefix of destinations
    #[arg(long = "prefix", value_name = "PREFIX")]
    prefixes: Vec<IpNet>,

    /// Every direct flow
    #[arg(long, conflicts_with_all = ["sets", "prefixes"])]
    all: bool,

    #[command(flatten)]
    answer: Answer,
}

impl RevokeArgs {
    pub(super) fn run(&self, run_dir: &Path) -> Result<(), Failure> {
        self.answer.of(run_dir, &self.request())
    }

    fn request(&self) -> Request {
        let sets: BTreeSet<u32> = self.sets.iter().copied().collect();
        Request::Revoke {
            sets: sets.into_iter().collect(),
            prefixes: self.prefixes.clone(),
            all: self.all,
        }
    }
}

/// What asks for the end of every direct flow.
pub(super) fn everything() -> Request {
    Request::Revoke { sets: Vec::new(), prefixes: Vec::new(), all: true }
}
