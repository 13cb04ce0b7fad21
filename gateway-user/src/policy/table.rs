//! The compiled, longest-prefix-complete form of all rules: what the kernel holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gateway_common::abi::{Block, EXCLUDED_GROUP, INDEX_ENTRIES, PortSet, Slot};
use gateway_common::{Decision, Reason, Tables, Word, classify, decide, parse, support};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest as _, Sha256};

use super::{Exclusion, Names, PolicyError, Rule, Sources, Support, SupportIdentity, index, union};
use crate::feed::SetId;

/// Everything a generation is filled with, and, through [`Tables`], the oracle it is tested
/// against. Equal inputs give equal tables, down to the order of ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Port set of each prefix: the union over all selected sets of all prefixes that cover it.
    pub(super) prefixes: BTreeMap<IpNet, u16>,
    /// Port sets by id, no two equal.
    pub(super) port_sets: Vec<PortSet>,
    /// Endpoint sets of each provenance group, by id, no two equal.
    pub(super) groups: Vec<BTreeSet<SetId>>,
    /// First-level index of IPv4, one [`Slot`] per /16.
    pub(super) index_v4: Vec<u16>,
    /// First-level index of IPv6, one [`Slot`] per /16.
    pub(super) index_v6: Vec<u16>,
    /// Blocks of both families by id.
    pub(super) blocks: Vec<Block>,
    /// Whose traffic the rules are for.
    pub(super) sources: Sources,
    /// What support windows let go direct besides.
    pub(super) support: Support,
}

impl Table {
    /// The table of these rules, in whatever order they come.
    ///
    /// # Errors
    ///
    /// No rule at all, a rule for the whole internet, more port ranges than a [`PortSet`] holds,
    /// or more port sets or groups than there are ids. Nothing is ever cut to fit.
    pub fn from_rules<I: IntoIterator<Item = Rule>>(rules: I) -> Result<Self, PolicyError> {
        Self::from_rules_except(rules, [])
    }

    /// The table of these rules, with holes where an exclusion has its prefix, protocol and ports.
    ///
    /// # Errors
    ///
    /// As [`Self::from_rules`]; also rules that are excluded altogether.
    pub fn from_rules_except<I, E>(rules: I, exclusions: E) -> Result<Self, PolicyError>
    where
        I: IntoIterator<Item = Rule>,
        E: IntoIterator<Item = Exclusion>,
    {
        Self::complete(rules, exclusions, &Names::default()).map(|(table, _)| table)
    }

    /// As [`Self::from_rules_except`], with names for refusals; also says which excludes cut.
    pub(super) fn complete<I, E>(
        rules: I,
        exclusions: E,
        names: &Names,
    ) -> Result<(Self, BTreeSet<u16>), PolicyError>
    where
        I: IntoIterator<Item = Rule>,
        E: IntoIterator<Item = Exclusion>,
    {
        let union = union::complete(rules, exclusions, names)?;
        let index = index::build(&union.prefixes);
        let table = Self {
            prefixes: union.prefixes,
            port_sets: union.port_sets,
            groups: union.groups,
            index_v4: index.v4,
            index_v6: index.v6,
            blocks: index.blocks,
            sources: Sources::default(),
            support: Support::default(),
        };
        Ok((table, union.cutting))
    }

    /// The same table for the traffic of these sources only.
    #[must_use]
    pub fn for_sources(self, sources: Sources) -> Self {
        Self { sources, ..self }
    }

    /// The same table with these support windows open.
    ///
    /// # Errors
    ///
    /// [`PolicyError::TooManyGroups`]: both together have more provenance groups than there are ids.
    pub fn with_support(self, support: Support) -> Result<Self, PolicyError> {
        let needed = support.groups().len().saturating_add(self.groups.len());
        if let Some((prefix, _)) = support.prefixes().next()
            && needed > usize::from(EXCLUDED_GROUP)
        {
            let of = "the support windows".to_owned();
            return Err(PolicyError::TooManyGroups { prefix, of });
        }
        Ok(Self { support, ..self })
    }

    /// The same table with every look-up left to the tries: what the index is measured against.
    #[must_use]
    pub fn without_index(&self) -> Self {
        Self {
            index_v4: vec![Slot::TRIE.0; INDEX_ENTRIES],
            index_v6: vec![Slot::TRIE.0; INDEX_ENTRIES],
            blocks: Vec::new(),
            ..self.clone()
        }
    }

