//! Packets as the kernel hands them over, behind checked reads: all `unsafe` on packet memory is
//! here.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_skb_load_bytes, bpf_xdp_adjust_meta, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use gateway_common::PacketBytes;
use gateway_common::abi::Metadata;

/// Tells the verifier that offsets are small. The deepest header that the parser's bounds let it
/// reach starts before this: 14 + 4 * 4 + 40 + 6 * 2048.
const MAX_OFFSET: u32 = 0x3fff;

/// A packet that can be classified and counted.
pub(crate) trait Frame: PacketBytes {
    /// Length of the whole frame in bytes.
    fn length(&self) -> u32;

    /// The context that log records are made from.
    #[cfg(feature = "packet-log")]
    fn ebpf_context(&self) -> &impl EbpfContext;
}

/// The part of a packet that BPF programs may read directly.
struct Linear {
    start: usize,
    end: usize,
}

impl Linear {
    /// `N` words at `offset`, if they are in the linear part.
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let first = self.start.wrapping_add(offset as usize);
        if first.wrapping_add(size_of::<[u16; N]>()) > self.end {
            return None;
        }
        // SAFETY: `first` is inside `start..end`, which is packet data, with all of the array
        // (checked above, and checked again by the verifier). Packet data starts at an even
        // address and `offset` is even (contract of `PacketBytes`).
        let words = unsafe { *(first as *const [u16; N]) };
        Some(words.map(u16::from_be))
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.end.wrapping_sub(self.start) as u32
    }
}

/// Words that a helper has copied out of a packet.
#[inline(always)]
fn copied<const N: usize>(
    offset: u32,
    copy: impl FnOnce(u32, *mut c_void, u32) -> i64,
) -> Option<[u16; N]> {
    if offset > MAX_OFFSET {
        return None;
    }
    let mut words = MaybeUninit::<[u16; N]>::uninit();
    let status = copy(offset, words.as_mut_ptr().cast(), size_of::<[u16; N]>() as u32);
    if status != 0 {
        return None;
    }
    // SAFETY: the helper returned 0, so it has written all of the array.
    let words = unsafe { words.assume_init() };
    Some(words.map(u16::from_be))
}

/// A packet of one buffer, in XDP.
pub(crate) struct XdpPacket<'a> {
    linear: Linear,
    #[cfg_attr(not(feature = "packet-log"), expect(dead_code, reason = "log records need it"))]
    ctx: &'a XdpContext,
}

impl<'a> XdpPacket<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self { linear: Linear { start: ctx.data(), end: ctx.data_end() }, ctx }
    }
}

impl PacketBytes for XdpPacket<'_> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        self.linear.words(offset)
    }
}

impl Frame for XdpPacket<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.linear.length()
    }

    #[cfg(feature = "packet-log")]
    fn ebpf_context(&self) -> &impl EbpfContext {
        self.ctx
    }
}

/// A packet of one or more buffers, in XDP.
pub(crate) struct XdpFragsPacket<'a> {
    linear: Linear,
    ctx: &'a XdpContext,
}

impl<'a> XdpFragsPacket<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self { linear: Linear { start: ctx.data(), end: ctx.data_end() }, ctx }
    }
}

impl PacketBytes for XdpFragsPacket<'_> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        self.linear.words(offset).or_else(|| {
            copied(offset, |offset, to, length| {
                // SAFETY: `to` is writable for `length` bytes; the helper checks `offset`
                // against the packet and fails past its end.
                unsafe { bpf_xdp_load_bytes(self.ctx.ctx, offset, to, length) }
            })
        })
    }
}

impl Frame for XdpFragsPacket<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is the one the program was called with.
        unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) as u32 }
    }

    #[cfg(feature = "packet-log")]
    fn ebpf_context(&self) -> &impl EbpfContext {
        self.ctx
    }
}

/// A packet in tc. Only the first part of it may be readable directly; the rest is copied.
pub(crate) struct SkbPacket<'a> {
    linear: Linear,
    ctx: &'a TcContext,
}

impl<'a> SkbPacket<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a TcContext) -> Self {
        Self { linear: Linear { start: ctx.data(), end: ctx.data_end() }, ctx }
    }
}

impl PacketBytes for SkbPacket<'_> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        self.linear.words(offset).or_else(|| {
            copied(offset, |offset, to, length| {
                // SAFETY: `to` is writable for `length` bytes; the helper checks `offset`
                // against the packet and fails past its end.
                unsafe { bpf_skb_load_bytes(self.ctx.as_ptr(), offset, to, length) }
            })
        })
    }
}

impl Frame for SkbPacket<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.ctx.len()
    }

    #[cfg(feature = "packet-log")]
    fn ebpf_context(&self) -> &impl EbpfContext {
        self.ctx
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
    ctx.set_mark((before & !mask) | (value & mask));
}
