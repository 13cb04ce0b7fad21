//! The configuration file: what it says (strict TOML) and what it means (validated).

use std::path::PathBuf;

/// A validated configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The inside interfaces, in the order of the file, no name twice, at least one.
    pub interfaces: Vec<Interface>,
    /// The bits that say Direct.
    pub mark: Mark,
    /// What the daemon does with the data plane when it is stopped.
    pub on_stop: OnStop,
    /// Where the feed comes from.
    pub feed: FeedSource,
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

/// What happens to the data plane on SIGTERM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStop {
    /// It goes on marking.
    #[default]
    Keep,
    /// It is taken back as `breakout365 down` does.
    Detach,
}

/// Where the feed comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FeedSource {
    /// The snapshot in the binary.
    #[default]
    Embedded,
    /// A file of the web service's shape.
    File(PathBuf),
}
