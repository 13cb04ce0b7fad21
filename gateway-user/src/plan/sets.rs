//! What a plan means for each endpoint set and own entry, and why.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Side;
use crate::feed::SetId;

/// What changes for one endpoint set or own entry, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetChange {
    /// Its id.
    pub set: SetId,
    /// Service area and category, or the name of the own entry.
    pub name: String,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// Prefixes that come, ascending.
    pub prefixes_entering: Vec<IpNet>,
    /// Prefixes that go, ascending.
    pub prefixes_leaving: Vec<IpNet>,
    /// Ports that come, such as `tcp/443` and `udp/3478-3481`.
    pub ports_entering: Vec<String>,
    /// Ports that go.
    pub ports_leaving: Vec<String>,
}

pub(super) fn between(_old: Option<&Side<'_>>, _new: &Side<'_>) -> Vec<SetChange> {
    Vec::new()
}
