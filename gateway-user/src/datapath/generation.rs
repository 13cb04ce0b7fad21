//! One loaded object: programs, tables and constants, immutable once published.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya::maps::{Array, HashMap, MapError, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramFd, SchedClassifier, Xdp};
use aya::util::{KernelVersion, nr_cpus};
use aya::{Ebpf, EbpfLoader};
use gateway_common::abi::{COUNTER_FIRST_GROUP, MAX_FLOWS, MAX_WINDOWS, Slot};
use gateway_common::{control, drawn};
use ipnet::IpNet;
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};

use super::hook_spread::HookSpread;
use super::link::errno;
use super::object::object;
use super::windows::FlowKey;
use super::{DatapathError, Manifest, Redirect, fill};
use crate::config::{Mark, Mode};
use crate::policy::Table;

/// The programs of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// XDP for packets of one buffer.
    Xdp,
    /// XDP for packets of several buffers: native mode on kernel 5.18 and newer.
    XdpFrags,
    /// tc behind XDP.
    TcBehindXdp,
    /// tc alone.
    Tc,
    /// tc of an interface whose packets have no Ethernet header.
    TcIp,
    /// Answers questions; never attached.
    Explain,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 6] =
        [Self::Xdp, Self::XdpFrags, Self::TcBehindXdp, Self::Tc, Self::TcIp, Self::Explain];

    /// Its name in the object, in the kernel and under the pins.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "b365_xdp",
            Self::XdpFrags => "b365_xdp_frags",
            Self::TcBehindXdp => "b365_tc_xdp",
            Self::Tc => "b365_tc",
            Self::TcIp => "b365_tc_ip",
            Self::Explain => "b365_explain",
        }
    }

    /// Whether it is an XDP program; the others are tc programs.
    #[must_use]
    pub const fn is_xdp(self) -> bool {
        match self {
            Self::Xdp | Self::XdpFrags | Self::Explain => true,
            Self::TcBehindXdp | Self::Tc | Self::TcIp => false,
        }
    }

    /// The map it counts in; `None`, it does not count.
    pub(super) const fn counter_map(self) -> Option<&'static str> {
        let [xdp, tc_behind_xdp, tc] = COUNTER_MAPS;
        match self {
            Self::Xdp | Self::XdpFrags => Some(xdp),
            Self::TcBehindXdp => Some(tc_behind_xdp),
            Self::Tc | Self::TcIp => Some(tc),
            Self::Explain => None,
        }
    }
}

/// The counters of the object, one map per kind of hook.
pub(super) const COUNTER_MAPS: [&str; 3] = ["COUNT_XDP", "COUNT_TC_XDP", "COUNT_TC"];
/// The ring buffer of what is drawn for `trace`.
pub(super) const SAMPLES: &str = "SAMPLES";
/// Flows of support windows, and how many; pinned where there are windows.
pub(super) const FLOW_MAPS: [&str; 2] = ["FLOWS", "COUNT_FLOWS"];
/// File name of the manifest under a generation's directory.
pub(super) const MANIFEST: &str = "manifest";

/// What a generation is loaded with besides its table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// The bits that say Direct.
    pub mark: Mark,
    /// Whether they are set.
    pub mode: Mode,
    /// Indexes of the interfaces that the table's sources list, as far as they exist.
    pub ingress: BTreeMap<String, u32>,
    /// Indexes of the interfaces that get counters of their own, in the order of those.
    pub hooks: Vec<u32>,
    /// tc checks one proposal of XDP in so many; 0 is none.
    pub self_check: u32,
    /// Where Direct packets are redirected to; `None`, they are marked.
    pub redirect: Option<Redirect>,
    /// What is loaded; each program takes the verifier its time. In place of one that this kernel does not
    /// know there is the one that serves for it.
    pub programs: BTreeSet<Program>,
    /// No function is global, as on a kernel that takes no such ones: verifiers walk more.
    pub static_functions: bool,
}

/// Every program, and the default but for the mark.
impl From<Mark> for Setting {
    fn from(mark: Mark) -> Self {
        Self { mark, programs: Program::ALL.into(), ..Self::default() }
    }
}

/// A table in the kernel, filled and verified, not yet attached to anything.
pub struct Generation {
    ebpf: Ebpf,
    programs: Vec<Program>,
    setting: Setting,
}

