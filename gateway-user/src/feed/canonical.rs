//! The canonical form of a snapshot: one text for one content, with a digest that proves it.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Category, EndpointSet, FeedError, Ports, SetId, Snapshot, parse};

const EMBEDDED: &str = include_str!("worldwide-2026073100.json");

/// The snapshot in the binary: Worldwide, version 2026073100.
///
/// # Errors
///
/// None in a binary whose tests have passed.
pub fn embedded() -> Result<Snapshot, FeedError> {
    parse(EMBEDDED.as_bytes(), "the embedded feed")
}

/// Writes a snapshot as its canonical text: sets by id, lists and ports sorted, two spaces a
/// level, a line break at the end. [`parse()`] reads it back to the same snapshot.
///
/// # Errors
///
/// None that a snapshot can cause; the JSON writer's interface has one.
pub fn write(snapshot: &Snapshot) -> serde_json::Result<String> {
    let envelope = Envelope {
        instance: snapshot.instance.as_deref(),
        version: snapshot.version.as_deref(),
        digest: &snapshot.digest,
        sets: records(&snapshot.sets),
    };
    let mut text = serde_json::to_string_pretty(&envelope)?;
    text.push('\n');
    Ok(text)
}

/// SHA-256 of the sets in canonical form without any white space, as lower-case hex.
#[must_use]
pub fn digest(sets: &BTreeMap<SetId, EndpointSet>) -> String {
    let mut hash = Sha256::new();
    for record in records(sets) {
        // A record holds texts, numbers and lists of texts: writing these to memory cannot fail,
        // and nothing written would be a digest that fits no content.
        hash.update(serde_json::to_vec(&record).unwrap_or_default());
        hash.update(b"\n");
    }
    format!("{:x}", hash.finalize())
}

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    digest: &'a str,
    sets: Vec<Record<'a>>,
}

/// A set with the web service's names, in the web service's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    id: SetId,
    service_area: &'a str,
    service_area_display_name: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    urls: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<String>,
    #[serde(skip_serializing_if = "Ports::is_empty")]
    tcp_ports: &'a Ports,
    #[serde(skip_serializing_if = "Ports::is_empty")]
    udp_ports: &'a Ports,
    express_route: bool,
    category: Category,
    required: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    notes: &'a str,
}

fn records(sets: &BTreeMap<SetId, EndpointSet>) -> Vec<Record<'_>> {
    sets.values().map(Record::of).collect()
}

impl<'a> Record<'a> {
    fn of(set: &'a EndpointSet) -> Self {
        Self {
            id: set.id,
            service_area: &set.service_area,
            service_area_display_name: &set.display_name,
            urls: set.urls.iter().map(String::as_str).collect(),
            ips: set.prefixes.iter().map(ToString::to_string).collect(),
            tcp_ports: &set.tcp,
            udp_ports: &set.udp,
            express_route: set.express_route,
            category: set.category,
            required: set.required,
            notes: &set.notes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_file_is_its_own_canonical_rewriting() {
        let snapshot = embedded().unwrap();
        assert_eq!(write(&snapshot).unwrap(), EMBEDDED);
        assert_eq!(snapshot.instance.as_deref(), Some("Worldwide"));
        assert_eq!(snapshot.version.as_deref(), Some("2026073100"));
    }

    #[test]
    fn the_embedded_snapshot_has_every_published_set() {
        let snapshot = embedded().unwrap();
        let with_prefixes: Vec<SetId> = snapshot
            .sets
            .values()
            .filter(|set| !set.prefixes.is_empty())
            .map(|set| set.id)
            .collect();
        let prefixes: std::collections::BTreeSet<_> =
            snapshot.sets.values().flat_map(|set| &set.prefixes).collect();
        assert_eq!(snapshot.sets.len(), 63);
        assert_eq!(with_prefixes, [1, 2, 9, 10, 11, 12, 31, 46, 56, 64]);
        assert_eq!(prefixes.iter().filter(|prefix| prefix.addr().is_ipv4()).count(), 34);
        assert_eq!(prefixes.iter().filter(|prefix| prefix.addr().is_ipv6()).count(), 59);
        assert_eq!(snapshot.sets.values().filter(|set| !set.urls.is_empty()).count(), 62);
    }

    #[test]
    fn any_damage_to_the_sets_is_refused() {
        for (good, damaged) in [
            ("40.96.0.0/13", "40.96.0.0/14"),
            ("\"tcpPorts\": \"80,443\"", "\"tcpPorts\": \"80-443\""),
            ("\"category\": \"Allow\"", "\"category\": \"Optimize\""),
            ("\"required\": false", "\"required\": true"),
            ("outlook.office.com", "outlook.office.org"),
        ] {
            let text = EMBEDDED.replacen(good, damaged, 1);
            assert_ne!(text, EMBEDDED);
            let refusal = parse(text.as_bytes(), "x.json").unwrap_err().to_string();
            assert!(refusal.starts_with("x.json: is damaged: digest"), "{refusal}");
        }
    }
}
