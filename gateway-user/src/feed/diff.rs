//! How one snapshot differs from another, set by set.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::Serialize;

use super::{Category, EndpointSet, FeedIdentity, Ports, SetId, Snapshot};

/// The difference between two snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FeedDiff {
    /// The old one.
    pub from: FeedIdentity,
    /// The new one.
    pub to: FeedIdentity,
    /// The sets that differ, by id.
    pub sets: Vec<SetDiff>,
}

/// What is different about one set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetDiff {
    /// Its id.
    pub id: SetId,
    /// Its service area, of the new snapshot where it is in both.
    pub service_area: String,
    /// Whether it is in both, or enters or leaves as a whole.
    pub presence: Presence,
    /// Prefixes that enter.
    pub prefixes_in: BTreeSet<IpNet>,
    /// Prefixes that leave.
    pub prefixes_out: BTreeSet<IpNet>,
    /// Host names that enter.
    pub urls_in: BTreeSet<String>,
    /// Host names that leave.
    pub urls_out: BTreeSet<String>,
    /// TCP ports, where they changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Changed<Ports>>,
    /// UDP ports, where they changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<Changed<Ports>>,
    /// Its category, where it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<Changed<Category>>,
    /// Whether it is required, where that changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required: Option<Changed<bool>>,
}

/// In which of the two snapshots a set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// In the new one only.
    Enters,
    /// In the old one only.
    Leaves,
    /// In both.
    Stays,
}

/// A value before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Changed<T> {
    /// In the old snapshot.
    pub from: T,
    /// In the new one.
    pub to: T,
}

impl FeedDiff {
    /// What leads from `old` to `new`.
    #[must_use]
    pub fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let ids: BTreeSet<SetId> = old.sets.keys().chain(new.sets.keys()).copied().collect();
        let sets =
            ids.into_iter().filter_map(|id| SetDiff::of(old.sets.get(&id), new.sets.get(&id)));
        Self { from: old.identity(), to: new.identity(), sets: sets.collect() }
    }

    /// Whether the sets are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }
}

impl SetDiff {
    fn of(old: Option<&EndpointSet>, new: Option<&EndpointSet>) -> Option<Self> {
        let presence = match (old, new) {
            (Some(old), Some(new)) if old == new => return None,
            (Some(_), Some(_)) => Presence::Stays,
            (None, _) => Presence::Enters,
            (_, None) => Presence::Leaves,
        };
        let named = new.or(old)?;
        Some(Self {
            id: named.id,
            service_area: named.service_area.clone(),
            presence,
            prefixes_in: missing(new, old, |set| &set.prefixes),
            prefixes_out: missing(old, new, |set| &set.prefixes),
            urls_in: missing(new, old, |set| &set.urls),
            urls_out: missing(old, new, |set| &set.urls),
            tcp: changed(old, new, |set| set.tcp.clone()),
            udp: changed(old, new, |set| set.udp.clone()),
            category: changed(old, new, |set| set.category),
            required: changed(old, new, |set| set.required),
        })
    }
}

/// What `a` has and `b` has not.
fn missing<T: Ord + Clone>(
    a: Option<&EndpointSet>,
    b: Option<&EndpointSet>,
    of: impl Fn(&EndpointSet) -> &BTreeSet<T>,
) -> BTreeSet<T> {
    let (Some(a), b) = (a.map(&of), b.map(&of)) else { return BTreeSet::new() };
    a.iter().filter(|item| !b.is_some_and(|b| b.contains(item))).cloned().collect()
}

/// A value that is another one now, of a set that is in both.
fn changed<T: PartialEq>(
    old: Option<&EndpointSet>,
    new: Option<&EndpointSet>,
    of: impl Fn(&EndpointSet) -> T,
) -> Option<Changed<T>> {
    let (from, to) = (of(old?), of(new?));
    (from != to).then_some(Changed { from, to })
}
