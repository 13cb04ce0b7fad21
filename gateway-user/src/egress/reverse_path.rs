//! Reverse path filtering on the uplink: looked at, never changed.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt as _;
use nix::libc;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};

use super::EgressError;
use super::netlink::{Netlink, errno, failed};
use super::routing::Family;

/// Replies of senders that are reached by another way are dropped.
pub(crate) const STRICT: u8 = 1;
/// Of Exchange Online (set 1): stands for all that goes direct.
const FAR_AWAY: Ipv4Addr = Ipv4Addr::new(52, 96, 0, 1);

/// What to do where the kernel would drop the replies that come in by `interface`: their sender is
/// reached by the main table's default route, which is another way.
pub(super) fn problem(interface: &str) -> Option<String> {
    (effective(interface) == Ok(STRICT)).then(|| {
        format!(
            "interface {interface}: rp_filter is strict, replies of direct IPv4 flows are dropped; \
             `{}`",
            remedy(interface)
        )
    })
}

/// The stricter of the interface's setting and that of all counts (kernel
/// `Documentation/networking/ip-sysctl.rst`); loose is 2.
///
/// # Errors
///
/// A setting cannot be read, in one line.
pub(crate) fn effective(interface: &str) -> Result<u8, String> {
    let read = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        text.trim().parse::<u8>().map_err(|error| format!("{path}: {error}"))
    };
    Ok(read("all")?.max(read(interface)?))
}

/// The command that makes it loose.
pub(crate) fn remedy(interface: &str) -> String {
    // A dot in a name is a slash here, as slashes are dots.
    format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", interface.replace('.', "/"))
}

/// Index of the interface by which a packet without a mark would leave to a host of Microsoft's: where
/// strict filtering expects replies. `None`, there is no way.
///
/// # Errors
///
/// The kernel cannot be asked.
pub async fn unmarked_way() -> Result<Option<u32>, EgressError> {
    let netlink = Netlink::open()?;
    let mut question = Netlink::filter(Family::of(IpAddr::V4(FAR_AWAY)));
    question.header.destination_prefix_length = 32;
    question.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(FAR_AWAY)));
    let answer = netlink.handle.route().get(question).execute().try_next().await;
    let route = match answer.map_err(errno) {
        Ok(route) => route,
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failed("look up a route", error)),
    };
    let attributes = route.into_iter().flat_map(|route| route.attributes);
    Ok(attributes.into_iter().find_map(|attribute| {
        if let RouteAttribute::Oif(index) = attribute { Some(index) } else { None }
    }))
}
