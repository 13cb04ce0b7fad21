//! The maps and constants of a generation, behind safe functions: all `unsafe` on map memory is
//! here.

use aya_ebpf::{
    Global,
    bindings::{BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
    helpers::{
        bpf_get_prandom_u32, bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
    },
    macros::btf_map,
};
use gateway_common::abi::{
    BLOCK_ENTRIES, COUNTER_FIRST_GROUP, COUNTER_METADATA_ACCEPTED, COUNTER_TRACE_LOST, Counter,
    FlowId, HOOK_BUCKETS, HookBucket, INDEX_ENTRIES, MAX_WINDOWS, PortSet, Sample, Slot,
};
use gateway_common::{Reason, Tables, Word, control, drawn, flow_of};

use crate::apart::Kept;
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
/// The limit by which tc draws proposals of XDP to check, see [`drawn`]; zero is none, and the verifier takes
/// that out, too.
#[unsafe(no_mangle)]
static SELF_CHECK: Global<u32> = Global::new(0);
/// Not zero where the kernel has a cheap clock that can be relied on (5.18): the clock itself is there from 5.11
/// on (commit d05512618056), and one processor that is held up no longer holds it up since commit a1ff03cd6fb9.
/// Elsewhere the verifier takes the call out before it asks for it.
#[unsafe(no_mangle)]
static COARSE_CLOCK: Global<u32> = Global::new(0);
/// Not zero where a support window is open; taken out of the program in the same way.
#[unsafe(no_mangle)]
static WINDOWED: Global<u32> = Global::new(0);
/// When the window in each slot is over; zero is long ago.
#[unsafe(no_mangle)]
static WINDOW_END: [Global<u64>; MAX_WINDOWS] = [const { Global::new(0) }; MAX_WINDOWS];
/// Ids of windows by slot.
#[unsafe(no_mangle)]
static WINDOW_ID: [Global<u32>; MAX_WINDOWS] = [const { Global::new(0) }; MAX_WINDOWS];
/// The first provenance group that is of a window: each window has `SUPPORT_GROUPS` of them.
#[unsafe(no_mangle)]
static SUPPORT_FIRST: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SUPPORT_GROUPS: Global<u32> = Global::new(0);
/// Index of the interface that Direct packets of an IP version are redirected to; zero where they are
/// marked only. Where both are, the verifier takes out what redirects.
#[unsafe(no_mangle)]
static UPLINK_V4: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static UPLINK_V6: Global<u32> = Global::new(0);
/// The first of the interfaces that redirect, which are in `PORTS` as well: mostly there is one.
#[unsafe(no_mangle)]
static PORT: Global<u32> = Global::new(0);
/// Its MAC address, as words in network order.
#[unsafe(no_mangle)]
static PORT_MAC: [Global<u16>; 3] = [const { Global::new(0) }; 3];
/// The next hop that packets of IPv6 are redirected by, as words in network order; all zero is any.
#[unsafe(no_mangle)]
static HOP_V6: [Global<u16>; 8] = [const { Global::new(0) }; 8];
/// The direct table, for look-ups in it alone; zero, all are by the rules.
#[unsafe(no_mangle)]
static DIRECT_TABLE: Global<u32> = Global::new(0);
// Laid out by the address word as it is in memory, see `Word::in_memory`. All zero is all miss: an object loaded without its index inspects everything.
#[unsafe(no_mangle)]
static INDEX_V4: [Global<u16>; INDEX_ENTRIES] = [const { Global::new(0) }; INDEX_ENTRIES];
#[unsafe(no_mangle)]
static INDEX_V6: [Global<u16>; INDEX_ENTRIES] = [const { Global::new(0) }; INDEX_ENTRIES];

/// Where the counters of each hook are: see [`HookBucket`]. All zero is no hook of its own.
#[unsafe(no_mangle)]
static HOOKS: [Global<u64>; HOOK_BUCKETS] = [const { Global::new(0) }; HOOK_BUCKETS];
/// Spreads the hooks' interfaces over [`HOOKS`] without a collision.
#[unsafe(no_mangle)]
static HOOK_MULTIPLIER: Global<u32> = Global::new(0);

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
/// Windows by client, one bit each.
#[btf_map]
static CLIENTS_V4: LpmTrie<[u8; 4], u32, 1> = LpmTrie::new();
#[btf_map]
static CLIENTS_V6: LpmTrie<[u8; 16], u32, 1> = LpmTrie::new();
/// Port sets of windows by destination, and these port sets.
#[btf_map]
static SUPPORT_V4: LpmTrie<[u8; 4], u32, 1> = LpmTrie::new();
#[btf_map]
static SUPPORT_V6: LpmTrie<[u8; 16], u32, 1> = LpmTrie::new();
#[btf_map]
static SUPPORT_PORTS: Array<PortSet, 1> = Array::new();
/// Flows that windows let go direct; only their being there matters.
#[btf_map]
static FLOWS: HashMap<FlowId, u32, 1> = HashMap::new();
/// How many, by group from `SUPPORT_FIRST` on.
#[btf_map]
static COUNT_FLOWS: PerCpuArray<u64, 1> = PerCpuArray::new();
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
/// Not zero once XDP is of this generation too: before that, a proposal may be right by the table of
/// the one before.
#[btf_map]
static SERVES: Array<u32, 1> = Array::new();

/// What is drawn for `trace`: some 1,500 records.
#[btf_map]
static SAMPLES: RingBuf<Sample, { 256 << 10 }> = RingBuf::new();

/// Why nothing goes direct at this moment, if so.
#[inline(always)]
fn refusal() -> Option<Reason> {
    if under_test() {
        return None;
    }
    let (Some(switch), Some(deadline)) =
        (control_word(control::SWITCH), control_word(control::DEADLINE))
    else {
        return Some(Reason::SwitchedOff);
    };
    control::refusal(switch, deadline, now_about)
}

/// The time, hardly more than [`control::COARSENESS`] late: reading the other clock is dearer than all the rest that
/// makes a packet Direct.
#[inline(always)]
fn now_about() -> u64 {
    if COARSE_CLOCK.load() != 0 {
        // SAFETY: the helper takes nothing and returns a number.
        unsafe { bpf_ktime_get_coarse_ns() }
    } else {
        // SAFETY: as above.
        unsafe { bpf_ktime_get_ns() }
    }
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

/// Whether any support window is open.
#[inline(always)]
pub(crate) fn windowed() -> bool {
    WINDOWED.load() != 0
}

/// Whether proposals of XDP may be checked: both are of this generation.
#[inline(always)]
fn serves() -> bool {
    SERVES.get(0).is_some_and(|serves| *serves != 0)
}

/// Whether this packet is drawn for `trace`. While nobody traces this is one look-up.
#[inline(always)]
pub(crate) fn is_traced() -> bool {
    match control_word(control::SAMPLE) {
        None | Some(0) => false,
        Some(one_in) => {
            // SAFETY: the helper takes nothing and returns a number.
            let random = unsafe { bpf_get_prandom_u32() };
            random.checked_rem(one_in as u32) == Some(0) && !under_test()
        }
    }
}

/// Records a packet that was drawn, as `fill` says, which hears the time; where there is no room, one
/// is lost. Nobody is woken up: the reader looks by itself.
#[inline(always)]
pub(crate) fn record<P: Frame>(counters: Counters, packet: &P, fill: impl FnOnce(u64) -> Sample) {
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_ns() };
    if control_word(control::SAMPLE_UNTIL).is_none_or(|until| now > until) {
        end_sampling();
        return;
    }
    match SAMPLES.reserve(0) {
        Some(mut record) => {
            record.write(fill(now));
            record.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
        None => counters.add(COUNTER_TRACE_LOST, packet),
    }
}

/// A tracer that has just come writes its words again within a second.
#[inline(always)]
fn end_sampling() {
    if let Some(word) = CONTROL.get_ptr_mut(control::SAMPLE) {
        // SAFETY: the kernel checked the index, and values of an array are aligned to eight bytes.
        // Volatile: others may read and write it at any time.
        unsafe { word.write_volatile(0) };
    }
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

/// Whether Direct packets are redirected.
#[inline(always)]
pub(crate) fn redirects() -> bool {
    UPLINK_V4.load() != 0 || UPLINK_V6.load() != 0
}

/// The interface that they are redirected to; zero where those of this IP version are not, or not at
/// this moment.
#[inline(always)]
pub(crate) fn uplink(is_ipv6: bool) -> u32 {
    let (uplink, word) = if is_ipv6 {
        (UPLINK_V6.load(), control::REDIRECT_V6)
    } else {
        (UPLINK_V4.load(), control::REDIRECT_V4)
    };
    if under_test() || control_word(word) == Some(u64::from(uplink)) { uplink } else { 0 }
}

/// The table that has the say alone, at this moment, over where Direct packets go.
#[inline(always)]
pub(crate) fn undisputed_table(is_ipv6: bool) -> Option<u32> {
    let word = if is_ipv6 { control::UNDISPUTED_V6 } else { control::UNDISPUTED_V4 };
    let (table, until) = (DIRECT_TABLE.load(), control_word(word)?);
    if table == 0 || until == 0 {
        return None;
    }
    // The cheap clock (kernel 5.11), some milliseconds late.
    // SAFETY: the helper takes nothing and returns a number.
    (unsafe { bpf_ktime_get_coarse_ns() } < until).then_some(table)
}

/// The next hop that packets of IPv6 are redirected by; `None` where any will do.
#[inline(always)]
pub(crate) fn next_hop_v6() -> Option<[Word; 8]> {
    let hop = core::array::from_fn(|word| Word::new(HOP_V6[word].load().to_ne_bytes()));
    hop.iter().any(|word| word.any(0xffff)).then_some(hop)
}

/// The MAC address of an interface that redirects.
#[inline(always)]
pub(crate) fn port_mac(ifindex: u32) -> Option<[Word; 3]> {
    if ifindex == PORT.load() {
        let word = |number: usize| Word::new(PORT_MAC[number].load().to_ne_bytes());
        return Some([word(0), word(1), word(2)]);
    }
    let mac = PORTS.get_ptr(ifindex)?;
    // SAFETY: the pointer is to a value of the map, which nobody writes once it is published.
    let mac = unsafe { *mac };
    let [first, second, third, ..] = *mac.as_chunks::<2>().0 else { return None };
    Some([Word::new(first), Word::new(second), Word::new(third)])
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
    fn windowed(&self) -> bool {
        windowed()
    }

    #[inline(always)]
    fn windows_of_v4(&self, source: [u8; 4]) -> u16 {
        CLIENTS_V4.get(&Key::new(32, source)).map_or(0, |windows| *windows as u16)
    }

    #[inline(always)]
    fn windows_of_v6(&self, source: [u8; 16]) -> u16 {
        CLIENTS_V6.get(&Key::new(128, source)).map_or(0, |windows| *windows as u16)
    }

    #[inline(always)]
    fn support_v4(&self, destination: [u8; 4]) -> Option<&PortSet> {
        SUPPORT_PORTS.get(*SUPPORT_V4.get(&Key::new(32, destination))?)
    }

    #[inline(always)]
    fn support_v6(&self, destination: [u8; 16]) -> Option<&PortSet> {
        SUPPORT_PORTS.get(*SUPPORT_V6.get(&Key::new(128, destination))?)
    }

    #[inline(always)]
    fn window_end(&self, slot: usize) -> u64 {
        WINDOW_END.get(slot).map_or(0, Global::load)
    }

    /// Under test no window is over: the tables are what is tested.
    #[inline(always)]
    fn now(&self) -> u64 {
        if under_test() {
            return 0;
        }
        // SAFETY: the helper takes nothing and returns a number.
        unsafe { bpf_ktime_get_boot_ns() }
    }

    #[inline(always)]
    fn support_group(&self, slot: usize, group: u16) -> u16 {
        let of_window = SUPPORT_GROUPS.load().wrapping_mul(slot as u32);
        SUPPORT_FIRST.load().wrapping_add(of_window).wrapping_add(u32::from(group)) as u16
    }

    #[inline(always)]
    fn refusal(&self) -> Option<Reason> {
        refusal()
    }
}

/// Counts the flow of a packet that was counted at `counter`, once, where that is a window's doing.
#[inline(always)]
pub(crate) fn count_flow<P: Kept>(packet: &P, counter: u32) {
    if !windowed() {
        return;
    }
    let first = SUPPORT_FIRST.load().wrapping_add(COUNTER_FIRST_GROUP);
    if let Some(place) = counter.checked_sub(first) {
        packet.count_flow(place);
    }
}

/// The same by the place of its set and window.
#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value the key would be on the stack once more"
)]
pub(crate) fn count_flow_at<P: Frame>(packet: &P, place: u32) {
    let Some(slot) = place.checked_div(SUPPORT_GROUPS.load()) else { return };
    let Some(window) = WINDOW_ID.get(slot as usize) else { return };
    let window = window.load();
    let flow = flow_of(&packet.part(), window).or_else(|| packet.flow_whole(window));
    let Some(flow) = flow else { return };
    if under_test() || FLOWS.get_ptr(&flow).is_some() {
        return;
    }
    // Of several CPUs with packets of one flow, one puts it in. Where there is no room left, it is
    // not counted.
    if FLOWS.insert(&flow, 1, u64::from(BPF_NOEXIST)).is_err() {
        return;
    }
    if let Some(count) = COUNT_FLOWS.get_ptr_mut(place) {
        // SAFETY: the kernel checked `place`; the slot is this CPU's alone, and neither XDP nor tc
        // ingress interrupts itself on a CPU.
        let count = unsafe { &mut *count };
        *count = count.wrapping_add(1);
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

/// Where packets of one interface are counted by one kind of hook, and how long this one is: looked up
/// once for all of its counters.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) counters: Counters,
    first: u32,
    length: u32,
}

impl Counters {
    /// Where `packet` is counted.
    #[inline(always)]
    pub(crate) fn place<P: Frame>(self, packet: &P) -> Place {
        let ingress = packet.ingress();
        let bucket = HookBucket::number(ingress, HOOK_MULTIPLIER.load());
        let first = HookBucket(HOOKS[bucket].load()).first_counter(ingress);
        Place { counters: self, first, length: packet.length() }
    }

    /// Adds one packet to counter `index` of the hook it came in by. An index without a counter
    /// counts nothing.
    #[inline(always)]
    pub(crate) fn add<P: Frame>(self, index: u32, packet: &P) {
        self.place(packet).add(index);
    }
}

impl Place {
    /// Adds the packet to counter `index`. An index without a counter counts nothing.
    #[inline(always)]
    pub(crate) fn add(self, index: u32) {
        self.add_if(index, |_| true);
    }

    /// Adds the packet to the proposals that are taken, unless this one is to be checked before; gives
    /// whether it did. What is checked and found wrong does not count there, so the next one is checked as
    /// well.
    #[inline(always)]
    pub(crate) fn takes_unseen(self) -> bool {
        let limit = SELF_CHECK.load();
        self.add_if(COUNTER_METADATA_ACCEPTED, |taken| !(drawn::is_drawn(taken, limit) && serves()))
    }

    /// Adds the packet to counter `index`, if that is there and `wanted` by the packets that are in it;
    /// gives whether it did.
    #[inline(always)]
    fn add_if(self, index: u32, wanted: impl FnOnce(u64) -> bool) -> bool {
        let index = self.first.wrapping_add(index);
        let counter = match self.counters {
            Counters::Xdp => COUNT_XDP.get_ptr_mut(index),
            Counters::TcBehindXdp => COUNT_TC_XDP.get_ptr_mut(index),
            Counters::Tc => COUNT_TC.get_ptr_mut(index),
        };
        let Some(counter) = counter else { return false };
        // SAFETY: the kernel checked `index`; the slot is this CPU's alone, and neither XDP nor tc
        // ingress interrupts itself on a CPU.
        let counter = unsafe { &mut *counter };
        if !wanted(counter.packets) {
            return false;
        }
        counter.packets = counter.packets.wrapping_add(1);
        counter.bytes = counter.bytes.wrapping_add(u64::from(self.length));
        true
    }
}
