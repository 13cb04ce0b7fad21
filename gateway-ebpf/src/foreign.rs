//! Somebody else's programs, for the tests that we get along with them: they count what they see,
//! and the XDP one may put metadata of its own in front of it.
//!
//! An object of its own: none of this is in the shipped one.

#![no_std]
#![no_main]
#![allow(missing_docs, reason = "aya's entry macros do not carry doc comments over")]
#![expect(clippy::needless_pass_by_value, reason = "aya's entry macros pass the context by value")]

use aya_ebpf::{
    Global,
    bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS},
    btf_maps::{PerCpuArray, ProgramArray},
    helpers::bpf_xdp_adjust_meta,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// The longest metadata this object writes, in words of four bytes.
const MAX_WORDS: usize = 4;

// Written into `.rodata` by the test.

/// Words of metadata in front of each packet, at most [`MAX_WORDS`].
#[unsafe(no_mangle)]
static METADATA_WORDS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static METADATA: [Global<u32>; MAX_WORDS] = [const { Global::new(0) }; MAX_WORDS];

/// Packets seen by `foreign_xdp` and by `foreign_tc`.
#[btf_map]
static SEEN: PerCpuArray<u64, 2> = PerCpuArray::new();
/// A program that `foreign_xdp` hands over to, if there is one.
#[btf_map]
static NEXT: ProgramArray<1> = ProgramArray::new();

#[xdp]
fn foreign_xdp(ctx: XdpContext) -> u32 {
    count(0);
    write_metadata(&ctx);
    // SAFETY: the array holds XDP programs only; a missing one falls through.
    unsafe { NEXT.tail_call(&ctx, 0) };
    XDP_PASS
}

#[classifier]
fn foreign_tc(_ctx: TcContext) -> i32 {
    count(1);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn count(index: u32) {
    if let Some(seen) = SEEN.get_ptr_mut(index) {
        // SAFETY: the slot is this CPU's alone.
        unsafe { *seen = (*seen).wrapping_add(1) };
    }
}

#[inline(always)]
fn write_metadata(ctx: &XdpContext) {
    let words = METADATA_WORDS.load() as usize;
    if words == 0 || words > MAX_WORDS {
        return;
    }
    let length = i32::try_from(words * size_of::<u32>()).unwrap_or(0);
    // SAFETY: the context is the one the program was called with.
    if unsafe { bpf_xdp_adjust_meta(ctx.ctx, -length) } != 0 {
        return;
    }
    for (index, word) in METADATA.iter().enumerate() {
        let at = ctx.metadata() + index * size_of::<u32>();
        if index >= words || at + size_of::<u32>() > ctx.metadata_end() {
            return;
        }
        // SAFETY: the word at `at` lies before the packet starts (checked above), where the
        // kernel keeps metadata at multiples of four bytes.
        unsafe { *(at as *mut u32) = word.load() };
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
