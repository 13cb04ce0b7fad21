//! Whether what was attached still is, asked of the kernel: a pin outlives what it stands for.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use aya::programs::MultiProgLink as _;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::SchedClassifierLink;
use futures_util::TryStreamExt as _;
use nix::libc;
use rtnetlink::Handle;

use super::generation::chain;
use super::interface::{netlink, xdp_program};
use super::loaded::attached;
use super::pins::LinkKind;
use super::{Attached, DatapathError, Pins, clsact};

/// The hooks under `pins`, by interface, as the kernel has them at this moment.
///
/// A link that somebody has detached (`bpftool link detach`), and one whose interface is gone, is
/// pinned all the same; a filter of tc goes with its qdisc.
///
/// # Errors
///
/// The pins cannot be listed, or the kernel does not answer.
pub async fn attached_now(pins: &Pins) -> Result<Vec<Attached>, DatapathError> {
    let mut hooks = attached(pins)?;
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| netlink("cannot open a socket", error))?;
    let connection = tokio::spawn(connection);
    let looked = look(pins, &handle, &mut hooks).await;
    connection.abort();
    looked.map(|()| hooks)
}

async fn look(pins: &Pins, handle: &Handle, hooks: &mut [Attached]) -> Result<(), DatapathError> {
    for ((ifindex, kind), path) in pins.links()? {
        let is_there = match kind {
            LinkKind::Native | LinkKind::Generic => match program_behind(&path)? {
                Some(program) => xdp_on(handle, ifindex).await? == Some(program),
                None => false,
            },
            LinkKind::Tcx => tcx_is_on(&path, ifindex)?,
            LinkKind::Clsact | LinkKind::ClsactOwn => clsact::is_there(handle, ifindex).await?,
        };
        let hook = hooks.iter_mut().find(|hook| hook.ifindex == ifindex);
        if let Some(hook) = hook.filter(|_| !is_there) {
            hook.misses(kind.carrier());
        }
    }
    Ok(())
}

/// A pinned link; `None`, if its pin has gone meanwhile.
fn open(path: &Path) -> Result<Option<FdLink>, DatapathError> {
    match PinnedLink::from_pin(path) {
        Ok(link) => Ok(Some(link.into())),
        Err(LinkError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(None)
        }
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// Id of the program that a pinned link holds; it holds it on when it is detached.
fn program_behind(path: &Path) -> Result<Option<u32>, DatapathError> {
    let Some(link) = open(path)? else { return Ok(None) };
    let info = link.info().map_err(|error| unreadable(path, &error))?;
    Ok(Some(info.program_id()))
}

/// Id of the XDP program on an interface.
async fn xdp_on(handle: &Handle, ifindex: u32) -> Result<Option<u32>, DatapathError> {
    match handle.link().get().match_index(ifindex).execute().try_next().await {
        Ok(link) => Ok(link.as_ref().and_then(xdp_program)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        Err(error) => Err(netlink("cannot read a link", error)),
    }
}

/// Whether a pinned TCX link is on this interface: detached, it is on none (`tcx_link_fdinfo`,
/// kernel `kernel/bpf/tcx.c`).
fn tcx_is_on(path: &Path, ifindex: u32) -> Result<bool, DatapathError> {
    let Some(link) = open(path)? else { return Ok(false) };
    let link = SchedClassifierLink::try_from(link).map_err(|error| unreadable(path, &error))?;
    let fd = link.fd().map_err(|error| unreadable(path, &error))?.as_raw_fd();
    let info = Path::new("/proc/self/fdinfo").join(fd.to_string());
    let text = fs::read_to_string(info).map_err(|error| unreadable(path, &error))?;
    let index = text.lines().find_map(|line| line.strip_prefix("ifindex:")?.trim().parse().ok());
    Ok(index == Some(ifindex))
}

fn unreadable(path: &Path, error: &dyn std::error::Error) -> DatapathError {
    DatapathError::Unreadable { path: path.to_owned(), why: chain(error) }
}
