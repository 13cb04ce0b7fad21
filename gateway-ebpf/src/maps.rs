//! The maps and constants of a generation, behind safe functions: all `unsafe` on map memory is
//! here.

use aya_ebpf::{
    Global,
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
};
use gateway_common::abi::{BLOCK_ENTRIES, Counter, INDEX_ENTRIES, PortSet, Slot};
use gateway_common::{Reason, Tables, Word, control};

use crate::context::Frame;

// Constants, written into `.rodata` before load: names are part of the loader's contract.

#[unsafe(no_mangle)]
static MARK_VALUE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static MARK_MASK: Global<u32> = Global::new(0);
/// Not zero where only listed sources go direct. The verifier knows the constant and takes what
/// depends on it out of the program.
#[unsafe(no_mangle)]
static SCOPED: Global<u32> = Global::new(0);
/// Index of the interface that Direct packets are redirected to; zero where they are marked only,
/// and the verifier takes out what redirects.
#[unsafe(no_mangle)]
static UPLINK: Global<u32> = Global::new(0);
// Laid out by the address word as it is in memory, see `Word::in_memory`. All zero is all miss: an object loaded without its index inspects everything.
#[unsafe(no_mangle)]
static INDEX_V4: [Global<u16>; INDEX_ENTRIES] = [const { Global::new(0) }; INDEX_ENTRIES];
#[unsafe(no_mangle)]
static INDEX_V6: [Global<u16>; INDEX_ENTRIES] = [const { Global::new(0) }; INDEX_ENTRIES];

// Sized to the table at load time.

#[btf_map]
static BLOCKS: Array<[u16; BLOCK_ENTRIES], 1> = Array::new();
#[btf_map]
static TRIE_V4: LpmTrie<[u8; 4], u32, 1> = LpmTrie::new();
#[btf_map]
static TRIE_V6: LpmTrie<[u8; 16], u32, 1> = LpmTrie::new();
#[btf_map]
static PORT_SETS: Array<PortSet, 1> = Array::new();
/// Listed source prefixes; only their being there matters.
#[btf_map]
static SOURCES_V4: LpmTrie<[u8; 4], u32, 1> = LpmTrie::new();
#[btf_map]
static SOURCES_V6: LpmTrie<[u8; 16], u32, 1> = LpmTrie::new();
/// Indexes of listed interfaces.
#[btf_map]
static INGRESS: HashMap<u32, u32, 1> = HashMap::new();
/// MAC addresses of the interfaces that redirect, by index; the last two octets are zero.
#[btf_map]
static PORTS: HashMap<u32, [u8; 8], 1> = HashMap::new();
#[btf_map]
static COUNT_XDP: PerCpuArray<Counter, 1> = PerCpuArray::new();
#[btf_map]
static COUNT_TC_XDP: PerCpuArray<Counter, 1> = PerCpuArray::new();
#[btf_map]
static COUNT_TC: PerCpuArray<Counter, 1> = PerCpuArray::new();

/// Shared by all generations: pinned by itself, and here under its pin.
#[btf_map]
static CONTROL: Array<u64, { control::WORDS as usize }> = Array::new();
/// Not zero while the generation is tried out, before it is published: what is switched off must
/// not hide what the tables say.
#[btf_map]
static SELF_TEST: Array<u32, 1> = Array::new();

/// Why nothing goes direct at this moment, if so.
#[inline(always)]
pub(crate) fn refusal() -> Option<Reason> {
    if under_test() {
        return None;
    }
    let (Some(switch), Some(deadline)) =
        (control_word(control::SWITCH), control_word(control::DEADLINE))
    else {
        return Some(Reason::SwitchedOff);
    };
    // SAFETY: the helper takes nothing and returns a number.
    control::refusal(switch, deadline, || unsafe { bpf_ktime_get_ns() })
}

/// As [`refusal`], for a packet whose deadline XDP has just looked at: reading the clock is the dear
/// part.
#[inline(always)]
pub(crate) fn refusal_of_proposal() -> Option<Reason> {
    if under_test() {
        return None;
    }
    let switch = control_word(control::SWITCH).unwrap_or(control::OFF);
    control::refusal(switch, control::NEVER, || 0)
}

#[inline(always)]
fn under_test() -> bool {
    SELF_TEST.get(0).is_some_and(|under_test| *under_test != 0)
}

