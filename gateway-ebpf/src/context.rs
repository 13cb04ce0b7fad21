//! Packets as the kernel hands them over, behind checked reads: all `unsafe` on packet memory is
//! here.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_FIB_LOOKUP_DIRECT,
    helpers::{
        bpf_fib_lookup, bpf_redirect, bpf_skb_load_bytes, bpf_skb_load_bytes_relative,
        bpf_xdp_adjust_meta, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    },
    programs::{TcContext, XdpContext},
};
use gateway_common::abi::{FlowId, HEAD_BYTES, Metadata};
use gateway_common::forward::{Departure, departure};
use gateway_common::{
    Decision, Fallback, PacketBytes, Reason, Word, by_policy, by_window, flow_of,
};

use crate::maps::{self, GenerationTables};

/// Tells the verifier that offsets are small. The deepest header that the parser's bounds let it
/// reach starts before this: 14 + 4 * 4 + 40 + 6 * 2048.
const MAX_OFFSET: u32 = 0x3fff;

/// A packet as one kind of program gets it.
pub(crate) trait Frame: Sized {
    /// What is read first.
    type Part: PacketBytes;

    /// The part of it that is at hand: mostly, what may be read directly.
    fn part(&self) -> Self::Part;

    /// The counter of the decision on a packet that ended too early in that part. Where
    /// there can be more behind that, the packet is classified once more, through a helper.
    fn classify_whole(&self) -> u32;

    /// The decision of support windows on such a packet.
    fn by_window_whole(&self) -> Option<Decision>;

    /// Its flow of the support window `window`.
    fn flow_whole(&self, window: u32) -> Option<FlowId>;

    /// Length of the whole frame in bytes.
    fn length(&self) -> u32;

    /// Index of the interface that it came in by.
    fn ingress(&self) -> u32;

    /// The first bytes of the frame, and how many these are; behind them are zeros.
    fn head(&self) -> ([u8; HEAD_BYTES], u32);

    /// The context of the program.
    fn ebpf_context(&self) -> &impl EbpfContext;
}

/// The part of a packet that BPF programs may read directly.
#[derive(Clone, Copy)]
pub(crate) struct Linear {
    start: usize,
    end: usize,
    tags_taken_off: usize,
}

impl Linear {
    #[inline(always)]
    fn length(self) -> u32 {
        self.end.wrapping_sub(self.start) as u32
    }

    /// Writes words into the packet of an XDP program; `false` where it ends before they do.
    #[inline(always)]
    fn write<const N: usize>(self, offset: u32, words: [Word; N]) -> bool {
        if offset > MAX_OFFSET {
            return false;
        }
        let first = self.start.wrapping_add(offset as usize);
        if first.wrapping_add(size_of::<[Word; N]>()) > self.end {
            return false;
        }
        // SAFETY: as in `words`: all of the array is packet data, which XDP may write.
        unsafe { *(first as *mut [Word; N]) = words };
        true
    }
}

impl Linear {
    /// Of a packet that is all linear: kernels before 5.18 have no helper that copies out of one. Each place
    /// where it may end is a way for the verifier, so up to three bytes are left out.
    #[inline(always)]
    fn head(self) -> ([u8; HEAD_BYTES], u32) {
        let (mut head, mut length) = ([0; HEAD_BYTES], 0);
        for (four, offset) in head.as_chunks_mut::<4>().0.iter_mut().zip((0..).step_by(4)) {
            let Some([first, second]) = self.words::<2>(offset) else { break };
            *four = [first.first(), first.second(), second.first(), second.second()];
            length = offset.wrapping_add(4);
        }
        (head, length)
    }
}

impl PacketBytes for Linear {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[Word; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let first = self.start.wrapping_add(offset as usize);
        if first.wrapping_add(size_of::<[Word; N]>()) > self.end {
            return None;
        }
        // SAFETY: `first` is inside `start..end`, which is packet data, with all of the array
        // (checked above, and checked again by the verifier). Packet data starts at an even
        // address and `offset` is even (contract of `PacketBytes`).
        Some(unsafe { *(first as *const [Word; N]) })
    }

    #[inline(always)]
    fn tags_taken_off(&self) -> usize {
        self.tags_taken_off
    }
}

/// Words that a helper copies out of a packet, from wherever in it they are.
#[inline(always)]
fn copied<const N: usize>(
    offset: u32,
    copy: impl FnOnce(u32, *mut c_void, u32) -> i64,
) -> Option<[Word; N]> {
    if offset > MAX_OFFSET {
        return None;
    }
    let mut words = MaybeUninit::<[Word; N]>::uninit();
    let status = copy(offset, words.as_mut_ptr().cast(), size_of::<[Word; N]>() as u32);
    if status != 0 {
        return None;
    }
    // SAFETY: the helper returned 0, so it has written all of the array.
    Some(unsafe { words.assume_init() })
}

