//! What the offline verbs work on: a configuration's policy, a feed, and both compiled.

use std::path::{Path, PathBuf};

use crate::config::{self, Config, FeedSource, Interface, Mode};
use crate::daemon::feed_at_hand;
use crate::exit::{Exit, Failure};
use crate::feed::{self, Snapshot};
use crate::policy::{self, Compiled, Policy, PolicyError, Support, SupportIdentity};

/// Where policy and feed come from.
#[derive(Debug, clap::Args)]
pub(super) struct Input {
    /// Configuration file [default: /etc/breakout365/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Feed to use in place of the configuration's: a file as the web service answers it
    #[arg(long, value_name = "FILE")]
    feed: Option<PathBuf>,
}

/// A policy, a feed, and both compiled.
pub(super) struct Loaded {
    pub(super) policy: Policy,
    /// Whether a daemon with this configuration marks.
    pub(super) mode: Mode,
    /// The inside interfaces; none without a configuration.
    pub(super) interfaces: Vec<Interface>,
    pub(super) snapshot: Snapshot,
    pub(super) compiled: Compiled,
}

impl Input {
    /// Reads and compiles. Without a configuration the default policy holds. Of a source in the
    /// network it is the last good feed in `state_dir`, where that may be read.
    pub(super) fn load(&self, state_dir: &Path) -> Result<Loaded, Failure> {
        let config = config(self.config.as_deref())?;
        let snapshot = match (&self.feed, config.as_ref().map(|config| &config.feed)) {
            (Some(path), _) => feed::read(path)?,
            (None, Some(source)) => at_hand(source, state_dir, self.config_path())?,
            (None, None) => feed::embedded()?,
        };
        let (policy, mode, interfaces) = config
            .map(|config| (config.policy, config.mode, config.interfaces))
            .unwrap_or_default();
        let compiled = policy::compile(&snapshot, &policy)?;
        Ok(Loaded { policy, mode, interfaces, snapshot, compiled })
    }
}

impl Loaded {
    /// Opens the windows that are loaded, at this time of `CLOCK_BOOTTIME`.
    pub(super) fn open_windows(
        &mut self,
        loaded: &SupportIdentity,
        now: u64,
    ) -> Result<(), PolicyError> {
        let SupportIdentity { windows, left_out, .. } = loaded;
        if !windows.is_empty() {
            let support = Support::compile(&self.snapshot, &self.policy, windows, left_out)?;
            self.compiled.table = self.compiled.table.clone().with_support(support.at(now))?;
        }
        Ok(())
    }
}

impl Input {
    /// The configuration, which has to be there.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        config(self.config.as_deref())?.ok_or_else(|| {
            let problem = format_args!("{}: not found; --config FILE", config::DEFAULT_PATH);
            Failure::new(Exit::Config, problem)
        })
    }

    fn config_path(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(config::DEFAULT_PATH))
    }
}

/// The feed that a daemon with this source begins with.
fn at_hand(source: &FeedSource, state_dir: &Path, config: &Path) -> Result<Snapshot, Failure> {
    feed_at_hand(source, state_dir, config)?.ok_or_else(|| {
        let problem = format_args!(
            "the feed of {source} is neither in the binary nor in {}; `breakout365 feed fetch \
             --out FILE`, then --feed FILE",
            state_dir.display()
        );
        Failure::new(Exit::Feed, problem)
    })
}

/// The configuration at `path`, or else the one in the usual place, if there is one.
pub(super) fn config(path: Option<&Path>) -> Result<Option<Config>, Failure> {
    if let Some(path) = path {
        return Ok(Some(Config::read(path)?));
    }
    let path = Path::new(config::DEFAULT_PATH);
    // Not `exists`: a file that may not be seen would pass for none, and the answer would be
    // about another policy.
    match path.try_exists() {
        Ok(true) => Ok(Some(Config::read(path)?)),
        Ok(false) => Ok(None),
        Err(error) => Err(Failure::new(Exit::Config, format_args!("{}: {error}", path.display()))),
    }
}
