//! Whose a namespace or a mount is: its name says which process made it, and so when it is stale.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::{env, fmt, fs, process};

use anyhow::{Context as _, Result};

use super::{BpfFs, Namespace, Scratch};

/// Who removes a part of the testbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The process that made it, when it drops it or ends; after a kill, the next [`sweep`].
    Process,
    /// A person, through [`remove_kept`]. There is one of each role at a time.
    Person,
}

impl Owner {
    /// A name for a part that plays `role`.
    pub(super) fn name(self, role: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        match self {
            Self::Process => {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                format!("{PREFIX}-{}-{number}-{role}", process::id())
            }
            Self::Person => format!("{PREFIX}-{KEPT}-{role}"),
        }
    }
}

/// Removes what processes that no longer run have left. The first namespace or mount that a
/// process makes calls this.
///
/// # Errors
///
/// Something stale exists and cannot be removed.
pub fn sweep() -> Result<()> {
    remove(|name| owner_pid(name).is_some_and(|pid| !runs(pid)))
}

/// Whether something is kept for a person.
///
/// # Errors
///
/// Namespaces or temporary files cannot be listed.
pub fn is_kept() -> Result<bool> {
    let names = [Namespace::names()?, BpfFs::names()?, Scratch::names()?];
    Ok(names.iter().flatten().any(|name| is_kept_name(name)))
}

/// Removes what was kept for a person.
///
/// # Errors
///
/// Something kept exists and cannot be removed.
pub fn remove_kept() -> Result<()> {
    remove(is_kept_name)
}

/// Sweeps once in the life of this process. A failure is worth a word, not the end: the new names
/// do not collide with the stale ones.
pub(super) fn sweep_once() {
    static SWEPT: LazyLock<()> = LazyLock::new(|| {
        // A predecessor with this very pid: this process has made nothing yet.
        let own = remove(|name| owner_pid(name) == Some(process::id()));
        if let Err(error) = own.and_then(|()| sweep()) {
            eprintln!("testbed: something stale stays: {error:#}");
        }
    });
    LazyLock::force(&SWEPT);
}

/// What plays `role` in the temporary directory, ours or not, ascending.
pub(super) fn temporary(role: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(env::temp_dir()).context("cannot list temporary files")?;
    let mut names: Vec<_> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.strip_suffix(role).is_some_and(|rest| rest.ends_with('-')));
    names.sort();
    Ok(names)
}

/// One `ip netns` at a time in this process: it creates its directory and mounts on first use,
/// and two that do so at once can fail.
pub(super) fn one_at_a_time<T>(work: impl FnOnce() -> T) -> T {
    static LOCK: Mutex<()> = Mutex::new(());
    let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    work()
}

const PREFIX: &str = "b365";
const KEPT: &str = "kept";

fn remove(wanted: impl Fn(&str) -> bool) -> Result<()> {
    // Processes first: what they hold open would keep a file system busy.
    for name in Namespace::names()?.iter().filter(|name| wanted(name)) {
        Namespace::remove(name)?;
    }
    for name in BpfFs::names()?.iter().filter(|name| wanted(name)) {
        BpfFs::remove(name)?;
    }
    for name in Scratch::names()?.iter().filter(|name| wanted(name)) {
        Scratch::remove(name)?;
    }
    Ok(())
}

fn is_kept_name(name: &str) -> bool {
    let kept = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-'));
    kept.and_then(|rest| rest.strip_prefix(KEPT)).is_some_and(|rest| rest.starts_with('-'))
}

fn owner_pid(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-').next()?.parse().ok()
}

fn runs(pid: impl fmt::Display) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_it_is() {
        assert_eq!(owner_pid(&Owner::Process.name("client")), Some(process::id()));
        assert_eq!(owner_pid(&Owner::Person.name("client")), None);
        assert!(is_kept_name(&Owner::Person.name("client")));
        assert!(!is_kept_name(&Owner::Process.name("client")));
        assert_eq!(owner_pid("b365"), None);
        assert_eq!(owner_pid("somebody-1-2-client"), None);
    }

    #[test]
    fn no_two_names_of_a_process_are_equal() {
        assert_ne!(Owner::Process.name("client"), Owner::Process.name("client"));
    }
}
