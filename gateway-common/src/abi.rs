//! Layouts that the loader and the BPF programs share, each with its size pinned.
//!
//! A generation is loaded by the binary that carries its object, so these layouts may change
//! between versions. There are two exceptions. [`Metadata`]: two generations share a packet while links
//! are being switched, so its magic carries a layout version. And the control words, which all
//! generations share: they are in [`crate::control`].

use crate::{Decision, Fallback, Reason, Transport, Verdict, Word};

/// Where a first-level index or a block sends the look-up next, in 16 bits.
///
/// | value | meaning |
/// |---|---|
/// | `0` | no selected prefix covers any of these addresses |
/// | `1..=0x7fff` | all of these addresses have port set `value - 1` |
/// | `0x8000..=0xfffe` | divided: look in block `value - 0x8000` by the next octet |
/// | `0xffff` | divided too finely for a block: consult the trie |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Slot(pub u16);

/// A decoded [`Slot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// No selected prefix.
    Miss,
    /// The port set of all these addresses.
    PortSet(u16),
    /// Continue in this block with the next octet of the address.
    Block(u16),
    /// Continue in the longest-prefix-match trie.
    Trie,
}

const FIRST_BLOCK: u16 = 0x8000;

impl Slot {
    /// No selected prefix.
    pub const MISS: Self = Self(0);
    /// Consult the trie.
    pub const TRIE: Self = Self(u16::MAX);
    /// How many port sets a slot can name.
    pub const MAX_PORT_SETS: u16 = FIRST_BLOCK - 1;
    /// How many blocks a slot can name.
    pub const MAX_BLOCKS: u16 = u16::MAX - FIRST_BLOCK;

    /// The slot of port set `id`; `None` from [`Self::MAX_PORT_SETS`] on.
    #[must_use]
    pub const fn port_set(id: u16) -> Option<Self> {
        match id.checked_add(1) {
            Some(value) if value < FIRST_BLOCK => Some(Self(value)),
            _ => None,
        }
    }

    /// The slot of block `id`; `None` from [`Self::MAX_BLOCKS`] on.
    #[must_use]
    pub const fn block(id: u16) -> Option<Self> {
        match id.checked_add(FIRST_BLOCK) {
            Some(value) if value < u16::MAX => Some(Self(value)),
            _ => None,
        }
    }

    /// What to do next.
    #[inline(always)]
    #[must_use]
    pub const fn step(self) -> Step {
        match self.0 {
            0 => Step::Miss,
            u16::MAX => Step::Trie,
            value if value >= FIRST_BLOCK => Step::Block(value.wrapping_sub(FIRST_BLOCK)),
            value => Step::PortSet(value.wrapping_sub(1)),
        }
    }
}

/// Entries of a first-level index: one per value of the top 16 bits of an address.
pub const INDEX_ENTRIES: usize = 1 << 16;
/// Entries of a block: one per value of an octet.
pub const BLOCK_ENTRIES: usize = 1 << 8;
/// One block: the slots of the 256 values of one octet.
pub type Block = [u16; BLOCK_ENTRIES];
/// Blocks below the IPv4 index: by the third octet. Only a divided /24 reaches the trie.
pub const BLOCK_LEVELS_V4: usize = 1;
/// Blocks below the IPv6 index: octets 3 to 6. Only a divided /48 reaches the trie.
pub const BLOCK_LEVELS_V6: usize = 4;

/// The group of ports that would go direct, had the operator not excluded them: they are
/// inspected. No provenance group has this number.
pub const EXCLUDED_GROUP: u16 = u16::MAX;

/// How many port ranges one port set may have per protocol.
pub const MAX_PORT_RANGES: usize = 16;

/// One range of destination ports, both ends included, of one provenance group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PortRange {
    /// First port, host order.
    pub from: u16,
    /// Last port, host order.
    pub to: u16,
    /// Which combination of endpoint sets this range comes from: dense, from 0; or
    /// [`EXCLUDED_GROUP`]. Names stay in user space.
    pub group: u16,
    /// The support windows that this range is for, one bit each by their slots; zero where the
    /// policy has it for everybody.
    pub windows: u16,
}

impl PortRange {
    /// Sorts behind every real range and contains no port.
    pub const UNUSED: Self = Self { from: u16::MAX, to: 0, group: 0, windows: 0 };
}

/// The ports that rules list for an address, ascending and disjoint per protocol, padded with
/// [`PortRange::UNUSED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PortSet {
    /// TCP destination ports.
    pub tcp: [PortRange; MAX_PORT_RANGES],
    /// UDP destination ports.
    pub udp: [PortRange; MAX_PORT_RANGES],
}

impl PortSet {
    /// No port at all.
    pub const EMPTY: Self = Self {
        tcp: [PortRange::UNUSED; MAX_PORT_RANGES],
        udp: [PortRange::UNUSED; MAX_PORT_RANGES],
    };

