//! A BPF file system of one's own, so that pins meet nobody else's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::Owner;
use super::names::{sweep_once, temporary};

/// A BPF file system on a directory of the temporary directory; unmounted with its value.
#[derive(Debug)]
pub struct BpfFs {
    name: String,
    released: bool,
}

impl BpfFs {
    /// Mounts one for this process.
    ///
    /// # Errors
    ///
    /// Not root, or a kernel without BPF.
    pub fn new() -> Result<Self> {
        Self::owned(Owner::Process)
    }

    /// Mounts one for `owner`.
    ///
    /// # Errors
    ///
    /// Also when a kept one exists.
    pub fn owned(owner: Owner) -> Result<Self> {
        sweep_once();
        let name = owner.name(ROLE);
        let path = path_of(&name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let bpffs = Self { name, released: false };
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .with_context(|| format!("cannot mount a BPF file system on {}", path.display()))?;
        Ok(bpffs)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// A directory for the pins, not yet made: what `--pins` takes.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.path().join("breakout365")
    }

    /// Leaves it mounted, to its [`Owner`].
    pub fn release(mut self) {
        self.released = true;
    }

    /// Every name of the kind in the temporary directory, ascending.
    pub(super) fn names() -> Result<Vec<String>> {
        temporary(ROLE)
    }

    /// Unmounts and removes one. One that is already gone is no error: two sweeps may meet.
    pub(super) fn remove(name: &str) -> Result<()> {
        let path = path_of(name);
        match umount2(&path, MntFlags::MNT_DETACH) {
            // EINVAL: a directory on which nothing is mounted.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot unmount {}", path.display()));
            }
        }
        let removed = fs::remove_dir(&path);
        if path.exists() {
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        if let Err(error) = Self::remove(&self.name) {
            eprintln!("testbed: {error:#}");
        }
    }
}

const ROLE: &str = "bpffs";

fn path_of(name: &str) -> PathBuf {
    Path::new(&std::env::temp_dir()).join(name)
}
