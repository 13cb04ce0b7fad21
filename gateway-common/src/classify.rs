//! From a flow key to a decision, by the tables of one generation.

use crate::abi::{
    BLOCK_LEVELS_V4, BLOCK_LEVELS_V6, MAX_PORT_RANGES, PortRange, PortSet, Slot, Step,
};
use crate::{
    Address, Decision, FlowKey, PacketBytes, Reason, Transport, Verdict, Word, parse, source_of,
};

/// The tables of one generation, wherever they are kept.
pub trait Tables {
    /// The slot of an IPv4 /16.
    fn index_v4(&self, top: Word) -> Slot;
    /// The slot of an IPv6 /16.
    fn index_v6(&self, top: Word) -> Slot;
    /// The slot of `octet` in block `block`; [`Slot::MISS`] where there is no such block.
    fn block(&self, block: u16, octet: u8) -> Slot;
    /// The port set of the longest IPv4 prefix that covers `address`.
    fn longest_v4(&self, address: [u8; 4]) -> Option<u16>;
    /// The port set of the longest IPv6 prefix that covers `address`.
    fn longest_v6(&self, address: [u8; 16]) -> Option<u16>;
    /// Port set `id`; `None` where there is no such port set.
    fn port_set(&self, id: u16) -> Option<&PortSet>;

    /// Whether only listed sources go direct. Where it is a constant `false`, the rest of what is
    /// about sources costs nothing.
    fn scoped(&self) -> bool;
    /// Whether the interface that the packet came in by is listed.
    fn admits_ingress(&self) -> bool;
    /// Whether a listed IPv4 prefix covers `source`.
    fn admits_v4(&self, source: [u8; 4]) -> bool;
    /// Whether a listed IPv6 prefix covers `source`.
    fn admits_v6(&self, source: [u8; 16]) -> bool;

    /// Why nothing goes direct at this moment, if so: [`crate::control::refusal`] of the control
    /// words. Asked of packets only that would.
    fn refusal(&self) -> Option<Reason>;
}

/// Parses and classifies an Ethernet frame.
#[inline(always)]
pub fn classify<P, T>(packet: &P, tables: &T) -> Decision
where
    P: PacketBytes + ?Sized,
    T: Tables + ?Sized,
{
    match parse(packet) {
        Ok(key) => restrict(decide(&key, tables), packet, tables).unless(|| tables.refusal()),
        Err(reason) => Decision::inspect(reason),
    }
}

/// `decision`, unless it is Direct and the tables do not admit where the packet comes from.
#[inline(always)]
fn restrict<P, T>(decision: Decision, packet: &P, tables: &T) -> Decision
where
    P: PacketBytes + ?Sized,
    T: Tables + ?Sized,
{
    if !tables.scoped() || decision.verdict() == Verdict::Inspect || tables.admits_ingress() {
        return decision;
    }
    let admitted = match source_of(packet) {
        Some(Address::V4(words)) => tables.admits_v4(Address::v4_octets(words)),
        Some(Address::V6(words)) => tables.admits_v6(Address::v6_octets(words)),
        None => false,
    };
    if admitted { decision } else { Decision::inspect(Reason::SourceNotListed) }
}

/// Classifies a packet whose header fields are known, as if everybody were a listed source and
/// direct egress were on.
#[inline(always)]
pub fn decide<T: Tables + ?Sized>(key: &FlowKey, tables: &T) -> Decision {
    let Some(port_set) = port_set_of(key.destination, tables) else {
        return Decision::inspect(Reason::NoPrefix);
    };
    let Some(ports) = tables.port_set(port_set) else {
        return Decision::inspect(Reason::NoPrefix);
    };
    let ranges = match key.transport {
        Transport::Tcp => &ports.tcp,
        Transport::Udp => &ports.udp,
    };
    match group_of(ranges, key.destination_port) {
        Some(group) => Decision::by_group(group),
        None => Decision::inspect(Reason::PortNotListed),
    }
}

/// The port set of an address: by the index, then by blocks, then by the trie, as far down as the
/// table is divided there.
#[inline(always)]
pub fn port_set_of<T: Tables + ?Sized>(address: Address, tables: &T) -> Option<u16> {
    match address {
        Address::V4(words) => {
            let [high, low] = words;
            let octets: [u8; BLOCK_LEVELS_V4] = [low.first()];
            match descend(tables.index_v4(high), octets, tables) {
                Ok(port_set) => port_set,
                Err(AskTrie) => tables.longest_v4(Address::v4_octets(words)),
            }
        }
        Address::V6(words) => {
            let [top, second, third, ..] = words;
            let octets: [u8; BLOCK_LEVELS_V6] =
                [second.first(), second.second(), third.first(), third.second()];
            match descend(tables.index_v6(top), octets, tables) {
                Ok(port_set) => port_set,
                Err(AskTrie) => tables.longest_v6(Address::v6_octets(words)),
            }
        }
    }
}

/// Index and blocks do not say.
struct AskTrie;

#[inline(always)]
fn descend<T: Tables + ?Sized, const N: usize>(
    mut slot: Slot,
    octets: [u8; N],
    tables: &T,
) -> Result<Option<u16>, AskTrie> {
    for octet in octets {
        let Step::Block(block) = slot.step() else { break };
        slot = tables.block(block, octet);
    }
    match slot.step() {
        Step::Miss => Ok(None),
        Step::PortSet(id) => Ok(Some(id)),
        // A block below the last level is not something the compiler makes; the trie is right
        // for every address.
        Step::Block(_) | Step::Trie => Err(AskTrie),
    }
}

/// The provenance group of `port`. `ranges` ascend, so the first that starts behind `port` ends
/// the search.
#[inline(always)]
fn group_of(ranges: &[PortRange; MAX_PORT_RANGES], port: u16) -> Option<u16> {
    for range in ranges {
        if port < range.from {
            return None;
        }
        if port <= range.to {
            return Some(range.group);
        }
    }
    None
}
