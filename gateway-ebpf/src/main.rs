//! The BPF programs of breakout365: read the packet, classify it, count it, act on the decision.
//!
//! Four entries share one classifier. `b365_xdp` and `b365_xdp_frags` put a proposal for tc in front of
//! Direct packets; the second also takes packets of several buffers, which only native mode may.
//! `b365_tc_xdp` turns the proposal into the mark, and like `b365_tc`, which stands alone,
//! classifies by itself where there is none. Nothing here drops or redirects a packet.

#![no_std]
#![no_main]
#![warn(clippy::arithmetic_side_effects)]
#![allow(missing_docs, reason = "aya's entry macros do not carry doc comments over")]
#![expect(clippy::needless_pass_by_value, reason = "aya's entry macros pass the context by value")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of packets fit u32; the loader writes and reads back 16-bit port set ids"
)]

mod context;
mod maps;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use context::{Frame, SkbPacket, XdpFragsPacket, XdpPacket};
use gateway_common::abi::{COUNTER_METADATA_ACCEPTED, COUNTER_METADATA_UNSUPPORTED};
use gateway_common::{Decision, Verdict};
use maps::{Counters, GenerationTables};

/// XDP for packets of one buffer.
#[xdp]
fn b365_xdp(ctx: XdpContext) -> u32 {
    let packet = XdpPacket::new(&ctx);
    propose(&ctx, classify_and_count(&packet, Counters::Xdp), packet.length())
}

/// XDP for packets of one or more buffers (kernel 5.18).
#[xdp(frags)]
fn b365_xdp_frags(ctx: XdpContext) -> u32 {
    let packet = XdpFragsPacket::new(&ctx);
    propose(&ctx, classify_and_count(&packet, Counters::Xdp), packet.length())
}

/// tc behind one of the XDP programs.
#[classifier]
fn b365_tc_xdp(ctx: TcContext) -> i32 {
    mark(&ctx, Counters::TcBehindXdp)
}

/// tc on an interface without our XDP program.
#[classifier]
fn b365_tc(ctx: TcContext) -> i32 {
    mark(&ctx, Counters::Tc)
}

#[inline(always)]
fn classify_and_count<P: Frame>(packet: &P, counters: Counters) -> Decision {
    let decision = gateway_common::classify(packet, &GenerationTables);
    counters.add(decision.counter(), packet.length());
    log_decision(packet, decision);
    decision
}

#[inline(always)]
fn propose(ctx: &XdpContext, decision: Decision, length: u32) -> u32 {
    match decision.verdict() {
        Verdict::Direct => {
            if !context::write_metadata(ctx) {
                Counters::Xdp.add(COUNTER_METADATA_UNSUPPORTED, length);
            }
        }
        Verdict::Inspect => {}
    }
    XDP_PASS
}

#[inline(always)]
fn mark(ctx: &TcContext, counters: Counters) -> i32 {
    let packet = SkbPacket::new(ctx);
    let verdict = if context::proposes_direct(ctx) {
        counters.add(COUNTER_METADATA_ACCEPTED, packet.length());
        Verdict::Direct
    } else {
        classify_and_count(&packet, counters).verdict()
    };
    match verdict {
        Verdict::Direct => context::write_mark(ctx, maps::mark_value(), maps::mark_mask()),
        Verdict::Inspect => {}
    }
    // Whatever is attached behind us, and the stack, go on as if we had not been there.
    TC_ACT_UNSPEC
}

#[cfg(feature = "packet-log")]
#[inline(always)]
fn log_decision<P: Frame>(packet: &P, decision: Decision) {
    aya_log_ebpf::info!(
        packet.ebpf_context(),
        "length={} counter={}",
        packet.length(),
        decision.counter()
    );
}

#[cfg(not(feature = "packet-log"))]
#[inline(always)]
fn log_decision<P: Frame>(_packet: &P, _decision: Decision) {}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
