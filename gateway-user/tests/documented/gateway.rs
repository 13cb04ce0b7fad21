//! A gateway as the quick start has it, and a root of its own, so that commands are typed as they are
//! written: with `/etc/breakout365`, `/var/lib`, `/run` and `/sys/fs/bpf`.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use gateway_common::Transport;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use xtask::testbed::{BpfFs, EchoServers, End, Frame, Namespace, Offloads, Process, link};

use crate::captures::{Capture, Order, Piece, pcap};
use crate::support::web_service::{Script, WebService};
use crate::support::{CLIENT, LAN, PATIENCE, frame, wait_until};

/// The service's list, as in the binary.
const WORLDWIDE: &str = include_str!("../../src/feed/worldwide-2026073100.json");
const WORLDWIDE_VERSION: &str = "2026073100";
/// Set 1 and next to nothing of it: more leaves and more comes than guards let pass.
const SMALL: &str = r#"[{
    "id": 1, "serviceArea": "Exchange", "serviceAreaDisplayName": "Exchange Online",
    "ips": ["40.96.0.0/13"], "tcpPorts": "443", "category": "Optimize", "required": true
}]"#;
/// How the papers start the daemon.
pub(crate) const RUN: &str = "breakout365 run --config /etc/breakout365/config.toml";
/// What the quick start says of the way from shadow to marks.
const MARK: &str = "sed -i s/shadow/mark/ /etc/breakout365/config.toml";
/// What the list has and the direct hop answers for.
const DIRECT: &str = "40.96.0.1:443";
const NOT_LISTED: &str = "203.0.113.7:22";

/// What has to be so before a command is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// The binary is there, nothing is configured or loaded.
    Fresh,
    /// The configuration of the quick start is in its place.
    Configured,
    /// The daemon runs with it, in shadow mode.
    Shadow,
    /// The file says `mark`, and the daemon does not know yet.
    Edited,
    /// The daemon marks, and has had traffic.
    Serving,
    /// And a client has a direct flow.
    Flow,
    /// And a plan waits.
    Waiting,
    /// And an exporter answers.
    Exporter,
    /// The daemon was stopped.
    Stopped,
}

/// What a command did.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
}

/// Client, gateway and direct hop; fields end in this order.
pub(crate) struct Gateway {
    daemon: Option<Process>,
    exporter: Option<Process>,
    flow: Option<TcpStream>,
    /// Whether there was traffic.
    visited: bool,
    lists: u32,
    /// Holds the root that commands see.
    root: Process,
    service: WebService,
    client: Namespace,
    router: Namespace,
    _direct: Namespace,
    _bpffs: BpfFs,
    files: TempDir,
}

impl Gateway {
    pub(crate) fn new(config: &str) -> Self {
        let [client, gateway, direct] =
            ["client", "gateway", "direct"].map(|role| Namespace::new(role).unwrap());
        let bpffs = BpfFs::new().unwrap();
        join((&client, CLIENT, "10.1.2.3/16"), (&gateway, LAN, "10.1.0.1/16"));
        join((&direct, "in0", "198.51.100.1/24"), (&gateway, "wan0", "198.51.100.2/24"));
        join((&direct, "in1", "192.168.9.1/24"), (&gateway, "lan1", "192.168.9.2/24"));
        client.ip("route add default via 10.1.0.1\n").unwrap();
        gateway
            .ip("address add 192.0.2.1/32 dev lo\naddress add fd36::2/64 dev wan0 nodad\n")
            .unwrap();
        gateway.forward().unwrap();
        answer(&direct);
        let files = tempfile::tempdir().unwrap();
        let script = Script::serving("Worldwide", WORLDWIDE_VERSION, WORLDWIDE);
        let service = gateway.enter(|| WebService::start(script)).unwrap();
        let root = root(&gateway, &bpffs, files.path());
        let gateway = Self {
            daemon: None,
            exporter: None,
            flow: None,
            visited: false,
            lists: 0,
            root,
            service,
            client,
            router: gateway,
            _direct: direct,
            _bpffs: bpffs,
            files,
        };
        gateway.lay_out(config);
        gateway
    }

