//! Packets of a pcap or pcapng file, one after the other.
//!
//! Formats: <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html> and
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>.

use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use pcap_parser::pcapng::{Block, InterfaceDescriptionBlock, OptionCode};
use pcap_parser::{PcapBlockOwned, PcapError, PcapHeader, create_reader};

use super::link::{self, Link};
use super::tally::Moment;

/// A packet of a capture.
pub(super) struct Packet<'a> {
    /// What its bytes begin with.
    pub(super) link: Link,
    /// The bytes that were kept.
    pub(super) captured: &'a [u8],
    /// How many there were, not fewer than were kept.
    pub(super) length: u32,
    /// When it was captured, where the file says.
    pub(super) time: Option<Moment>,
}

impl Packet<'_> {
    /// Whether the capture kept only the beginning.
    pub(super) fn is_cut(&self) -> bool {
        u32::try_from(self.captured.len()).is_ok_and(|captured| captured < self.length)
    }
}

/// How a capture ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Behind a packet.
    #[default]
    Whole,
    /// Within one, which is not counted: it was still being written, or was not copied wholly.
    WithinPacket,
}

/// Why a capture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Reading failed.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// Neither of the formats.
    #[error("is neither a pcap nor a pcapng file; unpack it first if it is compressed")]
    NotACapture,
    /// Something in it is not as the format wants it.
    #[error(
        "is damaged behind packet {packets}; `editcap` or `pcapfix` may save what is behind that"
    )]
    Damaged {
        /// Packets in front of it.
        packets: u64,
    },
    /// A packet has a link type that is not understood.
    #[error(
        "packet {packet} has link type {number} ({}); understood are Ethernet, raw IP, Linux \
         cooked and loopback",
        link::name(*number)
    )]
    LinkType {
        /// Its number, from 1.
        packet: u64,
        /// The link type.
        number: u16,
    },
    /// A packet in the form that pcapng had before 2012.
    #[error("has obsolete packet blocks; rewrite it with `editcap` first")]
    Obsolete,
}

/// Calls `each` for every packet of `input`.
///
/// # Errors
///
/// See [`CaptureError`]. Packets in front of what is wrong were handed over.
pub(super) fn read(
    input: impl Read + Send,
    mut each: impl FnMut(&Packet<'_>),
) -> Result<End, CaptureError> {
    let failure = Mutex::new(None);
    let outcome = blocks(Full { input, failure: &failure }, &mut each);
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(CaptureError::Io(error)),
        None => outcome,
    }
}

/// Bytes that are held: many packets, and room for a large one.
const BUFFER: usize = 1 << 18;
/// The longest block that is waited for. Longer than any packet: libpcap takes 256 KiB for the
/// limit, with exceptions for USB.
const LONGEST: usize = 1 << 24;
/// Interfaces of a section: more are no capture of anything, and each takes memory.
const MAX_INTERFACES: usize = 1 << 16;

/// Reads until it has all that it was asked for, or nothing is left: pcap-parser takes one short
/// read of a pipe for the end of a header.
struct Full<'a, R> {
    input: R,
    /// Why reading failed; pcap-parser says only that it did.
    failure: &'a Mutex<Option<io::Error>>,
}

impl<R: Read> Read for Full<'_, R> {
    fn read(&mut self, mut buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0_usize;
        while !buffer.is_empty() {
            match self.input.read(buffer) {
                Ok(0) => break,
                Ok(count) => {
                    done = done.saturating_add(count);
                    buffer = buffer.get_mut(count..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let kind = error.kind();
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Err(kind.into());
                }
            }
        }
        Ok(done)
    }
}

enum Step {
    Next(usize),
    More,
    Longer,
    End,
}

