//! Prefixes and host names with ports and the sets they come from.

use std::collections::{BTreeMap, BTreeSet};

use gateway_common::Transport;
use ipnet::IpNet;
use serde::Serialize;

use super::{Export, ExportError, Piece};
use crate::feed::{FeedIdentity, Ports, SetId};
use crate::policy::{feed_ids, transport_name};

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
    /// And where.
    excluded: Vec<Exclude>,
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
    sets: BTreeSet<SetId>,
    /// Own includes, by name.
    own: BTreeSet<String>,
    #[serde(skip)]
    group: &'a BTreeSet<SetId>,
}

#[derive(Serialize)]
struct Exclude {
    prefix: IpNet,
    protocol: &'static str,
    from: u16,
    to: u16,
}

impl Exclude {
    fn of((prefix, transport, from, to): &(IpNet, Transport, u16, u16)) -> Self {
        Self { prefix: *prefix, protocol: transport_name(*transport), from: *from, to: *to }
    }
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
        let group = export.groups.get(usize::from(*group)).unwrap_or(&none);
        let protocol = transport_name(*transport);
        let ports = prefixes.entry(*prefix).or_default();
        match ports.last_mut() {
            // Other prefixes near it divide its ports; the sets do not.
            Some(range)
                if (range.protocol, range.group) == (protocol, group)
                    && range.to.checked_add(1) == Some(*first) =>
            {
                range.to = *last;
            }
            _ => {
                let (sets, own) = (feed_ids(group), export.own.own(group));
                ports.push(Range { protocol, from: *first, to: *last, sets, own, group });
            }
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
        excluded: export.excluded.iter().map(Exclude::of).collect(),
    };
    let json = serde_json::to_string_pretty(&document)
        .map_err(|error| ExportError::Json(error.to_string()))?;
    Ok(json + "\n")
}
