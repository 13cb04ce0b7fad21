//! Replay: a capture classified offline, packet by packet, by the classifier that the data plane
//! runs.
//!
//! `capture` reads packets from either file format, `link` makes the Ethernet frame of them that
//! the classifier wants, `tally` counts what it decides. A packet is held at a time, never the
//! file.
//!
//! A capture of an inside interface has both directions in it. Rules are about destinations, so
//! replies to the clients are inspected here, as they are by the data plane, which sees only what
//! clients send.

mod capture;
mod link;
mod tally;

use std::io::Read;

use crate::policy::Table;

pub use capture::{CaptureError, End};
pub use link::Link;
pub use tally::{Count, Moment, Tally};

/// Classifies every packet of a pcap or pcapng file by `table`, as if all had come in by the
/// interface `ingress`: by none, unless it is said.
///
/// # Errors
///
/// The input is no capture, is damaged, or holds packets of a link type without a known place for
/// IP. That it ends within a packet is no error: see [`Tally::end`].
pub fn replay(
    input: impl Read + Send,
    table: &Table,
    ingress: Option<&str>,
) -> Result<Tally, CaptureError> {
    let mut tally = Tally::default();
    let mut frame = Vec::new();
    tally.end = capture::read(input, |packet| {
        packet.link.frame(packet.captured, &mut frame);
        let decision = table.decide_frame(&frame, ingress);
        tally.add(decision, packet.length, packet.is_cut(), packet.time);
    })?;
    Ok(tally)
}
