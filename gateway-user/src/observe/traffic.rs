//! What was decided: packets and bytes by reason, by endpoint set and by own include.

use std::collections::BTreeMap;

use gateway_common::Reason;
use gateway_common::abi::Counter;
use serde::{Deserialize, Serialize};

use crate::datapath::{Counts, Manifest};
use crate::policy::SetId;

/// Packets, and bytes of whole frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, link header included.
    pub bytes: u64,
}

/// Everything that was decided. Lists are ascending and have each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// By hook: each packet once, where it was decided.
    pub hooks: Vec<HookTraffic>,
    /// By endpoint set. A packet that several sets list counts for each of them.
    pub sets: Vec<SetTraffic>,
    /// By own include.
    pub own: Vec<OwnTraffic>,
}

/// What hooks have decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookTraffic {
    /// By reason, all of them, in the order of [`Reason::ALL`].
    pub reasons: Vec<ReasonTraffic>,
}

/// What was decided for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonTraffic {
    /// [`Reason::name`].
    pub reason: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
}

/// What went direct by one endpoint set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetTraffic {
    /// Its id in the feed.
    pub id: SetId,
    /// Its service area.
    pub service_area: String,
    /// Its category.
    pub category: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
}

/// What went direct by one own include.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnTraffic {
    /// What the operator calls it.
    pub name: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
}

impl From<Counter> for Count {
    fn from(counter: Counter) -> Self {
        Self { packets: counter.packets, bytes: counter.bytes }
    }
}

impl Count {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }
}

impl Traffic {
    /// What one generation has decided.
    #[must_use]
    pub fn of_generation(manifest: &Manifest, counts: &Counts) -> Self {
        let decided = counts.decided();
        let reasons = Reason::ALL.into_iter().map(|reason| ReasonTraffic {
            reason: reason.name().to_owned(),
            count: decided.reason(reason).into(),
        });
        let mut by_set: BTreeMap<SetId, Count> = BTreeMap::new();
        for (group, counter) in manifest.groups.iter().zip(decided.groups()) {
            for set in group {
                let count = by_set.entry(*set).or_default();
                *count = count.plus((*counter).into());
            }
        }
        let count_of = |id: &SetId| by_set.get(id).copied().unwrap_or_default();
        let sets = manifest.sets.iter().map(|set| SetTraffic {
            id: set.id,
            service_area: set.service_area.clone(),
            category: set.category.clone(),
            count: count_of(&set.id),
        });
        let own = manifest
            .own
            .iter()
            .map(|own| OwnTraffic { name: own.name.clone(), count: count_of(&own.id) });
        Self {
            hooks: vec![HookTraffic { reasons: reasons.collect() }],
            sets: sets.collect(),
            own: own.collect(),
        }
    }
}