/// The first bytes of a frame of `length` bytes, from wherever in it they are.
#[inline(always)]
fn copied_head(length: u32, copy: impl FnOnce(*mut c_void, u32) -> i64) -> ([u8; HEAD_BYTES], u32) {
    const LAST: u32 = HEAD_BYTES as u32 - 1;
    let mut head = [0; HEAD_BYTES];
    // The mask tells the verifier what the minimum has said: from 1 to HEAD_BYTES. An empty frame,
    // which there is not, would be one that is too short for the helper.
    let length = (length.min(HEAD_BYTES as u32).wrapping_sub(1) & LAST).wrapping_add(1);
    if copy(head.as_mut_ptr().cast(), length) != 0 {
        return ([0; HEAD_BYTES], 0);
    }
    (head, length)
}

/// A packet of one buffer, in XDP.
pub(crate) struct XdpPacket<'a>(pub(crate) &'a XdpContext);

impl Frame for XdpPacket<'_> {
    type Part = Linear;

    #[inline(always)]
    fn part(&self) -> Linear {
        Linear { start: self.0.data(), end: self.0.data_end(), tags_taken_off: 0 }
    }

    #[inline(always)]
    fn classify_whole(&self) -> u32 {
        Reason::Truncated as u32
    }

    #[inline(always)]
    fn by_window_whole(&self) -> Option<Decision> {
        None
    }

    #[inline(always)]
    fn flow_whole(&self, _window: u32) -> Option<FlowId> {
        None
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.part().length()
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        xdp_ingress(self.0)
    }

    #[inline(always)]
    fn head(&self) -> ([u8; HEAD_BYTES], u32) {
        self.part().head()
    }

    #[inline(always)]
    fn ebpf_context(&self) -> &impl EbpfContext {
        self.0
    }
}

#[inline(always)]
fn xdp_ingress(ctx: &XdpContext) -> u32 {
    // SAFETY: the context is the one the program was called with.
    unsafe { (*ctx.ctx).ingress_ifindex }
}

/// A packet that was made to ask about, in `b365_explain`: the last four bytes of its destination
/// MAC address say which interface it is to have come in by, in network order.
pub(crate) struct AskedPacket<'a>(pub(crate) &'a XdpContext);

impl Frame for AskedPacket<'_> {
    type Part = Linear;

    #[inline(always)]
    fn part(&self) -> Linear {
        XdpPacket(self.0).part()
    }

    #[inline(always)]
    fn classify_whole(&self) -> u32 {
        XdpPacket(self.0).classify_whole()
    }

    #[inline(always)]
    fn by_window_whole(&self) -> Option<Decision> {
        None
    }

    #[inline(always)]
    fn flow_whole(&self, _window: u32) -> Option<FlowId> {
        None
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        XdpPacket(self.0).length()
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        match self.part().words::<3>(0) {
            Some([_, high, low]) => {
                u32::from_be_bytes([high.first(), high.second(), low.first(), low.second()])
            }
            None => 0,
        }
    }

    #[inline(always)]
    fn head(&self) -> ([u8; HEAD_BYTES], u32) {
        self.part().head()
    }

    #[inline(always)]
    fn ebpf_context(&self) -> &impl EbpfContext {
        self.0
    }
}

/// A packet of one or more buffers, in XDP.
pub(crate) struct XdpFragsPacket<'a> {
    ctx: &'a XdpContext,
    /// Of the whole frame, in bytes: it takes a helper, and is wanted more than once.
    length: u32,
}

impl<'a> XdpFragsPacket<'a> {
    #[inline(always)]
    pub(crate) fn of(ctx: &'a XdpContext) -> Self {
        // SAFETY: the context is the one the program was called with.
        Self { ctx, length: unsafe { bpf_xdp_get_buff_len(ctx.ctx) as u32 } }
    }
}

