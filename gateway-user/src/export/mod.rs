//! Export: what goes direct, written down for the programs that stand beside a gateway.
//!
//! A table is taken apart into [`pieces`] first, and the host names of the selected sets into
//! [`Name`]s. Each format is a file of its own. Equal inputs give equal bytes. A program that
//! cannot say all that the table says gets less of it, never more: what is left out is inspected.

mod bird;
mod chains;
mod cidr;
mod inspector;
mod ipset;
mod json;
mod name;
mod nft;
mod pac;
pub mod pieces;
mod snippet;
mod squid;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use gateway_common::Transport;
use ipnet::IpNet;

use crate::feed::{FeedIdentity, Ports, SetId, Snapshot};
use crate::policy::{Compiled, Exclusion, Names, Policy, select_hosts};
use pieces::{Entry, Piece};

pub use inspector::{Inspector, InspectorError, TogetherError};
pub use name::Name;
pub use pac::{Proxies, ProxiesError};
pub use snippet::Snippet;

/// What an export is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Prefixes, one a line, without ports
    Cidr,
    /// Prefixes and host names with ports and sets
    Json,
    /// Sets for `nft -f`
    Nft,
    /// Sets for `ipset restore`
    Ipset,
    /// Proxy auto-config: selected hosts direct, all others by the proxy
    Pac,
    /// Access control lists of Squid
    Squid,
    /// Prefix sets of BIRD 2, without ports
    Bird,
}

/// Why something cannot be exported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// A sign-in host that has to be inspected cannot be told from others.
    #[error(
        "the sign-in host {0:?} is no host name that could be kept inspected; report this, and \
         export only formats without host names"
    )]
    SignInHost(String),
    /// More elements than ipset holds in reasonable memory.
    #[error(
        "{needed} elements are too many for ipset, which has one for each port; use the format nft"
    )]
    TooManyElements {
        /// How many there would be.
        needed: u64,
    },
    /// JSON cannot hold it.
    #[error("JSON: {0}")]
    Json(String),
    /// A PAC file without a proxy.
    #[error("a PAC file needs to know the proxy")]
    NoProxy,
}

/// Everything that can be exported.
#[derive(Clone, Debug)]
pub struct Export {
    feed: FeedIdentity,
    table: String,
    pieces: Vec<Piece>,
    groups: Vec<BTreeSet<SetId>>,
    own: Names,
    open: Vec<IpNet>,
    /// Prefixes that have direct ports, and are not open for some that are excluded.
    closed: usize,
    excluded: BTreeSet<(IpNet, Transport, u16, u16)>,
    hosts: BTreeMap<Name, BTreeMap<SetId, Ports>>,
    inspected: BTreeSet<Name>,
    odd_inspected: Option<String>,
    left_out: BTreeSet<String>,
}

impl Export {
    /// What `policy` makes of `snapshot`; `compiled` is both compiled.
    #[must_use]
    pub fn new(snapshot: &Snapshot, policy: &Policy, compiled: &Compiled) -> Self {
        Self::with_entries(snapshot, policy, compiled, &pieces::entries(&compiled.table))
    }

    /// As [`Export::new`], with other prefixes than those of the table. They ascend.
    #[must_use]
    pub fn with_entries(
        snapshot: &Snapshot,
        policy: &Policy,
        compiled: &Compiled,
        entries: &[Entry],
    ) -> Self {
        let selected = select_hosts(snapshot, policy);
        let mut export = Self {
            feed: snapshot.identity(),
            table: compiled.table.digest(),
            pieces: pieces::pieces(entries),
            groups: compiled.table.groups().to_vec(),
            own: Names::of(policy),
            open: pieces::open_prefixes(entries),
            closed: pieces::half_open_prefixes(entries),
            excluded: compiled.exclusions.iter().map(of_exclusion).collect(),
            hosts: BTreeMap::new(),
            inspected: BTreeSet::new(),
            odd_inspected: None,
            left_out: BTreeSet::new(),
        };
        let everywhere = export.excluded_everywhere();
        for (host, mut sets) in selected.direct {
            for ports in sets.values_mut() {
                *ports = everywhere.iter().fold(ports.clone(), |ports, out| without(&ports, out));
            }
            sets.retain(|_, ports| !ports.is_empty());
            match Name::parse(&host) {
                _ if sets.is_empty() => {}
                // Two texts may be one name: case does not count.
                Some(name) => export.hosts.entry(name).or_default().extend(sets),
                None => _ = export.left_out.insert(host),
            }
        }
        for host in selected.inspected {
            match Name::parse(&host) {
                Some(name) => _ = export.inspected.insert(name),
                None => export.odd_inspected = Some(host),
            }
        }
        export
    }

