//! That `off` was said, kept where a boot does not take it: the switch itself goes with the BPF file system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

const FILE: &str = "off";

/// Whether `off` was said and not `on` since. What cannot be looked at counts as said.
pub(crate) fn is_kept(state_dir: &Path) -> bool {
    let seen = fs::symlink_metadata(state_dir.join(FILE));
    !seen.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Keeps it, or no longer.
///
/// # Errors
///
/// The file cannot be written, or removed.
pub(crate) fn keep(state_dir: &Path, off: bool) -> io::Result<()> {
    let path = state_dir.join(FILE);
    // Never through a link: root does this in a directory of the service's user.
    let done = if off {
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map(drop)
    } else {
        fs::remove_file(path)
    };
    let is_so_already = if off { io::ErrorKind::AlreadyExists } else { io::ErrorKind::NotFound };
    match done {
        Err(error) if error.kind() == is_so_already => Ok(()),
        Err(error) => Err(error),
        // Else a power failure takes it back.
        Ok(()) => File::open(state_dir)?.sync_all(),
    }
}
