//! What the web service says about a version beside its content: from when additions are used,
//! and why something changed. Never needed to follow the feed.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use ipnet::IpNet;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SetId, Snapshot, digest, is_version};

/// The answer to `/changes`, as far as it is understood.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The changes, in the order of the answer.
    pub changes: Vec<Change>,
    /// How many records, and prefixes within records, were not understood and left out.
    pub skipped: usize,
}

/// One change of one endpoint set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The set.
    pub set: SetId,
    /// The version that brought it, ten digits.
    pub version: Option<String>,
    /// `Add`, `Change` or `Remove`, so far.
    pub disposition: Option<String>,
    /// Microsoft's word for what it means, an open list: `AddedIp`, `RemovedIpOrUrl` and more.
    pub impact: Option<String>,
    /// From when the additions are used.
    pub effective: Option<Date>,
    /// Prefixes that enter.
    pub added: BTreeSet<IpNet>,
    /// Prefixes that leave.
    pub removed: BTreeSet<IpNet>,
    /// Host names that enter.
    pub added_urls: BTreeSet<String>,
    /// Host names that leave.
    pub removed_urls: BTreeSet<String>,
}

/// A snapshot whose additions wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The new snapshot without what is held; instance and version are kept.
    pub snapshot: Snapshot,
    /// What is held, by set and prefix.
    pub held: Vec<HeldAddition>,
}

/// An addition that is not used yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldAddition {
    /// The set it enters.
    pub set: SetId,
    /// The prefix.
    pub prefix: IpNet,
    /// The first day that it is used.
    pub effective: Date,
}

/// An answer to `/changes` that is no list of records.
#[derive(Debug, thiserror::Error)]
#[error("is not the JSON of a list of changes: {0}")]
pub struct ChangesError(serde_json::Error);

impl Changes {
    /// Reads the answer to `/changes`. What is not understood within a record is left out.
    ///
    /// # Errors
    ///
    /// It is no JSON list.
    pub fn parse(bytes: &[u8]) -> Result<Self, ChangesError> {
        let records: Vec<Value> = serde_json::from_slice(bytes).map_err(ChangesError)?;
        let mut changes = Self::default();
        for record in &records {
            match change(record, &mut changes.skipped) {
                Some(change) => changes.changes.push(change),
                None => changes.skipped = changes.skipped.saturating_add(1),
            }
        }
        Ok(changes)
    }

    /// From when each added prefix is used, of the newest version that adds it with a date.
    fn effective(&self) -> BTreeMap<(SetId, IpNet), Date> {
        let mut dates: BTreeMap<(SetId, IpNet), (Option<&str>, Date)> = BTreeMap::new();
        for change in &self.changes {
            let Some(date) = change.effective else { continue };
            let this = (change.version.as_deref(), date);
            for prefix in &change.added {
                let newest = dates.entry((change.set, *prefix)).or_insert(this);
                *newest = this.max(*newest);
            }
        }
        dates.into_iter().map(|(key, (_, date))| (key, date)).collect()
    }
}

/// Takes out of `new` the prefixes that are not in the same set of `old` and that `changes` says
/// are used from a day after `today` only. What left, has left.
#[must_use]
pub fn hold(old: &Snapshot, new: &Snapshot, changes: &Changes, today: Date) -> Held {
    let effective = changes.effective();
    let mut sets = new.sets.clone();
    let mut held = Vec::new();
    for (id, set) in &mut sets {
        let before = old.sets.get(id).map(|set| &set.prefixes);
        set.prefixes.retain(|prefix| {
            let is_new = !before.is_some_and(|before| before.contains(prefix));
            let waits = effective.get(&(*id, *prefix)).filter(|date| is_new && **date > today);
            if let Some(date) = waits {
                held.push(HeldAddition { set: *id, prefix: *prefix, effective: *date });
            }
            waits.is_none()
        });
    }
    Held { snapshot: Snapshot { digest: digest(&sets), sets, ..new.clone() }, held }
}

/// One record, or `None` if it does not even name its set.
fn change(record: &Value, skipped: &mut usize) -> Option<Change> {
    let text = |value: &Value, field: &str| {
        value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let set = record.get("endpointSetId")?.as_u64().and_then(|id| SetId::try_from(id).ok())?;
    let (add, remove) = (record.get("add"), record.get("remove"));
    let effective = add.and_then(|add| text(add, "effectiveDate"));
    Some(Change {
        set,
        version: text(record, "version").filter(|version| is_version(version)),
        disposition: text(record, "disposition"),
        impact: text(record, "impact"),
        effective: effective.and_then(|date| date.parse().ok()),
        added: understood(add, "ips", skipped),
        removed: understood(remove, "ips", skipped),
        added_urls: understood(add, "urls", skipped),
        removed_urls: understood(remove, "urls", skipped),
    })
}

/// The texts of a list that can be read as `T`.
fn understood<T: FromStr + Ord>(
    part: Option<&Value>,
    field: &str,
    skipped: &mut usize,
) -> BTreeSet<T> {
    let list = part.and_then(|part| part.get(field)).and_then(Value::as_array);
    let mut read = BTreeSet::new();
    for item in list.into_iter().flatten() {
        match item.as_str().and_then(|text| text.parse().ok()) {
            Some(item) => {
                read.insert(item);
            }
            None => *skipped = skipped.saturating_add(1),
        }
    }
    read
}
