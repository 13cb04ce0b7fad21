//! What the web service says about a version beside its content: from when additions are used,
//! and why something changed. Never needed to follow the feed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SetId, Snapshot, digest, is_tidy, is_version};

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

/// One line: the set, what happens to it, and from when.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { set, version, disposition, impact, effective, .. } = self;
        write!(f, "set {set}")?;
        for word in [disposition, impact].into_iter().flatten() {
            write!(f, ", {word}")?;
        }
        if let Some(version) = version {
            write!(f, ", version {version}")?;
        }
        match effective {
            Some(day) => write!(f, ", additions used from {day}"),
            None => Ok(()),
        }
    }
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
        // They are shown to people and written to logs: what is no word is left out.
        value.get(field).and_then(Value::as_str).filter(|text| is_tidy(text)).map(str::to_owned)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::parse;

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    /// A list of sets 1 and 2 with these prefixes.
    fn snapshot(sets: &[(SetId, &[&str])]) -> Snapshot {
        let records: Vec<Value> = sets
            .iter()
            .map(|(id, ips)| {
                serde_json::json!({
                    "id": id, "serviceArea": "Exchange", "category": "Optimize", "required": true,
                    "ips": ips, "tcpPorts": "443",
                })
            })
            .collect();
        let bare = parse(&serde_json::to_vec(&records).unwrap(), "feed").unwrap();
        Snapshot { version: Some("2026083100".into()), ..bare }
    }

    fn added(set: SetId, version: &str, effective: &str, ips: &[&str]) -> Value {
        serde_json::json!({
            "id": 7, "endpointSetId": set, "disposition": "Change", "version": version,
            "impact": "AddedIp", "add": {"effectiveDate": effective, "ips": ips},
        })
    }

    fn changes(records: &[Value]) -> Changes {
        Changes::parse(&serde_json::to_vec(records).unwrap()).unwrap()
    }

    #[test]
    fn what_is_understood_of_a_record_is_kept_and_the_rest_is_counted() {
        let records = serde_json::json!([
            {
                "id": 424, "endpointSetId": 32, "disposition": "Change", "version": "2018062700",
                "remove": {"urls": ["*.api.skype.com"], "ips": ["65.55.127.0/24", "x"]},
            },
            {
                "endpointSetId": 31, "impact": "SomethingNew", "version": "soon", "extra": {},
                "add": {"effectiveDate": "next week", "ips": ["2001:db8::/32", 7], "urls": "x"},
            },
            {"id": 3},
            "text",
        ]);
        let changes = Changes::parse(records.to_string().as_bytes()).unwrap();
        assert_eq!(changes.skipped, 4);
        let expected = [
            Change {
                set: 32,
                version: Some("2018062700".into()),
                disposition: Some("Change".into()),
                removed: ["65.55.127.0/24".parse().unwrap()].into(),
                removed_urls: ["*.api.skype.com".into()].into(),
                ..Change::default()
            },
            Change {
                set: 31,
                impact: Some("SomethingNew".into()),
                added: ["2001:db8::/32".parse().unwrap()].into(),
                ..Change::default()
            },
        ];
        assert_eq!(changes.changes, expected);
        let written = serde_json::to_string(&changes).unwrap();
        assert_eq!(serde_json::from_str::<Changes>(&written).unwrap(), changes);
        assert_eq!(Changes::parse(b"[]").unwrap(), Changes::default());
        for text in ["", "{}", "null", "<html>", "[1"] {
            assert!(Changes::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn additions_wait_for_their_day_and_removals_do_not() {
        let old = snapshot(&[(1, &["192.0.2.0/24", "198.51.100.0/24"])]);
        let new = snapshot(&[
            (1, &["192.0.2.0/24", "203.0.113.0/25", "203.0.113.128/25"]),
            (2, &["203.0.113.0/25", "2001:db8::/32"]),
        ]);
        let changes = changes(&[
            added(1, "2026083100", "20261001", &["203.0.113.0/25"]),
            added(2, "2026083100", "20261002", &["2001:db8::/32"]),
            // In the set already, whatever is said now.
            added(1, "2026083100", "20261001", &["192.0.2.0/24"]),
        ]);
        let day = |text: &str| hold(&old, &new, &changes, date(text));
        let addition = |set, prefix: &str, effective: &str| HeldAddition {
            set,
            prefix: prefix.parse().unwrap(),
            effective: date(effective),
        };
        let first = addition(1, "203.0.113.0/25", "2026-10-01");
        let second = addition(2, "2001:db8::/32", "2026-10-02");

        let before = day("2026-09-30");
        assert_eq!(before.held, [first, second.clone()]);
        let left = [(1, &["192.0.2.0/24", "203.0.113.128/25"][..]), (2, &["203.0.113.0/25"])];
        assert_eq!(before.snapshot, snapshot(&left));

        // The one in between is what the day after starts from.
        let on_the_day = day("2026-10-01");
        assert_eq!(on_the_day.held, [second]);
        let after = hold(&on_the_day.snapshot, &new, &changes, date("2026-10-02"));
        assert_eq!(after, Held { snapshot: new.clone(), held: Vec::new() });
    }

    #[test]
    fn without_dates_nothing_waits() {
        let (old, new) = (snapshot(&[(1, &[])]), snapshot(&[(1, &["203.0.113.0/24"])]));
        let today = date("2026-09-30");
        for changes in [
            Changes::default(),
            changes(&[added(1, "2026083100", "", &["203.0.113.0/24"])]),
            changes(&[added(2, "2026083100", "20270101", &["203.0.113.0/24"])]),
            changes(&[added(1, "2026083100", "20270101", &["203.0.113.0/25"])]),
        ] {
            assert_eq!(hold(&old, &new, &changes, today).snapshot, new, "{changes:?}");
        }
    }

    #[test]
    fn of_two_dates_that_of_the_newer_version_holds() {
        let (old, new) = (snapshot(&[(1, &[])]), snapshot(&[(1, &["203.0.113.0/24"])]));
        let (later, sooner) = (
            added(1, "2026073100", "20270101", &["203.0.113.0/24"]),
            added(1, "2026083100", "20261001", &["203.0.113.0/24"]),
        );
        for changes in [changes(&[later.clone(), sooner.clone()]), changes(&[sooner, later])] {
            let held = hold(&old, &new, &changes, date("2026-09-30")).held;
            assert_eq!(held[0].effective, date("2026-10-01"));
        }
    }
}
