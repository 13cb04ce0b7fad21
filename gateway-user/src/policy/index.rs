//! The first-level index: answers for whole /16s, and by blocks for whole /24s (IPv4) or /48s
//! (IPv6), so that only addresses near a finer division reach a trie.

use std::collections::BTreeMap;

use gateway_common::abi::{
    BLOCK_ENTRIES, BLOCK_LEVELS_V4, BLOCK_LEVELS_V6, Block, INDEX_ENTRIES, Slot,
};
use ipnet::IpNet;

/// Slots of both families, and the blocks they share.
pub(super) struct Index {
    pub(super) v4: Vec<u16>,
    pub(super) v6: Vec<u16>,
    pub(super) blocks: Vec<Block>,
}

/// Builds the index of longest-prefix-complete prefixes.
///
/// Where there are more distinct blocks than slots can name, those nearest to the first level
/// are kept and the trie answers for the others: slower there, and as exact.
pub(super) fn build(prefixes: &BTreeMap<IpNet, u16>) -> Index {
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for (prefix, port_set) in prefixes {
        match prefix {
            IpNet::V4(net) => v4.push(Entry {
                bits: u128::from(net.addr().to_bits()) << 96,
                length: net.prefix_len(),
                port_set: *port_set,
            }),
            IpNet::V6(net) => v6.push(Entry {
                bits: net.addr().to_bits(),
                length: net.prefix_len(),
                port_set: *port_set,
            }),
        }
    }
    let mut nodes = Nodes::default();
    let v4 = nodes.divide(&v4, BLOCK_LEVELS_V4);
    let v6 = nodes.divide(&v6, BLOCK_LEVELS_V6);
    let mut blocks = Blocks::default();
    // Both first levels before any deeper one.
    let v4 = blocks.slots(&v4, INDEX_ENTRIES);
    let v6 = blocks.slots(&v6, INDEX_ENTRIES);
    blocks.fill(&nodes);
    Index { v4, v6, blocks: blocks.filled }
}

/// Address bits that the first-level index looks at.
const INDEX_BITS: u8 = 16;
/// Address bits that a block looks at.
const BLOCK_BITS: u8 = 8;

/// A prefix of either family, its first address bit in the highest of 128.
#[derive(Clone, Copy)]
struct Entry {
    bits: u128,
    length: u8,
    port_set: u16,
}

/// What is known of all addresses under an entry of the index or of a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    /// One answer for all: this port set, or none.
    Uniform(Option<u16>),
    /// Divided: see this node.
    Node(usize),
    /// Divided below the last level.
    Trie,
}

/// The answers of consecutive entries, each with the entry it begins at; the first begins at 0.
type Runs = Vec<(usize, Answer)>;

/// The distinct nodes below the first level, children before parents.
#[derive(Default)]
struct Nodes {
    ids: BTreeMap<Runs, usize>,
    runs: Vec<Runs>,
}

impl Nodes {
    /// The first level over `entries`, which ascend, with `levels` of nodes below it.
    fn divide(&mut self, entries: &[Entry], levels: usize) -> Runs {
        let mut runs = Runs::new();
        self.walk(Span { start: 0, length: 0 }, INDEX_BITS, levels, entries, None, &mut runs);
        runs
    }

    /// Appends the answers of the entries of `span`, each of which covers addresses that share
    /// their first `target` bits. `inherited` is the port set of the prefix around `span`.
    fn walk(
        &mut self,
        span: Span,
        target: u8,
        levels: usize,
        entries: &[Entry],
        inherited: Option<u16>,
        runs: &mut Runs,
    ) {
        let (inherited, entries) = take_own(span.length, entries, inherited);
        let answer = if entries.is_empty() {
            Answer::Uniform(inherited)
        } else if span.length < target {
            let (low, high) = halves(span.length, entries);
            let [below, above] = span.halves(target);
            self.walk(below, target, levels, low, inherited, runs);
            self.walk(above, target, levels, high, inherited, runs);
            return;
        } else {
            self.below(target, levels, entries, inherited)
        };
        if runs.last().is_none_or(|(_, last)| *last != answer) {
            runs.push((span.start, answer));
        }
    }