impl Generation {
    /// Loads the object with `table` and `setting`, fills its maps and reads every prefix back. It
    /// has switches of its own, which are on.
    ///
    /// # Errors
    ///
    /// [`DatapathError::Load`], [`DatapathError::Fill`] or [`DatapathError::Verify`]; nothing of
    /// the attempt stays in the kernel.
    pub fn load(table: &Table, setting: Setting) -> Result<Self, DatapathError> {
        let uplinks = setting.redirect.as_ref().map_or([0; 2], Redirect::uplinks);
        let mut generation = Self::load_filled(table, setting, None)?;
        let mut words: Array<_, u64> = generation.map("CONTROL")?;
        let [uplink_v4, uplink_v6] = uplinks.map(u64::from);
        for (index, word) in [
            (control::SWITCH, control::ON),
            (control::DEADLINE, control::NEVER),
            (control::REDIRECT_V4, uplink_v4),
            (control::REDIRECT_V6, uplink_v6),
        ] {
            words.set(index, word, 0).map_err(|error| fill::failed("CONTROL", &error))?;
        }
        Ok(generation)
    }

    /// As [`Self::load`], under the switches that are pinned at `control`.
    pub(super) fn load_under(
        control: &Path,
        table: &Table,
        setting: Setting,
    ) -> Result<Self, DatapathError> {
        Self::load_filled(table, setting, Some(control))
    }

    fn load_filled(
        table: &Table,
        setting: Setting,
        control: Option<&Path>,
    ) -> Result<Self, DatapathError> {
        let mut generation = Self::load_empty(table, setting, control)?;
        fill::fill(&mut generation.ebpf, table, &generation.setting.ingress)?;
        fill::ports(&mut generation.ebpf, generation.setting.redirect.as_ref())?;
        fill::verify(&mut generation.ebpf, table)?;
        Ok(generation)
    }

