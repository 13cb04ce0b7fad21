//! Transfer rates: a download past inspection, and one through it, by the same gateway in turn.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;
use xtask::scenario::{InlineSuricata, TransparentSquid};
use xtask::testbed::{BpfFs, EchoServers, Namespace, Owner, Process, Scratch};

use crate::paired::Paired;
use crate::rig::join;
use crate::way::MARK;

/// What is downloaded, in bytes.
const LENGTH: usize = 32 << 20;
const ROUNDS: usize = 7;
const QUICK_ROUNDS: usize = 3;
/// Listed by the feed, and not.
const LISTED: &str = "40.96.0.1:80";
const OTHER: &str = "203.0.113.1:80";
const FEED: &str = r#"[{
    "id": 1, "serviceArea": "Exchange", "category": "Optimize", "required": true,
    "ips": ["40.96.0.0/13"], "tcpPorts": "80"
}]"#;
/// How long a daemon may take to publish, and an answer to begin.
const PATIENCE: Duration = Duration::from_mins(1);

/// One inspection system beside direct traffic, in MiB per second: medians over rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Rate {
    pub(crate) inspector: &'static str,
    pub(crate) inspected: f64,
    pub(crate) direct: f64,
    /// How many times as fast, within a round.
    pub(crate) times: Paired,
}

/// An inspection system in the gateway.
enum Inspector {
    Squid(TransparentSquid),
    Suricata { _running: InlineSuricata },
}

/// A gateway between a client and two hops that serve the same.
///
/// ```text
/// client src0 ── lan0 gateway up0 ──── in2 direct
///                             insp0 ── in3 inspected
/// ```
struct Place {
    client: Namespace,
    gateway: Namespace,
    inspector: Inspector,
    _daemon: Process,
    _hops: [Namespace; 2],
    _bpffs: BpfFs,
    _files: Scratch,
}

/// The rates beside each inspection system that is installed, and what is missing for the others.
pub(crate) fn measure(quick: bool) -> Result<(Vec<Rate>, Vec<String>)> {
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    let (mut rates, mut missing) = (Vec::new(), Vec::new());
    for (name, lacks) in [
        ("squid (TPROXY)", TransparentSquid::missing()),
        ("Suricata (NFQUEUE)", InlineSuricata::missing()),
    ] {
        if let Some(lacks) = lacks {
            missing.push(format!("transfer rate through {name}: {lacks}"));
            continue;
        }
        eprintln!("making {name}");
        let place = Place::new(name.starts_with("squid"))?;
        let [mut inspected, mut direct] = [Vec::new(), Vec::new()];
        // The first of each fills caches.
        for to in [OTHER, LISTED] {
            place.download(to)?;
        }
        for round in 0..rounds {
            if round % 2 == 0 {
                inspected.push(place.download(OTHER)?);
                direct.push(place.download(LISTED)?);
            } else {
                direct.push(place.download(LISTED)?);
                inspected.push(place.download(OTHER)?);
            }
        }
        let median = |all: &[f64]| Paired::of(all, all, |one, _| one).median;
        rates.push(Rate {
            inspector: name,
            inspected: median(&inspected),
            direct: median(&direct),
            times: Paired::of(&direct, &inspected, |direct, inspected| direct / inspected),
        });
    }
    Ok((rates, missing))
}

impl Place {
    fn new(is_squid: bool) -> Result<Self> {
        let [client, gateway, direct, other] =
            ["client", "gateway", "direct", "inspected"].map(Namespace::new);
        let (client, gateway, direct, other) = (client?, gateway?, direct?, other?);
        join((&gateway, "lan0"), (&client, "src0"), 1)?;
        join((&gateway, "up0"), (&direct, "in2"), 2)?;
        join((&gateway, "insp0"), (&other, "in3"), 3)?;
        gateway.forward()?;
        client.ip("route add default via 10.0.1.1\n")?;
        gateway.ip("route add default via 10.0.3.2\n")?;
        for (hop, number) in [(&direct, 2), (&other, 3)] {
            hop.ip(&format!("route add default via 10.0.{number}.1\n"))?;
            let served = ["40.96.0.0/13", "203.0.113.0/24"].map(str::parse);
            let served: BTreeSet<_> = served.into_iter().collect::<Result<_, _>>()?;
            EchoServers::own(hop, &served)?;
            serve(hop)?;
        }
        let (files, bpffs) = (Scratch::owned(Owner::Process)?, BpfFs::new()?);
        let product = Product { gateway: &gateway, files: files.path(), pins: bpffs.pins() };
        let daemon = product.start()?;
        let inspector = if is_squid {
            let chains = product.export("chain-nft", &TransparentSquid::CHAINS)?;
            Inspector::Squid(TransparentSquid::start(&gateway, &files.path(), &chains)?)
        } else {
            let chains = product.export("chain-iptables", &InlineSuricata::CHAINS)?;
            let running = InlineSuricata::start(&gateway, &files.path(), &chains)?;
            Inspector::Suricata { _running: running }
        };
        Ok(Self {
            client,
            gateway,
            inspector,
            _daemon: daemon,
            _hops: [direct, other],
            _bpffs: bpffs,
            _files: files,
        })
    }

