//! Links: programs on interfaces, attached, switched in place and taken off.

use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramError, SchedClassifier, Xdp, XdpMode};
use nix::libc;
use nix::net::if_::if_indextoname;

use super::generation::chain;
use super::hook::HookRequest;
use super::pins::{LinkKind, remove_if_there};
use super::{DatapathError, clsact};

/// How long a link may outlive its pin: tens of milliseconds were seen.
const LINK_LINGERS: Duration = Duration::from_secs(1);
const LINK_PAUSE: Duration = Duration::from_millis(2);

/// The name of an interface, or its index where it is gone.
pub(super) fn name_of(ifindex: u32) -> String {
    if_indextoname(ifindex)
        .map_or_else(|_| format!("#{ifindex}"), |name| name.to_string_lossy().into_owned())
}

/// Puts `program` in the place of the one that a pinned TCX link holds.
pub(super) fn update_tcx(program: &mut SchedClassifier, path: &Path) -> Result<(), ProgramError> {
    let link = FdLink::from(PinnedLink::from_pin(path).map_err(other)?);
    let id = program.attach_to_link(link.try_into().map_err(other)?)?;
    // Only this process's handle is dropped; the pin keeps the link.
    program.take_link(id).map(drop)
}

/// Puts `program` in the place of the one that a pinned XDP link holds.
pub(super) fn update_xdp(program: &mut Xdp, path: &Path) -> Result<(), ProgramError> {
    let link = FdLink::from(PinnedLink::from_pin(path).map_err(other)?);
    let id = program.attach_to_link(link.try_into().map_err(other)?)?;
    program.take_link(id).map(drop)
}

/// Attaches XDP and pins the link.
pub(super) fn attach_xdp(
    program: &mut Xdp,
    hook: &HookRequest,
    mode: XdpMode,
    path: &Path,
) -> Result<(), DatapathError> {
    let name = &hook.interface.name;
    let link = attach_xdp_link(program, hook.interface.index, mode).map_err(|error| {
        match errno(&error) {
            // EEXIST: somebody's program in the other mode.
            Some(libc::EBUSY | libc::EEXIST) => DatapathError::ForeignXdp {
                name: name.clone(),
                program: hook.interface.xdp_program.unwrap_or(0),
            },
            Some(code) if mode == XdpMode::Driver => DatapathError::NoNativeXdp {
                name: name.clone(),
                source: io::Error::from_raw_os_error(code),
            },
            _ => attach_error(hook, "attach XDP", &error),
        }
    })?;
    link.pin(path).map(drop).map_err(|error| attach_error(hook, "pin the XDP link", &error))
}

/// Attaches XDP by a link. aya falls back to netlink, which cannot be pinned or updated in place,
/// without a word; that is taken off again (on drop) and refused.
///
/// A link whose pin was removed, here or by `down` a moment ago, still holds its place until the
/// kernel has freed the pin in the background (`bpf_free_inode`, after an RCU grace period); so a
/// place that is taken is tried again for a while.
pub(super) fn attach_xdp_link(
    program: &mut Xdp,
    ifindex: u32,
    mode: XdpMode,
) -> Result<FdLink, ProgramError> {
    let deadline = Instant::now() + LINK_LINGERS;
    let id = loop {
        match program.attach_to_if_index(ifindex, mode) {
            Err(error)
                if matches!(errno(&error), Some(libc::EBUSY | libc::EEXIST))
                    && Instant::now() < deadline =>
            {
                sleep(LINK_PAUSE);
            }
            outcome => break outcome?,
        }
    };
    let link = program.take_link(id)?;
    link.try_into().map_err(|_| ProgramError::IOError(io::Error::from_raw_os_error(libc::EINVAL)))
}

/// Removes a pin that may be missing.
pub(super) fn remove(path: &Path) -> Result<(), DatapathError> {
    remove_if_there(path).map_err(|source| DatapathError::Pins {
        path: path.to_owned(),
        what: "cannot remove",
        source,
    })
}

/// Removes a link; for clsact, the filter that stands behind the name.
pub(super) fn remove_link(ifindex: u32, kind: LinkKind, path: &Path) -> Result<(), DatapathError> {
    match kind {
        LinkKind::Native | LinkKind::Generic | LinkKind::Tcx => {}
        LinkKind::Clsact | LinkKind::ClsactOwn => {
            if let Ok(name) = if_indextoname(ifindex) {
                clsact::detach(&name.to_string_lossy())?;
            }
        }
    }
    remove(path)
}

/// A failure on the interface of `hook`.
pub(super) fn attach_error(
    hook: &HookRequest,
    what: &'static str,
    error: &dyn std::error::Error,
) -> DatapathError {
    DatapathError::Attach { name: hook.interface.name.clone(), what, why: chain(error) }
}

/// The interface of the link is gone: the kernel detached it (ENOLINK), or it was another file.
pub(super) fn is_dead_link(error: &ProgramError) -> bool {
    errno(error) == Some(libc::ENOLINK)
}

/// The error number that the kernel gave.
pub(super) fn errno(error: &ProgramError) -> Option<i32> {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        source = cause.source();
    }
    None
}

/// An error that aya has no word for.
pub(super) fn other(error: impl std::error::Error + Send + Sync + 'static) -> ProgramError {
    ProgramError::IOError(io::Error::other(error))
}