    /// Host names that stay inspected in every format, because they are none.
    #[must_use]
    pub const fn left_out(&self) -> &BTreeSet<String> {
        &self.left_out
    }

    /// How many prefixes formats without ports leave out: they have direct ports, and excluded
    /// ones.
    #[must_use]
    pub const fn closed(&self) -> usize {
        self.closed
    }

    /// Whether TCP ports of some prefixes are excluded, which what decides by name alone does not
    /// see.
    #[must_use]
    pub fn excludes_addresses(&self) -> bool {
        self.excluded_tcp().any(|(prefix, _)| prefix.prefix_len() > 0)
    }

    /// The export, ending in a line break.
    ///
    /// # Errors
    ///
    /// See [`ExportError`]; `proxies` are needed for [`Format::Pac`].
    pub fn render(&self, format: Format, proxies: Option<&Proxies>) -> Result<String, ExportError> {
        match format {
            Format::Cidr => Ok(cidr::render(self)),
            Format::Json => json::render(self),
            Format::Nft => Ok(nft::render(self)),
            Format::Ipset => ipset::render(self),
            Format::Pac => pac::render(self, proxies.ok_or(ExportError::NoProxy)?),
            Format::Squid => squid::render(self),
            Format::Bird => Ok(bird::render(self)),
        }
    }

    /// The first lines of a file, each behind `comment`: what made it, from what.
    fn header(&self, comment: &str, explanation: &str) -> String {
        let mut header = String::new();
        let origin = format!(
            "breakout365 {} export\nfeed: {}\ntable: sha256 {}\n\n\
             Destinations only: which sources may go direct is not told.",
            env!("CARGO_PKG_VERSION"),
            self.feed,
            self.table
        );
        for line in origin.lines().chain(explanation.lines()) {
            let line: String = line.chars().map(printable).collect();
            // Writing to a text cannot fail.
            let _ = writeln!(header, "{}", format!("{comment} {line}").trim_end());
        }
        header
    }

    fn excluded_tcp(&self) -> impl Iterator<Item = (IpNet, RangeInclusive<u16>)> + '_ {
        let tcp = self.excluded.iter().filter(|(_, transport, ..)| *transport == Transport::Tcp);
        tcp.map(|(prefix, _, first, last)| (*prefix, *first..=*last))
    }

    /// TCP ports that are excluded for all addresses of a family, and so for a name whatever it
    /// leads to.
    fn excluded_everywhere(&self) -> Vec<RangeInclusive<u16>> {
        let everywhere = self.excluded_tcp().filter(|(prefix, _)| prefix.prefix_len() == 0);
        everywhere.map(|(_, ports)| ports).collect()
    }

    /// Pieces for those who do not ask for sets.
    fn merged(&self) -> Vec<Piece> {
        pieces::merged(&self.pieces)
    }

    /// Host names with their TCP ports, whichever sets they come from.
    ///
    /// # Errors
    ///
    /// A sign-in host that has to stay inspected is no name: another name might cover it.
    fn names(&self) -> Result<BTreeMap<&Name, Ports>, ExportError> {
        if let Some(host) = &self.odd_inspected {
            return Err(ExportError::SignInHost(host.clone()));
        }
        let all = |sets: &BTreeMap<SetId, Ports>| sets.values().flat_map(Ports::ranges).collect();
        Ok(self.hosts.iter().map(|(name, sets)| (name, all(sets))).collect())
    }
}

fn of_exclusion(exclusion: &Exclusion) -> (IpNet, Transport, u16, u16) {
    (exclusion.prefix, exclusion.transport, exclusion.first, exclusion.last)
}

fn without(ports: &Ports, out: &RangeInclusive<u16>) -> Ports {
    let rest = ports.ranges().flat_map(|range| {
        let below = out.start().checked_sub(1).map(|end| *range.start()..=end.min(*range.end()));
        let above = out.end().checked_add(1).map(|start| start.max(*range.start())..=*range.end());
        [below, above]
    });
    rest.flatten().collect()
}

/// The feed's own texts are in comments: nothing in them may end one.
fn printable(c: char) -> char {
    if c == ' ' || c.is_ascii_graphic() { c } else { '?' }
}
