//! An exporter in a gateway, and what a client reads from it.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use xtask::testbed::{Namespace, Process};

use super::product::Product;
use super::wait_until;

/// Where exporters of tests listen, each in a namespace of its own.
pub(crate) const EXPORTER: &str = "127.0.0.1:9365";
/// A server that says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        Some(Self { status, headers: headers.collect(), body: body.to_owned() })
    }
}

/// Starts an exporter in front of a product, and waits until it lives.
pub(crate) fn start(product: &Product<'_>, gateway: &Namespace, more: &[&str]) -> Process {
    let process = product.spawn(&[&["exporter"], more].concat(), "exporter.log");
    wait_until("the exporter lives", || {
        get(gateway, EXPORTER, "/healthz", "").is_ok_and(|answer| answer.status == 200)
    });
    process
}

/// Asks for a path, with more header lines.
pub(crate) fn get(
    gateway: &Namespace,
    address: &str,
    path: &str,
    headers: &str,
) -> io::Result<Answer> {
    // HTTP/1.0: what is answered is not sent in chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: test\r\n{headers}\r\n");
    let bytes = gateway.enter(|| exchange(address, request.as_bytes())).unwrap()?;
    Answer::parse(&bytes).ok_or_else(|| io::Error::other(format!("no HTTP answer: {bytes:?}")))
}

/// Sends bytes and reads until the other side ends.
pub(crate) fn exchange(address: &str, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // A server that refuses early may close before all is sent.
    stream.write_all(request).ok();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

/// `/metrics`, in Prometheus text.
pub(crate) fn metrics(gateway: &Namespace) -> String {
    let answer = get(gateway, EXPORTER, "/metrics", "").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// The samples of a text, by name with labels.
pub(crate) fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| line.rsplit_once(' ').unwrap());
    samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// The sum of the samples of a series whose labels have all of `labels` in them.
pub(crate) fn sum(samples: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
    let ours = samples.iter().filter(|(sample, _)| {
        sample.split('{').next() == Some(name) && labels.iter().all(|label| sample.contains(label))
    });
    ours.map(|(_, value)| value).sum()
}