    /// The files that commands of the papers name.
    fn lay_out(&self, config: &str) {
        let played = format!(
            "instance = \"Worldwide\"\nservice = \"{}\"\nca-file = \"{}\"\npoll-interval = \"1s\"\n",
            self.service.base_url(),
            self.service.ca_file().display()
        );
        let real = config.lines().find(|line| line.starts_with("instance = ")).unwrap();
        self.write("config.toml", &config.replace(real, &played));
        self.write("old.json", WORLDWIDE);
        self.write("new.json", SMALL);
        self.write("token", "0123456789abcdef0123456789abcdef\n");
        let pair = rcgen::generate_simple_self_signed(["192.0.2.1".to_owned()]).unwrap();
        self.write("cert.pem", &pair.cert.pem());
        self.write("key.pem", &pair.signing_key.serialize_pem());
        let packets = [
            frame((Transport::Tcp, DIRECT)),
            Frame::udp(NOT_LISTED.parse().unwrap()).build().unwrap(),
        ];
        let pieces: Vec<_> =
            (0..).zip(&packets).map(|(at, packet)| Piece::at(at, packet)).collect();
        let capture = Capture { order: Order::Little, nanoseconds: false, link: 1 };
        fs::write(self.file("lan0.pcap"), pcap(capture, &pieces)).unwrap();
        // As built, but without a copy of its hundreds of megabytes.
        fs::create_dir_all(self.file("target/release")).unwrap();
        let binary = env!("CARGO_BIN_EXE_breakout365");
        let shim = format!("#!/bin/sh\nexec {binary} \"$@\"\n");
        self.write("target/release/breakout365", &shim);
        self.shell("mkdir -p /etc/breakout365 /etc/systemd/networkd.conf.d").unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    /// Brings about what has to be so.
    pub(crate) fn prepare(&mut self, before: Before) {
        match before {
            Before::Fresh => assert!(self.daemon.is_none(), "this comes first"),
            Before::Configured => {
                self.shell("cp config.toml /etc/breakout365/config.toml").unwrap();
            }
            Before::Shadow => self.start_daemon(),
            Before::Edited => {
                self.start_daemon();
                self.shell(MARK).unwrap();
            }
            Before::Serving => self.serve(),
            Before::Flow => {
                self.serve();
                self.flow = Some(self.connect());
            }
            Before::Waiting => {
                self.serve();
                self.wait_for_a_plan();
            }
            Before::Exporter => {
                self.serve();
                if self.exporter.is_none() {
                    self.exporter = Some(self.start("breakout365 exporter", "exporter.log"));
                    wait_until("the exporter answers", || {
                        self.shell("curl --silent --fail http://127.0.0.1:9365/readyz").is_ok()
                    });
                }
            }
            Before::Stopped => self.stop(),
        }
    }

    fn start_daemon(&mut self) {
        if self.daemon.is_some() {
            return;
        }
        self.daemon = Some(self.start(RUN, "daemon.log"));
        wait_until("the daemon publishes", || {
            let log = self.log("daemon.log");
            let ended = self.daemon.as_mut().and_then(|it| it.child().try_wait().unwrap());
            assert!(ended.is_none(), "{log}");
            log.contains(" published: ")
        });
    }

    fn serve(&mut self) {
        self.start_daemon();
        self.shell("breakout365 on").unwrap();
        if self.status()["mode"] == "shadow" {
            self.shell(MARK).unwrap();
            self.shell("breakout365 reload").unwrap();
        }
        if !self.visited {
            self.visit();
            self.visited = true;
        }
    }

    /// One flow that goes direct, and packets that do not.
    fn visit(&self) {
        drop(self.connect());
        let refused = || TcpStream::connect_timeout(&NOT_LISTED.parse().unwrap(), SHORT);
        assert!(self.client.enter(refused).unwrap().is_err(), "nobody inspects here");
    }

    /// A flow from the client to a listed address; only the direct hop answers there.
    fn connect(&self) -> TcpStream {
        let connect = || TcpStream::connect_timeout(&DIRECT.parse().unwrap(), SHORT);
        let mut flow = None;
        wait_until("a listed address is reached directly", || {
            flow = self.client.enter(connect).unwrap().ok();
            flow.is_some()
        });
        flow.unwrap()
    }

    /// Datagrams to a listed address and to another, so many that one in a thousand is among them soon.
    fn send(&self) {
        let socket = self.client.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        for _ in 0..200 {
            socket.send_to(b".", DIRECT).unwrap();
            socket.send_to(b".", NOT_LISTED).unwrap();
        }
    }

    /// Lets the service publish what guards hold.
    fn wait_for_a_plan(&mut self) {
        if self.status()["daemon"]["pending"].is_object() {
            return;
        }
        self.lists += 1;
        let serving = self.status()["prefixes"]["ipv4"].as_u64().unwrap();
        let list = if serving > 1 { SMALL } else { WORLDWIDE };
        let version = format!("20260831{:02}", self.lists);
        self.service.set(Script::serving("Worldwide", &version, list));
        wait_until("a plan waits", || self.status()["daemon"]["pending"].is_object());
    }

    fn stop(&mut self) {
        for process in [self.exporter.take(), self.daemon.take()].into_iter().flatten() {
            end(process, Signal::SIGTERM);
        }
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.shell("breakout365 status --json").unwrap()).unwrap()
    }

