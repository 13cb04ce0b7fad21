//! What the benchmark compares the shipped programs with, and feeds them with: empty programs,
//! and one that gives every packet another destination before it hands over.
//!
//! A second object: none of this is in the shipped one.

#![no_std]
#![no_main]
#![allow(missing_docs, reason = "aya's entry macros do not carry doc comments over")]
#![expect(clippy::needless_pass_by_value, reason = "aya's entry macros pass the context by value")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "metadata is shorter than 256 bytes, and XDP actions are small numbers"
)]

use aya_ebpf::{
    Global,
    bindings::{
        TC_ACT_UNSPEC,
        xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS},
    },
    btf_maps::{Array, PerCpuArray, ProgramArray},
    helpers::{bpf_redirect, bpf_xdp_adjust_meta},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Destinations to go through, in this order, again and again.
const DESTINATIONS: usize = 1 << 16;
/// Where the destination address is in an untagged frame: 14 bytes of Ethernet, then 16 of IPv4
/// or 24 of IPv6.
const DESTINATION_V4: usize = 30;
const DESTINATION_V6: usize = 38;

/// Addresses as the packet has them: IPv4 in the first four bytes.
#[btf_map]
static DESTINATION: Array<[u32; 4], DESTINATIONS> = Array::new();
#[btf_map]
static NEXT: PerCpuArray<u32, 1> = PerCpuArray::new();
/// The program under test.
#[btf_map]
static UNDER_TEST: ProgramArray<1> = ProgramArray::new();

