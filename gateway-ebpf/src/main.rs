//! The BPF programs of breakout365: read the packet, classify it, count it, act on the decision.
//!
//! Five entries share one classifier. `b365_xdp` and `b365_xdp_frags` put a proposal for tc in front of
//! Direct packets; the second also takes packets of several buffers, which only native mode may.
//! `b365_tc_xdp` turns the proposal into the mark, and like `b365_tc`, which stands alone,
//! classifies by itself where there is none. `b365_explain` only answers. Where the uplink can take
//! frames and the operator wants it, `b365_xdp_frags` redirects Direct packets there. Nothing here drops
//! a packet.

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
use context::{AskedPacket, Frame, SkbPacket, XdpFragsPacket, XdpPacket};
use gateway_common::abi::{
    self, COUNTER_METADATA_ACCEPTED, COUNTER_METADATA_UNSUPPORTED, COUNTER_REDIRECTED,
};
use gateway_common::{Reason, Verdict};
use maps::{Counters, GenerationTables};

/// XDP for packets of one buffer.
#[xdp]
fn b365_xdp(ctx: XdpContext) -> u32 {
    propose(&ctx, &XdpPacket(&ctx))
}

/// XDP for packets of one or more buffers (kernel 5.18).
#[xdp(frags)]
fn b365_xdp_frags(ctx: XdpContext) -> u32 {
    let packet = XdpFragsPacket(&ctx);
    if maps::uplink() == 0 { propose(&ctx, &packet) } else { redirect_or_propose(&ctx, &packet) }
}

/// tc behind one of the XDP programs.
#[classifier]
fn b365_tc_xdp(ctx: TcContext) -> i32 {
    let packet = SkbPacket(&ctx);
    if context::proposes_direct(&ctx) {
        // What XDP has decided a moment ago may have been switched off since.
        let (counter, verdict) = match maps::refusal_of_proposal() {
            None => (COUNTER_METADATA_ACCEPTED, Verdict::Direct),
            Some(reason) => (reason as u32, Verdict::Inspect),
        };
        Counters::TcBehindXdp.add(counter, packet.length());
        return mark(&ctx, verdict);
    }
    mark(&ctx, classify_and_count(&packet, Counters::TcBehindXdp))
}

/// tc on an interface without our XDP program.
#[classifier]
fn b365_tc(ctx: TcContext) -> i32 {
    // Metadata here is not of our XDP program, whatever it says.
    mark(&ctx, classify_and_count(&SkbPacket(&ctx), Counters::Tc))
}

/// Answers with the counter that a packet would be counted under, and counts nothing. Never
/// attached: `explain` and the self-test run it on packets of their own.
#[xdp]
fn b365_explain(ctx: XdpContext) -> u32 {
    classify(&AskedPacket(&ctx))
}

#[inline(always)]
fn classify_and_count<P: Frame>(packet: &P, counters: Counters) -> Verdict {
    let counter = classify(packet);
    counters.add(counter, packet.length());
    log_decision(packet, counter);
    abi::verdict_of(counter)
}

/// [`gateway_common::classify`], as the counter of its decision, but for packets that are not all
/// in one piece: those are read directly as far as that goes, which is nearly always far enough,
/// and only else by a helper.
#[inline(always)]
fn classify<P: Frame>(packet: &P) -> u32 {
    let decision = gateway_common::classify(&packet.linear(), &GenerationTables(packet));
    if decision.reason() == Reason::Truncated {
        packet.classify_whole()
    } else {
        decision.counter()
    }
}

#[inline(always)]
fn propose<P: Frame>(ctx: &XdpContext, packet: &P) -> u32 {
    match classify_and_count(packet, Counters::Xdp) {
        Verdict::Direct => propose_direct(ctx, packet),
        Verdict::Inspect => {}
    }
    XDP_PASS
}

#[inline(always)]
fn propose_direct<P: Frame>(ctx: &XdpContext, packet: &P) {
    if !context::write_metadata(ctx) {
        Counters::Xdp.add(COUNTER_METADATA_UNSUPPORTED, packet.length());
    }
}

/// What cannot be redirected is marked, as everywhere else.
#[inline(always)]
fn redirect_or_propose(ctx: &XdpContext, packet: &XdpFragsPacket<'_>) -> u32 {
    match classify_and_count(packet, Counters::Xdp) {
        Verdict::Direct => {}
        Verdict::Inspect => return XDP_PASS,
    }
    match context::redirect(packet) {
        Ok(action) => {
            Counters::Xdp.add(COUNTER_REDIRECTED, packet.length());
            action
        }
        Err(cause) => {
            Counters::Xdp.add(cause.counter(), packet.length());
            propose_direct(ctx, packet);
            XDP_PASS
        }
    }
}

#[inline(always)]
fn mark(ctx: &TcContext, verdict: Verdict) -> i32 {
    let bits = match verdict {
        Verdict::Direct => maps::mark_value(),
        // The bits are ours: who set them before does not decide.
        Verdict::Inspect => 0,
    };
    context::write_mark(ctx, bits, maps::mark_mask());
    // Whatever is attached behind us, and the stack, go on as if we had not been there.
    TC_ACT_UNSPEC
}

#[cfg(feature = "packet-log")]
#[inline(always)]
fn log_decision<P: Frame>(packet: &P, counter: u32) {
    aya_log_ebpf::info!(packet.ebpf_context(), "length={} counter={}", packet.length(), counter);
}

#[cfg(not(feature = "packet-log"))]
#[inline(always)]
fn log_decision<P: Frame>(_packet: &P, _counter: u32) {}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