    fn load_empty(
        table: &Table,
        setting: Setting,
        control: Option<&Path>,
    ) -> Result<Self, DatapathError> {
        let (v4, v6) = by_family(table.prefixes().map(|(prefix, _)| prefix));
        let (sources_v4, sources_v6) = by_family(table.sources().prefixes.iter().copied());
        let scoped = u32::from(table.sources().are_listed());
        let capacity = |need: usize| {
            let need = u64::try_from(need).map_err(|error| load("table size", error))?;
            u32::try_from(trie_capacity(need)).map_err(|error| load("table size", error))
        };
        let entries =
            |need: usize| u32::try_from(need.max(1)).map_err(|error| load("table size", error));
        let counters = counters_of_a_hook(table.all_groups().len());
        let spread = HookSpread::of(&setting.hooks, counters);
        let counters = counters.saturating_mul(entries(setting.hooks.len().saturating_add(1))?);
        let windows = Windows::of(table)?;
        let (index_v4, index_v6) = (in_memory(table.index_v4()), in_memory(table.index_v6()));
        // Before kernel 5.11 (commit 755e5d55367a) maps are charged to this limit, whose default is
        // smaller than one index. Where it may not be raised, loading says what is missing.
        let unlimited = nix::sys::resource::RLIM_INFINITY;
        setrlimit(Resource::RLIMIT_MEMLOCK, unlimited, unlimited).ok();
        // In shadow, Direct packets keep their way through all programs, and what says so in the
        // end is no bit at all.
        let mark_value = match setting.mode {
            Mode::Mark => setting.mark.value,
            Mode::Shadow => 0,
        };
        let self_check = drawn::limit(setting.self_check);
        let is_5_18 =
            KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(5, 18, 0));
        let coarse_clock = u32::from(is_5_18);
        let [uplink_v4, uplink_v6] = setting.redirect.as_ref().map_or([0; 2], Redirect::uplinks);
        let hop_v6 = setting.redirect.as_ref().map_or([0; 8], Redirect::hop_words);
        let (port, port_mac) = setting.redirect.as_ref().map_or((0, [0; 3]), Redirect::first_port);
        let ports = setting.redirect.as_ref().map_or(0, |redirect| redirect.entries().len());
        let table_of_redirect = setting.redirect.as_ref().map_or(0, |redirect| redirect.table);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("MARK_VALUE", &mark_value, true)
            .override_global("MARK_MASK", &setting.mark.mask, true)
            .override_global("SCOPED", &scoped, true)
            .override_global("SELF_CHECK", &self_check, true)
            .override_global("COARSE_CLOCK", &coarse_clock, true)
            .override_global("WINDOWED", &windows.windowed, true)
            .override_global("WINDOW_END", windows.ends.as_slice(), true)
            .override_global("WINDOW_ID", windows.ids.as_slice(), true)
            .override_global("SUPPORT_FIRST", &windows.first, true)
            .override_global("SUPPORT_GROUPS", &windows.groups, true)
            .override_global("UPLINK_V4", &uplink_v4, true)
            .override_global("UPLINK_V6", &uplink_v6, true)
            .override_global("DIRECT_TABLE", &table_of_redirect, true)
            .override_global("PORT", &port, true)
            .override_global("PORT_MAC", port_mac.as_slice(), true)
            .override_global("HOP_V6", hop_v6.as_slice(), true)
            .override_global("INDEX_V4", index_v4.as_slice(), true)
            .override_global("INDEX_V6", index_v6.as_slice(), true)
            .override_global("HOOKS", spread.buckets.as_slice(), true)
            .override_global("HOOK_MULTIPLIER", &spread.multiplier, true)
            .map_max_entries("TRIE_V4", capacity(v4)?)
            .map_max_entries("TRIE_V6", capacity(v6)?)
            .map_max_entries("SOURCES_V4", capacity(sources_v4)?)
            .map_max_entries("SOURCES_V6", capacity(sources_v6)?)
            .map_max_entries("CLIENTS_V4", capacity(windows.clients.0)?)
            .map_max_entries("CLIENTS_V6", capacity(windows.clients.1)?)
            .map_max_entries("SUPPORT_V4", capacity(windows.prefixes.0)?)
            .map_max_entries("SUPPORT_V6", capacity(windows.prefixes.1)?)
            .map_max_entries("SUPPORT_PORTS", entries(table.support().port_sets().len())?)
            .map_max_entries("FLOWS", windows.flows)
            .map_max_entries("COUNT_FLOWS", entries(table.support().groups().len())?)
            .map_max_entries("INGRESS", entries(setting.ingress.len())?)
            .map_max_entries("PORTS", entries(ports)?)
            .map_max_entries("BLOCKS", entries(table.blocks().len())?)
            .map_max_entries("PORT_SETS", entries(table.port_sets().len())?);
        for map in COUNTER_MAPS {
            loader.map_max_entries(map, counters);
        }
        if let Some(path) = control {
            loader.map_pin_path("CONTROL", path);
        }
        let object = object(setting.static_functions).map_err(|why| load("object", why))?;
        let mut ebpf = loader.load(&object).map_err(|error| load("maps", chain(&error)))?;
        // XDP on packets of several buffers: kernel commit c2f2cdbeffda (5.18).
        let mut programs = setting.programs.clone();
        if !is_5_18 && programs.remove(&Program::XdpFrags) {
            programs.insert(Program::Xdp);
        }
        for program in &programs {
            load_program(&mut ebpf, *program)?;
        }
        Ok(Self { ebpf, programs: programs.into_iter().collect(), setting })
    }

    fn map<'a, M>(&'a mut self, name: &'static str) -> Result<M, DatapathError>
    where
        M: TryFrom<&'a mut aya::maps::Map, Error = MapError>,
    {
        fill::map(&mut self.ebpf, name)
    }

    /// The programs that are loaded.
    #[must_use]
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// What it was loaded with.
    #[must_use]
    pub fn setting(&self) -> &Setting {
        &self.setting
    }

    /// The program for native XDP.
    pub(super) fn native_program(&self) -> Program {
        if self.programs.contains(&Program::XdpFrags) { Program::XdpFrags } else { Program::Xdp }
    }

    /// An XDP program, to attach it.
    pub(super) fn xdp_mut(&mut self, program: Program) -> Result<&mut Xdp, DatapathError> {
        xdp(&mut self.ebpf, program)
    }

    /// A tc program, to attach it.
    pub(super) fn tc_mut(
        &mut self,
        program: Program,
    ) -> Result<&mut SchedClassifier, DatapathError> {
        tc(&mut self.ebpf, program)
    }

    /// The descriptor of a program.
    ///
    /// # Errors
    ///
    /// The program is not loaded.
    pub fn program_fd(&self, program: Program) -> Result<&ProgramFd, DatapathError> {
        let loaded = self
            .ebpf
            .program(program.name())
            .ok_or_else(|| load(program.name(), "not in the object"))?;
        loaded.fd().map_err(|error| load(program.name(), chain(&error)))
    }

    /// Runs `question` with the descriptor of a program.
    ///
    /// # Errors
    ///
    /// The program is not loaded, or `question` failed.
    pub fn ask<T>(
        &self,
        program: Program,
        question: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Result<T, DatapathError> {
        question(self.program_fd(program)?.as_fd())
            .map_err(|source| DatapathError::TestRun { program: program.name(), source })
    }

    /// Instructions the verifier walked for each program; `None` on kernels before 5.16.
    #[must_use]
    pub fn verified_instructions(&self) -> BTreeMap<&'static str, Option<u32>> {
        self.programs
            .iter()
            .map(|program| {
                let info = self.ebpf.program(program.name()).and_then(|loaded| loaded.info().ok());
                (program.name(), info.and_then(|info| info.verified_instruction_count()))
            })
            .collect()
    }

    /// Bytes of kernel memory that each map is charged with (`memlock` of its fdinfo).
    #[must_use]
    pub fn map_memory(&self) -> BTreeMap<String, u64> {
        self.ebpf
            .maps()
            .filter_map(|(name, map)| Some((name.to_owned(), super::loaded::memlock(map)?)))
            .collect()
    }

    /// The counters of one kind of hook, added up over CPUs, by counter index.
    pub(super) fn counters(&mut self, map: &'static str) -> Result<Vec<[u64; 2]>, DatapathError> {
        let counters: PerCpuArray<_, [u64; 2]> = self.map(map)?;
        super::loaded::read_counters(&counters).map_err(|error| fill::failed(map, &error))
    }

    /// Lets the programs decide by the tables alone while `under_test`, whatever is switched off, and
    /// not so afterwards.
    pub(super) fn set_under_test(&mut self, under_test: bool) -> Result<(), DatapathError> {
        let failed = |error: MapError| fill::failed("SELF_TEST", &error);
        let mut word: Array<_, u32> = self.map("SELF_TEST")?;
        let value = u32::from(under_test);
        word.set(0, value, 0).map_err(failed)?;
        // A generation that stayed so would not obey `off`.
        if word.get(&0, 0).map_err(failed)? == value {
            Ok(())
        } else {
            Err(DatapathError::Fill { map: "SELF_TEST", why: "it reads back otherwise".to_owned() })
        }
    }

    /// Takes flows of support windows for counted.
    pub(super) fn take_flows(&mut self, flows: &[FlowKey]) -> Result<(), DatapathError> {
        let [name, _] = FLOW_MAPS;
        let mut map: HashMap<_, FlowKey, u32> = self.map(name)?;
        for flow in flows {
            map.insert(flow, 1, 0).map_err(|error| fill::failed(name, &error))?;
        }
        Ok(())
    }

    /// Lets tc check proposals: from now on they are of this generation.
    pub(super) fn set_serving(&mut self) -> Result<(), DatapathError> {
        let mut word: Array<_, u32> = self.map("SERVES")?;
        word.set(0, 1, 0).map_err(|error| fill::failed("SERVES", &error))
    }

    /// Sets all counters to zero: self-tests are not traffic.
    pub(super) fn reset_counters(&mut self) -> Result<(), DatapathError> {
        let cpus = nr_cpus().map_err(|(what, error)| load(what, error))?;
        for map in COUNTER_MAPS {
            let mut counters: PerCpuArray<_, [u64; 2]> = self.map(map)?;
            for index in 0..counters.len() {
                let zero =
                    PerCpuValues::try_from(vec![[0; 2]; cpus]).map_err(|error| load(map, error))?;
                counters.set(index, zero, 0).map_err(|error| fill::failed(map, &error))?;
            }
        }
        Ok(())
    }

    /// Pins programs, counters, samples and manifest in `directory`, which exists and is empty.
    pub(super) fn pin(
        &mut self,
        directory: &Path,
        manifest: &Manifest,
    ) -> Result<(), DatapathError> {
        let failed = |path: &Path, why: String| DatapathError::Unreadable {
            path: path.to_owned(),
            why: format!("cannot pin: {why}"),
        };
        for program in &self.programs {
            let path = directory.join(program.name());
            let loaded = self
                .ebpf
                .program_mut(program.name())
                .ok_or_else(|| load(program.name(), "not in the object"))?;
            loaded.pin(&path).map_err(|error| failed(&path, chain(&error)))?;
        }
        for map in COUNTER_MAPS.into_iter().chain([SAMPLES]) {
            let path = directory.join(map);
            let loaded = self.ebpf.map(map).ok_or_else(|| load(map, "not in the object"))?;
            loaded.pin(&path).map_err(|error| failed(&path, chain(&error)))?;
        }
        if !manifest.support.windows.is_empty() {
            for map in FLOW_MAPS {
                let path = directory.join(map);
                let loaded = self.ebpf.map(map).ok_or_else(|| load(map, "not in the object"))?;
                loaded.pin(&path).map_err(|error| failed(&path, chain(&error)))?;
            }
        }
        manifest.pin(&directory.join(MANIFEST))
    }

    /// The whole object, for the log reader of the debug flavour.
    #[cfg(feature = "packet-log")]
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// Room for this many prefixes in a trie, and as many again: what is filled to the brim is not
/// sure to take the last one.
#[must_use]
pub fn trie_capacity(prefixes: u64) -> u64 {
    prefixes.saturating_mul(2).max(16)
}

