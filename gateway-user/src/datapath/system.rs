//! What the system must give before anything is loaded.

use std::path::Path;

use caps::{CapSet, Capability};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::DatapathError;

/// Checks for the capabilities that loading, attaching and test runs need: `CAP_BPF` and `CAP_PERFMON`
/// (kernel 5.8, commits a17b53c4a4b5 and 980737282232) and `CAP_NET_ADMIN`, nothing else.
///
/// `CAP_PERFMON`: without it the verifier refuses the difference of two packet pointers, by which
/// XDP learns a packet's length, and puts speculation barriers into every program (kernel commit
/// 2c78ee898d8f).
///
/// # Errors
///
/// [`DatapathError::Permission`] names what is missing.
pub fn require_privileges() -> Result<(), DatapathError> {
    let effective = caps::read(None, CapSet::Effective).unwrap_or_default();
    let missing: Vec<String> =
        [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON]
            .into_iter()
            .filter(|capability| !effective.contains(capability))
            .map(|capability| capability.to_string())
            .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(DatapathError::Permission { missing: missing.join(" and ") })
    }
}

/// Checks that `path`, which exists, is on a BPF file system.
pub(super) fn require_bpffs(path: &Path) -> Result<(), DatapathError> {
    match statfs(path) {
        Ok(stat) if stat.filesystem_type() == BPF_FS_MAGIC => Ok(()),
        Ok(_) | Err(_) => Err(DatapathError::NotBpfFs { path: path.to_owned() }),
    }
}
