//! What is loaded: the published generation, as the daemon tells it and as the pins say without one.

use serde::{Deserialize, Serialize};

use super::Traffic;
use crate::config::Mode;
use crate::datapath::{
    Attached, DatapathError, FeedIdentity, Loaded, Manifest, Pins, Scope, attached_now,
};

/// The published generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedState {
    /// Its number.
    pub generation: u64,
    /// Version of the breakout365 that loaded it.
    pub breakout365: String,
    /// When it was loaded, seconds since the epoch.
    pub loaded_at: u64,
    /// The feed it was compiled from.
    pub feed: FeedIdentity,
    /// The bits that say Direct.
    pub mark: MarkBits,
    /// `mark`, or `shadow`: nothing is marked.
    pub mode: Mode,
    /// The uplink that XDP sends direct packets to; `None`, they are marked.
    #[serde(default)]
    pub redirects_to: Option<String>,
    /// How many prefixes go direct.
    pub prefixes: Prefixes,
    /// Whose traffic goes direct.
    pub sources: Scope,
    /// Where it is attached.
    pub hooks: Vec<Attached>,
}

/// Bits of the packet mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkBits {
    /// What is set.
    pub value: u32,
    /// What is ours.
    pub mask: u32,
}

/// Prefixes by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefixes {
    /// Of IPv4.
    pub ipv4: u64,
    /// Of IPv6.
    pub ipv6: u64,
}

impl LoadedState {
    /// A generation that is attached like this.
    #[must_use]
    pub fn new(manifest: &Manifest, hooks: Vec<Attached>) -> Self {
        Self {
            generation: manifest.generation,
            breakout365: manifest.breakout365.clone(),
            loaded_at: manifest.loaded_at,
            feed: manifest.feed.clone(),
            mark: MarkBits { value: manifest.mark_value, mask: manifest.mark_mask },
            mode: manifest.mode,
            redirects_to: manifest.redirects_to.clone(),
            prefixes: Prefixes { ipv4: manifest.prefixes_v4, ipv6: manifest.prefixes_v6 },
            sources: manifest.sources.clone(),
            hooks,
        }
    }

    /// What is under `pins`, and what it has decided since it was loaded: for where no daemon tells.
    ///
    /// # Errors
    ///
    /// [`DatapathError::NothingLoaded`] where nothing is.
    pub async fn of_pins(pins: &Pins) -> Result<(Self, Traffic), DatapathError> {
        let loaded = Loaded::open(pins)?;
        let (manifest, hooks) = (loaded.manifest(), attached_now(pins).await?);
        let counts = loaded.counts_by_hook()?;
        let runs = std::collections::BTreeMap::new();
        let traffic = Traffic::of_generation(manifest, &counts, &runs, &hooks);
        Ok((Self::new(manifest, hooks), traffic))
    }
}

#[cfg(test)]
impl LoadedState {
    /// Generation 7, on no hook.
    pub(crate) fn example() -> Self {
        Self {
            generation: 7,
            breakout365: "0.1.0".to_owned(),
            loaded_at: 0,
            feed: FeedIdentity { instance: None, version: None, digest: String::new() },
            mark: MarkBits { value: 1, mask: 1 },
            mode: Mode::Mark,
            redirects_to: None,
            prefixes: Prefixes::default(),
            sources: Scope::default(),
            hooks: Vec::new(),
        }
    }
}