    /// The plan that waits: what `ID` stands for.
    pub(crate) fn plan(&self) -> Option<String> {
        Some(self.status()["daemon"]["pending"]["id"].as_str()?.to_owned())
    }

    /// Types a command.
    pub(crate) fn type_in(&self, line: &str) -> Said {
        let output = self.output(line);
        let text = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
        Said { code: output.status.code(), text: text.concat() }
    }

    /// Types a command that goes on until somebody ends it, and waits until it has said all of `says`.
    pub(crate) fn type_in_until(&self, line: &str, says: &[&str]) -> Said {
        let log = format!("{}.log", line.split(' ').nth(1).unwrap());
        let process = self.start(line, &log);
        wait_until(&format!("`{line}` says {says:?}"), || {
            self.send();
            let said = self.log(&log);
            says.iter().all(|text| said.contains(text))
        });
        let code = end(process, Signal::SIGINT);
        Said { code, text: self.log(&log) }
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    fn shell(&self, line: &str) -> Result<String, String> {
        let output = self.output(line);
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
        if output.status.success() { Ok(stdout) } else { Err(format!("{line}: {stderr}")) }
    }

    fn output(&self, line: &str) -> Output {
        let mut command = self.command(line);
        command.stdin(Stdio::null());
        self.router.enter(|| command.output()).unwrap().unwrap()
    }

    fn start(&self, line: &str, log: &str) -> Process {
        let file = File::create(self.file(log)).unwrap();
        let mut command = self.command(&format!("exec {line}"));
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        self.router.spawn(&mut command).unwrap()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.root.id()))
            .arg(format!("--wd={}", self.files.path().display()))
            .args(["sh", "-c", line])
            .env_remove("RUST_LOG")
            .env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

const SHORT: Duration = Duration::from_millis(500);

fn join(one: (&Namespace, &str, &str), other: (&Namespace, &str, &str)) {
    let [ones, others] = [one.2, other.2].map(|address| [address.parse().unwrap()]);
    link(
        &End { namespace: one.0, interface: one.1, mac: [2, 0, 0, 0, 0, 1], addresses: &ones },
        &End {
            namespace: other.0,
            interface: other.1,
            mac: [2, 0, 0, 0, 0, 2],
            addresses: &others,
        },
        Offloads::Default,
    )
    .unwrap();
}

/// Accepts in `direct`, until this process ends, connections to the listed address.
fn answer(direct: &Namespace) {
    EchoServers::own(direct, &["40.96.0.0/13".parse().unwrap()].into()).unwrap();
    let listener = direct.enter(|| TcpListener::bind(DIRECT)).unwrap().unwrap();
    thread::spawn(move || {
        let mut flows = Vec::new();
        for flow in listener.incoming().flatten() {
            flows.push(flow);
        }
    });
}

/// A process that has a root of its own with nothing of this machine's state in it.
fn root(gateway: &Namespace, bpffs: &BpfFs, files: &Path) -> Process {
    let script = format!(
        "set -e; mkdir root; mount -t tmpfs tmpfs root; cp -a /etc root/etc
         mount --bind root/etc /etc; rm -rf /etc/breakout365
         for empty in /run /var/lib /usr/local/sbin; do mount -t tmpfs tmpfs $empty; done
         mount --bind {} /sys/fs/bpf
         echo ready >ready; exec sleep infinity",
        bpffs.path().display()
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .current_dir(files)
        .stdin(Stdio::null());
    let process = gateway.spawn(&mut command).unwrap();
    wait_until("the root is made", || files.join("ready").exists());
    process
}

fn end(mut process: Process, signal: Signal) -> Option<i32> {
    process.signal(signal).unwrap();
    process.wait_for(PATIENCE).unwrap().expect("it ends").code()
}