impl Frame for XdpFragsPacket<'_> {
    type Part = Linear;

    #[inline(always)]
    fn part(&self) -> Linear {
        Linear { start: self.ctx.data(), end: self.ctx.data_end(), tags_taken_off: 0 }
    }

    #[inline(never)]
    fn classify_whole(&self) -> u32 {
        by_policy(self, &GenerationTables(self)).counter()
    }

    #[inline(always)]
    fn by_window_whole(&self) -> Option<Decision> {
        by_window(self, &GenerationTables(self))
    }

    #[inline(always)]
    fn flow_whole(&self, window: u32) -> Option<FlowId> {
        flow_of(self, window)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        xdp_ingress(self.ctx)
    }

    #[inline(always)]
    fn head(&self) -> ([u8; HEAD_BYTES], u32) {
        copied_head(self.length(), |to, length| {
            // SAFETY: `to` is writable for `length` bytes; the helper fails past the packet's end.
            unsafe { bpf_xdp_load_bytes(self.ctx.ctx, 0, to, length) }
        })
    }

    #[inline(always)]
    fn ebpf_context(&self) -> &impl EbpfContext {
        self.ctx
    }
}

impl PacketBytes for XdpFragsPacket<'_> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[Word; N]> {
        copied(offset, |offset, to, length| {
            // SAFETY: `to` is writable for `length` bytes; the helper checks `offset` against
            // the packet and fails past its end.
            unsafe { bpf_xdp_load_bytes(self.ctx.ctx, offset, to, length) }
        })
    }
}

/// A packet in tc, where any part of it may be outside the linear one.
pub(crate) struct SkbPacket<'a>(pub(crate) &'a TcContext);

impl Frame for SkbPacket<'_> {
    type Part = Linear;

    #[inline(always)]
    fn part(&self) -> Linear {
        Linear {
            start: self.0.data(),
            end: self.0.data_end(),
            tags_taken_off: self.tags_taken_off(),
        }
    }

    #[inline(never)]
    fn classify_whole(&self) -> u32 {
        by_policy(self, &GenerationTables(self)).counter()
    }

    #[inline(always)]
    fn by_window_whole(&self) -> Option<Decision> {
        by_window(self, &GenerationTables(self))
    }

    #[inline(always)]
    fn flow_whole(&self, window: u32) -> Option<FlowId> {
        flow_of(self, window)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the context is the one the program was called with.
        unsafe { (*self.0.skb.skb).ifindex }
    }

    #[inline(always)]
    fn head(&self) -> ([u8; HEAD_BYTES], u32) {
        copied_head(self.length(), |to, length| {
            // SAFETY: `to` is writable for `length` bytes; the helper fails past the packet's end.
            unsafe { bpf_skb_load_bytes(self.0.as_ptr(), 0, to, length) }
        })
    }

    #[inline(always)]
    fn ebpf_context(&self) -> &impl EbpfContext {
        self.0
    }
}

impl PacketBytes for SkbPacket<'_> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[Word; N]> {
        copied(offset, |offset, to, length| {
            // SAFETY: `to` is writable for `length` bytes; the helper checks `offset` against
            // the packet and fails past its end.
            unsafe { bpf_skb_load_bytes(self.0.as_ptr(), offset, to, length) }
        })
    }

    #[inline(always)]
    fn tags_taken_off(&self) -> usize {
        // SAFETY: the context is the one the program was called with.
        usize::from(unsafe { (*self.0.skb.skb).vlan_present } != 0)
    }
}

/// A packet in tc of a device whose packets have no Ethernet header (tun, `WireGuard`, PPP). It is shown
/// as a frame all the same: one whose header has no addresses, and the ethertype that the kernel knows.
///
/// Read by a helper, which finds the IP header wherever it is; and so in a test run, whose packets
/// do have an Ethernet header.
#[derive(Clone, Copy)]
pub(crate) struct IpPacket<'a>(pub(crate) &'a TcContext);

const ETHERNET_HEADER: u32 = 14;
/// `BPF_HDR_START_NET` (kernel `include/uapi/linux/bpf.h`).
const NETWORK_HEADER: u32 = 1;
/// Enough for the headers of nearly every packet.
const PULLED: u32 = 256;

impl IpPacket<'_> {
    /// IPv4 or IPv6. Anything else the parser would look into, as it would into VLAN tags, is none that
    /// such a device has: zero, which is nobody's ethertype.
    #[inline(always)]
    fn ethertype(&self) -> Word {
        // SAFETY: the context is the one the program was called with.
        let [first, second, ..] = unsafe { (*self.0.skb.skb).protocol }.to_ne_bytes();
        match [first, second] {
            [0x08, 0x00] | [0x86, 0xdd] => Word::new([first, second]),
            _ => Word::new([0; 2]),
        }
    }
}

