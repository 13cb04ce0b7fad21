//! `breakout365 policy`: what the policy makes of the feed.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::path::Path;

use gateway_common::Transport;
use gateway_common::abi::{EXCLUDED_GROUP, PortSet};
use ipnet::IpNet;
use serde::Serialize;

use super::input::{Input, Loaded};
use super::output::{self, PortRange};
use crate::config::Mode;
use crate::exit::Failure;
use crate::feed::{Category, FeedIdentity, Ports, SetId};
use crate::policy::{Compiled, Names, Note, Policy, Sources, feed_ids, transport_name};

/// Prefixes of an own entry that its line shows.
const SHOWN: usize = 4;

/// Verbs of the policy.
#[derive(Debug, clap::Subcommand)]
pub enum PolicyVerb {
    Show(Show),
}

/// Every prefix that has direct traffic, with its ports and the sets it comes from
#[derive(Debug, clap::Args)]
pub struct Show {
    #[command(flatten)]
    input: Input,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(verb: &PolicyVerb, state_dir: &Path) -> Result<(), Failure> {
    match verb {
        PolicyVerb::Show(show) => {
            let report = Report::of(&show.input.load(state_dir)?);
            if show.json { output::json(&report) } else { output::text(&report.text()) }
        }
    }
}

#[derive(Serialize)]
struct Report {
    feed: FeedIdentity,
    mode: Mode,
    policy: Selected,
    counts: Counts,
    notes: Vec<NoteReport>,
    prefixes: Vec<PrefixReport>,
}

#[derive(Serialize)]
struct Selected {
    categories: BTreeSet<Category>,
    service_areas: Option<BTreeSet<String>>,
    required_only: bool,
    include_sets: BTreeSet<SetId>,
    exclude_sets: BTreeSet<SetId>,
    ipv4: bool,
    ipv6: bool,
    includes: Vec<Entry>,
    excludes: Vec<Entry>,
    sources: SourcesReport,
}

/// An own include or exclude.
#[derive(Serialize)]
struct Entry {
    name: String,
    prefixes: BTreeSet<IpNet>,
    /// `None` is both.
    protocol: Option<&'static str>,
    /// `None` is all; of an include, but for those that have to be listed.
    ports: Option<Ports>,
    comment: String,
}

/// Whose traffic goes direct; everybody's, where both are empty.
#[derive(Serialize)]
struct SourcesReport {
    prefixes: BTreeSet<IpNet>,
    interfaces: BTreeSet<String>,
}

#[derive(Serialize)]
struct Counts {
    /// Sets of the feed with at least one rule.
    sets: usize,
    /// Own includes with at least one rule.
    own: usize,
    ipv4_prefixes: usize,
    ipv6_prefixes: usize,
    port_sets: usize,
    groups: usize,
    blocks: usize,
}

#[derive(Serialize)]
struct NoteReport {
    level: &'static str,
    /// The set of the feed it is about.
    set: Option<SetId>,
    /// The own entry it is about.
    own: Option<String>,
    text: String,
}

#[derive(Serialize)]
struct PrefixReport {
    prefix: IpNet,
    /// Sets of the feed that send something there direct.
    sets: BTreeSet<SetId>,
    /// Own includes that do, by name.
    own: BTreeSet<String>,
    ports: Vec<ProtocolPorts>,
    /// What would go direct, but for an exclude.
    excluded: Vec<ProtocolPorts>,
    /// These excludes, by name.
    excluded_by: BTreeSet<String>,
}

#[derive(Serialize)]
struct ProtocolPorts {
    protocol: &'static str,
    #[serde(flatten)]
    range: PortRange,
}

impl Report {
    fn of(Loaded { policy, mode, snapshot, compiled, .. }: &Loaded) -> Self {
        let ids: BTreeSet<SetId> = compiled.rules.iter().map(|rule| rule.set).collect();
        let sets = feed_ids(&ids).len();
        let prefixes = prefixes(compiled, &Names::of(policy));
        let ipv4_prefixes = prefixes.iter().filter(|row| row.prefix.addr().is_ipv4()).count();
        Self {
            feed: snapshot.identity(),
            mode: *mode,
            policy: Selected::of(policy),
            counts: Counts {
                sets,
                own: ids.len().saturating_sub(sets),
                ipv4_prefixes,
                ipv6_prefixes: prefixes.len().saturating_sub(ipv4_prefixes),
                port_sets: compiled.table.port_sets().len(),
                groups: compiled.table.groups().len(),
                blocks: compiled.table.blocks().len(),
            },
            notes: compiled.notes.iter().map(NoteReport::of).collect(),
            prefixes,
        }
    }

    fn text(&self) -> String {
        let Counts { sets, ipv4_prefixes, ipv6_prefixes, port_sets, .. } = self.counts;
        let own = match self.counts.own {
            0 => String::new(),
            1 => " and 1 include".to_owned(),
            more => format!(" and {more} includes"),
        };
        let mut text = format!(
            "{}\n{sets} sets{own} direct: {ipv4_prefixes} IPv4 and {ipv6_prefixes} IPv6 prefixes, \
             {port_sets} port sets\n",
            self.feed
        );
        if self.mode == Mode::Shadow {
            text.push_str("mode: shadow, direct packets are counted and none is marked\n");
        }
        text.push_str(&self.policy.own_lines());
        for NoteReport { level, text: note, .. } in &self.notes {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "{level}: {note}");
        }
        text.push('\n');
        let has_excluded = self.prefixes.iter().any(|row| !row.excluded.is_empty());
        let rows = self.prefixes.iter().map(|row| {
            let own = row.own.iter().cloned();
            let sets = row.sets.iter().map(ToString::to_string).chain(own).collect::<Vec<_>>();
            let ports = |name| {
                let of_protocol = row.ports.iter().filter(|ports| ports.protocol == name);
                output::ports(&of_protocol.map(|ports| ports.range).collect::<Vec<_>>())
            };
            let cells = [row.prefix.to_string(), sets.join(","), ports("tcp"), ports("udp")];
            let excluded = has_excluded.then(|| row.excluded_text());
            cells.into_iter().chain(excluded)
        });
        let heads = ["prefix", "sets", "tcp", "udp", "excluded"];
        let shown = if has_excluded { &heads[..] } else { &heads[..4] };
        let mut table = output::table(shown);
        table.add_rows(rows);
        text.push_str(&table.to_string());
        text
    }
}

