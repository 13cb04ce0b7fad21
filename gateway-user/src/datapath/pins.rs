//! The directory on the BPF file system where everything that is published lives.
//!
//! ```text
//! <pins>/                  locked (flock) by the daemon or by `down`
//!   current -> gen-7       the published generation
//!   gen-7/                 its programs, counters, samples and manifest
//!   control                kill switch and dead man's switch, of all generations
//!   tracing/               locked by `trace`
//!   link-12-xdp            native XDP link of interface index 12
//!   link-12-skb            generic XDP link
//!   link-12-tc             TCX link
//!   clsact-12[-own]        a marker: tc is a clsact filter, for want of TCX; `own`: the qdisc is ours
//! ```
//!
//! Names have no dots: the BPF file system reserves those (`bpf_lookup`, kernel
//! `kernel/bpf/inode.c`), and VLAN interfaces have dots in their names; hence interface indices.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::DatapathError;
use super::system::require_bpffs;

const CURRENT: &str = "current";
const CONTROL: &str = "control";
const TRACING: &str = "tracing";
const GENERATION_PREFIX: &str = "gen-";

/// Paths below one pin directory. Reading needs no lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
}

/// The exclusive right to change what is under a pin directory, until dropped.
#[derive(Debug)]
pub struct Lock {
    pins: Pins,
    _directory: File,
}

/// A link, or what stands for one, found under the pin directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LinkKind {
    /// Native XDP.
    Native,
    /// Generic XDP.
    Generic,
    /// TCX.
    Tcx,
    /// A filter of a clsact qdisc that was there before.
    Clsact,
    /// A filter of a clsact qdisc that we added.
    ClsactOwn,
}

impl LinkKind {
    const ALL: [Self; 5] = [Self::Native, Self::Generic, Self::Tcx, Self::Clsact, Self::ClsactOwn];

    /// Whether it is XDP's, and not tc's.
    pub(super) fn is_xdp(self) -> bool {
        matches!(self, Self::Native | Self::Generic)
    }

    /// What [`super::Attached`] calls it.
    pub(super) fn carrier(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tcx => "tcx",
            Self::Clsact | Self::ClsactOwn => "clsact",
        }
    }

    fn file_name(self, ifindex: u32) -> String {
        match self {
            Self::Native => format!("link-{ifindex}-xdp"),
            Self::Generic => format!("link-{ifindex}-skb"),
            Self::Tcx => format!("link-{ifindex}-tc"),
            Self::Clsact => format!("clsact-{ifindex}"),
            Self::ClsactOwn => format!("clsact-{ifindex}-own"),
        }
    }

    fn parse(name: &str) -> Option<(u32, Self)> {
        let mut parts = name.split('-');
        let (_, ifindex) = (parts.next()?, parts.next()?.parse().ok()?);
        Self::ALL
            .into_iter()
            .find(|kind| kind.file_name(ifindex) == name)
            .map(|kind| (ifindex, kind))
    }
}

impl Pins {
    /// The pin directory `root`, whether it exists or not.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Creates the directory where it is missing and locks it. Waits up to a second, so that a
    /// command that only looks does not make a daemon fail to start.
    ///
    /// # Errors
    ///
    /// [`DatapathError::Busy`] when another process keeps the lock, [`DatapathError::NotBpfFs`]
    /// when the directory is not on a BPF file system.
    pub fn lock(&self) -> Result<Lock, DatapathError> {
        if !self.root.exists() {
            require_bpffs(self.root.parent().unwrap_or(&self.root))?;
            DirBuilder::new()
                .mode(0o700)
                .create(&self.root)
                .or_else(|error| {
                    // Another process was faster.
                    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
                })
                .map_err(|source| self.error("cannot create the directory", source))?;
        }
        require_bpffs(&self.root)?;
        let directory =
            File::open(&self.root).map_err(|source| self.error("cannot open", source))?;
        for _ in 0..20 {
            match directory.try_lock() {
                Ok(()) => return Ok(Lock { pins: self.clone(), _directory: directory }),
                Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(50)),
                Err(TryLockError::Error(source)) => return Err(self.error("cannot lock", source)),
            }
        }
        Err(DatapathError::Busy { path: self.root.clone() })
    }

    /// Whether some process holds the lock, which is what a running daemon does.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        File::open(&self.root)
            .is_ok_and(|directory| matches!(directory.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// The directory of the published generation, if there is one.
    pub(super) fn current(&self) -> Result<Option<PathBuf>, DatapathError> {
        match fs::read_link(self.root.join(CURRENT)) {
            Ok(target) => Ok(Some(self.root.join(target))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
            Err(source) => Err(self.error("cannot read `current`", source)),
        }
    }

    /// The directory of generation `number`.
    pub(super) fn generation(&self, number: u64) -> PathBuf {
        self.root.join(format!("{GENERATION_PREFIX}{number}"))
    }

    /// Where the control map is or would be.
    pub(super) fn control(&self) -> PathBuf {
        self.root.join(CONTROL)
    }

    /// The directory that the one process that traces locks, there since the first one.
    pub(super) fn tracing(&self) -> PathBuf {
        self.root.join(TRACING)
    }

    /// Where the link of `kind` on interface `ifindex` is or would be.
    pub(super) fn link(&self, ifindex: u32, kind: LinkKind) -> PathBuf {
        self.root.join(kind.file_name(ifindex))
    }

    /// All links, by interface index and kind.
    pub(super) fn links(&self) -> Result<BTreeMap<(u32, LinkKind), PathBuf>, DatapathError> {
        Ok(self
            .names()?
            .into_iter()
            .filter_map(|name| LinkKind::parse(&name).map(|key| (key, self.root.join(&name))))
            .collect())
    }

    fn generations(&self) -> Result<BTreeMap<u64, PathBuf>, DatapathError> {
        Ok(self
            .names()?
            .into_iter()
            .filter_map(|name| {
                let number = name.strip_prefix(GENERATION_PREFIX)?.parse().ok()?;
                Some((number, self.root.join(&name)))
            })
            .collect())
    }

    fn names(&self) -> Result<Vec<String>, DatapathError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.error("cannot list", source)),
        };
        entries
            .map(|entry| {
                let entry = entry.map_err(|source| self.error("cannot list", source))?;
                Ok(entry.file_name().to_string_lossy().into_owned())
            })
            .collect()
    }

    fn error(&self, what: &'static str, source: io::Error) -> DatapathError {
        DatapathError::Pins { path: self.root.clone(), what, source }
    }
}

