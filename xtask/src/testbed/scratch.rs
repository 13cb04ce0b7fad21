//! A directory for the files of a testbed: configuration, logs.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result};

use super::Owner;
use super::names::{sweep_once, temporary};

/// A directory of the temporary directory; removed with its value.
#[derive(Debug)]
pub struct Scratch {
    name: String,
    released: bool,
}

impl Scratch {
    /// Makes one for `owner`.
    ///
    /// # Errors
    ///
    /// It cannot be made, or a kept one exists.
    pub fn owned(owner: Owner) -> Result<Self> {
        sweep_once();
        let name = owner.name(ROLE);
        let path = path_of(&name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { name, released: false })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Leaves it to its [`Owner`].
    pub fn release(mut self) {
        self.released = true;
    }

    /// Every name of the kind in the temporary directory, ascending.
    pub(super) fn names() -> Result<Vec<String>> {
        temporary(ROLE)
    }

    /// Removes one. One that is already gone is no error: two sweeps may meet.
    pub(super) fn remove(name: &str) -> Result<()> {
        let path = path_of(name);
        let removed = fs::remove_dir_all(&path);
        if path.exists() {
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        if let Err(error) = Self::remove(&self.name) {
            eprintln!("testbed: {error:#}");
        }
    }
}

const ROLE: &str = "files";

fn path_of(name: &str) -> PathBuf {
    Path::new(&env::temp_dir()).join(name)
}