fn blocks(
    input: impl Read + Send,
    each: &mut impl FnMut(&Packet<'_>),
) -> Result<End, CaptureError> {
    let mut reader = create_reader(BUFFER, input).map_err(|_| CaptureError::NotACapture)?;
    let mut file = File::default();
    let mut capacity = BUFFER;
    loop {
        let step = match reader.next() {
            Ok((length, block)) => {
                file.take(&block, each)?;
                Step::Next(length)
            }
            Err(PcapError::Eof) => return Ok(End::Whole),
            Err(PcapError::UnexpectedEof) => Step::End,
            Err(PcapError::Incomplete(_)) => Step::More,
            Err(PcapError::BufferTooSmall) => Step::Longer,
            Err(_) => return Err(file.damaged()),
        };
        if let Step::Next(length) = step {
            reader.consume(length);
            continue;
        }
        let data = reader.data();
        // A block that is all there and yet too short for what it says it holds, or one that is
        // longer than any: what is behind it would be swallowed by waiting for more.
        if file.next_length(data).is_some_and(|length| length <= data.len() || length > LONGEST) {
            return Err(file.damaged());
        }
        if let Step::End = step {
            return Ok(End::WithinPacket);
        }
        if let Step::Longer = step {
            capacity = capacity.saturating_mul(2);
            reader.grow(capacity);
        }
        reader.refill().map_err(|_| file.damaged())?;
    }
}

/// What a file has said so far that its packets do not repeat.
#[derive(Default)]
struct File {
    /// Packets so far.
    packets: u64,
    /// How the next block says its length.
    layout: Option<Layout>,
    /// The interfaces of a section; a pcap file has one.
    interfaces: Vec<Interface>,
}

#[derive(Clone, Copy)]
enum Layout {
    /// With the bytes in front of a packet.
    Pcap { order: ByteOrder, header: usize },
    /// With the byte order of the section.
    Pcapng(ByteOrder),
}

#[derive(Clone, Copy)]
enum ByteOrder {
    Little,
    Big,
}

#[derive(Clone, Copy)]
struct Interface {
    link_type: u16,
    /// Bytes kept of a packet; 0 is no limit.
    snap_length: u32,
    clock: Clock,
}

/// What the time stamps of an interface mean.
#[derive(Clone, Copy)]
struct Clock {
    /// Ticks per second; `None` is more than any clock has.
    frequency: Option<u128>,
    /// Seconds to add.
    offset: i64,
}

impl File {
    fn take(
        &mut self,
        block: &PcapBlockOwned<'_>,
        each: &mut impl FnMut(&Packet<'_>),
    ) -> Result<(), CaptureError> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let big = header.is_bigendian();
                let order = if big { ByteOrder::Big } else { ByteOrder::Little };
                let header_length = if header.is_modified_format() { 24 } else { 16 };
                self.layout = Some(Layout::Pcap { order, header: header_length });
                self.interfaces.push(Interface::of_pcap(header));
            }
            PcapBlockOwned::Legacy(packet) => {
                let ticks = |frequency| {
                    let fraction = u128::from(packet.ts_usec);
                    u128::from(packet.ts_sec).checked_mul(frequency)?.checked_add(fraction)
                };
                let time = |clock: Clock| clock.moment(ticks(clock.frequency?)?);
                self.packet(0, packet.data, packet.origlen, time, each)?;
            }
            PcapBlockOwned::NG(block) => self.take_ng(block, each)?,
        }
        Ok(())
    }

    fn take_ng(
        &mut self,
        block: &Block<'_>,
        each: &mut impl FnMut(&Packet<'_>),
    ) -> Result<(), CaptureError> {
        match block {
            Block::SectionHeader(header) => {
                let order = if header.big_endian() { ByteOrder::Big } else { ByteOrder::Little };
                self.layout = Some(Layout::Pcapng(order));
                self.interfaces.clear();
            }
            Block::InterfaceDescription(_) if self.interfaces.len() >= MAX_INTERFACES => {
                return Err(self.damaged());
            }
            Block::InterfaceDescription(interface) => {
                let Some(Layout::Pcapng(order)) = self.layout else { return Err(self.damaged()) };
                self.interfaces.push(Interface::of_pcapng(interface, order));
            }
            Block::EnhancedPacket(packet) => {
                let captured = kept(packet.data, packet.caplen).ok_or_else(|| self.damaged())?;
                let ticks = u128::from(packet.ts_high) << 32 | u128::from(packet.ts_low);
                let time = |clock: Clock| clock.moment(ticks);
                self.packet(packet.if_id, captured, packet.origlen, time, each)?;
            }
            Block::SimplePacket(packet) => {
                let first = self.interfaces.first().ok_or_else(|| self.damaged())?;
                let length = match first.snap_length {
                    0 => packet.origlen,
                    limit => packet.origlen.min(limit),
                };
                let captured = kept(packet.data, length).ok_or_else(|| self.damaged())?;
                self.packet(0, captured, packet.origlen, |_| None, each)?;
            }
            // The Packet Block, type 2 in either byte order.
            Block::Unknown(block) if block.block_type.min(block.block_type.swap_bytes()) == 2 => {
                return Err(CaptureError::Obsolete);
            }
            Block::NameResolution(_)
            | Block::InterfaceStatistics(_)
            | Block::SystemdJournalExport(_)
            | Block::DecryptionSecrets(_)
            | Block::ProcessInformation(_)
            | Block::Custom(_)
            | Block::Unknown(_) => {}
        }
        Ok(())
    }

    fn packet(
        &mut self,
        interface: u32,
        captured: &[u8],
        length: u32,
        time: impl FnOnce(Clock) -> Option<Moment>,
        each: &mut impl FnMut(&Packet<'_>),
    ) -> Result<(), CaptureError> {
        let interface = usize::try_from(interface).ok().and_then(|id| self.interfaces.get(id));
        let Interface { link_type, clock, .. } = interface.ok_or_else(|| self.damaged())?;
        let packet = self.packets.saturating_add(1);
        let link = Link::from_number(*link_type)
            .ok_or(CaptureError::LinkType { packet, number: *link_type })?;
        // Some programs write no original length.
        let length = length.max(u32::try_from(captured.len()).unwrap_or(u32::MAX));
        each(&Packet { link, captured, length, time: time(*clock) });
        self.packets = packet;
        Ok(())
    }

    fn damaged(&self) -> CaptureError {
        CaptureError::Damaged { packets: self.packets }
    }

    /// How long the block is that `data` begins with, as far as it says so.
    fn next_length(&self, data: &[u8]) -> Option<usize> {
        let words = data.as_chunks::<4>().0;
        let (order, length, more) = match self.layout? {
            // Seconds, fraction, kept bytes.
            Layout::Pcap { order, header } => (order, words.get(2)?, header),
            // A section says its byte order itself.
            Layout::Pcapng(order) => match words {
                [SECTION, length, [0x1a, 0x2b, 0x3c, 0x4d], ..] => (ByteOrder::Big, length, 0),
                [SECTION, length, [0x4d, 0x3c, 0x2b, 0x1a], ..] => (ByteOrder::Little, length, 0),
                [_, length, ..] => (order, length, 0),
                _ => return None,
            },
        };
        let length = match order {
            ByteOrder::Little => u32::from_le_bytes(*length),
            ByteOrder::Big => u32::from_be_bytes(*length),
        };
        usize::try_from(length).ok()?.checked_add(more)
    }
}

/// The type of a section header block, the same in both byte orders.
const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// The packet without the bytes that fill its block up.
fn kept(data: &[u8], length: u32) -> Option<&[u8]> {
    data.get(..usize::try_from(length).ok()?)
}

impl Interface {
    fn of_pcap(header: &PcapHeader) -> Self {
        let frequency = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
        let clock = Clock { frequency: Some(frequency), offset: 0 };
        // The upper half says how long the frame check sequence is.
        let [low, high, ..] = header.network.0.to_le_bytes();
        let link_type = u16::from_le_bytes([low, high]);
        Self { link_type, snap_length: header.snaplen, clock }
    }

    fn of_pcapng(interface: &InterfaceDescriptionBlock<'_>, order: ByteOrder) -> Self {
        // pcap-parser reads the offset in one byte order only.
        let offset = interface
            .options
            .iter()
            .find(|option| option.code == OptionCode::IfTsoffset)
            .and_then(|option| option.as_bytes().ok()?.try_into().ok())
            .map_or(0, |bytes| match order {
                ByteOrder::Little => i64::from_le_bytes(bytes),
                ByteOrder::Big => i64::from_be_bytes(bytes),
            });
        // A power of ten, or of two where the highest bit is set.
        let (base, exponent): (u128, _) = match interface.if_tsresol {
            power @ 0x80.. => (2, power & 0x7f),
            power => (10, power),
        };
        let frequency = base.checked_pow(exponent.into());
        let [low, high, ..] = interface.linktype.0.to_le_bytes();
        let link_type = u16::from_le_bytes([low, high]);
        let clock = Clock { frequency, offset };
        Self { link_type, snap_length: interface.snaplen, clock }
    }
}

impl Clock {
    /// `None` for a time that no capture can be from.
    fn moment(self, ticks: u128) -> Option<Moment> {
        let nanoseconds = ticks.checked_mul(1_000_000_000)?.checked_div(self.frequency?)?;
        let offset = i128::from(self.offset).checked_mul(1_000_000_000)?;
        let nanoseconds = i128::try_from(nanoseconds).ok()?.checked_add(offset)?;
        i64::try_from(nanoseconds).ok().map(Moment)
    }
}