    /// SHA-256 of everything in the table, hexadecimal: equal tables, equal digests.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (prefix, port_set) in &self.prefixes {
            hash.update(format!("{prefix} {port_set}\n"));
        }
        for PortSet { tcp, udp } in &self.port_sets {
            for (protocol, ranges) in [("tcp", tcp), ("udp", udp)] {
                for range in ranges {
                    hash.update(format!(
                        "{protocol} {} {} {}\n",
                        range.from, range.to, range.group
                    ));
                }
            }
        }
        for group in &self.groups {
            hash.update(format!("{group:?}\n"));
        }
        if self.sources.are_listed() {
            hash.update(format!("{:?}\n", self.sources));
        }
        if !self.support.is_empty() {
            self.support.update(&mut hash);
        }
        // The index and the blocks follow from the prefixes.
        let digest = hash.finalize();
        digest.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    /// Every prefix with the id of its port set, IPv4 first, ascending.
    #[must_use]
    pub fn prefixes(&self) -> impl ExactSizeIterator<Item = (IpNet, u16)> + '_ {
        self.prefixes.iter().map(|(prefix, port_set)| (*prefix, *port_set))
    }

    /// How many prefixes there are of IPv4 and of IPv6.
    #[must_use]
    pub fn count_by_family(&self) -> (u64, u64) {
        let v4 = self.prefixes.keys().filter(|prefix| prefix.addr().is_ipv4()).count();
        let count = |prefixes: usize| u64::try_from(prefixes).unwrap_or(u64::MAX);
        (count(v4), count(self.prefixes.len().saturating_sub(v4)))
    }

    /// Port sets by id.
    #[must_use]
    pub fn port_sets(&self) -> &[PortSet] {
        &self.port_sets
    }

    /// Endpoint sets of each provenance group, by id.
    #[must_use]
    pub fn groups(&self) -> &[BTreeSet<SetId>] {
        &self.groups
    }

    /// What support windows let go direct besides.
    #[must_use]
    pub fn support(&self) -> &Support {
        &self.support
    }

    /// What that was made from.
    #[must_use]
    pub fn support_identity(&self) -> SupportIdentity {
        self.support.identity(self.groups.len())
    }

    /// Endpoint sets of each provenance group, by id, those of support windows after those of the
    /// policy.
    #[must_use]
    pub fn all_groups(&self) -> Vec<BTreeSet<SetId>> {
        self.groups.iter().cloned().chain(self.support.groups()).collect()
    }

    /// First-level index of IPv4: [`gateway_common::abi::INDEX_ENTRIES`] slots.
    #[must_use]
    pub fn index_v4(&self) -> &[u16] {
        &self.index_v4
    }

    /// First-level index of IPv6: [`gateway_common::abi::INDEX_ENTRIES`] slots.
    #[must_use]
    pub fn index_v6(&self) -> &[u16] {
        &self.index_v6
    }

    /// Blocks by id.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Whose traffic the rules are for.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// What the oracle says of a frame that came in by the interface `ingress`.
    #[must_use]
    pub fn decide_frame(&self, frame: &[u8], ingress: Option<&str>) -> Decision {
        if !ingress.is_some_and(|name| self.sources.interfaces.contains(name)) {
            return classify(frame, self);
        }
        let by_policy = match parse(frame) {
            Ok(key) => decide(&key, self),
            Err(reason) => Decision::inspect(reason),
        };
        support(by_policy, frame, self)
    }

    /// The longest prefix that covers `address`, with its port set.
    #[must_use]
    pub fn longest(&self, address: IpAddr) -> Option<(IpNet, u16)> {
        let full = IpNet::from(address);
        (0..=full.prefix_len()).rev().find_map(|length| {
            let prefix = match full {
                IpNet::V4(v4) => IpNet::V4(Ipv4Net::new(v4.addr(), length).ok()?.trunc()),
                IpNet::V6(v6) => IpNet::V6(Ipv6Net::new(v6.addr(), length).ok()?.trunc()),
            };
            self.prefixes.get(&prefix).map(|port_set| (prefix, *port_set))
        })
    }
}

impl Tables for Table {
    fn index_v4(&self, top: Word) -> Slot {
        self.index_v4.get(usize::from(top.number())).map_or(Slot::MISS, |slot| Slot(*slot))
    }

    fn index_v6(&self, top: Word) -> Slot {
        self.index_v6.get(usize::from(top.number())).map_or(Slot::MISS, |slot| Slot(*slot))
    }

    fn block(&self, block: u16, octet: u8) -> Slot {
        self.blocks
            .get(usize::from(block))
            .and_then(|slots| slots.get(usize::from(octet)))
            .map_or(Slot::MISS, |slot| Slot(*slot))
    }

    fn longest_v4(&self, address: [u8; 4]) -> Option<u16> {
        self.longest(Ipv4Addr::from(address).into()).map(|(_, port_set)| port_set)
    }

    fn longest_v6(&self, address: [u8; 16]) -> Option<u16> {
        self.longest(Ipv6Addr::from(address).into()).map(|(_, port_set)| port_set)
    }

    fn port_set(&self, id: u16) -> Option<&PortSet> {
        self.port_sets.get(usize::from(id))
    }

    fn scoped(&self) -> bool {
        self.sources.are_listed()
    }

    /// What is asked of a table alone has come in by no interface.
    fn admits_ingress(&self) -> bool {
        false
    }

    fn admits_v4(&self, source: [u8; 4]) -> bool {
        self.sources.covering(Ipv4Addr::from(source).into()).is_some()
    }

    fn admits_v6(&self, source: [u8; 16]) -> bool {
        self.sources.covering(Ipv6Addr::from(source).into()).is_some()
    }

    fn windowed(&self) -> bool {
        !self.support.is_empty()
    }

    fn windows_of_v4(&self, source: [u8; 4]) -> u16 {
        self.support.windows_of(Ipv4Addr::from(source).into())
    }

    fn windows_of_v6(&self, source: [u8; 16]) -> u16 {
        self.support.windows_of(Ipv6Addr::from(source).into())
    }

    fn support_v4(&self, destination: [u8; 4]) -> Option<&PortSet> {
        self.support.ports_of(Ipv4Addr::from(destination).into())
    }

    fn support_v6(&self, destination: [u8; 16]) -> Option<&PortSet> {
        self.support.ports_of(Ipv6Addr::from(destination).into())
    }

    fn window_end(&self, slot: usize) -> u64 {
        self.support.windows().get(slot).map_or(0, |window| window.end)
    }

    fn now(&self) -> u64 {
        self.support.now()
    }

    fn support_group(&self, slot: usize, group: u16) -> u16 {
        let of_window = slot.saturating_mul(self.support.group_count());
        let group = self.groups.len().saturating_add(of_window).saturating_add(group.into());
        u16::try_from(group).unwrap_or(EXCLUDED_GROUP)
    }

    /// A table is not switched off; what is, is not the table's to say. [`Decision::unless`] puts
    /// both together.
    fn refusal(&self) -> Option<Reason> {
        None
    }
}
