//! The configuration file: what it says (strict TOML) and what it means (validated).

mod deadline;
mod egress;
mod feed;
mod file;
mod guards;
mod health;
mod own;
mod self_check;
mod validate;

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::Guards;
use crate::policy::Policy;

pub(crate) use deadline::DEFAULT_DEADLINE;
pub use egress::{Action, Egress, NextHop, OnFailure};
pub use feed::{FeedOptions, FeedSource, HoldAdditions, Instance, OnStale, UnknownInstance};
pub use health::{Health, Target};

/// Where the configuration is when the command line does not say.
pub const DEFAULT_PATH: &str = "/etc/breakout365/config.toml";

/// A validated configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The inside interfaces, in the order of the file, no name twice, at least one.
    pub interfaces: Vec<Interface>,
    /// The bits that say Direct.
    pub mark: Mark,
    /// Whether they are set.
    pub mode: Mode,
    /// What goes direct.
    pub policy: Policy,
    /// What the daemon does with the data plane when it is stopped.
    pub on_stop: OnStop,
    /// How long packets go direct once the daemon has gone; `None` is without end.
    pub deadline: Option<Duration>,
    /// tc checks one proposal of XDP in so many; 0 is none.
    pub self_check: u32,
    /// Where the feed comes from.
    pub feed: FeedSource,
    /// How it is kept up to date.
    pub feed_options: FeedOptions,
    /// The limits that refuse a plan.
    pub guards: Guards,
    /// The way out that the daemon keeps; `None`, it keeps none.
    pub egress: Option<Egress>,
}

impl Config {
    /// Reads and validates the file at `path`. A relative path in it starts at its directory.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or [`Config::parse`] refuses it.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::whole(path, format_args!("cannot be read: {error}")))?;
        Self::parse(&text, path)
    }

    /// Validates a configuration; `path` says in refusals where it came from.
    ///
    /// # Errors
    ///
    /// A key or value that is unknown, missing, or contradicts another: see [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        validate::validate(text, path)
    }
}

/// Why a configuration is refused: `FILE:LINE: FIELD: what is wrong`, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    place: String,
    problem: String,
}

impl ConfigError {
    fn whole(path: &Path, problem: impl std::fmt::Display) -> Self {
        Self { place: path.display().to_string(), problem: problem.to_string() }
    }
}

/// One inside interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, 1 to 15 bytes.
    pub name: String,
    /// How its packets are classified.
    pub hook: HookMode,
}

/// How an interface is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookMode {
    /// XDP and tc where the driver has native XDP and nobody else uses it, else tc alone.
    #[default]
    Auto,
    /// Native XDP and tc, or a refusal.
    Xdp,
    /// tc alone.
    Tc,
    /// Generic XDP and tc.
    Generic,
}

/// The fwmark bits that say Direct: `mark = (mark & !mask) | value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The bits set, within `mask`, not zero.
    pub value: u32,
    /// The bits that are ours, not zero.
    pub mask: u32,
}

/// Bit 24 alone. Left free by mwan3 (0x3f00), Tailscale and pbr (0x00ff0000) and kube-proxy
/// (0x4000, 0x8000).
impl Default for Mark {
    fn default() -> Self {
        Self { value: 0x0100_0000, mask: 0x0100_0000 }
    }
}

/// What becomes of Direct packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They are counted and marked.
    #[default]
    Mark,
    /// They are counted only: what marking would do, without doing it.
    Shadow,
}

impl Mode {
    /// Its name in the configuration, JSON and text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mark => "mark",
            Self::Shadow => "shadow",
        }
    }
}

/// What happens to the data plane on SIGTERM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStop {
    /// It goes on marking until the deadline.
    #[default]
    Keep,
    /// It is taken back as `breakout365 down` does.
    Detach,
}
