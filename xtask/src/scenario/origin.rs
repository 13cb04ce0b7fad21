//! The servers of the hosts that clients visit: HTTP with and without TLS, which say who they are
//! and what they were asked; and datagrams.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::testbed::{Namespace, Process, listen_v6};

use super::site::{self, SITES};

/// Ports without and with TLS.
pub(super) const PLAIN: [u16; 1] = [80];
pub(super) const SECURE: [u16; 2] = [443, 993];
/// In which header an answer says which hop gave it.
pub(super) const WAY: &str = "x-way";
/// A client that says nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(15);

/// A certificate authority that clients trust, and a certificate of it for every host, as files.
#[derive(Clone, Debug)]
pub(super) struct Authority(PathBuf);

impl Authority {
    /// Makes one in `directory`.
    pub(super) fn found(directory: &Path) -> Result<Self> {
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "CA of the hosts themselves");
        let key = KeyPair::generate()?;
        let authority = Self(directory.to_owned());
        fs::write(authority.file(), params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        let mut leaf = CertificateParams::new(SITES.map(|site| site.host.to_owned()))?;
        leaf.distinguished_name.push(DnType::CommonName, "the host itself");
        let key = KeyPair::generate()?;
        fs::write(authority.0.join("origin.pem"), leaf.signed_by(&key, &issuer)?.pem())?;
        fs::write(authority.0.join("origin.key"), key.serialize_pem())?;
        Ok(authority)
    }

    /// The certificate of the authority, as PEM.
    pub(super) fn file(&self) -> PathBuf {
        self.0.join("origin-ca.pem")
    }

    fn server(&self) -> Result<Arc<ServerConfig>> {
        let certificate = CertificateDer::from_pem_file(self.0.join("origin.pem"))?;
        let key = PrivateKeyDer::from_pem_file(self.0.join("origin.key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        Ok(Arc::new(config))
    }
}

/// Servers that run until this is dropped.
#[derive(Debug)]
pub(super) enum Origin {
    /// On a thread of this process.
    Thread {
        /// Closed, it ends them.
        stop: Option<UnixStream>,
        /// Where they run.
        thread: Option<JoinHandle<()>>,
    },
    /// A process of their own, so that they can outlive this one.
    Process(Option<Process>),
}

impl Origin {
    /// Starts them in `hop`: by `program`, where there is one, which is to call [`serve`].
    pub(super) fn start(
        hop: &Namespace,
        authority: &Authority,
        program: Option<&Path>,
    ) -> Result<Self> {
        let Some(program) = program else {
            let servers = hop.enter(|| Servers::bind(hop.role(), authority))??;
            let (stop, stopped) = UnixStream::pair()?;
            let thread = thread::spawn(move || {
                if let Err(error) = servers.serve(Some(&stopped)) {
                    eprintln!("scenario: servers stopped: {error:#}");
                }
            });
            return Ok(Self::Thread { stop: Some(stop), thread: Some(thread) });
        };
        let mut command = Command::new(program);
        command.args(["lab", "--origin", hop.role()]).arg(&authority.0);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = hop.spawn(&mut command)?;
        let mut said = [0];
        let stdout = process.child().stdout.as_mut().context("the servers have no output")?;
        if stdout.read(&mut said)? == 0 {
            bail!("the servers of {} do not start", hop.role());
        }
        Ok(Self::Process(Some(process)))
    }

    /// Leaves a process to itself.
    pub(super) fn release(mut self) {
        if let Self::Process(process) = &mut self {
            process.take().into_iter().for_each(Process::release);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Self::Thread { stop, thread } = self {
            stop.take();
            if let Some(thread) = thread.take() {
                thread.join().ok();
            }
        }
    }
}

/// Serves in the namespace of the calling thread until the process ends: `role` is the hop's name,
/// `directory` has the certificates. Says on standard output when it does.
///
/// # Errors
///
/// A port is taken, or the certificates cannot be read.
pub fn serve(role: &str, directory: &Path) -> Result<()> {
    let servers = Servers::bind(role, &Authority(directory.to_owned()))?;
    println!("ready");
    servers.serve(None)
}

struct Servers {
    name: String,
    tls: Arc<ServerConfig>,
    /// With whether they speak TLS.
    tcp: Vec<(TcpListener, bool)>,
    udp: Vec<UdpSocket>,
}

impl Servers {
    /// Binds all ports, in the namespace of the calling thread.
    fn bind(name: &str, authority: &Authority) -> Result<Self> {
        let mut tcp = Vec::new();
        let ports = PLAIN.map(|port| (port, false)).into_iter();
        for (port, is_secure) in ports.chain(SECURE.map(|port| (port, true))) {
            let bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
            tcp.push((bound.with_context(|| format!("cannot listen on tcp/{port}"))?, is_secure));
            tcp.push((listen_v6(port)?, is_secure));
        }
        let udp = site::datagrams().map(|address| {
            UdpSocket::bind(address).with_context(|| format!("cannot listen on udp {address}"))
        });
        let servers = Self {
            name: name.to_owned(),
            tls: authority.server()?,
            tcp,
            udp: udp.collect::<Result<_>>()?,
        };
        for (listener, _) in &servers.tcp {
            listener.set_nonblocking(true)?;
        }
        for socket in &servers.udp {
            socket.set_nonblocking(true)?;
        }
        Ok(servers)
    }

    /// Serves until `stopped` is closed at the other end.
    fn serve(&self, stopped: Option<&UnixStream>) -> Result<()> {
        loop {
            let tcp = self.tcp.iter().map(|(listener, _)| listener.as_fd());
            let all = tcp.chain(self.udp.iter().map(|socket| socket.as_fd()));
            let all = all.chain(stopped.map(|stopped| stopped.as_fd()));
            let mut all: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            match poll(&mut all, PollTimeout::NONE) {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error).context("cannot wait for sockets"),
            }
            if stopped.is_some() && all.last().and_then(PollFd::any).unwrap_or(true) {
                return Ok(());
            }
            for (listener, is_secure) in &self.tcp {
                while let Ok((stream, peer)) = listener.accept() {
                    let (name, tls) = (self.name.clone(), is_secure.then(|| Arc::clone(&self.tls)));
                    // A client that goes away, or an inspector that cuts it off, is its own matter.
                    thread::spawn(move || converse(stream, peer, &name, tls).ok());
                }
            }
            let mut datagram = [0; 2048];
            for socket in &self.udp {
                while let Ok((length, peer)) = socket.recv_from(&mut datagram) {
                    let answer = [self.name.as_bytes(), b"\n", &datagram[..length]].concat();
                    socket.send_to(&answer, peer).ok();
                }
            }
        }
    }
}

fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    name: &str,
    tls: Option<Arc<ServerConfig>>,
) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    match tls {
        None => answer(stream, peer, name),
        Some(tls) => {
            let mut secure = StreamOwned::new(ServerConnection::new(tls)?, stream);
            answer(&mut secure, peer, name)?;
            secure.conn.send_close_notify();
            Ok(secure.flush()?)
        }
    }
}

/// One request, and one answer whose body is the request.
fn answer(mut stream: impl Read + Write, peer: SocketAddr, name: &str) -> Result<()> {
    let request = super::http::read(&mut stream)?;
    let body = &request.whole;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{WAY}: {name}\r\nx-peer: {}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        peer.ip(),
        body.len()
    )?;
    stream.write_all(body)?;
    Ok(stream.flush()?)
}
