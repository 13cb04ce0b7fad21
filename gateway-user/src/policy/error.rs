//! Why a policy is refused for a feed.

use gateway_common::Transport;
use gateway_common::abi::{EXCLUDED_GROUP, MAX_PORT_RANGES, MAX_WINDOWS, Slot};
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
         or address families, or exclude less"
    )]
    Empty,
    /// A selected prefix covers every address of its family.
    #[error("{of} lists {prefix}, the whole internet; leave it out or take another feed")]
    WholeInternet {
        /// The prefix.
        prefix: IpNet,
        /// What lists it: a set or an own include.
        of: String,
    },
    /// The ports of a prefix do not fit a port set.
    #[error(
        "{prefix} needs {needed} {} port ranges of {of}, but {MAX_PORT_RANGES} fit; leave one of \
         these out",
        transport_name(*.transport)
    )]
    TooManyRanges {
        /// The prefix.
        prefix: IpNet,
        /// The protocol whose ports do not fit.
        transport: Transport,
        /// How many ranges there would be.
        needed: usize,
        /// The sets, includes and excludes that cover the prefix with this protocol.
        of: String,
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
    /// More support windows than there are slots.
    #[error("no more than {MAX_WINDOWS} support windows fit; stop one of them")]
    TooManyWindows,
    /// More combinations of sets than a table can name.
    #[error(
        "{prefix} needs one more combination of sets ({of}) than the {EXCLUDED_GROUP} that fit; select fewer \
         sets"
    )]
    TooManyGroups {
        /// The first prefix whose combination does not fit.
        prefix: IpNet,
        /// The combination.
        of: String,
    },
}

impl PolicyError {
    /// The same of support windows, whose rules have ids of their own.
    pub(super) fn of_windows(self) -> Self {
        let windows = "the support windows".to_owned();
        match self {
            Self::TooManyRanges { prefix, transport, needed, .. } => {
                Self::TooManyRanges { prefix, transport, needed, of: windows }
            }
            Self::TooManyGroups { prefix, .. } => Self::TooManyGroups { prefix, of: windows },
            Self::UnknownSet { .. }
            | Self::UnknownArea { .. }
            | Self::Empty
            | Self::WholeInternet { .. }
            | Self::TooManyPortSets { .. }
            | Self::TooManyWindows => self,
        }
    }
}
