//! Prefixes and host names with ports and the sets they come from.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::Serialize;

use super::{Export, ExportError, Piece};
use crate::feed::{FeedIdentity, Ports, SetId};
use crate::policy::transport_name;

#[derive(Serialize)]
struct Document<'a> {
    breakout365: &'static str,
    feed: &'a FeedIdentity,
    /// SHA-256 of the table.
    table: &'a str,
    /// What goes direct. A packet is in one row at most.
    prefixes: Vec<Prefix<'a>>,
    /// What goes direct for those who decide by name.
    hosts: Vec<Host>,
    /// What they inspect even so.
    inspected_hosts: Vec<String>,
    /// And where: prefixes with an excluded port.
    excluded_prefixes: &'a BTreeSet<IpNet>,
}

#[derive(Serialize)]
struct Prefix<'a> {
    prefix: IpNet,
    ports: Vec<Range<'a>>,
}

#[derive(Serialize)]
struct Range<'a> {
    protocol: &'static str,
    from: u16,
    to: u16,
    sets: &'a BTreeSet<SetId>,
}

#[derive(Serialize)]
struct Host {
    #[serde(rename = "host")]
    name: String,
    tcp: Ports,
    sets: BTreeSet<SetId>,
}

pub(super) fn render(export: &Export) -> Result<String, ExportError> {
    let names = export.names()?;
    let none = BTreeSet::new();
    let mut prefixes: BTreeMap<IpNet, Vec<Range>> = BTreeMap::new();
    for Piece { prefix, transport, first, last, group } in &export.pieces {
        let sets = export.groups.get(usize::from(*group)).unwrap_or(&none);
        let protocol = transport_name(*transport);
        let ports = prefixes.entry(*prefix).or_default();
        match ports.last_mut() {
            // Other prefixes near it divide its ports; the sets do not.
            Some(range)
                if (range.protocol, range.sets) == (protocol, sets)
                    && range.to.checked_add(1) == Some(*first) =>
            {
                range.to = *last;
            }
            _ => ports.push(Range { protocol, from: *first, to: *last, sets }),
        }
    }
    let sets = |name| export.hosts.get(name).into_iter().flat_map(BTreeMap::keys).copied();
    let document = Document {
        breakout365: env!("CARGO_PKG_VERSION"),
        feed: &export.feed,
        table: &export.table,
        prefixes: prefixes.into_iter().map(|(prefix, ports)| Prefix { prefix, ports }).collect(),
        hosts: names
            .into_iter()
            .map(|(name, tcp)| Host { name: name.to_string(), tcp, sets: sets(name).collect() })
            .collect(),
        inspected_hosts: export.inspected.iter().map(ToString::to_string).collect(),
        excluded_prefixes: &export.excluded,
    };
    let json = serde_json::to_string_pretty(&document)
        .map_err(|error| ExportError::Json(error.to_string()))?;
    Ok(json + "\n")
}