/// How many counters a hook has, with this many provenance groups.
pub(super) fn counters_of_a_hook(groups: usize) -> u32 {
    u32::try_from(groups.max(1)).unwrap_or(u32::MAX).saturating_add(COUNTER_FIRST_GROUP)
}

/// An error with its causes on one line. Of a verifier's log, which aya quotes in full, the last
/// words are kept: they say what is wrong.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    const LAST_WORDS: usize = 300;
    let text = causes(error);
    match text.split_once("Verifier output:") {
        Some((what, log)) => {
            let log: String = log.split_whitespace().collect::<Vec<_>>().join(" ");
            let skip = log.chars().count().saturating_sub(LAST_WORDS);
            let last: String = log.chars().skip(skip).collect();
            format!("{what}verifier: …{last}")
        }
        None => text,
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The verifier gives up with `EAGAIN` when a signal comes in the time that it takes
/// (`do_check`, kernel `kernel/bpf/verifier.c`), which is no reason to refuse a list.
const LOAD_ATTEMPTS: usize = 5;

fn load_program(ebpf: &mut Ebpf, program: Program) -> Result<(), DatapathError> {
    let mut attempts = 1;
    loop {
        let outcome =
            if program.is_xdp() { xdp(ebpf, program)?.load() } else { tc(ebpf, program)?.load() };
        match outcome {
            Err(error) if attempts < LOAD_ATTEMPTS && errno(&error) == Some(libc::EAGAIN) => {
                attempts += 1;
            }
            outcome => return outcome.map_err(|error| load(program.name(), chain(&error))),
        }
    }
}

fn xdp(ebpf: &mut Ebpf, program: Program) -> Result<&mut Xdp, DatapathError> {
    ebpf.program_mut(program.name())
        .ok_or_else(|| load(program.name(), "not in the object"))?
        .try_into()
        .map_err(|error| load(program.name(), chain(&error)))
}

fn tc(ebpf: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, DatapathError> {
    ebpf.program_mut(program.name())
        .ok_or_else(|| load(program.name(), "not in the object"))?
        .try_into()
        .map_err(|error| load(program.name(), chain(&error)))
}

/// How many prefixes there are of IPv4 and of IPv6.
fn by_family(prefixes: impl Iterator<Item = IpNet>) -> (usize, usize) {
    prefixes.fold((0, 0), |(v4, v6): (usize, usize), prefix| match prefix {
        IpNet::V4(_) => (v4.saturating_add(1), v6),
        IpNet::V6(_) => (v4, v6.saturating_add(1)),
    })
}

/// The constants and sizes of support windows.
struct Windows {
    windowed: u32,
    ends: [u64; MAX_WINDOWS],
    ids: [u32; MAX_WINDOWS],
    first: u32,
    groups: u32,
    clients: (usize, usize),
    prefixes: (usize, usize),
    flows: u32,
}

impl Windows {
    fn of(table: &Table) -> Result<Self, DatapathError> {
        let support = table.support();
        let number = |count: usize| u32::try_from(count).map_err(|error| load("table size", error));
        let (mut ends, mut ids) = ([0; MAX_WINDOWS], [0; MAX_WINDOWS]);
        for ((end, id), window) in ends.iter_mut().zip(&mut ids).zip(support.windows()) {
            (*end, *id) = (window.end, window.id);
        }
        Ok(Self {
            windowed: u32::from(!support.is_empty()),
            ends,
            ids,
            first: number(table.groups().len())?,
            groups: number(support.group_count())?,
            clients: by_family(support.clients().map(|(prefix, _)| prefix)),
            prefixes: by_family(support.prefixes().map(|(prefix, _)| prefix)),
            flows: if support.is_empty() { 1 } else { MAX_FLOWS },
        })
    }
}

/// An index by number, laid out as the programs look it up: by the word as it is in memory.
fn in_memory(index: &[u16]) -> Vec<u16> {
    (0..=u16::MAX)
        .map(|word| index.get(usize::from(u16::from_be(word))).copied().unwrap_or(Slot::MISS.0))
        .collect()
}

pub(super) fn load(what: impl Into<String>, why: impl Display) -> DatapathError {
    DatapathError::Load { what: what.into(), why: why.to_string() }
}