impl Frame for IpPacket<'_> {
    type Part = Self;

    #[inline(always)]
    fn part(&self) -> Self {
        *self
    }

    /// The helper reads the linear part only: more of the packet is put there first.
    #[inline(never)]
    fn classify_whole(&self) -> u32 {
        if self.0.pull_data(self.0.len().min(PULLED)).is_err() {
            return Reason::Truncated as u32;
        }
        by_policy(self, &GenerationTables(self)).counter()
    }

    #[inline(always)]
    fn by_window_whole(&self) -> Option<Decision> {
        by_window(self, &GenerationTables(self))
    }

    #[inline(always)]
    fn flow_whole(&self, window: u32) -> Option<FlowId> {
        flow_of(self, window)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        SkbPacket(self.0).ingress()
    }

    /// With the header that it has not.
    #[inline(always)]
    fn head(&self) -> ([u8; HEAD_BYTES], u32) {
        const LAST: u32 = 63;
        let (mut head, ethertype) = ([0; HEAD_BYTES], self.ethertype());
        [head[12], head[13]] = [ethertype.first(), ethertype.second()];
        // As in `copied_head`.
        let length = (self.length().min(LAST + 1).wrapping_sub(1) & LAST).wrapping_add(1);
        let to = head[ETHERNET_HEADER as usize..].as_mut_ptr().cast();
        // SAFETY: `to` is writable for `length` bytes, 64 at most; the helper fails past the packet's
        // end.
        let status =
            unsafe { bpf_skb_load_bytes_relative(self.0.as_ptr(), 0, to, length, NETWORK_HEADER) };
        if status != 0 {
            return ([0; HEAD_BYTES], 0);
        }
        (head, length.wrapping_add(ETHERNET_HEADER))
    }

    #[inline(always)]
    fn ebpf_context(&self) -> &impl EbpfContext {
        self.0
    }
}

impl PacketBytes for IpPacket<'_> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[Word; N]> {
        let Some(offset) = offset.checked_sub(ETHERNET_HEADER) else {
            let mut header = [Word::new([0; 2]); N];
            *header.last_mut()? = self.ethertype();
            return Some(header);
        };
        copied(offset, |offset, to, length| {
            // SAFETY: `to` is writable for `length` bytes; the helper checks `offset` against
            // the packet and fails past its end.
            unsafe {
                bpf_skb_load_bytes_relative(self.0.as_ptr(), offset, to, length, NETWORK_HEADER)
            }
        })
    }
}

/// Puts the Direct proposal in front of the packet; `false` where the driver has no room for
/// metadata.
#[inline(always)]
pub(crate) fn write_metadata(ctx: &XdpContext) -> bool {
    const LENGTH: usize = size_of::<Metadata>();
    const GROW: i32 = 0_i32.wrapping_sub_unsigned(LENGTH as u32);
    // SAFETY: the context is the one the program was called with; all pointers into the packet
    // that were read before are dead from here on.
    if unsafe { bpf_xdp_adjust_meta(ctx.ctx, GROW) } != 0 {
        return false;
    }
    let first = ctx.metadata();
    if first.wrapping_add(LENGTH) > ctx.metadata_end() {
        return false;
    }
    // SAFETY: `first` has room for the whole value before the packet starts (checked above). The
    // kernel keeps metadata at multiples of four bytes.
    unsafe { *(first as *mut Metadata) = Metadata::PROPOSE_DIRECT };
    true
}

/// `struct bpf_fib_lookup`, of a look-up by all rules with a mark, or in one table (kernel
/// `include/uapi/linux/bpf.h`; aya's binding is older than the mark).
#[repr(C, align(4))]
struct LookUp {
    family: u8,
    protocol: u8,
    ports: [Word; 2],
    /// Length of the IP packet; afterwards the MTU, where that is too small.
    length: u16,
    /// The interface that the packet came in by; afterwards the one that it leaves by.
    interface: u32,
    class: [u8; 4],
    source: [Word; 8],
    destination: [Word; 8],
    /// The table first, where it is one; afterwards zero.
    table: u32,
    /// The mark first; afterwards the MAC addresses of this interface and of the next hop.
    mark_or_macs: [Word; 6],
}

impl LookUp {
    #[expect(clippy::cast_possible_wrap, reason = "64 bytes")]
    const LENGTH: i32 = size_of::<Self>() as i32;
}

const _: () = assert!(size_of::<LookUp>() == 64);
/// Kernel 6.10, commit 5311591fbb34: the rules are followed with this mark.
const BPF_FIB_LOOKUP_MARK: u32 = 1 << 5;
/// Kernel 6.5, commit 8ad77e72caae: no rules, but this table.
const BPF_FIB_LOOKUP_TBID: u32 = 1 << 3;
const BPF_FIB_LOOKUP_TABLE: u32 = BPF_FIB_LOOKUP_DIRECT | BPF_FIB_LOOKUP_TBID;

