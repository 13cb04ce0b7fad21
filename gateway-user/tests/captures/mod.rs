//! Captures written byte by byte, as the formats' drafts say, and not by the crate that reads them.

/// Bytes of a packet or file.
pub(crate) type Bytes = Vec<u8>;

/// The byte order of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Little,
    Big,
}

/// What a file says of all its packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capture {
    pub(crate) order: Order,
    pub(crate) nanoseconds: bool,
    pub(crate) link: u16,
}

/// One packet.
pub(crate) struct Piece {
    /// Seconds after 2026-07-31, and as many microseconds.
    at: u32,
    captured: Bytes,
    length: usize,
    claim: Option<u32>,
}

/// 2026-07-31, 00:00 UTC.
const START: u32 = 1_785_456_000;

impl Order {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Little => Self::Big,
            Self::Big => Self::Little,
        }
    }

    fn two(self, number: u16) -> Bytes {
        match self {
            Self::Little => number.to_le_bytes().into(),
            Self::Big => number.to_be_bytes().into(),
        }
    }

    fn four(self, number: u32) -> Bytes {
        match self {
            Self::Little => number.to_le_bytes().into(),
            Self::Big => number.to_be_bytes().into(),
        }
    }
}

pub(crate) fn number64(order: Order, number: u64) -> Bytes {
    match order {
        Order::Little => number.to_le_bytes().into(),
        Order::Big => number.to_be_bytes().into(),
    }
}

fn length32(length: usize) -> u32 {
    length.try_into().unwrap()
}

impl Piece {
    pub(crate) fn at(at: u32, packet: &[u8]) -> Self {
        Self { at, captured: packet.to_vec(), length: packet.len(), claim: None }
    }

    /// The same, of which only the first bytes were kept.
    pub(crate) fn cut(mut self, kept: usize) -> Self {
        self.captured.truncate(kept);
        self
    }

    /// The same, with another number of kept bytes written down.
    pub(crate) fn claim(mut self, kept: u32) -> Self {
        self.claim = Some(kept);
        self
    }
}

pub(crate) fn pcap(capture: Capture, pieces: &[Piece]) -> Bytes {
    let Capture { order, nanoseconds, link } = capture;
    let magic = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    let mut file = [
        order.four(magic),
        order.two(2),
        order.two(4),
        order.four(0),
        order.four(0),
        order.four(262_144),
        order.four(link.into()),
    ]
    .concat();
    for Piece { at, captured, length, claim } in pieces {
        file.extend(order.four(START + at));
        file.extend(order.four(if nanoseconds { at * 1000 } else { *at }));
        file.extend(order.four(claim.unwrap_or(length32(captured.len()))));
        file.extend(order.four(length32(*length)));
        file.extend(captured);
    }
    file
}

pub(crate) fn pcapng(capture: Capture, pieces: &[Piece]) -> Bytes {
    let Capture { order, nanoseconds, link } = capture;
    let resolution = (9, vec![if nanoseconds { 9 } else { 6 }]);
    let mut file = [section(order), interface(order, link, 262_144, &[resolution])].concat();
    for Piece { at, captured, length, .. } in pieces {
        let microseconds = u64::from(START + at) * 1_000_000 + u64::from(*at);
        let ticks = if nanoseconds { microseconds * 1000 } else { microseconds };
        file.extend(enhanced(order, 0, ticks, captured, *length));
    }
    file
}

pub(crate) fn block(order: Order, kind: u32, body: &[u8]) -> Bytes {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let length = order.four(length32(body.len() + 12));
    [order.four(kind), length.clone(), body, length].concat()
}

pub(crate) fn section(order: Order) -> Bytes {
    let body = [order.four(0x1a2b_3c4d), order.two(1), order.two(0), vec![0xff; 8]].concat();
    block(order, 0x0a0d_0d0a, &body)
}

/// An interface with options: code and value.
pub(crate) fn interface(order: Order, link: u16, snap: u32, options: &[(u16, Bytes)]) -> Bytes {
    let mut body = [order.two(link), order.two(0), order.four(snap)].concat();
    for (code, value) in options {
        body.extend(order.two(*code));
        body.extend(order.two(value.len().try_into().unwrap()));
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    if !options.is_empty() {
        body.extend([0; 4]);
    }
    block(order, 1, &body)
}

pub(crate) fn enhanced(
    order: Order,
    interface: u32,
    ticks: u64,
    captured: &[u8],
    length: usize,
) -> Bytes {
    let body = [
        order.four(interface),
        order.four((ticks >> 32).try_into().unwrap()),
        order.four((ticks & 0xffff_ffff).try_into().unwrap()),
        order.four(length32(captured.len())),
        order.four(length32(length)),
        captured.to_vec(),
    ]
    .concat();
    block(order, 6, &body)
}

pub(crate) fn simple(order: Order, captured: &[u8], length: usize) -> Bytes {
    block(order, 3, &[order.four(length32(length)), captured.to_vec()].concat())
}

/// Makes the packet of a link type from an Ethernet frame.
pub(crate) type Head = Box<dyn Fn(&Bytes) -> Bytes>;

/// Every link type that is understood, besides Ethernet: a name, its number, its packets.
pub(crate) fn link_types(order: Order) -> Vec<(&'static str, u16, Head)> {
    let raw = || -> Head { Box::new(|frame| frame[14..].to_vec()) };
    let family = move |of_v6: u32, order: Order| -> Head {
        Box::new(move |frame| {
            let family = if frame[12] == 0x08 { 2 } else { of_v6 };
            [order.four(family), frame[14..].to_vec()].concat()
        })
    };
    vec![
        ("raw", 101, raw()),
        ("raw of the BSDs", 12, raw()),
        ("raw of OpenBSD", 14, raw()),
        ("IPv4", 228, raw()),
        ("IPv6", 229, raw()),
        ("loopback of Linux", 0, family(10, order)),
        ("loopback of FreeBSD", 0, family(28, order.other())),
        ("loopback of macOS", 0, family(30, order)),
        ("loopback of OpenBSD", 108, family(24, Order::Big)),
        ("Linux cooked", 113, Box::new(|frame| [&[0; 14], &frame[12..14], &frame[14..]].concat())),
        (
            "Linux cooked, second version",
            276,
            Box::new(|frame| [&frame[12..14], &[7; 18], &frame[14..]].concat()),
        ),
    ]
}
