//! The counters of one generation, held open: they can be read after its pins are gone.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray};
use aya::programs::{SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;
use gateway_common::abi::Counter;

use super::generation::{COUNTER_MAPS, MANIFEST, chain, counters_of_a_hook};
use super::loaded::{counter_map, read_counters};
use super::{CounterSheet, Counts, DatapathError, Lock, Manifest, Program};

/// What one program has run, while the kernel measures that (`kernel.bpf_stats_enabled`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramRun {
    /// How long, all runs together.
    pub time: Duration,
    /// How often.
    pub runs: u64,
}

impl ProgramRun {
    /// What came after `before`.
    fn since(self, before: Self) -> Self {
        Self {
            time: self.time.saturating_sub(before.time),
            runs: self.runs.saturating_sub(before.runs),
        }
    }
}

/// The counters of a generation and its programs.
pub struct Meter {
    manifest: Manifest,
    maps: [Counters; 3],
    programs: BTreeMap<Program, Running>,
    /// What the programs had run when nothing was attached yet: the self-test.
    before: BTreeMap<Program, ProgramRun>,
}

type Counters = PerCpuArray<MapData, [u64; 2]>;

/// A program, held open.
enum Running {
    Xdp(Xdp),
    Tc(SchedClassifier),
}

impl Meter {
    /// Of generation `number`, which is pinned and not attached yet.
    ///
    /// # Errors
    ///
    /// Manifest or counters cannot be opened.
    pub fn of_generation(lock: &Lock, number: u64) -> Result<Self, DatapathError> {
        let mut meter = Self::open(&lock.pins().generation(number))?;
        meter.before = meter.all_runs();
        Ok(meter)
    }

    /// Of the published generation; `None` where there is none.
    ///
    /// # Errors
    ///
    /// Manifest or counters cannot be opened.
    pub fn of_current(lock: &Lock) -> Result<Option<Self>, DatapathError> {
        lock.pins().current()?.as_deref().map(Self::open).transpose()
    }

    fn open(directory: &Path) -> Result<Self, DatapathError> {
        let manifest = Manifest::read(&directory.join(MANIFEST))?;
        let [xdp, tc_behind_xdp, tc] = COUNTER_MAPS.map(|name| counter_map(&directory.join(name)));
        let programs = Program::ALL
            .into_iter()
            .filter(|program| *program != Program::Explain)
            .filter_map(|program| Some((program, Running::open(directory, program)?)))
            .collect();
        let maps = [xdp?, tc_behind_xdp?, tc?];
        Ok(Self { manifest, maps, programs, before: BTreeMap::new() })
    }

    /// What the generation is made of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// All counters, by the interface they are of; `None` is of no hook of its own.
    ///
    /// # Errors
    ///
    /// A counter map cannot be read.
    pub fn read(&self) -> Result<BTreeMap<Option<String>, Counts>, DatapathError> {
        let [xdp, tc_behind_xdp, tc] = &self.maps;
        by_hook(&self.manifest, [xdp, tc_behind_xdp, tc])
    }

    /// What the programs have run since they were attached; empty where the kernel has measured
    /// nothing. Of a generation that was there before this process, the self-test is in it, too.
    #[must_use]
    pub fn runs(&self) -> BTreeMap<Program, ProgramRun> {
        let since = |(program, run): (Program, ProgramRun)| {
            let run = run.since(self.before.get(&program).copied().unwrap_or_default());
            (run.runs > 0).then_some((program, run))
        };
        self.all_runs().into_iter().filter_map(since).collect()
    }

    fn all_runs(&self) -> BTreeMap<Program, ProgramRun> {
        let runs = self.programs.iter().filter_map(|(program, running)| {
            let info = match running {
                Running::Xdp(program) => program.info(),
                Running::Tc(program) => program.info(),
            };
            let info = info.ok()?;
            Some((*program, ProgramRun { time: info.run_time(), runs: info.run_count() }))
        });
        runs.collect()
    }
}

impl Running {
    /// Not every generation has every program.
    fn open(directory: &Path, program: Program) -> Option<Self> {
        let path = directory.join(program.name());
        if program.is_xdp() {
            Xdp::from_pin(&path, XdpAttachType::Interface).ok().map(Self::Xdp)
        } else {
            SchedClassifier::from_pin(&path).ok().map(Self::Tc)
        }
    }
}

/// The counters of XDP, tc behind XDP and tc, by interface.
pub(super) fn by_hook(
    manifest: &Manifest,
    maps: [&Counters; 3],
) -> Result<BTreeMap<Option<String>, Counts>, DatapathError> {
    let stride = counters_of_a_hook(manifest.groups.len()) as usize;
    let mut hooks: BTreeMap<Option<String>, Counts> = BTreeMap::new();
    for (kind, map) in maps.into_iter().enumerate() {
        let name = COUNTER_MAPS.get(kind).copied().unwrap_or_default();
        let counters = read_counters(map)
            .map_err(|error| DatapathError::Unreadable { path: name.into(), why: chain(&error) })?;
        let interfaces = std::iter::once(None).chain(manifest.interfaces.iter().cloned().map(Some));
        for (interface, counters) in interfaces.zip(counters.chunks(stride)) {
            let sheet = CounterSheet::new(
                counters
                    .iter()
                    .map(|[packets, bytes]| Counter { packets: *packets, bytes: *bytes }),
            );
            let counts = hooks.entry(interface).or_default();
            match kind {
                0 => counts.xdp = sheet,
                1 => counts.tc_behind_xdp = sheet,
                _ => counts.tc = sheet,
            }
        }
    }
    Ok(hooks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_self_test_ran_is_not_traffic() {
        let run = |nanoseconds, runs| ProgramRun { time: Duration::from_nanos(nanoseconds), runs };
        assert_eq!(run(900, 9).since(run(400, 4)), run(500, 5));
        assert_eq!(run(900, 9).since(ProgramRun::default()), run(900, 9));
        assert_eq!(run(1, 1).since(run(4, 4)), ProgramRun::default());
    }
}
