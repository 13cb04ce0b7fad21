//! The feed: Microsoft's published endpoint sets, as immutable snapshots.
//!
//! [`parse()`] reads the web service's shape and the project's own canonical one, [`write()`]
//! writes the latter, and [`Ports`] holds what the feed's port texts mean. [`Client`] fetches,
//! [`Schedule`] says when, [`Store`] keeps the last good snapshot on disk, [`hold`] makes additions
//! wait, and [`FeedDiff`] tells two snapshots apart.

mod at_hand;
mod canonical;
mod changes;
mod client;
mod diff;
mod fetch_error;
mod parse;
mod ports;
mod record;
mod schedule;
mod store;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use at_hand::at_hand;
pub use canonical::{digest, embedded, write};
pub use changes::{Change, Changes, ChangesError, Held, HeldAddition, hold};
pub use client::{Check, Client, Limits};
pub use diff::{Changed, FeedDiff, Presence, SetDiff};
pub use fetch_error::{FetchError, RATE_LIMIT_PAUSE};
pub use parse::{FeedError, MAX_BYTES, parse, read};
pub use ports::{Ports, PortsError};
pub(crate) use record::{is_tidy, prefix};
pub use schedule::Schedule;
pub use store::{ClientId, DEFAULT_STATE, LastGood, Store, StoreError};

/// Id of an endpoint set, as the feed numbers it; it never changes. From [`FIRST_OWN_ID`] on, an
/// entry of the operator's own.
pub type SetId = u32;

/// The first id of the operator's own entries, which stand beside endpoint sets wherever it is
/// said why traffic goes direct. A feed with an id this high is refused.
pub const FIRST_OWN_ID: SetId = 1 << 31;

/// One immutable, parsed copy of the endpoint list of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The instance, such as `Worldwide`; `None` for a bare list, which does not say.
    pub instance: Option<String>,
    /// The version, ten digits `YYYYMMDDNN`; `None` for a bare list, which does not say.
    pub version: Option<String>,
    /// SHA-256 of the canonical bytes of the sets, 64 lower-case hex digits.
    pub digest: String,
    /// The sets by id, at least one.
    pub sets: BTreeMap<SetId, EndpointSet>,
}

impl Snapshot {
    /// What tells it from other snapshots.
    #[must_use]
    pub fn identity(&self) -> FeedIdentity {
        FeedIdentity {
            instance: self.instance.clone(),
            version: self.version.clone(),
            digest: self.digest.clone(),
        }
    }
}

/// Which feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedIdentity {
    /// Its instance, where the source says.
    pub instance: Option<String>,
    /// Its version, where the source says.
    pub version: Option<String>,
    /// SHA-256 of its canonical bytes, hexadecimal.
    pub digest: String,
}

impl fmt::Display for FeedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instance = self.instance.as_deref().unwrap_or("unknown instance");
        let version = self.version.as_deref().unwrap_or("unknown");
        write!(f, "{instance}, version {version}, sha256 {}", self.digest)
    }
}

/// One record of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSet {
    /// Its id.
    pub id: SetId,
    /// Its service area, an open list: `Common`, `Exchange`, `SharePoint`, `Skype` (Teams).
    pub service_area: String,
    /// The area's name for people; Microsoft changes it, so nothing is keyed by it.
    pub display_name: String,
    /// Its category.
    pub category: Category,
    /// Whether Microsoft 365 does not work without it.
    pub required: bool,
    /// Whether it is routed over `ExpressRoute`.
    pub express_route: bool,
    /// IPv4 and IPv6 prefixes, without host bits.
    pub prefixes: BTreeSet<IpNet>,
    /// TCP destination ports.
    pub tcp: Ports,
    /// UDP destination ports.
    pub udp: Ports,
    /// Host names, some with `*`.
    pub urls: BTreeSet<String>,
    /// Microsoft's remarks, may be empty.
    pub notes: String,
}

/// How Microsoft wants the traffic of a set treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Category {
    /// Bypass the inspection chain and leave locally.
    Optimize,
    /// Bypass decryption and inspection.
    Allow,
    /// Ordinary internet traffic.
    Default,
}

impl Category {
    /// Every category, in the order of Microsoft's advice.
    pub const ALL: [Self; 3] = [Self::Optimize, Self::Allow, Self::Default];

    /// The feed's name of it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Optimize => "Optimize",
            Self::Allow => "Allow",
            Self::Default => "Default",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no category.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected Optimize, Allow or Default")]
pub struct UnknownCategory;

impl FromStr for Category {
    type Err = UnknownCategory;

    /// The exact name, case included.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|category| category.name() == text).ok_or(UnknownCategory)
    }
}

/// Whether a text is a version: ten digits, `YYYYMMDDNN`.
fn is_version(text: &str) -> bool {
    text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit())
}
