//! `breakout365 feed show`: Microsoft's endpoint list, as it was read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;

use crate::cli::output::{self, PortRange};
use crate::exit::Failure;
use crate::feed::{self, Category, EndpointSet, FeedIdentity, SetId, Snapshot};

/// Version, digest, counts and the endpoint sets
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Feed to show in place of the one in the binary: a file as the web service answers it
    #[arg(long, value_name = "FILE")]
    feed: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Show) -> Result<(), Failure> {
    let snapshot = match &args.feed {
        Some(path) => feed::read(path)?,
        None => feed::embedded()?,
    };
    let report = Report::of(&snapshot);
    if args.json { output::json(&report) } else { output::text(&report.text()) }
}

/// A snapshot for people and programs.
#[derive(Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    feed: FeedIdentity,
    counts: Counts,
    sets: Vec<Set>,
}

#[derive(Serialize)]
struct Counts {
    sets: usize,
    sets_with_prefixes: usize,
    /// Distinct ones, over all sets.
    ipv4_prefixes: usize,
    ipv6_prefixes: usize,
    /// Sets of each.
    categories: BTreeMap<Category, usize>,
    service_areas: BTreeMap<String, usize>,
}

#[derive(Serialize)]
struct Set {
    id: SetId,
    service_area: String,
    display_name: String,
    category: Category,
    required: bool,
    express_route: bool,
    tcp: Vec<PortRange>,
    udp: Vec<PortRange>,
    prefixes: BTreeSet<IpNet>,
    urls: BTreeSet<String>,
    notes: String,
}

impl Report {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let sets = || snapshot.sets.values();
        let prefixes: BTreeSet<IpNet> = sets().flat_map(|set| &set.prefixes).copied().collect();
        let ipv4_prefixes = count_ipv4(&prefixes);
        let mut counts = Counts {
            sets: snapshot.sets.len(),
            sets_with_prefixes: sets().filter(|set| !set.prefixes.is_empty()).count(),
            ipv4_prefixes,
            ipv6_prefixes: prefixes.len().saturating_sub(ipv4_prefixes),
            categories: BTreeMap::new(),
            service_areas: BTreeMap::new(),
        };
        for set in sets() {
            add_one(&mut counts.categories, set.category);
            add_one(&mut counts.service_areas, set.service_area.clone());
        }
        let feed = snapshot.identity();
        Self { feed, counts, sets: sets().map(Set::of).collect() }
    }

    pub(super) fn text(&self) -> String {
        let Counts { sets, sets_with_prefixes, ipv4_prefixes, ipv6_prefixes, .. } = self.counts;
        let mut text = format!(
            "{}\n{sets} sets, {sets_with_prefixes} with prefixes: {ipv4_prefixes} IPv4, \
             {ipv6_prefixes} IPv6\n",
            self.feed
        );
        let categories =
            self.counts.categories.iter().map(|(name, count)| format!("{name} {count}"));
        let areas = self.counts.service_areas.iter().map(|(name, count)| format!("{name} {count}"));
        // Writing to a text cannot fail.
        let _ = writeln!(text, "categories: {}", categories.collect::<Vec<_>>().join(", "));
        let _ = writeln!(text, "service areas: {}\n", areas.collect::<Vec<_>>().join(", "));
        let heads = ["set", "area", "category", "required", "ipv4", "ipv6", "tcp", "udp", "urls"];
        let mut table = output::table(&heads);
        table.add_rows(self.sets.iter().map(Set::row));
        text.push_str(&table.to_string());
        text
    }
}

impl Set {
    fn of(set: &EndpointSet) -> Self {
        Self {
            id: set.id,
            service_area: set.service_area.clone(),
            display_name: set.display_name.clone(),
            category: set.category,
            required: set.required,
            express_route: set.express_route,
            tcp: PortRange::all_of(&set.tcp),
            udp: PortRange::all_of(&set.udp),
            prefixes: set.prefixes.clone(),
            urls: set.urls.clone(),
            notes: set.notes.clone(),
        }
    }

    fn row(&self) -> [String; 9] {
        let ipv4 = count_ipv4(&self.prefixes);
        [
            self.id.to_string(),
            self.service_area.clone(),
            self.category.to_string(),
            if self.required { "yes" } else { "no" }.to_owned(),
            ipv4.to_string(),
            self.prefixes.len().saturating_sub(ipv4).to_string(),
            output::ports(&self.tcp),
            output::ports(&self.udp),
            self.urls.len().to_string(),
        ]
    }
}

fn count_ipv4(prefixes: &BTreeSet<IpNet>) -> usize {
    prefixes.iter().filter(|prefix| prefix.addr().is_ipv4()).count()
}

fn add_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    let count = counts.entry(key).or_default();
    *count = count.saturating_add(1);
}