    /// The answer for addresses that share `length` bits and are divided by `entries`.
    fn below(
        &mut self,
        length: u8,
        levels: usize,
        entries: &[Entry],
        inherited: Option<u16>,
    ) -> Answer {
        let Some(deeper) = levels.checked_sub(1) else {
            return finest(length, entries, inherited);
        };
        let mut runs = Runs::new();
        let span = Span { start: 0, length };
        self.walk(span, length.saturating_add(BLOCK_BITS), deeper, entries, inherited, &mut runs);
        match runs.as_slice() {
            // All entries agree, so the entry above can say it.
            [(_, answer @ (Answer::Uniform(_) | Answer::Trie))] => *answer,
            _ => Answer::Node(self.intern(runs)),
        }
    }

    fn intern(&mut self, runs: Runs) -> usize {
        if let Some(id) = self.ids.get(&runs) {
            return *id;
        }
        let id = self.runs.len();
        self.runs.push(runs.clone());
        self.ids.insert(runs, id);
        id
    }
}

/// Some addresses that share `length` bits, and the entry of the level at which they begin.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    length: u8,
}

impl Span {
    /// The two halves, in a level whose entries share `target` bits, which is more than ours.
    fn halves(self, target: u8) -> [Self; 2] {
        let length = self.length.saturating_add(1);
        let half = 1_usize << target.saturating_sub(length).min(INDEX_BITS);
        [Self { length, ..self }, Self { start: self.start.saturating_add(half), length }]
    }
}

/// Takes the prefix that is exactly these addresses off the front of `entries`.
fn take_own(length: u8, entries: &[Entry], inherited: Option<u16>) -> (Option<u16>, &[Entry]) {
    match entries {
        [own, rest @ ..] if own.length <= length => (Some(own.port_set), rest),
        _ => (inherited, entries),
    }
}

/// Parts entries, all longer than `length`, by their next address bit.
fn halves(length: u8, entries: &[Entry]) -> (&[Entry], &[Entry]) {
    let bit = (1_u128 << 127).checked_shr(length.into()).unwrap_or(0);
    entries.split_at(entries.partition_point(|entry| entry.bits & bit == 0))
}

/// The answer for addresses that share `length` bits, below the last level.
fn finest(length: u8, entries: &[Entry], inherited: Option<u16>) -> Answer {
    let (inherited, entries) = take_own(length, entries, inherited);
    match entries {
        // A prefix in the middle of others' addresses: no need to walk down to it.
        [one] if Some(one.port_set) != inherited => Answer::Trie,
        [] | [_] => Answer::Uniform(inherited),
        _ => {
            let (low, high) = halves(length, entries);
            let length = length.saturating_add(1);
            let low = finest(length, low, inherited);
            if low == Answer::Trie || low != finest(length, high, inherited) {
                return Answer::Trie;
            }
            low
        }
    }
}

/// Nodes that got one of the block ids, in the order of the ids.
#[derive(Default)]
struct Blocks {
    ids: BTreeMap<usize, Slot>,
    order: Vec<usize>,
    filled: Vec<Block>,
}

impl Blocks {
    /// Fills a block for each node that has an id, which gives ids to the nodes below it.
    fn fill(&mut self, nodes: &Nodes) {
        let mut next = 0;
        while let Some(runs) = self.order.get(next).and_then(|node| nodes.runs.get(*node)) {
            let slots = self.slots(runs, BLOCK_ENTRIES);
            let mut block = [Slot::TRIE.0; BLOCK_ENTRIES];
            for (entry, slot) in block.iter_mut().zip(slots) {
                *entry = slot;
            }
            self.filled.push(block);
            next = next.saturating_add(1);
        }
    }

    /// The slots of `entries` entries.
    fn slots(&mut self, runs: &Runs, entries: usize) -> Vec<u16> {
        let mut slots = Vec::with_capacity(entries);
        let ends = runs.iter().skip(1).map(|(start, _)| *start).chain([entries]);
        for ((_, answer), end) in runs.iter().zip(ends) {
            let slot = match answer {
                Answer::Uniform(None) => Slot::MISS,
                // A port set without a slot does not leave `union`; if one did, the trie has it.
                Answer::Uniform(Some(id)) => Slot::port_set(*id).unwrap_or(Slot::TRIE),
                Answer::Node(node) => self.slot(*node),
                Answer::Trie => Slot::TRIE,
            };
            slots.resize(end, slot.0);
        }
        slots
    }

    fn slot(&mut self, node: usize) -> Slot {
        if let Some(slot) = self.ids.get(&node) {
            return *slot;
        }
        match u16::try_from(self.order.len()).ok().and_then(Slot::block) {
            Some(slot) => {
                self.order.push(node);
                self.ids.insert(node, slot);
                slot
            }
            None => Slot::TRIE,
        }
    }
}
