//! One loaded object: programs, tables and constants, immutable once published.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramFd, SchedClassifier, Xdp};
use aya::util::{KernelVersion, nr_cpus};
use aya::{Ebpf, EbpfLoader, Pod};
use gateway_common::abi::{BLOCK_ENTRIES, COUNTER_FIRST_GROUP, PortRange, PortSet, Slot};
use ipnet::IpNet;
use nix::sys::resource::{Resource, setrlimit};

use super::{DatapathError, Manifest};
use crate::config::Mark;
use crate::policy::Table;

/// The BPF object, built from `gateway-ebpf` by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/breakout365-ebpf"));

/// Attempts at inserting a prefix while the kernel says ENOMEM. A fresh trie allocates its nodes
/// from a per-CPU cache that is refilled in the background (kernel commit 3d8dc43eb2a3), so a
/// moment later there is memory.
const INSERT_ATTEMPTS: u32 = 200;
const INSERT_PAUSE: Duration = Duration::from_micros(200);

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
    /// Answers questions; never attached.
    Explain,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 5] =
        [Self::Xdp, Self::XdpFrags, Self::TcBehindXdp, Self::Tc, Self::Explain];

    /// Its name in the object, in the kernel and under the pins.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "b365_xdp",
            Self::XdpFrags => "b365_xdp_frags",
            Self::TcBehindXdp => "b365_tc_xdp",
            Self::Tc => "b365_tc",
            Self::Explain => "b365_explain",
        }
    }

    /// Whether it is an XDP program; the others are tc programs.
    #[must_use]
    pub const fn is_xdp(self) -> bool {
        match self {
            Self::Xdp | Self::XdpFrags | Self::Explain => true,
            Self::TcBehindXdp | Self::Tc => false,
        }
    }
}

/// The counters of the object, one map per kind of hook.
pub(super) const COUNTER_MAPS: [&str; 3] = ["COUNT_XDP", "COUNT_TC_XDP", "COUNT_TC"];
/// File name of the manifest under a generation's directory.
pub(super) const MANIFEST: &str = "manifest";

/// A table in the kernel, filled and verified, not yet attached to anything.
pub struct Generation {
    ebpf: Ebpf,
    programs: Vec<Program>,
    mark: Mark,
}

impl Generation {
    /// Loads the object with `table` and `mark`, fills its maps and reads every prefix back.
    ///
    /// # Errors
    ///
    /// [`DatapathError::Load`], [`DatapathError::Fill`] or [`DatapathError::Verify`]; nothing of
    /// the attempt stays in the kernel.
    pub fn load(table: &Table, mark: Mark) -> Result<Self, DatapathError> {
        let mut generation = Self::load_empty(table, mark)?;
        generation.fill(table)?;
        generation.verify(table)?;
        Ok(generation)
    }

