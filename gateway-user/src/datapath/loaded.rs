//! The published generation, as any process that may read the pins sees it.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError, PerCpuArray};
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use gateway_common::abi::{
    COUNTER_FIRST_GROUP, COUNTER_METADATA_ACCEPTED, COUNTER_METADATA_UNSUPPORTED,
    COUNTER_REDIRECTED, COUNTER_SELF_CHECKED, COUNTER_SELF_DISAGREED, COUNTER_TRACE_LOST, Counter,
};
use gateway_common::{Fallback, Reason};
use nix::net::if_::if_indextoname;

use super::generation::{COUNTER_MAPS, MANIFEST, chain};
use super::hook::Attached;
use super::meter::by_hook;
use super::test_run::{RunOptions, run_xdp};
use super::{DatapathError, Manifest, Pins, Probe, Program};
use crate::policy::SetId;

/// A published generation.
#[derive(Debug)]
pub struct Loaded {
    directory: PathBuf,
    manifest: Manifest,
}

/// The counters of one kind of hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CounterSheet {
    counters: Vec<Counter>,
}

/// All counters of a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of the XDP programs.
    pub xdp: CounterSheet,
    /// Of tc behind XDP: what it did not take from metadata it classified once more.
    pub tc_behind_xdp: CounterSheet,
    /// Of tc alone.
    pub tc: CounterSheet,
}

impl Loaded {
    /// The published generation under `pins`.
    ///
    /// # Errors
    ///
    /// [`DatapathError::NothingLoaded`] when there is none.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let directory = pins
            .current()?
            .ok_or_else(|| DatapathError::NothingLoaded { path: pins.root().to_owned() })?;
        let manifest = Manifest::read(&directory.join(MANIFEST))?;
        Ok(Self { directory, manifest })
    }

    /// Where its programs and maps are pinned.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it is made of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads all counters, those of all hooks added up.
    ///
    /// # Errors
    ///
    /// A counter map cannot be read.
    pub fn counts(&self) -> Result<Counts, DatapathError> {
        let hooks = self.counts_by_hook()?;
        Ok(hooks.values().fold(Counts::default(), |sum, counts| sum.plus(counts)))
    }

    /// Reads all counters, by the interface they are of; `None` is of no hook of its own.
    ///
    /// # Errors
    ///
    /// A counter map cannot be read.
    pub fn counts_by_hook(&self) -> Result<BTreeMap<Option<String>, Counts>, DatapathError> {
        let [xdp, tc_behind_xdp, tc] =
            COUNTER_MAPS.map(|name| counter_map(&self.directory.join(name)));
        by_hook(&self.manifest, [&xdp?, &tc_behind_xdp?, &tc?])
    }

    /// Asks the loaded classifier and tables about a packet. Nothing is counted.
    ///
    /// # Errors
    ///
    /// The test run cannot be done.
    pub fn ask(&self, probe: &Probe) -> Result<Answer, DatapathError> {
        let path = self.directory.join(Program::Explain.name());
        let program = Xdp::from_pin(&path, XdpAttachType::Interface).map_err(|error| {
            DatapathError::Unreadable { path: path.clone(), why: chain(&error) }
        })?;
        let fd = program.fd().map_err(|error| DatapathError::Unreadable {
            path: path.clone(),
            why: chain(&error),
        })?;
        let outcome =
            run_xdp(fd.as_fd(), &probe.frame(), RunOptions::default()).map_err(|source| {
                DatapathError::TestRun { program: Program::Explain.name(), source }
            })?;
        Answer::from_counter(outcome.action, &self.manifest).ok_or_else(|| {
            DatapathError::Unreadable {
                path,
                why: format!("answered {}, which is no counter", outcome.action),
            }
        })
    }
}

/// What a loaded classifier says of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Why.
    pub reason: Reason,
    /// The endpoint sets whose rule matched, ascending; empty unless Direct.
    pub sets: Vec<SetId>,
}

impl Answer {
    pub(super) fn from_counter(counter: u32, manifest: &Manifest) -> Option<Self> {
        if let Some(group) = counter.checked_sub(COUNTER_FIRST_GROUP) {
            let sets = manifest.groups.get(usize::try_from(group).ok()?)?;
            return Some(Self { reason: Reason::Matched, sets: sets.iter().copied().collect() });
        }
        let reason = Reason::ALL.get(usize::try_from(counter).ok()?)?;
        Some(Self { reason: *reason, sets: Vec::new() })
    }
}

impl CounterSheet {
    pub(super) fn new(counters: impl Iterator<Item = Counter>) -> Self {
        Self { counters: counters.collect() }
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.counters.iter().all(|counter| counter.packets == 0)
    }

    /// The counter of `reason`; of [`Reason::Matched`], the sum over all groups.
    #[must_use]
    pub fn reason(&self, reason: Reason) -> Counter {
        if reason == Reason::Matched {
            self.groups().iter().fold(Counter::default(), |sum, counter| add(sum, *counter))
        } else {
            self.get(reason as u32)
        }
    }

    /// Direct packets whose proposal could not be written (XDP).
    #[must_use]
    pub fn metadata_unsupported(&self) -> Counter {
        self.get(COUNTER_METADATA_UNSUPPORTED)
    }

