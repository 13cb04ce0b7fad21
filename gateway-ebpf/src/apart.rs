//! What the verifier walks by itself, once: BPF's global functions (kernel commit 51c39bb1d5d1, 5.6).
//!
//! Other functions it walks again for each state that a caller may be in, and the parser leaves dozens:
//! with `trace` as one of these, `b365_xdp` was half a million instructions long of the million that may be.
//! A global function is checked for any arguments, so it gets the context and a number, and reads the packet
//! anew. None may move the packet: before kernel 6.13 the caller would not hear of it.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::programs::{TcContext, XdpContext};
use gateway_common::abi::Sample;
use gateway_common::{Decision, PacketBytes as _, by_window};

use crate::context::{AskedPacket, Frame, IpPacket, SkbPacket, XdpFragsPacket, XdpPacket};
use crate::maps::{self, Counters, GenerationTables};

/// What windows decide, apart from the program that asks.
pub(crate) trait Windowed: Frame {
    /// The counter of the decision of support windows, or the one of the policy's, which is `counter`.
    fn classify_by_window(&self, counter: u32) -> u32;

    /// The same for packets that are not all in one piece.
    fn classify_whole_by_window(&self, counter: u32) -> u32;
}

/// What is kept of packets, apart from the program that decides on them.
pub(crate) trait Kept: Windowed {
    /// Records a packet that was drawn, and counted at `counter`.
    fn trace(&self, counter: u32);

    /// Counts the flow of a packet that a window let go direct; `place` is that of its set and window.
    fn count_flow(&self, place: u32);
}

/// Puts a packet that was drawn into the ring buffer.
#[inline(always)]
fn record<P: Frame>(packet: &P, counters: Counters, counter: u32, hook: u32) {
    maps::record(counters, packet, |time| {
        let (head, head_length) = packet.head();
        Sample {
            time,
            ingress: packet.ingress(),
            counter,
            length: packet.length(),
            hook,
            tags_taken_off: packet.part().tags_taken_off() as u32,
            head_length,
            head,
        }
    });
}

/// Four global functions, whose names are for the whole object, and the traits by them. Such a function has to
/// return a number. Nobody else calls them, so the context is one that a program was called with.
macro_rules! apart {
    (
        $packet:ty, $new:expr, $context:ident of $raw:ident,
        counted by $counters:expr, $hook:expr,
        $by_window:ident, $whole_by_window:ident, $trace:ident, $count_flow:ident
    ) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $by_window(raw: *mut $raw, counter: u32) -> u32 {
            let context = $context::new(raw);
            let packet = $new(&context);
            by_window(&packet.part(), &GenerationTables(&packet)).map_or(counter, Decision::counter)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $whole_by_window(raw: *mut $raw, counter: u32) -> u32 {
            let context = $context::new(raw);
            $new(&context).by_window_whole().map_or(counter, Decision::counter)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $trace(raw: *mut $raw, counter: u32) -> u32 {
            let context = $context::new(raw);
            record(&$new(&context), $counters, counter, $hook);
            counter
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $count_flow(raw: *mut $raw, place: u32) -> u32 {
            let context = $context::new(raw);
            maps::count_flow_at(&$new(&context), place);
            place
        }

        impl Windowed for $packet {
            #[inline(always)]
            fn classify_by_window(&self, counter: u32) -> u32 {
                $by_window(self.ebpf_context().as_ptr().cast(), counter)
            }

            #[inline(always)]
            fn classify_whole_by_window(&self, counter: u32) -> u32 {
                $whole_by_window(self.ebpf_context().as_ptr().cast(), counter)
            }
        }

        impl Kept for $packet {
            #[inline(always)]
            fn trace(&self, counter: u32) {
                $trace(self.ebpf_context().as_ptr().cast(), counter);
            }

            #[inline(always)]
            fn count_flow(&self, place: u32) {
                $count_flow(self.ebpf_context().as_ptr().cast(), place);
            }
        }
    };
}

apart!(
    XdpPacket<'_>, XdpPacket, XdpContext of xdp_md,
    counted by Counters::Xdp, Sample::XDP,
    b365_xdp_by_window, b365_xdp_whole_by_window, b365_xdp_trace, b365_xdp_count_flow
);
apart!(
    XdpFragsPacket<'_>, XdpFragsPacket::of, XdpContext of xdp_md,
    counted by Counters::Xdp, Sample::XDP,
    b365_frags_by_window, b365_frags_whole_by_window, b365_frags_trace, b365_frags_count_flow
);
apart!(
    SkbPacket<'_>, SkbPacket, TcContext of __sk_buff,
    counted by Counters::Tc, Sample::TC,
    b365_tc_by_window, b365_tc_whole_by_window, b365_tc_trace, b365_tc_count_flow
);
apart!(
    IpPacket<'_>, IpPacket, TcContext of __sk_buff,
    counted by Counters::Tc, Sample::TC,
    b365_ip_by_window, b365_ip_whole_by_window, b365_ip_trace, b365_ip_count_flow
);

/// Only ever asked: nothing of it is kept, and it is short enough as it is.
impl Windowed for AskedPacket<'_> {
    #[inline(always)]
    fn classify_by_window(&self, counter: u32) -> u32 {
        by_window(&self.part(), &GenerationTables(self)).map_or(counter, Decision::counter)
    }

    #[inline(always)]
    fn classify_whole_by_window(&self, counter: u32) -> u32 {
        counter
    }
}
