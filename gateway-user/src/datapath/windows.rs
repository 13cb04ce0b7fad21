//! What support windows let go direct, read from the counters of a generation, also after the next one
//! has taken its place; and the flows that the next one need not count again.

use std::path::Path;

use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use gateway_common::abi::FlowId;

use super::generation::{COUNTER_MAPS, FLOW_MAPS, MANIFEST, chain};
use super::meter::by_hook;
use super::{CounterSheet, DatapathError, Manifest, Pins};
use crate::window::{Amount, Tally};

/// A [`FlowId`] in bytes.
pub(super) type FlowKey = [u8; size_of::<FlowId>()];

/// The counters of a generation that has windows.
pub struct WindowCounters {
    manifest: Manifest,
    counters: [PerCpuArray<MapData, [u64; 2]>; 3],
    flows: PerCpuArray<MapData, u64>,
}

impl WindowCounters {
    /// Those of the generation that is published under `pins`; `None` where it has no windows.
    ///
    /// # Errors
    ///
    /// The manifest or a map cannot be read.
    pub fn open(pins: &Pins) -> Result<Option<Self>, DatapathError> {
        let Some(directory) = pins.current()? else { return Ok(None) };
        let manifest = Manifest::read(&directory.join(MANIFEST))?;
        if manifest.support.windows.is_empty() {
            return Ok(None);
        }
        let [xdp, tc_behind_xdp, tc] = COUNTER_MAPS.map(|name| open(&directory.join(name)));
        let [_, flows] = FLOW_MAPS;
        Ok(Some(Self {
            manifest,
            counters: [xdp?, tc_behind_xdp?, tc?],
            flows: open(&directory.join(flows))?,
        }))
    }

    /// The generation, by its number and when it was loaded.
    #[must_use]
    pub fn generation(&self) -> (u64, u64) {
        (self.manifest.generation, self.manifest.loaded_at)
    }

    /// What each window let go direct so far, by window id.
    ///
    /// # Errors
    ///
    /// A counter cannot be read.
    pub fn read(&self) -> Result<Vec<(u32, Tally)>, DatapathError> {
        let failed = |error: aya::maps::MapError| DatapathError::Unreadable {
            path: "counters of support windows".into(),
            why: chain(&error),
        };
        let decided = by_hook(&self.manifest, self.counters.each_ref())?
            .values()
            .fold(CounterSheet::default(), |sum, counts| sum.plus(&counts.decided()));
        let support = &self.manifest.support;
        let mut tallies: Vec<(u32, Tally)> =
            support.windows.iter().map(|window| (window.id, Tally::default())).collect();
        for (slot, (_, tally)) in tallies.iter_mut().enumerate() {
            for place in 0..support.groups {
                let place = slot.saturating_mul(support.groups).saturating_add(place);
                let group = support.first_group.saturating_add(place);
                let Some(sets) = self.manifest.groups.get(group) else { continue };
                let counted = decided.groups().get(group).copied().unwrap_or_default();
                let place = u32::try_from(place).unwrap_or(u32::MAX);
                let per_cpu = self.flows.get(&place, 0).map_err(failed)?;
                let flows = per_cpu.iter().fold(0_u64, |sum, flows| sum.saturating_add(*flows));
                tally.add(sets, Amount { packets: counted.packets, bytes: counted.bytes, flows });
            }
        }
        Ok(tallies)
    }
}

fn open<M: TryFrom<Map, Error = aya::maps::MapError>>(path: &Path) -> Result<M, DatapathError> {
    let unreadable = |error: aya::maps::MapError| DatapathError::Unreadable {
        path: path.to_owned(),
        why: chain(&error),
    };
    let data = MapData::from_pin(path).map_err(unreadable)?;
    Map::from_map_data(data).and_then(M::try_from).map_err(unreadable)
}

/// The flows that the published generation has counted of these windows. What cannot be read is
/// counted once more by the next one, which is no reason not to have it.
pub(super) fn known_flows(pins: &Pins, windows: &[u32]) -> Vec<FlowKey> {
    let [flows, _] = FLOW_MAPS;
    let Ok(Some(directory)) = pins.current() else { return Vec::new() };
    let Ok(flows) = open::<HashMap<MapData, FlowKey, u32>>(&directory.join(flows)) else {
        return Vec::new();
    };
    let of_window = |flow: &FlowKey| {
        let [.., a, b, c, d] = *flow;
        windows.contains(&u32::from_ne_bytes([a, b, c, d]))
    };
    flows.keys().filter_map(Result::ok).filter(of_window).collect()
}
