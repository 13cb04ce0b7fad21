//! tc on kernels without TCX: a filter of the clsact qdisc, at a place of our own.
//!
//! Filters stay when the process that added them ends, so nothing needs pinning but the knowledge
//! that the filter is ours; [`super::pins`] keeps it as a marker under a name of its own.

use std::path::Path;

use aya::maps::{Array, MapData};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use futures_util::TryStreamExt as _;
use nix::libc;
use rtnetlink::packet_core::ErrorMessage;
use rtnetlink::packet_route::tc::TcHandle as NetlinkHandle;

use super::DatapathError;
use super::generation::chain;
use super::interface::netlink;

/// First of all filters: what is decided here must be decided before anyone acts on the packet.
const PRIORITY: u16 = 1;
/// "365", so that `tc filter show` tells whose filter it is.
const HANDLE: TcHandle = TcHandle::new(0, 0x365);
/// The same, as netlink messages have it.
const NETLINK_HANDLE: NetlinkHandle = NetlinkHandle { major: 0, minor: 0x365 };

/// Whose qdisc the filter hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Qdisc {
    /// It was there before.
    Found,
    /// Added for the filter.
    Added,
}

/// Adds the qdisc where there is none.
pub(super) fn add_qdisc(interface: &str) -> Result<Qdisc, DatapathError> {
    match qdisc_add_clsact(interface) {
        Ok(()) => Ok(Qdisc::Added),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {
            Ok(Qdisc::Found)
        }
        Err(error) => Err(failed(interface, "add a clsact qdisc", &error)),
    }
}

/// Pins what says that a filter of ours is, or is about to be, on this interface: an empty map.
pub(super) fn pin_marker(interface: &str, path: &Path) -> Result<(), DatapathError> {
    let marker = Array::<MapData, u32>::create(1, 0)
        .map_err(|error| failed(interface, "make a marker", &error))?;
    marker.pin(path).map_err(|error| failed(interface, "pin a marker", &error))
}

/// Adds the filter.
pub(super) fn attach(program: &mut SchedClassifier, interface: &str) -> Result<(), DatapathError> {
    let options =
        TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: HANDLE, classid: None });
    let id = program
        .attach_with_options(interface, TcAttachType::Ingress, options)
        .map_err(|error| failed(interface, "attach tc", &error))?;
    keep(program, interface, id)
}

/// Puts `program` in the place of the filter that is there, without a gap.
pub(super) fn replace(program: &mut SchedClassifier, interface: &str) -> Result<(), DatapathError> {
    let link = ours(interface)?;
    let id = program
        .attach_to_link(link)
        .map_err(|error| failed(interface, "replace the tc program", &error))?;
    keep(program, interface, id)
}

/// Removes the filter.
pub(super) fn detach(interface: &str) -> Result<(), DatapathError> {
    // Dropping the link detaches.
    ours(interface).map(drop)
}

/// Whether the filter is there.
pub(super) async fn is_there(
    handle: &rtnetlink::Handle,
    ifindex: u32,
) -> Result<bool, DatapathError> {
    let Ok(index) = i32::try_from(ifindex) else { return Ok(false) };
    let mut filters = handle.traffic_filter(index).get().ingress().execute();
    loop {
        match filters.try_next().await {
            Ok(Some(filter)) if filter.header.handle == NETLINK_HANDLE => return Ok(true),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(false),
            Err(rtnetlink::Error::NetlinkError(error)) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(netlink("cannot list tc filters", error)),
        }
    }
}

/// Whether interface, qdisc or filter is not there.
fn is_gone(error: &ErrorMessage) -> bool {
    [-libc::ENOENT, -libc::EINVAL, -libc::ENODEV].contains(&error.raw_code())
}

/// Removes the qdisc if nobody has a filter on it.
pub(super) async fn remove_unused_qdisc(ifindex: u32) -> Result<(), DatapathError> {
    let netlink = |why: String| DatapathError::Netlink { what: "cannot remove a qdisc", why };
    let index = i32::try_from(ifindex).map_err(|error| netlink(error.to_string()))?;
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| netlink(error.to_string()))?;
    let connection = tokio::spawn(connection);
    let outcome = async {
        let mut ingress = handle.traffic_filter(index).get().ingress().execute();
        let mut egress = handle.traffic_filter(index).get().egress().execute();
        if ingress.try_next().await?.is_some() || egress.try_next().await?.is_some() {
            return Ok(());
        }
        let mut request = handle.qdisc().del(index);
        request.message_mut().header.parent = NetlinkHandle::CLSACT;
        request.message_mut().header.handle = NetlinkHandle { major: 0xffff, minor: 0 };
        request.execute().await
    }
    .await;
    connection.abort();
    match outcome {
        // Somebody else has removed it.
        Err(rtnetlink::Error::NetlinkError(error)) if is_gone(&error) => Ok(()),
        other => other.map_err(|error: rtnetlink::Error| netlink(error.to_string())),
    }
}

fn ours(interface: &str) -> Result<SchedClassifierLink, DatapathError> {
    SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, HANDLE, None)
        .map_err(|error| failed(interface, "find the tc filter", &error))
}

/// Takes the link out of `program` and forgets it: dropped, it would detach.
fn keep(
    program: &mut SchedClassifier,
    interface: &str,
    id: aya::programs::tc::SchedClassifierLinkId,
) -> Result<(), DatapathError> {
    let link = program
        .take_link(id)
        .map_err(|error: ProgramError| failed(interface, "keep the tc filter", &error))?;
    std::mem::forget(link);
    Ok(())
}

fn failed(interface: &str, what: &'static str, error: &dyn std::error::Error) -> DatapathError {
    DatapathError::Attach { name: interface.to_owned(), what, why: chain(error) }
}
