//! Plays Microsoft's web service over HTTPS, well or badly.
//!
//! HTTP is written by hand, because no library would misbehave like this. One request a
//! connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Between two looks whether to stop.
const GLANCE: Duration = Duration::from_millis(5);
/// A client that says nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the server can prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certificate {
    /// That it is the one asked for, to whoever trusts [`WebService::ca_file`].
    Good,
    /// That it was, years ago.
    Expired,
    /// That it is another one.
    WrongName,
    /// Nothing, to those who trust [`WebService::ca_file`].
    UnknownCa,
}

/// What is answered: to a request whose path begins like this, this. Anything else is a 404.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script(Vec<(String, Answer)>);

impl Script {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The web service as it should be: one version of one instance, and no changes.
    pub(crate) fn serving(instance: &str, version: &str, list: &str) -> Self {
        Self::new()
            .on(&format!("/version/{instance}"), Answer::version(instance, version))
            .on(&format!("/endpoints/{instance}"), Answer::json(list))
            .on("/changes/", Answer::json("[]"))
    }

    /// Answers `answer` to paths that begin with `path`; later calls win.
    pub(crate) fn on(mut self, path: &str, answer: Answer) -> Self {
        self.0.insert(0, (path.to_owned(), answer));
        self
    }

    fn answer(&self, target: &str) -> Answer {
        let found = self.0.iter().find(|(path, _)| target.starts_with(path.as_str()));
        found.map_or_else(|| Answer::status(404), |(_, answer)| answer.clone())
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    manner: Manner,
}

/// How the answer is sent.
#[derive(Clone, Debug)]
enum Manner {
    Whole,
    /// Without a length: it ends with the connection.
    Unsized,
    /// With this length, whatever is sent.
    Claims(usize),
    /// Nothing more after so many bytes, and the connection stays.
    StallsAfter(usize),
    /// So many bytes at a time, with a pause between.
    Slowly(usize, Duration),
    /// The body alone, as if it were an answer.
    Raw,
}

impl Answer {
    pub(crate) fn json(body: &str) -> Self {
        Self::status(200).typed("application/json").with_body(body.as_bytes())
    }

    pub(crate) fn version(instance: &str, version: &str) -> Self {
        Self::json(&format!(r#"{{"instance":"{instance}","latest":"{version}"}}"#))
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), manner: Manner::Whole }
    }

    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).with("location", location)
    }

    /// Bytes that are no HTTP.
    pub(crate) fn raw(bytes: &[u8]) -> Self {
        Self { manner: Manner::Raw, ..Self::status(200).with_body(bytes) }
    }

    pub(crate) fn typed(self, content_type: &str) -> Self {
        self.with("content-type", content_type)
    }

    pub(crate) fn with(mut self, header: &str, value: &str) -> Self {
        self.headers.push((header.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn with_body(self, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..self }
    }

    pub(crate) fn without_length(self) -> Self {
        Self { manner: Manner::Unsized, ..self }
    }

    pub(crate) fn claiming(self, length: usize) -> Self {
        Self { manner: Manner::Claims(length), ..self }
    }

    pub(crate) fn stalling_after(self, bytes: usize) -> Self {
        Self { manner: Manner::StallsAfter(bytes), ..self }
    }

    pub(crate) fn slowly(self, bytes: usize, pause: Duration) -> Self {
        Self { manner: Manner::Slowly(bytes, pause), ..self }
    }

    fn send(&self, to: &mut impl Write, stop: &AtomicBool) -> std::io::Result<()> {
        if !matches!(self.manner, Manner::Raw) {
            to.write_all(self.head().as_bytes())?;
        }
        match self.manner {
            Manner::Whole | Manner::Unsized | Manner::Claims(_) | Manner::Raw => {
                to.write_all(&self.body)?;
            }
            Manner::StallsAfter(bytes) => {
                to.write_all(&self.body[..bytes])?;
                to.flush()?;
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(GLANCE);
                }
            }
            Manner::Slowly(bytes, pause) => {
                for piece in self.body.chunks(bytes) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    to.write_all(piece)?;
                    to.flush()?;
                    thread::sleep(pause);
                }
            }
        }
        to.flush()
    }

    fn head(&self) -> String {
        let length = match self.manner {
            Manner::Unsized | Manner::Raw => None,
            Manner::Claims(length) => Some(length),
            Manner::Whole | Manner::StallsAfter(_) | Manner::Slowly(..) => Some(self.body.len()),
        };
        let length = length.map(|length| ("content-length".to_owned(), length.to_string()));
        let headers = self.headers.iter().chain(&length);
        let headers = headers.map(|(header, value)| format!("{header}: {value}\r\n"));
        let headers = headers.collect::<String>();
        format!("HTTP/1.1 {} Played\r\nconnection: close\r\n{headers}\r\n", self.status)
    }
}

