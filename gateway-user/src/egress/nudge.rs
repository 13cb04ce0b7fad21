//! Making a client speak whose flow was ended and who only waits for data.
//!
//! A reset needs the sequence number that the client expects, which conntrack does not tell. So the
//! client gets a segment outside of its window, which it answers with an acknowledgement of where it
//! is (RFC 9293, section 3.10.7.4); that one is answered with the reset.
//!
//! The segment is the window probe that leaves a socket in repair mode (`TCP_REPAIR`, kernel 3.5)
//! when it goes out of it: that takes `CAP_NET_ADMIN`, where a raw socket would take one more. A port
//! below 1024 would, too, so our nftables table sets it, and keeps conntrack from taking the segment
//! for a flow of its own.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

/// A flow that was ended: who began it, and with whom.
pub(super) type Pair = (SocketAddr, SocketAddr);

/// Has every client of `flows` say where it is, as far as that works: those it does not work for
/// are reset when they speak by themselves. `mark` is what our table knows the segments by.
pub(super) fn nudge(flows: &[Pair], mark: u32) {
    for flow in flows {
        probe(*flow, mark).ok();
    }
}

fn probe((client, server): Pair, mark: u32) -> Result<(), Errno> {
    let family = if client.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // This level serves both families (`ipv6_setsockopt`).
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    setsockopt(&socket, sockopt::Mark, &mark)?;
    setsockopt(&socket, sockopt::TcpRepair, &1)?;
    let any_port = SocketAddr::new(server.ip(), 0);
    bind(socket.as_raw_fd(), &SockaddrStorage::from(any_port))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(client))?;
    setsockopt(&socket, sockopt::TcpRepair, &0)?;
    // Closed in repair mode, it says no more.
    setsockopt(&socket, sockopt::TcpRepair, &1)
}