    /// The ranges of one protocol.
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, transport: Transport) -> &[PortRange; MAX_PORT_RANGES] {
        match transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
        }
    }
}

/// How many support windows may be open at a time. Each has a slot, and a bit in
/// [`PortRange::windows`].
pub const MAX_WINDOWS: usize = 8;
/// How many flows of support windows are told apart; those after that are not counted.
pub const MAX_FLOWS: u32 = 1 << 16;

/// A flow that a support window let go direct, as it is remembered so that it is counted once.
/// IPv4 addresses are in the first two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowId {
    /// Source address.
    pub client: [Word; 8],
    /// Destination address.
    pub server: [Word; 8],
    /// Source and destination port; zero behind IPv6 extension headers.
    pub ports: [Word; 2],
    /// Protocol number.
    pub protocol: u16,
    /// Always zero.
    pub reserved: u16,
    /// Id of the window: no later window has the same.
    pub window: u32,
}

/// One counter; per CPU in the kernel, added up by the reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of whole frames, link header included.
    pub bytes: u64,
}

/// Counter of packets whose proposal could not be written: the driver has no XDP metadata.
/// tc classifies these by itself.
pub const COUNTER_METADATA_UNSUPPORTED: u32 = 18;
/// Counter of packets that tc marked because XDP's proposal was in their metadata.
pub const COUNTER_METADATA_ACCEPTED: u32 = 19;
/// Counter of proposals that tc has checked by classifying the packet itself.
pub const COUNTER_SELF_CHECKED: u32 = 20;
/// Counter of those that it would not have made: these packets are inspected.
pub const COUNTER_SELF_DISAGREED: u32 = 21;
/// Counter of packets that were drawn for `trace` and found no room in the ring buffer.
pub const COUNTER_TRACE_LOST: u32 = 22;
/// Counter of Direct packets that XDP sent out of the uplink itself.
pub const COUNTER_REDIRECTED: u32 = 23;
/// Counter of the first [`Fallback`]: Direct packets that XDP was to redirect and did not.
pub const COUNTER_FIRST_FALLBACK: u32 = 24;
/// Index of provenance group 0; the groups are the last counters of a hook.
pub const COUNTER_FIRST_GROUP: u32 = 38;

impl Fallback {
    /// The counter of this cause.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        COUNTER_FIRST_FALLBACK.wrapping_add(self as u32)
    }
}

/// How many buckets the hooks' interfaces are spread over.
pub const HOOK_BUCKETS: usize = 1 << HOOK_BITS;
const HOOK_BITS: u32 = 10;

/// Where the counters of an interface begin: its index above, its first counter below, 32 bits
/// each. Zero is no interface: indexes begin with 1.
///
/// Counters of interfaces that have no bucket of their own are the first ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct HookBucket(pub u64);

impl HookBucket {
    /// The bucket of interface `ifindex`, whose counters begin at `first_counter`.
    #[must_use]
    pub const fn new(ifindex: u32, first_counter: u32) -> Self {
        Self((ifindex as u64) << 32 | first_counter as u64)
    }

    /// Which bucket interface `ifindex` would be in, below [`HOOK_BUCKETS`]. The loader chooses
    /// `multiplier` so that no two hooks share one.
    #[inline(always)]
    #[must_use]
    pub const fn number(ifindex: u32, multiplier: u32) -> usize {
        (ifindex.wrapping_mul(multiplier) >> (u32::BITS - HOOK_BITS)) as usize
    }

    /// The first counter of interface `ifindex`, if this is its bucket, else that of all others.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each half has 32 bits")]
    pub const fn first_counter(self, ifindex: u32) -> u32 {
        if (self.0 >> 32) as u32 == ifindex { self.0 as u32 } else { 0 }
    }
}

impl Decision {
    /// The counter of this decision: below [`COUNTER_METADATA_UNSUPPORTED`] a [`Reason`], from
    /// [`COUNTER_FIRST_GROUP`] on a provenance group. A Direct packet is counted once, under its
    /// group; the sum over the groups is the counter of [`Reason::Matched`].
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        match self.group() {
            Some(group) => COUNTER_FIRST_GROUP.wrapping_add(group as u32),
            None => self.reason() as u32,
        }
    }
}

/// The verdict of a decision with this [`Decision::counter`].
#[inline(always)]
#[must_use]
pub const fn verdict_of(counter: u32) -> Verdict {
    if counter >= COUNTER_FIRST_GROUP { Verdict::Direct } else { Verdict::Inspect }
}

/// Whether the decision with this [`Decision::counter`] is [`Decision::is_left_to_windows`].
#[inline(always)]
#[must_use]
pub const fn is_left_to_windows(counter: u32) -> bool {
    counter == Reason::NoPrefix as u32
        || counter == Reason::PortNotListed as u32
        || counter == Reason::SourceNotListed as u32
}

