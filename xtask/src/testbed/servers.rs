//! Servers that answer with the address they see, so that a client learns which way it came.

use std::collections::BTreeSet;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read as _, Write as _};
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrIn6, SockaddrStorage, bind, recvmsg, sendmsg, setsockopt, socket, sockopt,
};

use super::{Namespace, Protocol, uninterrupted};

/// TCP and UDP servers on many ports of every local address, both families. A connection or a
/// datagram is answered with one line, the peer's address and port; a datagram's answer comes
/// from the address that was asked.
#[derive(Debug)]
pub struct EchoServers {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

/// Servers that run on a thread of this process until this is dropped.
#[derive(Debug)]
pub struct RunningServers {
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl EchoServers {
    /// Makes every address of `prefixes` local to `namespace`, so that servers there answer for
    /// all of them.
    ///
    /// # Errors
    ///
    /// The routes are refused.
    pub fn own(namespace: &Namespace, prefixes: &BTreeSet<IpNet>) -> Result<()> {
        // IPv6 takes a source address from a datagram's control message only if it is configured
        // on an interface, or with this.
        namespace.sysctl("net/ipv6/ip_nonlocal_bind", "1")?;
        let routes = prefixes.iter().map(|prefix| format!("route replace local {prefix} dev lo\n"));
        namespace.ip(&routes.collect::<String>())
    }

    /// Binds all ports, in the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// A port is taken.
    pub fn bind(tcp: &BTreeSet<u16>, udp: &BTreeSet<u16>) -> Result<Self> {
        let mut servers = Self { tcp: Vec::new(), udp: Vec::new() };
        for port in tcp {
            let v4 = TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port));
            servers.tcp.push(v4.with_context(|| format!("cannot listen on tcp/{port}"))?);
            let v6 = listen_v6(*port);
            servers.tcp.push(v6.with_context(|| format!("cannot listen on IPv6 tcp/{port}"))?);
        }
        for port in udp {
            let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port))
                .with_context(|| format!("cannot listen on udp/{port}"))?;
            setsockopt(&v4, sockopt::Ipv4PacketInfo, &true)?;
            servers.udp.push(v4);
            let v6 = bind_v6(*port);
            servers.udp.push(v6.with_context(|| format!("cannot listen on IPv6 udp/{port}"))?);
        }
        for listener in &servers.tcp {
            listener.set_nonblocking(true)?;
        }
        for socket in &servers.udp {
            socket.set_nonblocking(true)?;
        }
        Ok(servers)
    }

    /// Binds all ports in `namespace` and serves on a thread.
    ///
    /// # Errors
    ///
    /// As [`EchoServers::bind`].
    pub fn start(
        namespace: &Namespace,
        tcp: &BTreeSet<u16>,
        udp: &BTreeSet<u16>,
    ) -> Result<RunningServers> {
        let servers = namespace.enter(|| Self::bind(tcp, udp))??;
        let (stop, stopped) = UnixStream::pair().context("cannot make a socket pair")?;
        let thread = thread::spawn(move || {
            if let Err(error) = servers.serve(&stopped) {
                eprintln!("testbed: servers stopped: {error:#}");
            }
        });
        Ok(RunningServers { stop, thread: Some(thread) })
    }

    /// Serves until `stopped` can be read or is closed at the other end.
    ///
    /// # Errors
    ///
    /// The sockets cannot be waited for. A failure with one client is only that client's.
    pub fn serve(&self, stopped: &UnixStream) -> Result<()> {
        loop {
            let ready = self.wait(stopped)?;
            let Some((false, ready)) = ready.split_first() else { return Ok(()) };
            let (tcp, udp) = ready.split_at(self.tcp.len());
            for (listener, _) in self.tcp.iter().zip(tcp).filter(|(_, ready)| **ready) {
                if let Ok((mut stream, peer)) = listener.accept() {
                    // One line fits into the socket's buffer: this does not wait.
                    writeln!(stream, "{peer}").ok();
                }
            }
            for (socket, _) in self.udp.iter().zip(udp).filter(|(_, ready)| **ready) {
                // A client that is gone, or a fragment that never came, is a timeout over there.
                answer(socket).ok();
            }
        }
    }

    /// Waits until something can be read, and says where: `stopped`, then TCP, then UDP.
    fn wait(&self, stopped: &UnixStream) -> Result<Vec<bool>> {
        let tcp = self.tcp.iter().map(AsFd::as_fd);
        let udp = self.udp.iter().map(AsFd::as_fd);
        let all = iter::once(stopped.as_fd()).chain(tcp).chain(udp);
        let mut all: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        while let Err(error) = poll(&mut all, PollTimeout::NONE) {
            if error != Errno::EINTR {
                return Err(error).context("cannot wait for sockets");
            }
        }
        Ok(all.iter().map(|fd| fd.any().unwrap_or(true)).collect())
    }
}

