//! Why a policy is refused for a feed.

use std::collections::BTreeSet;

use gateway_common::Transport;
use gateway_common::abi::{MAX_PORT_RANGES, Slot};
use ipnet::IpNet;

use super::transport_name;
use crate::feed::SetId;

/// Why a policy is refused for a feed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A set is included or excluded by an id that the feed does not have.
    #[error(
        "the policy names set {set}, which this feed does not have; \
         `breakout365 feed show` lists the sets"
    )]
    UnknownSet {
        /// The id.
        set: SetId,
    },
    /// A service area is selected that no set of the feed belongs to.
    #[error(
        "the policy names service area {area:?}, which this feed does not have; it has {known}"
    )]
    UnknownArea {
        /// The name in the policy.
        area: String,
        /// The feed's names, in one text.
        known: String,
    },
    /// Nothing would go direct.
    #[error(
        "the policy selects no prefix of this feed; select more categories, service areas, sets \
         or address families"
    )]
    Empty,
    /// A selected prefix covers every address of its family.
    #[error("set {set} lists {prefix}, the whole internet; exclude it or take another feed")]
    WholeInternet {
        /// The prefix.
        prefix: IpNet,
        /// The set that lists it.
        set: SetId,
    },
    /// The ports of a prefix do not fit a port set.
    #[error(
        "{prefix} needs {needed} {} port ranges of sets {}, but {MAX_PORT_RANGES} fit; exclude one \
         of these sets",
        transport_name(*.transport),
        list(sets)
    )]
    TooManyRanges {
        /// The prefix.
        prefix: IpNet,
        /// The protocol whose ports do not fit.
        transport: Transport,
        /// How many ranges there would be.
        needed: usize,
        /// The sets that cover the prefix with this protocol.
        sets: BTreeSet<SetId>,
    },
    /// More distinct port sets than a table can name.
    #[error(
        "{prefix} needs one more port set than the {} that fit; select fewer sets",
        Slot::MAX_PORT_SETS
    )]
    TooManyPortSets {
        /// The first prefix whose port set does not fit.
        prefix: IpNet,
    },
    /// More combinations of sets than a table can name.
    #[error(
        "{prefix} needs one more combination of sets ({}) than the {} that fit; select fewer sets",
        list(sets),
        u16::MAX
    )]
    TooManyGroups {
        /// The first prefix whose combination does not fit.
        prefix: IpNet,
        /// The combination.
        sets: BTreeSet<SetId>,
    },
}

fn list(sets: &BTreeSet<SetId>) -> String {
    sets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
