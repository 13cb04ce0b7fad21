//! What a generation is made of, in words: pinned beside its programs, for whoever looks later.
//!
//! The programs see dense ids only. The names behind them must outlive the daemon as the programs
//! do, and must never be of another generation than the counters they explain; so they are stored
//! as JSON in a BPF array of their own, which is pinned and removed with the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::DatapathError;
use crate::config::Mode;
use crate::feed::FeedIdentity;
use crate::policy::{SetId, SupportIdentity};

/// Bytes of the manifest per array entry.
const CHUNK: usize = 1024;

/// Names and numbers of one generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Number of the generation: from 1, one more than the last under the same pins.
    pub generation: u64,
    /// Version of the breakout365 that loaded it.
    pub breakout365: String,
    /// When it was loaded, seconds since the epoch.
    pub loaded_at: u64,
    /// The feed it was compiled from.
    pub feed: FeedIdentity,
    /// [`crate::policy::Table::digest`] of its table.
    pub table: String,
    /// The bits that say Direct.
    pub mark_value: u32,
    /// The bits of the mark that are ours.
    pub mark_mask: u32,
    /// Whether the bits are set.
    #[serde(default)]
    pub mode: Mode,
    /// The uplink that Direct packets are redirected to; `None` where they are marked only.
    #[serde(default)]
    pub redirects_to: Option<String>,
    /// IPv4 prefixes in its table.
    pub prefixes_v4: u64,
    /// IPv6 prefixes in its table.
    pub prefixes_v6: u64,
    /// The endpoint sets that were selected.
    pub sets: Vec<SetIdentity>,
    /// The operator's own includes that were selected.
    #[serde(default)]
    pub own: Vec<OwnIdentity>,
    /// Endpoint sets and own includes of each provenance group, by group id.
    pub groups: Vec<BTreeSet<SetId>>,
    /// Whose traffic goes direct.
    #[serde(default)]
    pub sources: Scope,
    /// The interfaces with counters of their own, in the order of those.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// The support windows it has, which come on top of that.
    #[serde(default)]
    pub support: SupportIdentity,
}

/// Which own include.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnIdentity {
    /// Its id: [`crate::feed::FIRST_OWN_ID`] and its place in the policy.
    pub id: SetId,
    /// What the operator calls it.
    pub name: String,
}

/// Whose traffic goes direct; everybody's, where nothing is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Source prefixes.
    pub prefixes: BTreeSet<IpNet>,
    /// Interfaces, by name; without an index where one did not exist.
    pub interfaces: BTreeMap<String, Option<u32>>,
}

/// Which endpoint set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetIdentity {
    /// Its id in the feed.
    pub id: SetId,
    /// Its service area.
    pub service_area: String,
    /// Its category.
    pub category: String,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes = self.prefixes.iter().map(ToString::to_string);
        let interfaces = self.interfaces.iter().map(|(name, index)| match index {
            Some(_) => format!("in by {name}"),
            None => format!("in by {name} (gone)"),
        });
        f.write_str(&prefixes.chain(interfaces).collect::<Vec<_>>().join(", "))
    }
}

impl Manifest {
    /// Stores the manifest in a new array and pins that at `path`.
    pub(super) fn pin(&self, path: &Path) -> Result<(), DatapathError> {
        let fill = |why: String| DatapathError::Fill { map: "manifest", why };
        let json = serde_json::to_vec(self).map_err(|error| fill(error.to_string()))?;
        let chunks = json.chunks(CHUNK);
        let entries = u32::try_from(chunks.len()).map_err(|error| fill(error.to_string()))?;
        let mut array = Array::<MapData, [u8; CHUNK]>::create(entries, 0)
            .map_err(|error| fill(error.to_string()))?;
        for (index, bytes) in (0..entries).zip(chunks) {
            let mut chunk = [b' '; CHUNK];
            for (to, from) in chunk.iter_mut().zip(bytes) {
                *to = *from;
            }
            array.set(index, chunk, 0).map_err(|error| fill(error.to_string()))?;
        }
        array.pin(path).map_err(|error| fill(error.to_string()))
    }

    /// Reads the manifest pinned at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, DatapathError> {
        let unreadable = |why: String| DatapathError::Unreadable { path: path.to_owned(), why };
        let data = MapData::from_pin(path).map_err(|error| unreadable(error.to_string()))?;
        let map = Map::from_map_data(data).map_err(|error| unreadable(error.to_string()))?;
        let array = Array::<_, [u8; CHUNK]>::try_from(map)
            .map_err(|error| unreadable(error.to_string()))?;
        let mut json = Vec::new();
        for index in 0..array.len() {
            let chunk = array.get(&index, 0).map_err(|error| unreadable(error.to_string()))?;
            json.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&json).map_err(|error| unreadable(error.to_string()))
    }
}