#[inline(always)]
fn control_word(index: u32) -> Option<u64> {
    let word = CONTROL.get_ptr(index)?;
    // SAFETY: the kernel checked `index`, and values of an array are aligned to eight bytes.
    // Volatile: user space may write it at any time. Half of a new value is no `ON`, or for one
    // packet another deadline.
    Some(unsafe { word.read_volatile() })
}

/// The bits that say Direct.
#[inline(always)]
pub(crate) fn mark_value() -> u32 {
    MARK_VALUE.load()
}

/// The bits of the mark that are ours.
#[inline(always)]
pub(crate) fn mark_mask() -> u32 {
    MARK_MASK.load()
}

/// The interface that Direct packets are redirected to; zero where they are not.
#[inline(always)]
pub(crate) fn uplink() -> u32 {
    UPLINK.load()
}

/// The MAC address of an interface that redirects.
#[inline(always)]
pub(crate) fn port_mac(ifindex: u32) -> Option<[Word; 3]> {
    let mac = PORTS.get_ptr(ifindex)?;
    // SAFETY: the pointer is to a value of the map, which nobody writes once it is published.
    let [a, b, c, d, e, f, _, _] = unsafe { *mac };
    Some([Word::new([a, b]), Word::new([c, d]), Word::new([e, f])])
}

/// The tables of the generation that this program belongs to, for one packet.
pub(crate) struct GenerationTables<'a, P>(pub(crate) &'a P);

impl<P: Frame> Tables for GenerationTables<'_, P> {
    #[inline(always)]
    fn index_v4(&self, top: Word) -> Slot {
        Slot(INDEX_V4[usize::from(top.in_memory())].load())
    }

    #[inline(always)]
    fn index_v6(&self, top: Word) -> Slot {
        Slot(INDEX_V6[usize::from(top.in_memory())].load())
    }

    #[inline(always)]
    fn block(&self, block: u16, octet: u8) -> Slot {
        match BLOCKS.get(u32::from(block)) {
            Some(slots) => Slot(slots[usize::from(octet)]),
            None => Slot::MISS,
        }
    }

    #[inline(always)]
    fn longest_v4(&self, address: [u8; 4]) -> Option<u16> {
        TRIE_V4.get(&Key::new(32, address)).and_then(|id| u16::try_from(*id).ok())
    }

    #[inline(always)]
    fn longest_v6(&self, address: [u8; 16]) -> Option<u16> {
        TRIE_V6.get(&Key::new(128, address)).and_then(|id| u16::try_from(*id).ok())
    }

    #[inline(always)]
    fn port_set(&self, id: u16) -> Option<&PortSet> {
        PORT_SETS.get(u32::from(id))
    }

    #[inline(always)]
    fn scoped(&self) -> bool {
        SCOPED.load() != 0
    }

    #[inline(always)]
    fn admits_ingress(&self) -> bool {
        INGRESS.get_ptr(self.0.ingress()).is_some()
    }

    #[inline(always)]
    fn admits_v4(&self, source: [u8; 4]) -> bool {
        SOURCES_V4.get(&Key::new(32, source)).is_some()
    }

    #[inline(always)]
    fn admits_v6(&self, source: [u8; 16]) -> bool {
        SOURCES_V6.get(&Key::new(128, source)).is_some()
    }

    #[inline(always)]
    fn refusal(&self) -> Option<Reason> {
        refusal()
    }
}

/// The counters of one kind of hook.
#[derive(Clone, Copy)]
pub(crate) enum Counters {
    /// Of the XDP programs.
    Xdp,
    /// Of tc behind XDP.
    TcBehindXdp,
    /// Of tc alone.
    Tc,
}

impl Counters {
    /// Adds one packet of `length` bytes to counter `index`. An index without a counter counts
    /// nothing.
    #[inline(always)]
    pub(crate) fn add(self, index: u32, length: u32) {
        let counter = match self {
            Self::Xdp => COUNT_XDP.get_ptr_mut(index),
            Self::TcBehindXdp => COUNT_TC_XDP.get_ptr_mut(index),
            Self::Tc => COUNT_TC.get_ptr_mut(index),
        };
        if let Some(counter) = counter {
            // SAFETY: the kernel checked `index`; the slot is this CPU's alone, and neither XDP
            // nor tc ingress interrupts itself on a CPU.
            let counter = unsafe { &mut *counter };
            counter.packets = counter.packets.wrapping_add(1);
            counter.bytes = counter.bytes.wrapping_add(u64::from(length));
        }
    }
}