/// What XDP puts in front of a Direct packet for tc: eight bytes of XDP metadata.
///
/// Nothing in it differs between packets of a flow: GRO compares metadata and does not merge
/// packets that differ (`skb_metadata_differs`, kernel `include/linux/skbuff.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Metadata {
    /// [`Metadata::MAGIC`].
    pub magic: u32,
    /// [`Metadata::DIRECT`]; no other proposal exists.
    pub proposal: u32,
}

impl Metadata {
    /// "B365" with a layout version in the low byte; to be changed with the layout.
    pub const MAGIC: u32 = 0xB365_0F01;
    /// Proposal: this packet is Direct.
    pub const DIRECT: u32 = 1;
    /// The only value ever written.
    pub const PROPOSE_DIRECT: Self = Self { magic: Self::MAGIC, proposal: Self::DIRECT };
}

/// Bytes of a frame that a [`Sample`] has at most: room for 4 VLAN tags, IPv6, two short extension
/// headers and TCP.
pub const HEAD_BYTES: usize = 128;

/// A packet that was drawn for `trace`, and what was decided of it: a record of the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sample {
    /// When it was decided, nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Index of the interface that it came in by.
    pub ingress: u32,
    /// [`Decision::counter`].
    pub counter: u32,
    /// Bytes of the whole frame.
    pub length: u32,
    /// [`Self::XDP`] or [`Self::TC`].
    pub hook: u32,
    /// [`crate::PacketBytes::tags_taken_off`].
    pub tags_taken_off: u32,
    /// Bytes of `head` that are of the frame; behind them are zeros.
    pub head_length: u32,
    /// The first bytes of the frame.
    pub head: [u8; HEAD_BYTES],
}

impl Sample {
    /// Decided by XDP.
    pub const XDP: u32 = 1;
    /// Decided by tc, where it stands alone.
    pub const TC: u32 = 2;
}

const _: () = {
    assert!(size_of::<Slot>() == 2);
    assert!(size_of::<Block>() == 512);
    assert!(size_of::<PortRange>() == 8);
    assert!(size_of::<PortSet>() == 256);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<FlowId>() == 44);
    assert!(MAX_WINDOWS <= u16::BITS as usize);
    assert!(size_of::<Metadata>() == 8);
    assert!(size_of::<HookBucket>() == 8);
    assert!(size_of::<Sample>() == 160 && align_of::<Sample>() == 8);
    assert!(Reason::ALL.len() == COUNTER_METADATA_UNSUPPORTED as usize);
    assert!(COUNTER_FIRST_FALLBACK as usize + Fallback::ALL.len() == COUNTER_FIRST_GROUP as usize);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_value_decodes_to_what_encodes_to_it() {
        for value in 0..=u16::MAX {
            let slot = Slot(value);
            let again = match slot.step() {
                Step::Miss => Some(Slot::MISS),
                Step::Trie => Some(Slot::TRIE),
                Step::PortSet(id) => Slot::port_set(id),
                Step::Block(id) => Slot::block(id),
            };
            assert_eq!(again, Some(slot));
        }
    }

    #[test]
    fn a_bucket_is_of_its_own_interface_only() {
        let bucket = HookBucket::new(7, 40);
        assert_eq!(bucket.first_counter(7), 40);
        for other in [0, 1, 8, u32::MAX] {
            assert_eq!(bucket.first_counter(other), 0);
        }
        for ifindex in [0, 1, u32::MAX] {
            assert!(HookBucket::number(ifindex, 0x9e37_79b1) < HOOK_BUCKETS);
        }
    }

    #[test]
    fn ids_past_the_encoding_are_refused() {
        assert_eq!(Slot::port_set(Slot::MAX_PORT_SETS), None);
        assert_eq!(Slot::block(Slot::MAX_BLOCKS), None);
        assert!(Slot::port_set(Slot::MAX_PORT_SETS - 1).is_some());
        assert!(Slot::block(Slot::MAX_BLOCKS - 1).is_some());
    }

    #[test]
    fn reasons_are_their_own_counters() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            let decision = Decision::inspect(reason);
            assert_eq!(is_left_to_windows(decision.counter()), decision.is_left_to_windows());
        }
        assert_eq!(Decision::by_group(3).counter(), COUNTER_FIRST_GROUP + 3);
        assert_eq!(Decision::by_group(EXCLUDED_GROUP).counter(), Reason::Excluded as u32);
        assert_eq!(Decision::inspect(Reason::NoPrefix).counter(), Reason::NoPrefix as u32);
        for decision in [Decision::by_group(0), Decision::inspect(Reason::PortNotListed)] {
            assert_eq!(verdict_of(decision.counter()), decision.verdict());
        }
    }
}
