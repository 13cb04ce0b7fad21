//! From a flow key to a decision, by the tables of one generation.

use crate::abi::{
    BLOCK_LEVELS_V4, BLOCK_LEVELS_V6, EXCLUDED_GROUP, MAX_PORT_RANGES, MAX_WINDOWS, PortRange,
    PortSet, Slot, Step,
};
use crate::{Address, Decision, FlowKey, PacketBytes, Reason, Verdict, Word, parse, source_of};

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

    /// Whether any support window is open. Where it is a constant `false`, the rest of what is about
    /// windows costs nothing.
    fn windowed(&self) -> bool;
    /// The windows of an IPv4 source, one bit each by their slots.
    fn windows_of_v4(&self, source: [u8; 4]) -> u16;
    /// The windows of an IPv6 source.
    fn windows_of_v6(&self, source: [u8; 16]) -> u16;
    /// The ports that windows have for an IPv4 destination.
    fn support_v4(&self, destination: [u8; 4]) -> Option<&PortSet>;
    /// The ports that windows have for an IPv6 destination.
    fn support_v6(&self, destination: [u8; 16]) -> Option<&PortSet>;
    /// When the window in `slot` is over, in the same time as [`Self::now`].
    fn window_end(&self, slot: usize) -> u64;
    /// Nanoseconds of `CLOCK_BOOTTIME`. Asked only where a window would decide.
    fn now(&self) -> u64;
    /// The provenance group of the window in `slot` and `group` of the windows' own port sets.
    fn support_group(&self, slot: usize, group: u16) -> u16;

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
    support(by_policy(packet, tables), packet, tables)
}

/// As [`classify`], had nobody a support window.
#[inline(always)]
pub fn by_policy<P, T>(packet: &P, tables: &T) -> Decision
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

/// What the policy decided, but Direct where it has no say and an open support window has one: for
/// this source, destination, protocol and port.
///
/// Nobody but a client of a window gets another decision by it, nor another reason.
#[inline(always)]
pub fn support<P, T>(by_policy: Decision, packet: &P, tables: &T) -> Decision
where
    P: PacketBytes + ?Sized,
    T: Tables + ?Sized,
{
    if !tables.windowed() || !by_policy.is_left_to_windows() {
        return by_policy;
    }
    match by_window(packet, tables) {
        Some(decision) => decision,
        None => by_policy,
    }
}

/// What the open support windows decide of a packet that is left to them; `None` where they have no
/// say either. It parses the packet once more, so that nothing of it has to be kept for windows where
/// none is open.
#[inline(always)]
pub fn by_window<P, T>(packet: &P, tables: &T) -> Option<Decision>
where
    P: PacketBytes + ?Sized,
    T: Tables + ?Sized,
{
    let of_source = match source_of(packet)? {
        Address::V4(words) => tables.windows_of_v4(Address::v4_octets(words)),
        Address::V6(words) => tables.windows_of_v6(Address::v6_octets(words)),
    };
    if of_source == 0 {
        return None;
    }
    let key = parse(packet).ok()?;
    let ports = match key.destination {
        Address::V4(words) => tables.support_v4(Address::v4_octets(words)),
        Address::V6(words) => tables.support_v6(Address::v6_octets(words)),
    }?;
    let range = range_of(ports.of(key.transport), key.destination_port)?;
    // An exclude has no windows either; this says so once more.
    if range.group == EXCLUDED_GROUP {
        return None;
    }
    let slot = first_open(of_source & range.windows, tables)?;
    let group = tables.support_group(slot, range.group);
    Some(Decision::by_group(group).unless(|| tables.refusal()))
}

/// The first of these windows that is not over.
#[inline(always)]
#[expect(clippy::manual_find, reason = "every kernel's verifier follows a plain loop")]
fn first_open<T: Tables + ?Sized>(windows: u16, tables: &T) -> Option<usize> {
    if windows == 0 {
        return None;
    }
    let now = tables.now();
    for slot in 0..MAX_WINDOWS {
        if windows & (1_u16 << slot) != 0 && now < tables.window_end(slot) {
            return Some(slot);
        }
    }
    None
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
    match range_of(ports.of(key.transport), key.destination_port) {
        Some(range) => Decision::by_group(range.group),
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

/// The range that has `port`. `ranges` ascend, so the first that starts behind `port` ends
/// the search.
#[inline(always)]
fn range_of(ranges: &[PortRange; MAX_PORT_RANGES], port: u16) -> Option<&PortRange> {
    for range in ranges {
        if port < range.from {
            return None;
        }
        if port <= range.to {
            return Some(range);
        }
    }
    None
}