#[xdp]
fn bench_xdp(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

#[xdp(frags)]
fn bench_xdp_frags(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// What a proposal costs by itself: room for eight bytes of metadata, and the bytes.
#[xdp]
fn bench_metadata(ctx: XdpContext) -> u32 {
    // SAFETY: the context is the one the program was called with; no pointer into the packet was
    // read before.
    if unsafe { bpf_xdp_adjust_meta(ctx.ctx, -8) } != 0 {
        return XDP_PASS;
    }
    let first = ctx.metadata();
    if first + 8 <= ctx.metadata_end() {
        // SAFETY: the eight bytes at `first` are metadata (checked above), which is aligned to
        // four bytes.
        unsafe { *(first as *mut [u32; 2]) = [1, 1] };
    }
    XDP_PASS
}

#[classifier]
fn bench_tc(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[xdp]
fn bench_same(ctx: XdpContext) -> u32 {
    hand_over(&ctx)
}

#[xdp(frags)]
fn bench_same_frags(ctx: XdpContext) -> u32 {
    hand_over(&ctx)
}

#[xdp]
fn bench_vary_v4(ctx: XdpContext) -> u32 {
    vary_v4(&ctx)
}

#[xdp(frags)]
fn bench_vary_v4_frags(ctx: XdpContext) -> u32 {
    vary_v4(&ctx)
}

#[xdp]
fn bench_vary_v6(ctx: XdpContext) -> u32 {
    vary_v6(&ctx)
}

#[xdp(frags)]
fn bench_vary_v6_frags(ctx: XdpContext) -> u32 {
    vary_v6(&ctx)
}

/// Where [`bench_send`] and [`bench_forward`] send to.
#[unsafe(no_mangle)]
static SEND_TO: Global<u32> = Global::new(0);
/// What [`bench_sink`] has seen.
#[btf_map]
static CAME: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Makes an IPv4 frame as good as new, to the next destination, and sends it. The kernel reuses frames
/// as they are after their way: MAC addresses, time to live and checksum are written anew. The second
/// word of a destination is the checksum.
#[xdp]
fn bench_send(ctx: XdpContext) -> u32 {
    const MACS: [u16; 6] = [0x0002, 0, 0x0101, 0x0002, 0, 0x0201];
    let Some([address, checksum, ..]) = next_destination() else { return XDP_ABORTED };
    let first = ctx.data();
    if first + 34 > ctx.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: all that is written is within the 34 bytes at `first`, which are in the packet (checked
    // above) and start at an even address, as every field written does.
    unsafe {
        *(first as *mut [u16; 6]) = MACS;
        *((first + 22) as *mut u8) = 64;
        *((first + 24) as *mut u16) = checksum as u16;
        *((first + 30) as *mut [u16; 2]) = [address as u16, (address >> 16) as u16];
    }
    // SAFETY: the helper takes two numbers.
    unsafe { bpf_redirect(SEND_TO.load(), 0) as u32 }
}

/// The least that forwarding in XDP takes: other MAC addresses, and another interface. Nothing is looked
/// up, decided or counted.
#[xdp(frags)]
fn bench_forward(ctx: XdpContext) -> u32 {
    const MACS: [u16; 6] = [0x0002, 0, 0x0202, 0x0002, 0, 0x0102];
    let first = ctx.data();
    if first + size_of_val(&MACS) > ctx.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: all of the array is in the packet (checked above), which starts at an even address.
    unsafe { *(first as *mut [u16; 6]) = MACS };
    // SAFETY: the helper takes two numbers.
    unsafe { bpf_redirect(SEND_TO.load(), 0) as u32 }
}

/// Counts UDP over IPv4 and takes every packet.
#[xdp]
fn bench_sink(ctx: XdpContext) -> u32 {
    let first = ctx.data();
    if first + 34 > ctx.data_end() {
        return XDP_PASS;
    }
    // SAFETY: both bytes are in the packet (checked above).
    let (version, protocol) =
        unsafe { (*((first + 14) as *const u8), *((first + 23) as *const u8)) };
    if version != 0x45 || protocol != 17 {
        return XDP_PASS;
    }
    if let Some(came) = CAME.get_ptr_mut(0) {
        // SAFETY: the slot is this CPU's alone.
        unsafe { *came = (*came).wrapping_add(1) };
    }
    XDP_DROP
}

#[inline(always)]
fn vary_v4(ctx: &XdpContext) -> u32 {
    let Some([address, ..]) = next_destination() else { return XDP_PASS };
    let first = ctx.data() + DESTINATION_V4;
    if first + 4 > ctx.data_end() {
        return XDP_PASS;
    }
    // SAFETY: the four bytes at `first` are in the packet (checked above), which XDP may write.
    // They start at an even address as all headers do.
    unsafe { *(first as *mut [u16; 2]) = [address as u16, (address >> 16) as u16] };
    hand_over(ctx)
}

#[inline(always)]
fn vary_v6(ctx: &XdpContext) -> u32 {
    let Some(address) = next_destination() else { return XDP_PASS };
    let first = ctx.data() + DESTINATION_V6;
    if first + 16 > ctx.data_end() {
        return XDP_PASS;
    }
    let [a, b, c, d] = address.map(|word| [word as u16, (word >> 16) as u16]);
    // SAFETY: the 16 bytes at `first` are in the packet (checked above), which XDP may write.
    // They start at an even address as all headers do.
    unsafe { *(first as *mut [[u16; 2]; 4]) = [a, b, c, d] };
    hand_over(ctx)
}

#[inline(always)]
fn next_destination() -> Option<[u32; 4]> {
    let next = NEXT.get_ptr_mut(0)?;
    // SAFETY: the slot is this CPU's alone.
    let next = unsafe { &mut *next };
    *next = next.wrapping_add(1);
    DESTINATION.get(*next % DESTINATIONS as u32).copied()
}

/// Takes metadata of the run before off, empty or not, and tail-calls the program under test.
#[inline(always)]
fn hand_over(ctx: &XdpContext) -> u32 {
    let metadata = ctx.metadata_end().wrapping_sub(ctx.metadata()) as i32;
    // SAFETY: the context is the one the program was called with; no pointer into the packet is
    // used afterwards.
    unsafe { bpf_xdp_adjust_meta(ctx.ctx, metadata & 0xff) };
    // SAFETY: the array holds XDP programs only; a missing one falls through.
    unsafe { UNDER_TEST.tail_call(ctx, 0) };
    XDP_PASS
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