    /// MiB per second of a download that took the way it should.
    fn download(&self, from: &str) -> Result<f64> {
        let before = self.inspected()?;
        let address: SocketAddr = from.parse()?;
        let (took, head, length) = self.client.enter(|| download(address))??;
        let is_direct = from == LISTED;
        let hop = if is_direct { "direct" } else { "inspected" };
        ensure!(head.contains(&format!("X-Hop: {hop}")), "{from} was served elsewhere: {head}");
        ensure!(length == LENGTH, "{length} bytes of {LENGTH} came from {from}");
        let was_inspected = self.inspected()? > before;
        ensure!(was_inspected != is_direct, "{from}: inspected is {was_inspected}");
        let mebibytes = f64::from(u32::try_from(LENGTH >> 20)?);
        Ok(mebibytes / took.as_secs_f64())
    }

    /// What the inspector has seen: requests, or packets.
    fn inspected(&self) -> Result<u64> {
        match &self.inspector {
            Inspector::Squid(squid) => Ok(squid.access_log()?.lines().count().try_into()?),
            Inspector::Suricata { .. } => InlineSuricata::queued(&self.gateway),
        }
    }
}

fn download(from: SocketAddr) -> Result<(Duration, String, usize)> {
    let started = Instant::now();
    let mut stream = TcpStream::connect_timeout(&from, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {from}\r\n\r\n")?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let (mut length, mut piece) = (0, vec![0; 1 << 18]);
    loop {
        match stream.read(&mut piece)? {
            0 => break,
            more => length += more,
        }
    }
    Ok((started.elapsed(), String::from_utf8_lossy(&head).into_owned(), length))
}

/// Serves every request in `hop`, until this process ends.
fn serve(hop: &Namespace) -> Result<()> {
    let listener = hop.enter(|| TcpListener::bind("0.0.0.0:80"))??;
    let role = hop.role().to_owned();
    thread::spawn(move || {
        let body = vec![b'.'; LENGTH];
        for mut stream in listener.incoming().flatten() {
            // A client that is gone has said what is wrong.
            let mut answer = || -> std::io::Result<()> {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte)?;
                    head.extend(byte);
                }
                write!(
                    stream,
                    "HTTP/1.0 200 OK\r\nX-Hop: {role}\r\nContent-Length: {LENGTH}\r\n\r\n"
                )?;
                stream.write_all(&body)
            };
            answer().ok();
        }
    });
    Ok(())
}

/// The product, and where its files are.
struct Product<'a> {
    gateway: &'a Namespace,
    files: PathBuf,
    pins: PathBuf,
}

impl Product<'_> {
    /// Runs the daemon, once it has published.
    fn start(&self) -> Result<Process> {
        fs::write(self.files.join("feed.json"), FEED)?;
        let text = format!(
            "version = 1\nfeed.file = \"feed.json\"\n[mark]\nvalue = {MARK:#x}\nmask = {MARK:#x}\n\
             [[interface]]\nname = \"lan0\"\n[egress]\ninterface = \"up0\"\ngateway4 = \"10.0.2.2\"\n"
        );
        fs::write(self.config(), text)?;
        let log = File::create(self.files.join("log"))?;
        let mut run = self.command(&["run"]);
        run.arg("--config").arg(self.config());
        run.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut daemon = self.gateway.spawn(&mut run)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if daemon.wait_for(Duration::from_millis(100))?.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.files.join("log"))?;
                bail!("the daemon does not publish: {log}");
            }
            let status = self.gateway.output(&mut self.command(&["status", "--json"]));
            let status = status.ok().and_then(|text| serde_json::from_str(&text).ok());
            if status.is_some_and(|status: Value| status["generation"].as_u64() >= Some(1)) {
                return Ok(daemon);
            }
        }
    }

    /// The chains that lead to these inspectors.
    fn export(&self, format: &str, to: &[&str]) -> Result<String> {
        let mut export = self.command(&["export", "--format", format, "--config"]);
        export.arg(self.config()).args(to.iter().flat_map(|inspector| ["--to", inspector]));
        self.gateway.output(&mut export)
    }

    fn config(&self) -> PathBuf {
        self.files.join("config.toml")
    }

    fn command(&self, verb: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_breakout365"));
        command.arg("--pins").arg(&self.pins).arg("--state-dir").arg(self.files.join("state"));
        command.arg("--run-dir").arg(self.files.join("run")).args(verb).env_remove("RUST_LOG");
        command
    }
}
