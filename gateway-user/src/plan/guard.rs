//! The guards there are, their names and their limits.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A guard, by what it guards against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// Nothing would go direct.
    NoPrefixes,
    /// The new feed is older than the live one.
    VersionBack,
    /// Too many prefixes of a family leave.
    PrefixesLeaving,
    /// Too much direct space of a family leaves.
    SpaceLeaving,
    /// The table grows too much.
    TableGrowth,
    /// A prefix is too wide.
    WidePrefix,
    /// A prefix overlaps private, reserved or otherwise special space.
    SpecialSpace,
    /// A prefix overlaps an address or a connected network of the gateway.
    OwnNetwork,
    /// TCP 25 or 53, or UDP 53, would be direct for a set that is not named.
    UnnamedPort,
}

impl Guard {
    /// Every guard.
    pub const ALL: [Self; 9] = [
        Self::NoPrefixes,
        Self::VersionBack,
        Self::PrefixesLeaving,
        Self::SpaceLeaving,
        Self::TableGrowth,
        Self::WidePrefix,
        Self::SpecialSpace,
        Self::OwnNetwork,
        Self::UnnamedPort,
    ];

    /// The name in configuration, JSON and metrics: stable, snake case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoPrefixes => "no_prefixes",
            Self::VersionBack => "version_back",
            Self::PrefixesLeaving => "prefixes_leaving",
            Self::SpaceLeaving => "space_leaving",
            Self::TableGrowth => "table_growth",
            Self::WidePrefix => "wide_prefix",
            Self::SpecialSpace => "special_space",
            Self::OwnNetwork => "own_network",
            Self::UnnamedPort => "unnamed_port",
        }
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("names no guard")]
pub struct UnknownGuard;

impl FromStr for Guard {
    type Err = UnknownGuard;

    /// The exact name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|guard| guard.name() == text).ok_or(UnknownGuard)
    }
}

/// The limits, as `[guards]` of the configuration says them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guards {
    /// Most prefixes of a family that may leave, in percent, 0 to 100.
    pub max_prefixes_leaving: u8,
    /// Most direct space of a family that may leave, in percent, 0 to 100.
    pub max_space_leaving: u8,
    /// Most times as many prefixes as before, 1 or more.
    pub max_growth: u32,
    /// Shortest IPv4 prefix, 1 to 32.
    pub shortest_ipv4: u8,
    /// Shortest IPv6 prefix, 1 to 128.
    pub shortest_ipv6: u8,
    /// Guards that are switched off, never [`Guard::NoPrefixes`].
    pub allow: BTreeSet<Guard>,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            max_prefixes_leaving: 30,
            max_space_leaving: 20,
            max_growth: 2,
            shortest_ipv4: 11,
            shortest_ipv6: 32,
            allow: BTreeSet::new(),
        }
    }
}

/// What a plan comes from. A feed is somebody else's word, so how much it changes is limited too.
/// An operator who takes IPv6 out or adds a thousand own entries has just said so, and is not asked
/// again; what no policy should let through is checked for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A feed that differs from the live one.
    Feed,
    /// The operator: a changed configuration, or an older state asked for.
    Config,
}
