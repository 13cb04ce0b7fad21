//! The BPF programs of breakout365: read the packet, classify it, count it, act on the decision.
//!
//! Six entries share one classifier. `b365_xdp` and `b365_xdp_frags` put a proposal for tc in front of
//! Direct packets; the second also takes packets of several buffers, which only native mode may.
//! `b365_tc_xdp` turns the proposal into the mark, and like `b365_tc`, which stands alone,
//! classifies by itself where there is none. `b365_tc_ip` is for devices without an Ethernet header.
//! `b365_explain` only answers. Where the uplink can take
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

mod apart;
mod context;
mod maps;

use apart::{Kept, Windowed};
use aya_ebpf::{
    bindings::{
        TC_ACT_UNSPEC,
        xdp_action::{XDP_PASS, XDP_REDIRECT},
    },
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use context::{AskedPacket, Frame, IpPacket, SkbPacket, XdpFragsPacket, XdpPacket};
use gateway_common::abi::{
    self, COUNTER_METADATA_ACCEPTED, COUNTER_METADATA_UNSUPPORTED, COUNTER_REDIRECTED,
    COUNTER_SELF_CHECKED, COUNTER_SELF_DISAGREED,
};
use gateway_common::{Reason, Verdict};
use maps::{Counters, GenerationTables, Place};

/// XDP for packets of one buffer.
#[xdp]
fn b365_xdp(ctx: XdpContext) -> u32 {
    propose(&ctx, &XdpPacket(&ctx))
}

/// XDP for packets of one or more buffers (kernel 5.18).
#[xdp(frags)]
fn b365_xdp_frags(ctx: XdpContext) -> u32 {
    let packet = XdpFragsPacket::of(&ctx);
    if maps::redirects() { redirect_or_propose(&ctx, &packet) } else { propose(&ctx, &packet) }
}

/// tc behind one of the XDP programs.
#[classifier]
fn b365_tc_xdp(ctx: TcContext) -> i32 {
    let packet = SkbPacket(&ctx);
    let counters = Counters::TcBehindXdp;
    let proposed = context::proposes_direct(&ctx);
    if proposed {
        // What XDP has decided a moment ago may have been switched off since.
        if let Some(reason) = maps::refusal_of_proposal() {
            counters.add(reason as u32, &packet);
            return mark(&ctx, Verdict::Inspect);
        }
        let place = counters.place(&packet);
        if packet.length() > MAX_CHECKED {
            place.add(COUNTER_METADATA_ACCEPTED);
            return mark(&ctx, Verdict::Direct);
        }
        if place.takes_unseen() {
            return mark(&ctx, Verdict::Direct);
        }
    }
    let counter = classify(&packet);
    let verdict = abi::verdict_of(counter);
    if proposed {
        counters.add(COUNTER_SELF_CHECKED, &packet);
        if verdict == Verdict::Direct {
            counters.add(COUNTER_METADATA_ACCEPTED, &packet);
            return mark(&ctx, verdict);
        }
        // Switched off, or the deadline passed, since XDP looked: that is no contradiction.
        if counter != Reason::SwitchedOff as u32 && counter != Reason::DaemonGone as u32 {
            counters.add(COUNTER_SELF_DISAGREED, &packet);
        }
    }
    counters.add(counter, &packet);
    log_decision(&packet, counter);
    mark(&ctx, verdict)
}

/// Longer ones GRO has put together of several (BIG TCP), which no longer say their length in the IP
/// header: they would be inspected for that, as single packets were not.
const MAX_CHECKED: u32 = 0xffff;

/// tc on an interface without our XDP program.
#[classifier]
fn b365_tc(ctx: TcContext) -> i32 {
    // Metadata here is not of our XDP program, whatever it says.
    let packet = SkbPacket(&ctx);
    mark(&ctx, classify_and_count(&packet, Counters::Tc.place(&packet)))
}

/// tc on an interface whose packets begin with their IP header.
#[classifier]
fn b365_tc_ip(ctx: TcContext) -> i32 {
    let packet = IpPacket(&ctx);
    mark(&ctx, classify_and_count(&packet, Counters::Tc.place(&packet)))
}

/// Answers with the counter that a packet would be counted under, and counts nothing. Never
/// attached: `explain` and the self-test run it on packets of their own.
#[xdp]
fn b365_explain(ctx: XdpContext) -> u32 {
    classify(&AskedPacket(&ctx))
}

#[inline(always)]
fn classify_and_count<P: Kept>(packet: &P, place: Place) -> Verdict {
    let counter = classify(packet);
    place.add(counter);
    maps::count_flow(packet, counter);
    log_decision(packet, counter);
    if maps::is_traced() {
        packet.trace(counter);
    }
    abi::verdict_of(counter)
}

/// [`gateway_common::classify()`], as the counter of its decision, but for packets that are not all
/// in one piece: those are read directly as far as that goes, which is nearly always far enough,
/// and only else by a helper.
#[inline(always)]
fn classify<P: Windowed>(packet: &P) -> u32 {
    let decision = gateway_common::by_policy(&packet.part(), &GenerationTables(packet));
    if decision.reason() == Reason::Truncated {
        let counter = packet.classify_whole();
        if maps::windowed() && abi::is_left_to_windows(counter) {
            return packet.classify_whole_by_window(counter);
        }
        return counter;
    }
    let counter = decision.counter();
    if maps::windowed() && abi::is_left_to_windows(counter) {
        return packet.classify_by_window(counter);
    }
    counter
}

#[inline(always)]
fn propose<P: Kept>(ctx: &XdpContext, packet: &P) -> u32 {
    match classify_and_count(packet, Counters::Xdp.place(packet)) {
        Verdict::Direct => propose_direct(ctx, packet),
        Verdict::Inspect => {}
    }
    XDP_PASS
}

#[inline(always)]
fn propose_direct<P: Frame>(ctx: &XdpContext, packet: &P) {
    if !context::write_metadata(ctx) {
        Counters::Xdp.add(COUNTER_METADATA_UNSUPPORTED, packet);
    }
}

/// What cannot be redirected is marked, as everywhere else.
#[inline(always)]
fn redirect_or_propose(ctx: &XdpContext, packet: &XdpFragsPacket<'_>) -> u32 {
    let place = Counters::Xdp.place(packet);
    match classify_and_count(packet, place) {
        Verdict::Direct => {}
        Verdict::Inspect => return XDP_PASS,
    }
    let counter = redirect(packet);
    place.add(counter);
    if counter == COUNTER_REDIRECTED {
        return XDP_REDIRECT;
    }
    propose_direct(ctx, packet);
    XDP_PASS
}

/// Sends a Direct packet to the uplink, and gives the counter of what came of it. A function of its own
/// for its stack: a program has 512 bytes of it.
#[inline(never)]
fn redirect(packet: &XdpFragsPacket<'_>) -> u32 {
    match context::redirect(packet) {
        Ok(()) => COUNTER_REDIRECTED,
        Err(cause) => cause.counter(),
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
