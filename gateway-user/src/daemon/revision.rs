//! A configuration and a feed with everything they lead to, short of the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use crate::config::{Config, FeedSource, Mode};
use crate::datapath::{Blueprint, FeedIdentity, OwnIdentity, SetIdentity};
use crate::exit::{Exit, Failure};
use crate::feed::{self, Snapshot};
use crate::plan::Side;
use crate::policy::{self, Compiled, Names, PolicyError};

/// What a generation is made from.
#[derive(Clone, Debug)]
pub(super) struct Revision {
    pub(super) config: Config,
    /// The text that `config` was read from, to read it again after a restart.
    text: String,
    pub(super) snapshot: Snapshot,
    pub(super) compiled: Compiled,
}

/// A [`Revision`] as it is kept in the state directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    /// SHA-256 of the rest: a damaged version or policy must not pass for what was.
    digest: String,
    config: String,
    /// Canonical.
    feed: String,
    /// Whether additions of the feed were held.
    partial: bool,
}

impl Saved {
    fn hash(&self) -> String {
        let Self { config, feed, partial, .. } = self;
        format!("{:x}", Sha256::digest(format!("{partial} {} {config}{feed}", config.len())))
    }
}

/// A configuration file and its text.
#[derive(Clone, Debug)]
pub(super) struct ConfigText {
    pub(super) config: Config,
    text: String,
}

impl ConfigText {
    /// Reads the file at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| {
            Failure::new(Exit::Config, format!("{}: cannot be read: {error}", path.display()))
        })?;
        Ok(Self { config: Config::parse(&text, path)?, text })
    }
}

impl Revision {
    /// Compiles a configuration with a feed.
    pub(super) fn compile(config: ConfigText, snapshot: Snapshot) -> Result<Self, PolicyError> {
        let ConfigText { config, text } = config;
        let compiled = policy::compile(&snapshot, &config.policy)?;
        Ok(Self { config, text, snapshot, compiled })
    }

    /// The same configuration with another feed.
    pub(super) fn with_feed(&self, snapshot: Snapshot) -> Result<Self, PolicyError> {
        Self::compile(self.config_text(), snapshot)
    }

    /// The configuration it was made from.
    pub(super) fn config_text(&self) -> ConfigText {
        ConfigText { config: self.config.clone(), text: self.text.clone() }
    }

    /// As it is kept; `partial`, additions of its feed are held.
    pub(super) fn save(&self, partial: bool) -> Result<Saved, Failure> {
        let feed = feed::write(&self.snapshot)
            .map_err(|error| Failure::new(Exit::Internal, format!("the feed as JSON: {error}")))?;
        let mut saved = Saved { digest: String::new(), config: self.text.clone(), feed, partial };
        saved.digest = saved.hash();
        Ok(saved)
    }

    /// From how it was kept, and whether it was partial; `path` is the configuration file it came
    /// from.
    pub(super) fn restore(saved: &Saved, path: &Path) -> Result<(Self, bool), Failure> {
        if saved.digest != saved.hash() {
            return Err(Failure::new(Exit::System, "is damaged: it is not what was written"));
        }
        let config = Config::parse(&saved.config, path)?;
        let snapshot = feed::parse(saved.feed.as_bytes(), "the saved feed")?;
        let config = ConfigText { config, text: saved.config.clone() };
        Ok((Self::compile(config, snapshot)?, saved.partial))
    }

    /// Whether its feed is of the same source.
    pub(super) fn is_of(&self, source: &FeedSource) -> bool {
        self.config.feed == *source
    }

    /// The names of its interfaces.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = String> + '_ {
        self.config.interfaces.iter().map(|interface| interface.name.clone())
    }

    /// What it is in a plan.
    pub(super) fn side(&self) -> Side<'_> {
        Side { snapshot: &self.snapshot, policy: &self.config.policy, compiled: &self.compiled }
    }

    /// Whether a generation of the one would be a generation of the other.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.text == other.text && self.feed() == other.feed()
    }

    pub(super) fn feed(&self) -> FeedIdentity {
        self.snapshot.identity()
    }

    /// Says what a person should know of it.
    pub(super) fn log_notes(&self) {
        for note in &self.compiled.notes {
            if note.is_warning() {
                warn!("{note}");
            } else {
                info!("{note}");
            }
        }
    }

    /// What the kernel gets; `inspecting`, nothing is marked.
    pub(super) fn blueprint(&self, inspecting: bool) -> Blueprint {
        let selected: BTreeSet<_> =
            self.compiled.table.groups().iter().flatten().copied().collect();
        let names = Names::of(&self.config.policy);
        let own = selected
            .iter()
            .filter_map(|id| Some(OwnIdentity { id: *id, name: names.include(*id)? }))
            .collect();
        let sets = selected
            .iter()
            .filter_map(|id| self.snapshot.sets.get(id))
            .map(|set| SetIdentity {
                id: set.id,
                service_area: set.service_area.clone(),
                category: set.category.name().to_owned(),
            })
            .collect();
        Blueprint {
            table: self.compiled.table.clone(),
            mark: self.config.mark,
            mode: if inspecting { Mode::Shadow } else { self.config.mode },
            feed: self.feed(),
            sets,
            own,
            deadline: self.config.deadline,
            starts_off: false,
            self_check: self.config.self_check,
            redirect: None,
        }
    }
}