impl Drop for RunningServers {
    fn drop(&mut self) {
        self.stop.write_all(b".").ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Asks an [`EchoServers`] at `destination`, from the namespace of the calling thread, and gives
/// the address the server sees. A datagram carries `payload` bytes: more than the MTU makes
/// fragments. TCP carries none.
///
/// # Errors
///
/// No answer within `limit`, or not one of an echo server.
pub fn ask(
    destination: SocketAddr,
    protocol: Protocol,
    payload: usize,
    limit: Duration,
) -> Result<IpAddr> {
    let answer = match protocol {
        Protocol::Tcp => {
            let mut stream = TcpStream::connect_timeout(&destination, limit)?;
            stream.set_read_timeout(Some(limit))?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            answer
        }
        Protocol::Udp => {
            let any: IpAddr = match destination {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(limit))?;
            // Connected: an answer from any other address than the one asked is none.
            socket.connect(destination)?;
            socket.send(&vec![b'.'; payload])?;
            let mut answer = vec![0; 128];
            let length = uninterrupted(|| socket.recv(&mut answer)).map_err(|error| {
                let late = error.kind() == ErrorKind::WouldBlock;
                if late { ErrorKind::TimedOut.into() } else { error }
            })?;
            answer.truncate(length);
            answer
        }
        Protocol::Other(number) => bail!("no server answers protocol {number}"),
    };
    let text = String::from_utf8_lossy(&answer);
    let peer: SocketAddr = text.trim().parse().with_context(|| format!("odd answer {text:?}"))?;
    Ok(peer.ip())
}

/// A listener for IPv6 alone; the standard library's would take the IPv4 port too.
///
/// # Errors
///
/// The port is taken.
pub fn listen_v6(port: u16) -> Result<TcpListener> {
    let socket = v6_socket(SockType::Stream, SockProtocol::Tcp)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &unspecified_v6(port))?;
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::MAXCONN)?;
    Ok(socket.into())
}

fn bind_v6(port: u16) -> Result<UdpSocket> {
    let socket = v6_socket(SockType::Datagram, SockProtocol::Udp)?;
    setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    bind(socket.as_raw_fd(), &unspecified_v6(port))?;
    Ok(socket.into())
}

fn v6_socket(kind: SockType, protocol: SockProtocol) -> Result<std::os::fd::OwnedFd> {
    let socket = socket(AddressFamily::Inet6, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    Ok(socket)
}

fn unspecified_v6(port: u16) -> SockaddrIn6 {
    std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into()
}

/// Where a datagram was sent to, and so where its answer comes from.
enum Asked {
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only these two were asked for")]
fn answer(socket: &UdpSocket) -> Result<()> {
    let mut payload = vec![0; 1 << 16];
    let mut buffers = [IoSliceMut::new(&mut payload)];
    let mut space = cmsg_space!(in6_pktinfo);
    let fd = socket.as_raw_fd();
    let received =
        recvmsg::<SockaddrStorage>(fd, &mut buffers, Some(&mut space), MsgFlags::empty())?;
    let peer = received.address.context("a datagram from nowhere")?;
    let asked = received.cmsgs()?.find_map(|message| match message {
        // On whichever interface the route back says, hence no index.
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(Asked::V4(in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: info.ipi_addr, ..info }))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(Asked::V6(in6_pktinfo { ipi6_ifindex: 0, ..info }))
        }
        _ => None,
    });
    let control = asked.as_ref().map(|asked| match asked {
        Asked::V4(info) => ControlMessage::Ipv4PacketInfo(info),
        Asked::V6(info) => ControlMessage::Ipv6PacketInfo(info),
    });
    let text = format!("{}\n", text(&peer)?);
    let answer = [IoSlice::new(text.as_bytes())];
    sendmsg(fd, &answer, control.as_slice(), MsgFlags::empty(), Some(&peer))?;
    Ok(())
}

/// `peer` in the notation that [`SocketAddr`] reads.
fn text(peer: &SockaddrStorage) -> Result<SocketAddr> {
    if let Some(v4) = peer.as_sockaddr_in() {
        return Ok(std::net::SocketAddrV4::from(*v4).into());
    }
    let v6 = peer.as_sockaddr_in6().context("a peer of neither family")?;
    Ok(SocketAddr::new(v6.ip().into(), v6.port()))
}