/// The server; it ends with this value.
#[derive(Debug)]
pub(crate) struct WebService {
    address: SocketAddr,
    directory: tempfile::TempDir,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    script: Mutex<Script>,
    requests: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl WebService {
    /// Listens on 127.0.0.1, in the namespace of the calling thread.
    pub(crate) fn start(script: Script) -> Self {
        Self::proving(Certificate::Good, script)
    }

    /// As [`WebService::start`], with a certificate that may be bad.
    pub(crate) fn proving(certificate: Certificate, script: Script) -> Self {
        Self::listening(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), certificate, script)
    }

    /// Listens on `address`, which the certificate is for; port 0 is any free one.
    pub(crate) fn listening(address: SocketAddr, certificate: Certificate, script: Script) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (ca, config) = credentials(certificate, address);
        std::fs::write(directory.path().join("ca.pem"), ca).unwrap();
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { script: Mutex::new(script), ..Shared::default() });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve(&listener, &config, &shared)
        });
        Self { address, directory, shared, thread: Some(thread) }
    }

    /// What it answers from now on.
    pub(crate) fn set(&self, script: Script) {
        *self.shared.script.lock().unwrap() = script;
    }

    /// The path and query of every request since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.requests.lock().unwrap())
    }

    /// What a configuration names as `service`.
    pub(crate) fn base_url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What a configuration names as `ca-file`.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }
}

impl Drop for WebService {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn serve(listener: &TcpListener, config: &Arc<ServerConfig>, shared: &Arc<Shared>) {
    let mut clients = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let (config, shared) = (Arc::clone(config), Arc::clone(shared));
                // A client that does not trust the server, or has had enough, is what is tested.
                clients.push(thread::spawn(move || converse(&stream, config, &shared).ok()));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(GLANCE),
            Err(error) => panic!("the played web service cannot accept: {error}"),
        }
    }
    for client in clients {
        client.join().ok();
    }
}

fn converse(
    stream: &TcpStream,
    config: Arc<ServerConfig>,
    shared: &Shared,
) -> Result<(), Box<dyn std::error::Error>> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut tls = StreamOwned::new(ServerConnection::new(config)?, stream);
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match tls.read(&mut piece)? {
            0 => return Ok(()),
            length => request.extend_from_slice(&piece[..length]),
        }
    }
    let request = String::from_utf8(request)?;
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = shared.script.lock().unwrap().answer(&target);
    shared.requests.lock().unwrap().push(target);
    answer.send(&mut tls, &shared.stop)?;
    tls.conn.send_close_notify();
    tls.flush()?;
    Ok(())
}

/// The certificate of the authority that clients are to trust, and what the server has.
fn credentials(certificate: Certificate, address: SocketAddr) -> (String, Arc<ServerConfig>) {
    let (told, trusted) = authority("told");
    let (_, other) = authority("other");
    let issuer = if certificate == Certificate::UnknownCa { other } else { trusted };
    let name = match certificate {
        Certificate::WrongName => "endpoints.example".to_owned(),
        Certificate::Good | Certificate::Expired | Certificate::UnknownCa => {
            address.ip().to_string()
        }
    };
    let mut params = CertificateParams::new([name]).unwrap();
    if certificate == Certificate::Expired {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
    (told, Arc::new(config))
}

fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, format!("breakout365 test CA {name}"));
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}