/// Forwards a Direct packet as the stack would that is marked: by rules and routes, if they lead to
/// the uplink. The action is then `XDP_REDIRECT`.
///
/// # Errors
///
/// Why not; the packet is then as it was.
#[inline(always)]
pub(crate) fn redirect(packet: &XdpFragsPacket<'_>) -> Result<(), Fallback> {
    let ingress = packet.ingress();
    let mac = maps::port_mac(ingress).ok_or(Fallback::NotForUs)?;
    let linear = packet.part();
    if packet.length() != linear.length() {
        return Err(Fallback::SeveralBuffers);
    }
    let departure = departure(&linear, packet.length(), mac)?;
    let uplink = maps::uplink(departure.is_ipv6());
    if uplink == 0 {
        return Err(Fallback::UplinkDown);
    }
    let [d0, d1, d2, s0, s1, s2] = next_hop(packet.ctx, ingress, uplink, &departure)?;
    // The ends are where they were: a look-up does not move the packet.
    let at = departure.lifetime_at;
    if !linear.write(at, departure.lifetime) || !linear.write(0, [d0, d1, d2, s0, s1, s2]) {
        return Err(Fallback::Options);
    }
    // SAFETY: the helper takes two numbers. It refuses nothing but flags, of which there are none.
    unsafe { bpf_redirect(uplink, 0) };
    Ok(())
}

/// The MAC addresses of a packet's way out by the uplink: the next hop's and the uplink's own.
#[inline(always)]
fn next_hop(
    ctx: &XdpContext,
    ingress: u32,
    uplink: u32,
    departure: &Departure,
) -> Result<[Word; 6], Fallback> {
    let [a, b, c, d] = maps::mark_value().to_ne_bytes();
    let table = maps::undisputed_table(departure.is_ipv6());
    let how = if table.is_some() { BPF_FIB_LOOKUP_TABLE } else { BPF_FIB_LOOKUP_MARK };
    let none = Word::new([0; 2]);
    let mut look_up = LookUp {
        family: departure.family,
        protocol: departure.protocol,
        ports: departure.ports,
        length: departure.length,
        interface: ingress,
        class: departure.class,
        source: departure.source,
        destination: departure.destination,
        table: table.unwrap_or(0),
        mark_or_macs: [Word::new([a, b]), Word::new([c, d]), none, none, none, none],
    };
    // SAFETY: the context is the one the program was called with, and the structure has the length
    // and layout that the helper reads and writes.
    let answer =
        unsafe { bpf_fib_lookup(ctx.as_ptr(), (&raw mut look_up).cast(), LookUp::LENGTH, how) };
    let outcome = match answer {
        0 => Ok(()),
        _ => Err(Fallback::of_look_up(answer)),
    };
    // Another way whose next hop is not known is another way (kernel commit d1c81818aa22, 6.0).
    let found = matches!(outcome, Ok(()) | Err(Fallback::NoNeighbour));
    if found && look_up.interface != uplink {
        return Err(Fallback::OtherWay);
    }
    outcome?;
    // The kernel's look-up of IPv6 does not know `suppress_prefixlength`: the main table's default route
    // may lead to the uplink too, by another router.
    if departure.is_ipv6() && maps::next_hop_v6().is_some_and(|hop| hop != look_up.destination) {
        return Err(Fallback::OtherWay);
    }
    let [s0, s1, s2, d0, d1, d2] = look_up.mark_or_macs;
    Ok([d0, d1, d2, s0, s1, s2])
}

/// Whether XDP has proposed Direct for this packet. Metadata of anyone else's layout proposes
/// nothing.
#[inline(always)]
pub(crate) fn proposes_direct(ctx: &TcContext) -> bool {
    // SAFETY: the context is the one the program was called with.
    let first = unsafe { (*ctx.skb.skb).data_meta } as usize;
    if first.wrapping_add(size_of::<Metadata>()) > ctx.data() {
        return false;
    }
    // SAFETY: the whole value lies before the packet starts (checked above), where the kernel
    // keeps metadata at multiples of four bytes.
    let metadata = unsafe { *(first as *const Metadata) };
    metadata == Metadata::PROPOSE_DIRECT
}

/// Sets the bits of the mark under `mask` to `value` and leaves the others.
#[inline(always)]
pub(crate) fn write_mark(ctx: &TcContext, value: u32, mask: u32) {
    // SAFETY: the context is the one the program was called with.
    let before = unsafe { (*ctx.skb.skb).mark };
    let after = (before & !mask) | (value & mask);
    if after != before {
        ctx.set_mark(after);
    }
}
