//! Support windows as the kernel holds them: for some clients, for some time, sets go direct that the
//! policy leaves alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gateway_common::abi::{EXCLUDED_GROUP, MAX_PORT_RANGES, MAX_WINDOWS, PortRange, PortSet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::own::{self, Names};
use super::{Policy, PolicyError, Rule, select, union};
use crate::feed::{Category, SetId, Snapshot};

/// A window: whose traffic, to which sets, until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenWindow {
    /// Its id; no later window has the same.
    pub id: u32,
    /// Source addresses.
    pub clients: BTreeSet<IpNet>,
    /// What goes direct.
    pub sets: WindowSets,
    /// When it is over: nanoseconds of `CLOCK_BOOTTIME`.
    pub end: u64,
}

/// The sets of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSets {
    /// Whether every set with prefixes is in, but for what goes direct only when it is named.
    pub all: bool,
    /// The sets that are named.
    pub named: BTreeSet<SetId>,
}

impl WindowSets {
    /// Every set with prefixes.
    #[must_use]
    pub fn all() -> Self {
        Self { all: true, named: BTreeSet::new() }
    }

    /// `policy` as if it selected these sets, as far as `snapshot` has them. What the operator
    /// excludes stays excluded, and so does a family that is off.
    fn select_in(&self, policy: &Policy, snapshot: &Snapshot) -> Policy {
        let known = |id: &&SetId| snapshot.sets.contains_key(*id);
        Policy {
            categories: if self.all { Category::ALL.into() } else { BTreeSet::new() },
            service_areas: None,
            required_only: false,
            include_sets: self.named.iter().filter(known).copied().collect(),
            exclude_sets: policy.exclude_sets.iter().filter(known).copied().collect(),
            includes: Vec::new(),
            ..policy.clone()
        }
    }
}

impl std::fmt::Display for WindowSets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.all.then(|| "all sets".to_owned());
        let named = self.named.iter().map(|id| format!("set {id}"));
        f.write_str(&all.into_iter().chain(named).collect::<Vec<_>>().join(", "))
    }
}

/// What a [`Support`] was made from, besides feed and policy, and where its groups begin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupportIdentity {
    /// The windows, by slot.
    pub windows: Vec<OpenWindow>,
    /// Prefixes of the feed that no window lets go direct: the guards would hold them.
    pub left_out: BTreeSet<IpNet>,
    /// The first provenance group of the first window.
    pub first_group: usize,
    /// How many groups each window has.
    pub groups: usize,
}

impl SupportIdentity {
    /// The window whose provenance group this is.
    #[must_use]
    pub fn window_of(&self, group: usize) -> Option<&OpenWindow> {
        let place = group.checked_sub(self.first_group)?;
        self.windows.get(place.checked_div(self.groups)?)
    }
}

/// The tables of the windows that are open, beside those of the policy. Empty where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Support {
    windows: Vec<OpenWindow>,
    left_out: BTreeSet<IpNet>,
    /// Windows of each client prefix and of all that cover it, one bit each.
    clients: BTreeMap<IpNet, u16>,
    prefixes: BTreeMap<IpNet, u16>,
    port_sets: Vec<PortSet>,
    /// The sets of each group, and in which window each is.
    groups: Vec<BTreeSet<(usize, SetId)>>,
    now: u64,
}

impl Support {
    /// The tables of `windows`, with these prefixes of the feed `left_out`.
    ///
    /// # Errors
    ///
    /// More windows than there are slots, or what they select does not fit.
    pub fn compile(
        snapshot: &Snapshot,
        policy: &Policy,
        windows: &[OpenWindow],
        left_out: &BTreeSet<IpNet>,
    ) -> Result<Self, PolicyError> {
        if windows.len() > MAX_WINDOWS {
            return Err(PolicyError::TooManyWindows);
        }
        let mut snapshot = snapshot.clone();
        for set in snapshot.sets.values_mut() {
            set.prefixes.retain(|prefix| !left_out.contains(prefix));
        }
        // The rules of every window stay apart: a set stands for itself in this window.
        let mut origins: Vec<(usize, SetId)> = Vec::new();
        let mut ids: BTreeMap<(usize, SetId), SetId> = BTreeMap::new();
        let mut rules: Vec<Rule> = Vec::new();
        for (slot, window) in windows.iter().enumerate() {
            let selected = window.sets.select_in(policy, &snapshot);
            for rule in select::select(&snapshot, &selected)?.rules {
                let origin = (slot, rule.set);
                let id = *ids.entry(origin).or_insert_with(|| {
                    origins.push(origin);
                    u32::try_from(origins.len().saturating_sub(1)).unwrap_or(u32::MAX)
                });
                rules.push(Rule { set: id, ..rule });
            }
        }
        let mut support = Self {
            windows: windows.to_vec(),
            left_out: left_out.clone(),
            clients: clients(windows),
            ..Self::default()
        };
        let exclusions = own::exclusions(policy);
        let union = match union::complete(rules, exclusions, &Names::default()) {
            Ok(union) => union,
            // Nothing the feed has, or all of it is excluded: then nothing more goes direct.
            Err(PolicyError::Empty) => return Ok(support),
            Err(error) => return Err(error.of_windows()),
        };
        support.groups = union
            .groups
            .iter()
            .map(|ids| {
                let ids = ids.iter().filter_map(|id| usize::try_from(*id).ok());
                ids.filter_map(|id| origins.get(id).copied()).collect()
            })
            .collect();
        support.port_sets =
            union.port_sets.into_iter().map(|ports| support.for_windows(ports)).collect();
        support.prefixes = union.prefixes;
        Ok(support)
    }