impl Lock {
    /// The locked directory.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Number of the next generation: one more than any that left a directory.
    ///
    /// # Errors
    ///
    /// The directory cannot be listed.
    pub fn next_generation(&self) -> Result<u64, DatapathError> {
        let last = self.pins.generations()?.into_keys().next_back().unwrap_or(0);
        Ok(last.saturating_add(1))
    }

    /// Removes the control map.
    pub(super) fn remove_control(&self) -> Result<(), DatapathError> {
        remove_if_there(&self.pins.control())
            .map_err(|source| self.pins.error("cannot remove `control`", source))
    }

    /// Makes `number` the published generation, in one step.
    pub(super) fn set_current(&self, number: u64) -> Result<(), DatapathError> {
        let (root, error) = (&self.pins.root, |what, source| self.pins.error(what, source));
        let next = root.join("next");
        remove_if_there(&next).map_err(|source| error("cannot remove a stale `next`", source))?;
        symlink(format!("{GENERATION_PREFIX}{number}"), &next)
            .map_err(|source| error("cannot create `next`", source))?;
        fs::rename(&next, root.join(CURRENT))
            .map_err(|source| error("cannot rename `next` to `current`", source))
    }

    /// Creates the directory of generation `number`, emptying one that a crash left behind.
    pub(super) fn create_generation(&self, number: u64) -> Result<PathBuf, DatapathError> {
        self.remove_generation(number)?;
        let path = self.pins.generation(number);
        DirBuilder::new().mode(0o700).create(&path).map_err(|source| DatapathError::Pins {
            path: path.clone(),
            what: "cannot create the directory",
            source,
        })?;
        Ok(path)
    }

    /// Removes the directory of generation `number` with all pins in it.
    pub(super) fn remove_generation(&self, number: u64) -> Result<(), DatapathError> {
        let path = self.pins.generation(number);
        match fs::remove_dir_all(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(DatapathError::Pins { path, what: "cannot remove", source }),
        }
    }

    /// Removes every generation but `keep`.
    pub(super) fn remove_other_generations(&self, keep: u64) -> Result<(), DatapathError> {
        self.pins
            .generations()?
            .into_keys()
            .filter(|number| *number != keep)
            .try_for_each(|number| self.remove_generation(number))
    }

    /// Removes `current`, the control map, every generation and the directory itself, unless that was
    /// made for us where we may not remove it: as a service sees it, it is a mount point. Links must be
    /// gone.
    pub(super) fn remove_everything(self) -> Result<(), DatapathError> {
        let root = &self.pins.root;
        for name in [CURRENT, "next", CONTROL] {
            remove_if_there(&root.join(name))
                .map_err(|source| self.pins.error("cannot remove a link in it", source))?;
        }
        match fs::remove_dir(self.pins.tracing()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.pins.error("cannot remove `tracing`", error));
            }
            Ok(()) | Err(_) => {}
        }
        self.remove_other_generations(0)?;
        match fs::remove_dir(root) {
            Err(error) if is_of_others(error.kind()) => Ok(()),
            removed => removed.map_err(|source| self.pins.error("cannot remove", source)),
        }
    }
}

/// Whether a directory cannot be removed for where it is, not for what is in it.
fn is_of_others(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ResourceBusy
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::PermissionDenied
    )
}

/// Removes a file that may be missing.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_read_back_as_they_were_written() {
        for kind in LinkKind::ALL {
            let name = kind.file_name(12);
            assert!(!name.contains('.'), "{name}");
            assert_eq!(LinkKind::parse(&name), Some((12, kind)));
        }
        assert_eq!(LinkKind::parse("link-x-tc"), None);
        assert_eq!(LinkKind::parse("gen-1"), None);
        assert_eq!(LinkKind::parse("current"), None);
    }
}
