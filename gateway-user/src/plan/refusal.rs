//! A refused plan: which guard, what it saw, its limit, and how to have the plan all the same.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Guard;
use crate::policy::PolicyError;

/// Why a guard refuses a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The guard.
    pub guard: Guard,
    /// What it saw.
    pub what: String,
    /// What it allows.
    pub limit: String,
    /// How to have the plan all the same.
    pub accept: String,
}

impl Refusal {
    /// The refusal that a failure to compile amounts to, where a feed can bring it about: nothing
    /// direct, or the whole internet. Neither can be accepted, because there is no table.
    #[must_use]
    pub fn of_policy_error(error: &PolicyError) -> Option<Self> {
        match error {
            PolicyError::Empty => Some(Self {
                guard: Guard::NoPrefixes,
                what: "the policy selects no prefix of this feed".to_owned(),
                limit: "something has to be direct".to_owned(),
                accept: "cannot be accepted; select more, or run `breakout365 down`".to_owned(),
            }),
            PolicyError::WholeInternet { prefix, of } => Some(Self {
                guard: Guard::WidePrefix,
                what: format!("{of} lists {prefix}, the whole internet"),
                limit: "no table holds that".to_owned(),
                accept: format!("cannot be accepted; leave {of} out of the policy"),
            }),
            PolicyError::UnknownSet { .. }
            | PolicyError::UnknownArea { .. }
            | PolicyError::TooManyRanges { .. }
            | PolicyError::TooManyPortSets { .. }
            | PolicyError::TooManyWindows
            | PolicyError::TooManyGroups { .. } => None,
        }
    }
}

/// One line.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guard, what, limit, accept } = self;
        write!(f, "{guard}: {what}; {limit}; {accept}")
    }
}
