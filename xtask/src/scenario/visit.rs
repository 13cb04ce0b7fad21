//! A client's visit to a host, and what it learns: which way it came, whose certificate it saw, and
//! what the host was asked.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::http::{self, Message};
use super::origin::WAY;
use super::site::{Family, MEDIA_PORT, Site};
use crate::testbed::uninterrupted;

/// What a proxy that injects them tells Microsoft about tenants.
pub(super) const TENANT_HEADER: &str = "Restrict-Access-To-Tenants";

/// One visit.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    pub(super) site: Site,
    pub(super) to: SocketAddr,
    speaks: Speaks,
    /// The proxy that is asked to connect.
    pub(super) proxy: Option<SocketAddr>,
    upload: Option<String>,
    patience: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http,
    Https,
    Datagrams,
}

impl Visit {
    fn new(site: Site, family: Family, port: u16, speaks: Speaks) -> Self {
        let to = site.at(family, port);
        Self { site, to, speaks, proxy: None, upload: None, patience: PATIENCE }
    }

    /// By HTTP.
    pub(super) fn http(site: Site, family: Family) -> Self {
        Self::new(site, family, 80, Speaks::Http)
    }

    /// By HTTPS.
    pub(super) fn https(site: Site, family: Family) -> Self {
        Self::new(site, family, 443, Speaks::Https)
    }

    /// With TLS, on a port that no selected set has.
    pub(super) fn mail(site: Site, family: Family) -> Self {
        Self::new(site, family, 993, Speaks::Https)
    }

    /// With one datagram.
    pub(super) fn media(site: Site, family: Family) -> Self {
        Self::new(site, family, MEDIA_PORT, Speaks::Datagrams)
    }

    /// The same by a proxy.
    pub(super) fn through(self, proxy: SocketAddr) -> Self {
        Self { proxy: Some(proxy), ..self }
    }

    /// The same with an upload.
    pub(super) fn uploading(self, text: &str) -> Self {
        Self { upload: Some(text.to_owned()), ..self }
    }

    /// The same, expecting that nobody answers: not waiting as long.
    pub(super) fn in_vain(self) -> Self {
        Self { patience: Duration::from_millis(1500), ..self }
    }

    /// Makes it, from the namespace of the calling thread.
    fn answer(&self, trust: &Trust) -> Result<Seen> {
        if self.speaks == Speaks::Datagrams {
            return self.datagram();
        }
        let stream = TcpStream::connect_timeout(&self.proxy.unwrap_or(self.to), self.patience)
            .context("no connection")?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        let mut stream = stream;
        if self.proxy.is_some() {
            let (host, port) = (self.site.host, self.to.port());
            write!(stream, "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")?;
            let answer = http::read(&mut stream)?;
            if !answer.first_line().contains(" 200 ") {
                bail!("the proxy says {:?}", answer.first_line());
            }
        }
        if self.speaks == Speaks::Http {
            return Ok(Seen::new(&self.exchange(&mut stream)?, None, self.upload.as_deref()));
        }
        let name = ServerName::try_from(self.site.host)?;
        let connection = ClientConnection::new(Arc::clone(&trust.client), name.clone())?;
        let mut secure = StreamOwned::new(connection, stream);
        let answer = self.exchange(&mut secure)?;
        let chain = secure.conn.peer_certificates().context("no certificate")?;
        Ok(Seen::new(&answer, Some(trust.signer(chain, &name)), self.upload.as_deref()))
    }

    fn exchange(&self, stream: &mut (impl Read + Write)) -> Result<Message> {
        let host = self.site.host;
        match &self.upload {
            None => write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
            Some(text) => write!(
                stream,
                "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/plain\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            ),
        }?;
        stream.flush()?;
        http::read(stream)
    }

    fn datagram(&self) -> Result<Seen> {
        let any = if self.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(self.patience))?;
        socket.connect(self.to)?;
        let sent = self.upload.as_deref().unwrap_or(".");
        socket.send(sent.as_bytes())?;
        let mut answer = [0; 2048];
        let length = uninterrupted(|| socket.recv(&mut answer))?;
        let answer = String::from_utf8_lossy(&answer[..length]);
        let (way, came) = answer.split_once('\n').context("no host of ours answers")?;
        let mut words = vec![way.to_owned()];
        words.extend((came != sent).then(|| CHANGED.to_owned()));
        Ok(Seen(words))
    }

