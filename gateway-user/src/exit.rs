//! What a command tells the shell: documented exit codes, and failures that carry one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;
use crate::datapath::DatapathError;
use crate::egress::EgressError;
use crate::feed::{FeedError, FetchError, StoreError};
use crate::policy::PolicyError;

/// Exit codes of every verb; the manual lists the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// A defect of breakout365, or a failure no other code fits.
    Internal = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration file is refused.
    Config = 3,
    /// The feed is refused.
    Feed = 4,
    /// The policy is refused for this feed: it selects nothing, or does not fit.
    Policy = 5,
    /// Not root, or a capability is missing.
    Permission = 6,
    /// The system lacks something: bpffs, a kernel feature.
    System = 7,
    /// An interface does not exist, cannot carry the hook, or carries somebody else's program.
    Interface = 8,
    /// Another breakout365 holds the pins.
    Busy = 9,
    /// A generation could not be loaded, filled, verified, self-tested or published.
    Datapath = 10,
    /// The loaded program and the oracle say different things.
    Disagreement = 11,
    /// The feed could not be fetched.
    Fetch = 12,
    /// A capture cannot be read.
    Capture = 13,
    /// Guards hold the plan; what served before goes on.
    Guard = 14,
    /// No daemon answers, or not as it should.
    Daemon = 15,
    /// Rules, routes or nftables table of the direct uplink cannot be put in place or removed.
    Egress = 16,
    /// The doctor's worst finding is a warning.
    Warning = 17,
    /// The doctor has found an error.
    Unfit = 18,
}

/// Why a command did not do what was asked: one line that says what, where and what to do next.
#[derive(Debug)]
pub struct Failure {
    /// The code the process ends with.
    pub exit: Exit,
    message: String,
}

impl Failure {
    /// A failure with `message` as its line; line breaks become spaces.
    #[must_use]
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        let message = message.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { exit, message }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Config, error)
    }
}

impl From<FeedError> for Failure {
    fn from(error: FeedError) -> Self {
        Self::new(Exit::Feed, error)
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self::new(Exit::Fetch, error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(Exit::System, error)
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        Self::new(Exit::Policy, error)
    }
}

impl From<DatapathError> for Failure {
    fn from(error: DatapathError) -> Self {
        Self::new(error.exit(), error)
    }
}

impl From<EgressError> for Failure {
    fn from(error: EgressError) -> Self {
        Self::new(Exit::Egress, error)
    }
}