    /// `ports` with the windows that each range is for.
    fn for_windows(&self, ports: PortSet) -> PortSet {
        let with = |mut ranges: [PortRange; MAX_PORT_RANGES]| {
            for range in &mut ranges {
                let is_real = range.from <= range.to && range.group != EXCLUDED_GROUP;
                let group = self.groups.get(usize::from(range.group)).filter(|_| is_real);
                range.windows =
                    group.into_iter().flatten().fold(0, |bits, (slot, _)| bits | bit(*slot));
            }
            ranges
        };
        PortSet { tcp: with(ports.tcp), udp: with(ports.udp) }
    }

    /// Whether no window is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// The windows, by slot.
    #[must_use]
    pub fn windows(&self) -> &[OpenWindow] {
        &self.windows
    }

    /// Windows by client, one bit each.
    #[must_use]
    pub fn clients(&self) -> impl ExactSizeIterator<Item = (IpNet, u16)> + '_ {
        self.clients.iter().map(|(prefix, windows)| (*prefix, *windows))
    }

    /// Destinations with the ids of their port sets, IPv4 first, ascending.
    #[must_use]
    pub fn prefixes(&self) -> impl ExactSizeIterator<Item = (IpNet, u16)> + '_ {
        self.prefixes.iter().map(|(prefix, port_set)| (*prefix, *port_set))
    }

    /// Port sets by id.
    #[must_use]
    pub fn port_sets(&self) -> &[PortSet] {
        &self.port_sets
    }

    /// How many groups each window has.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// The sets of each provenance group: those of the first window, then those of the next.
    #[must_use]
    pub fn groups(&self) -> Vec<BTreeSet<SetId>> {
        let of = |slot: usize| {
            self.groups.iter().map(move |group| {
                group.iter().filter(|(of, _)| *of == slot).map(|(_, set)| *set).collect()
            })
        };
        (0..self.windows.len()).flat_map(of).collect()
    }

    /// The sets that the window with this id lets go direct.
    #[must_use]
    pub fn sets_of(&self, id: u32) -> BTreeSet<SetId> {
        let slot = self.windows.iter().position(|window| window.id == id);
        let all = self.groups.iter().flatten();
        all.filter(|(of, _)| Some(*of) == slot).map(|(_, set)| *set).collect()
    }

    /// What it was made from, when its groups begin at `first_group`.
    #[must_use]
    pub fn identity(&self, first_group: usize) -> SupportIdentity {
        SupportIdentity {
            windows: self.windows.clone(),
            left_out: self.left_out.clone(),
            first_group,
            groups: self.groups.len(),
        }
    }

    /// The same tables at this time, nanoseconds of `CLOCK_BOOTTIME`. Until it is said, no window is
    /// over.
    #[must_use]
    pub fn at(self, now: u64) -> Self {
        Self { now, ..self }
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// The windows of `source`, one bit each.
    #[must_use]
    pub fn windows_of(&self, source: IpAddr) -> u16 {
        longest(&self.clients, source).unwrap_or(0)
    }

    /// The ports that windows have for `destination`.
    pub(super) fn ports_of(&self, destination: IpAddr) -> Option<&PortSet> {
        self.port_sets.get(usize::from(longest(&self.prefixes, destination)?))
    }

    /// Adds everything to a digest.
    pub(super) fn update(&self, hash: &mut Sha256) {
        hash.update(format!("{:?} {:?} {:?}", self.windows, self.clients, self.prefixes));
        hash.update(format!("{:?} {:?}", self.port_sets, self.groups));
    }
}

/// Each client prefix with the windows of all that cover it: a longest-prefix match gives one value.
fn clients(windows: &[OpenWindow]) -> BTreeMap<IpNet, u16> {
    let covering = |client: &IpNet| {
        let open = windows.iter().enumerate();
        open.filter(|(_, window)| window.clients.iter().any(|outer| outer.contains(client)))
            .fold(0, |bits, (slot, _)| bits | bit(slot))
    };
    let all = windows.iter().flat_map(|window| &window.clients);
    all.map(|client| (client.trunc(), covering(client))).collect()
}

fn bit(slot: usize) -> u16 {
    u32::try_from(slot).ok().and_then(|slot| 1_u16.checked_shl(slot)).unwrap_or(0)
}

fn longest(prefixes: &BTreeMap<IpNet, u16>, address: IpAddr) -> Option<u16> {
    prefixes
        .iter()
        .filter(|(prefix, _)| prefix.contains(&address))
        .max_by_key(|(prefix, _)| prefix.prefix_len())
        .map(|(_, value)| *value)
}