impl Selected {
    fn of(policy: &Policy) -> Self {
        let Policy { categories, service_areas, required_only, .. } = policy.clone();
        let Policy { include_sets, exclude_sets, ipv4, ipv6, .. } = policy.clone();
        let includes = policy.includes.iter().map(|own| Entry {
            name: own.name.clone(),
            prefixes: own.prefixes.clone(),
            protocol: own.protocol.map(transport_name),
            ports: own.ports.clone(),
            comment: own.comment.clone(),
        });
        let excludes = policy.excludes.iter().map(|own| Entry {
            name: own.name.clone(),
            prefixes: own.prefixes.clone(),
            protocol: own.protocol.map(transport_name),
            ports: own.ports.clone(),
            comment: own.comment.clone(),
        });
        let Sources { prefixes, interfaces } = policy.sources.clone();
        Self {
            categories,
            service_areas,
            required_only,
            include_sets,
            exclude_sets,
            ipv4,
            ipv6,
            includes: includes.collect(),
            excludes: excludes.collect(),
            sources: SourcesReport { prefixes, interfaces },
        }
    }

    /// A line for every own entry, and one for the sources.
    fn own_lines(&self) -> String {
        let mut text = String::new();
        for (kind, entries) in [("include", &self.includes), ("exclude", &self.excludes)] {
            for entry in entries {
                // Writing to a text cannot fail.
                let _ = writeln!(text, "{kind} {entry}");
            }
        }
        let SourcesReport { prefixes, interfaces } = &self.sources;
        let prefixes = prefixes.iter().map(ToString::to_string);
        let interfaces = interfaces.iter().map(|name| format!("in by {name}"));
        let sources: Vec<String> = prefixes.chain(interfaces).collect();
        if !sources.is_empty() {
            let _ = writeln!(text, "sources: {}", sources.join(", "));
        }
        text
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, prefixes, protocol, ports, comment } = self;
        write!(f, "{name}: ")?;
        // A list of thousands says nothing in one line.
        let some: Vec<String> = prefixes.iter().take(SHOWN).map(ToString::to_string).collect();
        f.write_str(&some.join(", "))?;
        if let Some(more) = prefixes.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            write!(f, " and {more} more")?;
        }
        write!(f, ", {}", protocol.unwrap_or("tcp and udp"))?;
        match ports {
            Some(ports) => write!(f, " {ports}")?,
            None => f.write_str(", all ports")?,
        }
        if comment.is_empty() { Ok(()) } else { write!(f, " ({comment})") }
    }
}

impl PrefixReport {
    /// What is excluded and by whom, in a cell.
    fn excluded_text(&self) -> String {
        if self.excluded.is_empty() {
            return "-".to_owned();
        }
        let ranges = self.excluded.iter().map(|ProtocolPorts { protocol, range }| {
            format!("{protocol} {}", output::ports(&[*range]))
        });
        let by: Vec<&str> = self.excluded_by.iter().map(String::as_str).collect();
        format!("{} ({})", ranges.collect::<Vec<_>>().join(", "), by.join(", "))
    }
}

impl NoteReport {
    fn of(note: &Note) -> Self {
        let level = if note.is_warning() { "warning" } else { "note" };
        let own = note.own().map(str::to_owned);
        Self { level, set: note.set(), own, text: note.to_string() }
    }
}

fn prefixes(compiled: &Compiled, names: &Names) -> Vec<PrefixReport> {
    let table = &compiled.table;
    table
        .prefixes()
        .map(|(prefix, port_set)| {
            let port_set = table.port_sets().get(usize::from(port_set)).unwrap_or(&PortSet::EMPTY);
            let ids: BTreeSet<SetId> = [&port_set.tcp, &port_set.udp]
                .into_iter()
                .flatten()
                .filter(|range| range.from <= range.to)
                .filter_map(|range| table.groups().get(usize::from(range.group)))
                .flatten()
                .copied()
                .collect();
            let cutting = compiled.excludes_cutting(prefix);
            PrefixReport {
                prefix,
                sets: feed_ids(&ids),
                own: names.own(&ids),
                ports: ports(port_set, |group| group != EXCLUDED_GROUP),
                excluded: ports(port_set, |group| group == EXCLUDED_GROUP),
                excluded_by: cutting.into_iter().map(|place| names.exclude(place)).collect(),
            }
        })
        .collect()
}

/// The ports of a port set whose group `fits`, whichever sets they come from.
fn ports(port_set: &PortSet, fits: impl Fn(u16) -> bool) -> Vec<ProtocolPorts> {
    [(Transport::Tcp, &port_set.tcp), (Transport::Udp, &port_set.udp)]
        .into_iter()
        .flat_map(|(transport, ranges)| {
            let ranges = ranges.iter().filter(|range| fits(range.group));
            let merged: Ports = ranges.map(|range| range.from..=range.to).collect();
            let protocol = transport_name(transport);
            PortRange::all_of(&merged)
                .into_iter()
                .map(move |range| ProtocolPorts { protocol, range })
        })
        .collect()
}
