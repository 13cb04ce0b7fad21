//! What came of checking XDP's proposals.

use serde::{Deserialize, Serialize};

use crate::datapath::Counts;

/// tc classifies some of the packets itself that XDP proposes to let go direct.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfCheck {
    /// Proposals that were checked.
    pub checked: u64,
    /// Those that tc would not have made; these packets were inspected.
    pub disagreed: u64,
}

impl SelfCheck {
    /// What one generation has counted.
    #[must_use]
    pub fn of_generation(counts: &Counts) -> Self {
        Self {
            checked: counts.tc_behind_xdp.self_checked().packets,
            disagreed: counts.tc_behind_xdp.self_disagreed().packets,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            checked: self.checked.saturating_add(other.checked),
            disagreed: self.disagreed.saturating_add(other.disagreed),
        }
    }
}
