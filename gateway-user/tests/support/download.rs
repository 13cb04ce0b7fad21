//! Downloads that go on until they are told to end, of content that is known at every position; the
//! servers write down who asked them and for what.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use xtask::testbed::{EchoServers, Namespace, listen_v6};

use super::network::Network;
use super::wait_until;

/// Listed by the feed, on this port; and not. Asked by downloads alone.
pub(crate) const LISTED: [&str; 2] = ["40.96.0.2:80", "[2603:1006::2]:80"];
pub(crate) const OTHERS: [&str; 2] = ["203.0.113.7:80", "[2001:db8:7::7]:80"];
/// So many bytes at a time, and the pause between: 400 kB a second.
const PIECE: u64 = 4096;
const PAUSE: Duration = Duration::from_millis(10);
/// What shows that a download goes on.
const SOME: u64 = 10 * PIECE;

/// HTTP servers in both hops of a network, on port 80 of every address there.
pub(crate) struct Origin(Arc<Shared>);

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<Asked>>,
    finish: AtomicBool,
}

/// One request, as a server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Which hop it came to.
    pub(crate) hop: String,
    /// Which address was asked.
    pub(crate) to: SocketAddr,
    /// Whether a proxy says that it was there.
    pub(crate) by_proxy: bool,
    /// Which part of the content it was given: from here, up to there.
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Origin {
    pub(crate) fn start(network: &Network) -> Self {
        let shared = Arc::new(Shared::default());
        let more = ["203.0.113.0/24", "2001:db8:7::/48"].map(|net| net.parse().unwrap());
        for hop in [&network.direct, &network.inspector] {
            EchoServers::own(hop, &more.into()).unwrap();
            hop.enter(|| {
                for listener in [
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap(),
                    listen_v6(80).unwrap(),
                ] {
                    let (shared, hop) = (Arc::clone(&shared), hop.role().to_owned());
                    thread::spawn(move || {
                        for stream in listener.incoming().flatten() {
                            let (shared, hop) = (Arc::clone(&shared), hop.clone());
                            // A client that is gone is what is tested.
                            thread::spawn(move || shared.serve(stream, hop).ok());
                        }
                    });
                }
            })
            .unwrap();
        }
        Self(shared)
    }

    /// Lets every download come to its end.
    pub(crate) fn finish(&self) {
        self.0.finish.store(true, Ordering::Relaxed);
    }

    /// Every request for a download of `to`, in their order.
    pub(crate) fn asked(&self, to: &str) -> Vec<Asked> {
        let to: SocketAddr = to.parse().unwrap();
        let asked = self.0.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.to == to).cloned().collect()
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream, hop: String) -> std::io::Result<()> {
        let to = stream.local_addr()?;
        let head = read_head(&mut stream)?;
        let by_proxy = head.to_ascii_lowercase().contains("\r\nvia:");
        stream.write_all(b"HTTP/1.0 200 OK\r\nCache-Control: no-store\r\n\r\n")?;
        let Some(from) = head.split(['=', ' ']).nth(2).and_then(|from| from.parse().ok()) else {
            let way = if by_proxy { "squid" } else { "nobody" };
            return stream.write_all(format!("{hop} through {way}").as_bytes());
        };
        let number = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(Asked { hop, to, by_proxy, from, until: from });
            asked.len() - 1
        };
        let mut at = from;
        while !self.finish.load(Ordering::Relaxed) {
            let piece: Vec<u8> = (at..at + PIECE).map(content).collect();
            stream.write_all(&piece)?;
            at += PIECE;
            self.asked.lock().unwrap()[number].until = at;
            thread::sleep(PAUSE);
        }
        stream.shutdown(Shutdown::Write)
    }
}

/// What is at a position.
fn content(position: u64) -> u8 {
    let mixed = (position / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).to_le_bytes()[usize::try_from(position % 8).unwrap()]
}

/// A client that asks for the rest, wherever it was cut off, until it has everything.
pub(crate) struct Download {
    pub(crate) to: &'static str,
    progress: Arc<Mutex<Progress>>,
    thread: JoinHandle<Vec<u8>>,
}

#[derive(Default)]
struct Progress {
    received: u64,
    cuts: Vec<(Instant, ErrorKind)>,
}

impl Download {
    pub(crate) fn start(client: &Namespace, to: &'static str) -> Self {
        let progress = Arc::new(Mutex::new(Progress::default()));
        let noted = Arc::clone(&progress);
        let thread = client.enter(|| thread::spawn(move || fetch(to, &noted))).unwrap();
        Self { to, progress, thread }
    }

    fn received(&self) -> u64 {
        self.progress.lock().unwrap().received
    }

    /// When, and how, it was cut off.
    pub(crate) fn cuts(&self) -> Vec<(Instant, ErrorKind)> {
        self.progress.lock().unwrap().cuts.clone()
    }

    /// Asserts that it was cut off so many times.
    fn assert_cuts(&self, cuts: usize, after: &str) {
        assert_eq!(self.cuts().len(), cuts, "{} after {after}: {:?}", self.to, self.cuts());
    }

    /// Waits for its end, asserts that it is whole, and gives its length.
    pub(crate) fn assert_it_is_whole(self) -> u64 {
        wait_until("the download ends", || self.thread.is_finished());
        let digest = self.thread.join().unwrap();
        let received = self.progress.lock().unwrap().received;
        let whole: Vec<u8> = (0..received).map(content).collect();
        assert_eq!(digest, Sha256::digest(whole).to_vec(), "{}", self.to);
        received
    }
}

/// Waits until each has some more, and asserts that it was cut off so many times.
pub(crate) fn assert_they_go_on<'a>(
    downloads: impl IntoIterator<Item = (&'a Download, usize)>,
    after: &str,
) {
    let before: Vec<_> =
        downloads.into_iter().map(|(it, cuts)| (it, cuts, it.received())).collect();
    for (download, cuts, received) in before {
        wait_until(&format!("the download of {} goes on after {after}", download.to), || {
            download.received() >= received + SOME
        });
        download.assert_cuts(cuts, after);
    }
}

/// Gives the digest of all that was received.
fn fetch(to: &str, progress: &Mutex<Progress>) -> Vec<u8> {
    let mut digest = Sha256::new();
    loop {
        let from = progress.lock().unwrap().received;
        let rest = get(to, &format!("/download?from={from}"), |piece| {
            digest.update(piece);
            progress.lock().unwrap().received += u64::try_from(piece.len()).unwrap();
        });
        match rest {
            Ok(()) => return digest.finalize().to_vec(),
            Err(error) => progress.lock().unwrap().cuts.push((Instant::now(), error.kind())),
        }
    }
}

/// Who answers a new request, and through what.
pub(crate) fn way(client: &Namespace, to: &str) -> String {
    let mut way = String::new();
    let got = client.enter(|| get(to, "/way", |piece| way += &String::from_utf8_lossy(piece)));
    got.unwrap().map_or_else(|error| error.to_string(), |()| way)
}

/// Asks, and hands out the body as it comes.
fn get(to: &str, path: &str, mut take: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_secs(5))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {to}\r\n\r\n")?;
    read_head(&mut stream)?;
    let mut piece = [0; 16 * 1024];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            length => take(&piece[..length]),
        }
    }
}

fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