    /// Direct packets taken from their metadata (tc).
    #[must_use]
    pub fn metadata_accepted(&self) -> Counter {
        self.get(COUNTER_METADATA_ACCEPTED)
    }

    /// Proposals that were checked (tc).
    #[must_use]
    pub fn self_checked(&self) -> Counter {
        self.get(COUNTER_SELF_CHECKED)
    }

    /// Proposals that should not have been made (tc): these packets were inspected.
    #[must_use]
    pub fn self_disagreed(&self) -> Counter {
        self.get(COUNTER_SELF_DISAGREED)
    }

    /// Packets that were drawn for `trace` and lost.
    #[must_use]
    pub fn trace_lost(&self) -> Counter {
        self.get(COUNTER_TRACE_LOST)
    }

    /// Direct packets that XDP sent to the uplink.
    #[must_use]
    pub fn redirected(&self) -> Counter {
        self.get(COUNTER_REDIRECTED)
    }

    /// Direct packets that XDP was to redirect and gave to the stack, marked, for this cause.
    #[must_use]
    pub fn fallback(&self, cause: Fallback) -> Counter {
        self.get(cause.counter())
    }

    /// Direct packets by provenance group.
    #[must_use]
    pub fn groups(&self) -> &[Counter] {
        self.counters.get(COUNTER_FIRST_GROUP as usize..).unwrap_or_default()
    }

    /// Both sheets added up.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let length = self.counters.len().max(other.counters.len());
        let at = |sheet: &Self, index| sheet.counters.get(index).copied().unwrap_or_default();
        Self { counters: (0..length).map(|index| add(at(self, index), at(other, index))).collect() }
    }

    fn get(&self, index: u32) -> Counter {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.counters.get(index))
            .copied()
            .unwrap_or_default()
    }
}

impl Counts {
    /// Every packet decided once: by XDP where there is XDP, else by tc.
    #[must_use]
    pub fn decided(&self) -> CounterSheet {
        self.xdp.plus(&self.tc)
    }

    /// Both added up.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            xdp: self.xdp.plus(&other.xdp),
            tc_behind_xdp: self.tc_behind_xdp.plus(&other.tc_behind_xdp),
            tc: self.tc.plus(&other.tc),
        }
    }
}

fn add(a: Counter, b: Counter) -> Counter {
    Counter { packets: a.packets.wrapping_add(b.packets), bytes: a.bytes.wrapping_add(b.bytes) }
}

/// The hooks under `pins`, by interface, as they were attached; [`attached_now`] asks whether they
/// still are.
///
/// [`attached_now`]: super::attached_now
///
/// # Errors
///
/// The pins cannot be listed.
pub fn attached(pins: &Pins) -> Result<Vec<Attached>, DatapathError> {
    let mut hooks: BTreeMap<u32, Attached> = BTreeMap::new();
    for (ifindex, kind) in pins.links()?.into_keys() {
        let hook = hooks.entry(ifindex).or_insert_with(|| Attached {
            interface: interface_name(ifindex),
            ifindex,
            xdp: None,
            tc: None,
            missing: Vec::new(),
        });
        if kind.is_xdp() {
            hook.xdp = Some(kind.carrier());
        } else {
            hook.tc = Some(kind.carrier());
        }
    }
    Ok(hooks.into_values().collect())
}

fn interface_name(ifindex: u32) -> Option<String> {
    if_indextoname(ifindex).ok().map(|name| name.to_string_lossy().into_owned())
}

/// A pinned counter map.
pub(super) fn counter_map(path: &Path) -> Result<PerCpuArray<MapData, [u64; 2]>, DatapathError> {
    let unreadable = |error: &dyn std::error::Error| DatapathError::Unreadable {
        path: path.to_owned(),
        why: chain(error),
    };
    let data = MapData::from_pin(path).map_err(|error| unreadable(&error))?;
    let map = Map::from_map_data(data).map_err(|error| unreadable(&error))?;
    PerCpuArray::try_from(map).map_err(|error| unreadable(&error))
}

/// All entries of a counter map, added up over CPUs.
pub(super) fn read_counters<T: Borrow<MapData>>(
    map: &PerCpuArray<T, [u64; 2]>,
) -> Result<Vec<[u64; 2]>, MapError> {
    (0..map.len())
        .map(|index| {
            let per_cpu = map.get(&index, 0)?;
            Ok(per_cpu.iter().fold([0_u64; 2], |[packets, bytes], [p, b]| {
                [packets.wrapping_add(*p), bytes.wrapping_add(*b)]
            }))
        })
        .collect()
}

/// What the kernel charges for a map, from its fdinfo.
pub(super) fn memlock(map: &Map) -> Option<u64> {
    // The kinds of map that the object has.
    let (Map::Array(data)
    | Map::HashMap(data)
    | Map::LpmTrie(data)
    | Map::PerCpuArray(data)
    | Map::RingBuf(data)) = map
    else {
        return None;
    };
    let fd = data.fd().as_fd().as_raw_fd();
    let text = fs::read_to_string(Path::new("/proc/self/fdinfo").join(fd.to_string())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}
