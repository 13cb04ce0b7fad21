//! A refused plan: which guard, what it saw, its limit, and how to accept the plan all the same.

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
    /// The refusal that a failure to compile amounts to: no prefix left, or the whole internet.
    /// Other failures are of the policy, not of the feed's making, and no guard's business.
    #[must_use]
    pub fn of_policy_error(error: &PolicyError) -> Option<Self> {
        let guard = match error {
            PolicyError::Empty => Guard::NoPrefixes,
            PolicyError::WholeInternet { .. } => Guard::WidePrefix,
            _ => return None,
        };
        Some(Self { guard, what: error.to_string(), limit: String::new(), accept: String::new() })
    }
}

/// One line.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guard, what, limit, accept } = self;
        write!(f, "{}: {what}; {limit}; {accept}", guard.name())
    }
}