    fn load_empty(table: &Table, mark: Mark) -> Result<Self, DatapathError> {
        let (v4, v6) = prefixes_by_family(table);
        let capacity = |need: usize| {
            u32::try_from(need.saturating_mul(2).max(16)).map_err(|error| load("table size", error))
        };
        let entries =
            |need: usize| u32::try_from(need.max(1)).map_err(|error| load("table size", error));
        let counters = entries(table.groups().len())?.saturating_add(COUNTER_FIRST_GROUP);
        let (index_v4, index_v6) = (in_memory(table.index_v4()), in_memory(table.index_v6()));
        // Before kernel 5.11 (commit 755e5d55367a) maps are charged to this limit, whose default is
        // smaller than one index. Where it may not be raised, loading says what is missing.
        let unlimited = nix::sys::resource::RLIM_INFINITY;
        setrlimit(Resource::RLIMIT_MEMLOCK, unlimited, unlimited).ok();
        let mut loader = EbpfLoader::new();
        loader
            .override_global("MARK_VALUE", &mark.value, true)
            .override_global("MARK_MASK", &mark.mask, true)
            .override_global("INDEX_V4", index_v4.as_slice(), true)
            .override_global("INDEX_V6", index_v6.as_slice(), true)
            .map_max_entries("TRIE_V4", capacity(v4)?)
            .map_max_entries("TRIE_V6", capacity(v6)?)
            .map_max_entries("BLOCKS", entries(table.blocks().len())?)
            .map_max_entries("PORT_SETS", entries(table.port_sets().len())?);
        for map in COUNTER_MAPS {
            loader.map_max_entries(map, counters);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| load("maps", chain(&error)))?;
        // XDP on packets of several buffers: kernel commit c2f2cdbeffda (5.18).
        let frags =
            KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(5, 18, 0));
        let programs: Vec<Program> = Program::ALL
            .into_iter()
            .filter(|program| *program != Program::XdpFrags || frags)
            .collect();
        for program in &programs {
            let outcome = if program.is_xdp() {
                xdp(&mut ebpf, *program)?.load()
            } else {
                tc(&mut ebpf, *program)?.load()
            };
            outcome.map_err(|error| load(program.name(), chain(&error)))?;
        }
        Ok(Self { ebpf, programs, mark })
    }

    fn fill(&mut self, table: &Table) -> Result<(), DatapathError> {
        let mut port_sets: Array<_, [[u16; 4]; 32]> = self.map("PORT_SETS")?;
        for (id, port_set) in (0..).zip(table.port_sets()) {
            port_sets
                .set(id, port_set_words(port_set), 0)
                .map_err(|error| fill("PORT_SETS", &error))?;
        }
        let mut blocks: Array<_, [u16; BLOCK_ENTRIES]> = self.map("BLOCKS")?;
        for (id, block) in (0..).zip(table.blocks()) {
            blocks.set(id, block, 0).map_err(|error| fill("BLOCKS", &error))?;
        }
        let mut trie: LpmTrie<_, [u8; 4], u32> = self.map("TRIE_V4")?;
        for (prefix, port_set) in table.prefixes() {
            if let IpNet::V4(prefix) = prefix {
                let key = Key::new(u32::from(prefix.prefix_len()), prefix.addr().octets());
                insert(&mut trie, "TRIE_V4", &key, port_set)?;
            }
        }
        let mut trie: LpmTrie<_, [u8; 16], u32> = self.map("TRIE_V6")?;
        for (prefix, port_set) in table.prefixes() {
            if let IpNet::V6(prefix) = prefix {
                let key = Key::new(u32::from(prefix.prefix_len()), prefix.addr().octets());
                insert(&mut trie, "TRIE_V6", &key, port_set)?;
            }
        }
        Ok(())
    }

    /// Looks every prefix up: an insert that reported success is not trusted.
    fn verify(&mut self, table: &Table) -> Result<(), DatapathError> {
        let trie: LpmTrie<_, [u8; 4], u32> = self.map("TRIE_V4")?;
        for (prefix, port_set) in table.prefixes() {
            if let IpNet::V4(v4) = prefix {
                let key = Key::new(u32::from(v4.prefix_len()), v4.addr().octets());
                verify_entry(prefix, port_set, trie.get(&key, 0))?;
            }
        }
        let trie: LpmTrie<_, [u8; 16], u32> = self.map("TRIE_V6")?;
        for (prefix, port_set) in table.prefixes() {
            if let IpNet::V6(v6) = prefix {
                let key = Key::new(u32::from(v6.prefix_len()), v6.addr().octets());
                verify_entry(prefix, port_set, trie.get(&key, 0))?;
            }
        }
        Ok(())
    }

    fn map<'a, M>(&'a mut self, name: &'static str) -> Result<M, DatapathError>
    where
        M: TryFrom<&'a mut aya::maps::Map, Error = MapError>,
    {
        let map = self.ebpf.map_mut(name).ok_or_else(|| load(name, "not in the object"))?;
        M::try_from(map).map_err(|error| fill(name, &error))
    }

    /// The programs this kernel could load.
    #[must_use]
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// The bits it was loaded with.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
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
    /// The program is not loaded on this kernel.
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
    /// The program is not loaded on this kernel, or `question` failed.
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
        super::loaded::read_counters(&counters).map_err(|error| fill(map, &error))
    }

    /// Sets all counters to zero: self-tests are not traffic.
    pub(super) fn reset_counters(&mut self) -> Result<(), DatapathError> {
        let cpus = nr_cpus().map_err(|(what, error)| load(what, error))?;
        for map in COUNTER_MAPS {
            let mut counters: PerCpuArray<_, [u64; 2]> = self.map(map)?;
            for index in 0..counters.len() {
                let zero =
                    PerCpuValues::try_from(vec![[0; 2]; cpus]).map_err(|error| load(map, error))?;
                counters.set(index, zero, 0).map_err(|error| fill(map, &error))?;
            }
        }
        Ok(())
    }

    /// Pins programs, counters and manifest in `directory`, which exists and is empty.
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
        for map in COUNTER_MAPS {
            let path = directory.join(map);
            let loaded = self.ebpf.map(map).ok_or_else(|| load(map, "not in the object"))?;
            loaded.pin(&path).map_err(|error| failed(&path, chain(&error)))?;
        }
        manifest.pin(&directory.join(MANIFEST))
    }

    /// The whole object, for the log reader of the debug flavour.
    #[cfg(feature = "packet-log")]
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
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

fn prefixes_by_family(table: &Table) -> (usize, usize) {
    let v4 = table.prefixes().filter(|(prefix, _)| matches!(prefix, IpNet::V4(_))).count();
    (v4, table.prefixes().len().saturating_sub(v4))
}

/// An index by number, laid out as the programs look it up: by the word as it is in memory.
fn in_memory(index: &[u16]) -> Vec<u16> {
    (0..=u16::MAX)
        .map(|word| index.get(usize::from(u16::from_be(word))).copied().unwrap_or(Slot::MISS.0))
        .collect()
}

fn port_set_words(port_set: &PortSet) -> [[u16; 4]; 32] {
    let mut words = [[0; 4]; 32];
    for (to, range) in words.iter_mut().zip(port_set.tcp.iter().chain(&port_set.udp)) {
        let PortRange { from, to: last, group, reserved } = *range;
        *to = [from, last, group, reserved];
    }
    words
}

fn insert<K: Pod>(
    trie: &mut LpmTrie<&mut MapData, K, u32>,
    map: &'static str,
    key: &Key<K>,
    port_set: u16,
) -> Result<(), DatapathError> {
    let mut attempt = 0;
    loop {
        match trie.insert(key, u32::from(port_set), 0) {
            Ok(()) => return Ok(()),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(nix::libc::ENOMEM)
                    && attempt < INSERT_ATTEMPTS =>
            {
                attempt += 1;
                sleep(INSERT_PAUSE);
            }
            Err(error) => return Err(fill(map, &error)),
        }
    }
}

fn verify_entry(
    prefix: IpNet,
    expected: u16,
    seen: Result<u32, MapError>,
) -> Result<(), DatapathError> {
    let seen = match seen {
        Ok(port_set) if port_set == u32::from(expected) => return Ok(()),
        Ok(port_set) => format!("port set {port_set}"),
        Err(error) => error.to_string(),
    };
    Err(DatapathError::Verify { prefix: prefix.to_string(), expected, seen })
}

fn load(what: impl Into<String>, why: impl Display) -> DatapathError {
    DatapathError::Load { what: what.into(), why: why.to_string() }
}

fn fill(map: &'static str, error: &MapError) -> DatapathError {
    DatapathError::Fill { map, why: chain(error) }
}
