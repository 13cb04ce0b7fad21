//! Decisions on packets that were drawn, as they are made: the reading end of `trace`.
//!
//! The programs of a generation put what they draw into a ring buffer that is pinned beside them,
//! while the control words say so. They stop by themselves when nobody has renewed that for a moment, so a
//! tracer may end in any way.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use gateway_common::abi::{COUNTER_TRACE_LOST, HEAD_BYTES, Sample};
use jiff::{SignedDuration, Timestamp};
use nix::net::if_::if_indextoname;

use super::generation::{COUNTER_MAPS, SAMPLES, chain, counters_of_a_hook};
use super::loaded::counter_map;
use super::{Answer, Control, DatapathError, Loaded, Manifest, PacketHead, Pins};

/// How long the programs go on without hearing from the tracer.
const LEASE: Duration = Duration::from_secs(3);
/// How often they hear from it, at least.
const RENEWAL: Duration = Duration::from_millis(500);

/// The one process that reads what is drawn. Ends the drawing when dropped.
pub struct Tracer {
    pins: Pins,
    control: Control,
    one_in: NonZeroU32,
    renewed: Instant,
    source: Source,
    /// Lost by generations that no longer serve.
    lost: u64,
    _only_one: File,
}

/// The ring buffer of one generation, and what explains it.
struct Source {
    directory: PathBuf,
    manifest: Manifest,
    samples: RingBuf<MapData>,
    counters: Vec<PerCpuArray<MapData, [u64; 2]>>,
    /// Lost before this tracer came.
    lost_before: u64,
}

/// Where a packet was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceHook {
    /// By XDP.
    Xdp,
    /// By tc, where it stands alone.
    Tc,
}

impl TraceHook {
    /// Its name in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// One packet and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// When it was decided.
    pub time: Timestamp,
    /// Index of the interface that it came in by.
    pub ifindex: u32,
    /// Its name; `None` where this network namespace has none of that index.
    pub interface: Option<String>,
    /// Where it was decided.
    pub hook: TraceHook,
    /// What was decided.
    pub answer: Answer,
    /// Bytes of the whole frame.
    pub length: u32,
    /// The first bytes of the frame, [`HEAD_BYTES`] at most.
    pub head: Vec<u8>,
    /// What they say.
    pub packet: PacketHead,
    /// The generation that decided.
    pub generation: u64,
}

impl Tracer {
    /// Lets the programs draw one packet in `one_in`, by chance.
    ///
    /// # Errors
    ///
    /// Nothing is loaded; what is loaded is of a version without samples; another tracer is there.
    pub fn start(pins: &Pins, one_in: NonZeroU32) -> Result<Self, DatapathError> {
        let mut source = Source::open(pins)?;
        let only_one = only_one(pins)?;
        let mut control = Control::open(pins)?
            .ok_or_else(|| DatapathError::NothingLoaded { path: pins.root().to_owned() })?;
        // What an earlier tracer left behind is neither read nor lost.
        while source.samples.next().is_some() {}
        source.lost_before = source.lost_in_all()?;
        control.draw(one_in.get(), LEASE)?;
        let renewed = Instant::now();
        let pins = pins.clone();
        Ok(Self { pins, control, one_in, renewed, source, lost: 0, _only_one: only_one })
    }

    /// Everything that was drawn since the last call, oldest first, to `take`; follows to the
    /// generation that serves. To be called several times a second.
    ///
    /// # Errors
    ///
    /// Nothing is loaded any more, or a map cannot be read.
    pub fn read(
        &mut self,
        take: &mut dyn FnMut(&Manifest, Traced) -> io::Result<()>,
    ) -> Result<io::Result<()>, DatapathError> {
        if self.renewed.elapsed() >= RENEWAL {
            self.control.draw(self.one_in.get(), LEASE)?;
            self.renewed = Instant::now();
        }
        // Before the ring is read: what the old programs have decided is in it by then.
        let current = self.pins.current()?;
        let clocks = (Timestamp::now(), self.control.now()?);
        if let Err(error) = self.source.drain(clocks, take)? {
            return Ok(Err(error));
        }
        if current.as_ref() != Some(&self.source.directory) {
            let next = Source::open(&self.pins)?;
            self.lost = self.lost()?;
            self.source = next;
        }
        Ok(Ok(()))
    }

    /// Packets that were drawn, but found no room in the ring buffer.
    ///
    /// # Errors
    ///
    /// A counter cannot be read.
    pub fn lost(&self) -> Result<u64, DatapathError> {
        let here = self.source.lost_in_all()?.saturating_sub(self.source.lost_before);
        Ok(self.lost.saturating_add(here))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Where this fails, the lease ends it.
        self.control.draw(0, Duration::ZERO).ok();
    }
}