    /// What it learns, in words; a visit that nobody answers is `nobody answers`.
    pub(super) fn seen(&self, trust: &Trust) -> String {
        self.answer(trust).map_or_else(|error| said(&error), |seen| seen.to_string())
    }
}

impl fmt::Display for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, to) = (self.site.host, self.to);
        let scheme = match (self.speaks, to.port()) {
            (Speaks::Http, _) => "http",
            (Speaks::Https, 443) => "https",
            (Speaks::Https, _) => "tls",
            (Speaks::Datagrams, _) => "udp",
        };
        let verb = if self.upload.is_some() { "upload to " } else { "" };
        write!(f, "{verb}{scheme}://{host} ({to})")
    }
}

/// What a visit learned, in words that are joined.
struct Seen(Vec<String>);

impl Seen {
    fn new(answer: &Message, signer: Option<&str>, upload: Option<&str>) -> Self {
        let mut words = vec![answer.header(WAY).unwrap_or("answered on the way").to_owned()];
        words.extend(signer.map(|signer| format!("certificate of {signer}")));
        // The host answers with what it was asked, so what was added on the way is in there.
        let asked = answer.body();
        if http::header(&asked, "via").is_some_and(|via| via.contains("squid")) {
            words.push("through squid".to_owned());
        }
        let is_of_host = answer.header(WAY).is_some();
        if is_of_host && upload.is_some_and(|sent| !asked.ends_with(&format!("\r\n\r\n{sent}"))) {
            words.push(CHANGED.to_owned());
        }
        if let Some(tenants) = http::header(&asked, TENANT_HEADER) {
            words.push(format!("tenants {tenants}"));
        }
        if !answer.first_line().contains(" 200 ") {
            words.extend(answer.first_line().split_once(' ').map(|(_, status)| status.to_owned()));
        }
        Self(words)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// How a visit is said to have failed. Whoever drops packets answers nothing.
fn said(error: &anyhow::Error) -> String {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    match io.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock) => {
            "nobody answers".to_owned()
        }
        _ => format!("{error:#}"),
    }
}

/// Whom the client trusts: the authority of the hosts, and that of a proxy.
#[derive(Debug)]
pub(super) struct Trust {
    client: Arc<ClientConfig>,
    signers: Vec<(&'static str, Arc<WebPkiServerVerifier>)>,
}

impl Trust {
    /// In authorities by name and file.
    pub(super) fn in_authorities(authorities: &[(&'static str, &Path)]) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut all = RootCertStore::empty();
        let mut signers = Vec::new();
        for (name, file) in authorities {
            let mut roots = RootCertStore::empty();
            let pem = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let certificate = CertificateDer::from_pem_slice(&pem)
                .with_context(|| format!("{} has no certificate", file.display()))?;
            roots.add(certificate.clone())?;
            all.add(certificate)?;
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                    .build()?;
            signers.push((*name, verifier));
        }
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(all)
            .with_no_client_auth();
        Ok(Self { client: Arc::new(client), signers })
    }

    /// Whose authority signed a chain that all of them together accept.
    fn signer(&self, chain: &[CertificateDer], name: &ServerName) -> &'static str {
        let Some((leaf, rest)) = chain.split_first() else { return "nobody" };
        let signed = |verifier: &WebPkiServerVerifier| {
            verifier.verify_server_cert(leaf, rest, name, &[], UnixTime::now()).is_ok()
        };
        self.signers
            .iter()
            .find(|(_, verifier)| signed(verifier))
            .map_or("nobody", |(name, _)| *name)
    }
}

/// What the host was sent is not what the client had sent.
const CHANGED: &str = "changed on the way";
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
