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
    /// TCP ports, where they changed, enter or leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Changed<Ports>>,
    /// UDP ports, where they changed, enter or leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<Changed<Ports>>,
    /// Its category, where it changed, enters or leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<Changed<Category>>,
    /// Whether it is required, where that changed, enters or leaves.
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
    /// In the old snapshot; `None` for a set that enters.
    pub from: Option<T>,
    /// In the new one; `None` for a set that leaves.
    pub to: Option<T>,
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
    /// Whether nothing but names, notes and the like differs.
    #[must_use]
    pub fn only_remarks(&self) -> bool {
        let nothing = [self.prefixes_in.len(), self.prefixes_out.len()] == [0, 0]
            && self.urls_in.is_empty()
            && self.urls_out.is_empty();
        let as_before = self.tcp.is_none() && self.udp.is_none();
        let treated_alike = self.category.is_none() && self.required.is_none();
        self.presence == Presence::Stays && nothing && as_before && treated_alike
    }

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

/// A value that is another one now.
fn changed<T: PartialEq>(
    old: Option<&EndpointSet>,
    new: Option<&EndpointSet>,
    of: impl Fn(&EndpointSet) -> T,
) -> Option<Changed<T>> {
    let (from, to) = (old.map(&of), new.map(&of));
    (from != to).then_some(Changed { from, to })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::feed::digest;

    fn set(id: SetId) -> impl Strategy<Value = EndpointSet> {
        let prefixes = prop::collection::btree_set(0u8..4, 0..4);
        let ports = prop::collection::vec((1u16..4).prop_map(|port| port..=port), 0..2);
        let urls = prop::collection::btree_set("[ab]", 0..3);
        (prefixes, ports, urls, any::<bool>(), 0usize..3, "[xy]?").prop_map(
            move |(prefixes, ports, urls, required, category, notes)| EndpointSet {
                id,
                service_area: "Exchange".into(),
                display_name: "Exchange".into(),
                category: Category::ALL[category],
                required,
                express_route: false,
                prefixes: prefixes
                    .into_iter()
                    .map(|octet| IpNet::new([10, octet, 0, 0].into(), 16).unwrap())
                    .collect(),
                tcp: ports.iter().cloned().collect(),
                udp: Ports::default(),
                urls,
                notes,
            },
        )
    }

    fn snapshot() -> impl Strategy<Value = Snapshot> {
        let sets = [1, 2, 3].map(|id| prop::option::of(set(id)));
        sets.prop_map(|sets| {
            let sets: BTreeMap<_, _> =
                sets.into_iter().flatten().map(|set| (set.id, set)).collect();
            Snapshot { instance: None, version: None, digest: digest(&sets), sets }
        })
    }

    fn replay<T: Ord + Clone>(
        old: &BTreeSet<T>,
        enter: &BTreeSet<T>,
        leave: &BTreeSet<T>,
    ) -> BTreeSet<T> {
        assert!(enter.is_disjoint(old) && leave.is_subset(old), "what was there does not enter");
        old.difference(leave).chain(enter).cloned().collect()
    }

    /// What a value is after `change`; a change is not from a value to itself.
    fn after<T: PartialEq + Clone + std::fmt::Debug>(
        change: Option<&Changed<T>>,
        old: Option<T>,
    ) -> Option<T> {
        let Some(Changed { from, to }) = change else { return old };
        assert!(*from == old && to != from, "{change:?}");
        to.clone()
    }

    proptest! {
        #[test]
        fn nothing_differs_from_itself(a in snapshot()) {
            prop_assert!(FeedDiff::between(&a, &a).is_empty());
        }

        #[test]
        fn the_old_one_and_the_difference_make_the_new_one(a in snapshot(), b in snapshot()) {
            let diff = FeedDiff::between(&a, &b);
            prop_assert_eq!(diff.is_empty(), a.sets == b.sets);
            let ids: Vec<SetId> = diff.sets.iter().map(|set| set.id).collect();
            let differ: Vec<SetId> =
                (1..=3).filter(|id| a.sets.get(id) != b.sets.get(id)).collect();
            prop_assert_eq!(ids, differ);
            for set in &diff.sets {
                let (old, new) = (a.sets.get(&set.id), b.sets.get(&set.id));
                let expected = match (old, new) {
                    (Some(_), Some(_)) => Presence::Stays,
                    (None, _) => Presence::Enters,
                    (_, None) => Presence::Leaves,
                };
                prop_assert_eq!(set.presence, expected);
                let prefixes = |set: Option<&EndpointSet>| {
                    set.map(|set| set.prefixes.clone()).unwrap_or_default()
                };
                let urls =
                    |set: Option<&EndpointSet>| set.map(|set| set.urls.clone()).unwrap_or_default();
                prop_assert_eq!(
                    replay(&prefixes(old), &set.prefixes_in, &set.prefixes_out), prefixes(new)
                );
                prop_assert_eq!(replay(&urls(old), &set.urls_in, &set.urls_out), urls(new));
                let ports = |set: Option<&EndpointSet>| set.map(|set| set.tcp.clone());
                prop_assert_eq!(after(set.tcp.as_ref(), ports(old)), ports(new));
                let category = |set: Option<&EndpointSet>| set.map(|set| set.category);
                prop_assert_eq!(after(set.category.as_ref(), category(old)), category(new));
                let required = |set: Option<&EndpointSet>| set.map(|set| set.required);
                prop_assert_eq!(after(set.required.as_ref(), required(old)), required(new));
                if let (Some(old), Some(new)) = (old, new) {
                    let alike = EndpointSet { notes: old.notes.clone(), ..new.clone() } == *old;
                    prop_assert_eq!(set.only_remarks(), alike);
                }
            }
        }
    }
}