impl Source {
    fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let loaded = Loaded::open(pins)?;
        let directory = loaded.directory().to_owned();
        let path = directory.join(SAMPLES);
        let unreadable = |error: &dyn std::error::Error| DatapathError::Unreadable {
            path: path.clone(),
            why: chain(error),
        };
        let data = MapData::from_pin(&path).map_err(|error| unreadable(&error))?;
        let map = Map::from_map_data(data).map_err(|error| unreadable(&error))?;
        let samples = RingBuf::try_from(map).map_err(|error| unreadable(&error))?;
        let counters = COUNTER_MAPS.map(|name| counter_map(&directory.join(name)));
        let counters = counters.into_iter().collect::<Result<Vec<_>, _>>()?;
        let manifest = loaded.manifest().clone();
        Ok(Self { directory, manifest, samples, counters, lost_before: 0 })
    }

    fn drain(
        &mut self,
        clocks: (Timestamp, u64),
        take: &mut dyn FnMut(&Manifest, Traced) -> io::Result<()>,
    ) -> Result<io::Result<()>, DatapathError> {
        while let Some(bytes) = self.samples.next() {
            let traced = decode(&bytes)
                .and_then(|sample| explain(&sample, &self.manifest, clocks))
                .ok_or_else(|| DatapathError::Unreadable {
                    path: self.directory.join(SAMPLES),
                    why: "what is in it is not of this version".to_owned(),
                })?;
            if let Err(error) = take(&self.manifest, traced) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Over all hooks, each of which has counters of its own.
    fn lost_in_all(&self) -> Result<u64, DatapathError> {
        let stride = counters_of_a_hook(self.manifest.groups.len()) as usize;
        let mut lost = 0_u64;
        for counters in &self.counters {
            let indexes = (COUNTER_TRACE_LOST..counters.len()).step_by(stride);
            for index in indexes {
                let per_cpu = counters.get(&index, 0).map_err(|error| {
                    DatapathError::Unreadable { path: self.directory.clone(), why: chain(&error) }
                })?;
                lost = per_cpu.iter().fold(lost, |sum, [packets, _]| sum.saturating_add(*packets));
            }
        }
        Ok(lost)
    }
}

/// A ring buffer has one reader: each record goes to whoever takes it first.
fn only_one(pins: &Pins) -> Result<File, DatapathError> {
    let path = pins.tracing();
    let failed = |what, source: io::Error| DatapathError::Pins { path: path.clone(), what, source };
    if !fs::exists(&path).map_err(|error| failed("cannot look at it", error))? {
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .or_else(|error| {
                // Another process was faster.
                if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
            })
            .map_err(|error| failed("cannot create the directory", error))?;
    }
    let directory = File::open(&path).map_err(|error| failed("cannot open", error))?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(TryLockError::WouldBlock) => Err(DatapathError::Traced { path }),
        Err(TryLockError::Error(error)) => Err(failed("cannot lock", error)),
    }
}

/// A record as the programs write it.
fn decode(bytes: &[u8]) -> Option<Sample> {
    if bytes.len() != size_of::<Sample>() {
        return None;
    }
    let (time, rest) = bytes.split_first_chunk::<8>()?;
    let (numbers, head) = rest.split_at_checked(size_of::<[u32; 6]>())?;
    let mut numbers = numbers.as_chunks::<4>().0.iter().map(|bytes| u32::from_ne_bytes(*bytes));
    let mut number = || numbers.next();
    let mut sample = Sample {
        time: u64::from_ne_bytes(*time),
        ingress: number()?,
        counter: number()?,
        length: number()?,
        hook: number()?,
        tags_taken_off: number()?,
        head_length: number()?,
        head: [0; HEAD_BYTES],
    };
    sample.head.copy_from_slice(head);
    Some(sample)
}

/// `clocks`: what time it is, and what the programs' clock says.
fn explain(
    sample: &Sample,
    manifest: &Manifest,
    (now, monotonic): (Timestamp, u64),
) -> Option<Traced> {
    let age = i64::try_from(monotonic.saturating_sub(sample.time)).ok()?;
    let head = sample.head.get(..usize::try_from(sample.head_length).ok()?)?;
    let interface = if_indextoname(sample.ingress).ok();
    Some(Traced {
        time: now.checked_sub(SignedDuration::from_nanos(age)).ok()?,
        ifindex: sample.ingress,
        interface: interface.map(|name| name.to_string_lossy().into_owned()),
        hook: match sample.hook {
            Sample::XDP => TraceHook::Xdp,
            Sample::TC => TraceHook::Tc,
            _ => return None,
        },
        answer: Answer::from_counter(sample.counter, manifest)?,
        length: sample.length,
        packet: PacketHead::read(head),
        head: head.to_vec(),
        generation: manifest.generation,
    })
}
