//! The programs that exports are for, each with what it was given, to be asked what it makes of it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use gateway_common::Transport;
use ipnet::IpNet;
use tempfile::TempDir;
use xtask::testbed::{Namespace, Process};

/// Address, protocol, port, and whether that goes direct.
pub(crate) type Packet = (IpAddr, Transport, u16, bool);

/// How long a program may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn protocol(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

/// The number of the set that has addresses like this one.
fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

/// An address as the host of a URL.
pub(crate) fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

/// Every `step`th of these, so that asking for them one at a time takes seconds.
fn some(packets: &[Packet], direct: bool) -> Vec<Packet> {
    let packets: Vec<Packet> =
        packets.iter().filter(|packet| packet.3 == direct).copied().collect();
    let step = packets.len().div_ceil(400).max(1);
    packets.into_iter().step_by(step).collect()
}

/// nftables in a namespace of its own.
pub(crate) struct Nft(Namespace);

impl Nft {
    pub(crate) fn new() -> Self {
        Self(Namespace::new("nft").unwrap())
    }

    pub(crate) fn load(&self, export: &str) {
        self.0.nft(export).unwrap();
    }

    pub(crate) fn assert_decides(&self, packets: &[Packet]) {
        let get = |family: u8, elements: &[String]| {
            let elements = format!("{{ {} }}", elements.join(", "));
            let mut nft = Command::new("nft");
            nft.args(["get", "element", "inet", "breakout365_export", &format!("direct{family}")]);
            self.0.output(nft.arg(elements))
        };
        let element = |(address, transport, port, _): &Packet| {
            format!("{address} . {} . {port}", protocol(*transport))
        };
        for version in [4, 6] {
            let of_version = |packet: &&Packet| family(packet.0) == version;
            let direct: Vec<String> =
                packets.iter().filter(|packet| packet.3).filter(of_version).map(element).collect();
            if !direct.is_empty() {
                get(version, &direct).unwrap();
            }
        }
        for packet in some(packets, false) {
            let element = element(&packet);
            assert!(get(family(packet.0), std::slice::from_ref(&element)).is_err(), "{element}");
        }
    }
}

/// ipset in a namespace of its own.
pub(crate) struct Ipset(Namespace);

impl Ipset {
    pub(crate) fn new() -> Self {
        Self(Namespace::new("ipset").unwrap())
    }

    pub(crate) fn load(&self, export: &str) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(export.as_bytes()).unwrap();
        let mut ipset = Command::new("ipset");
        self.0.output(ipset.arg("restore").arg("-file").arg(file.path())).unwrap();
        let left = self.0.run("ipset list -name").unwrap();
        let left: Vec<&str> = left.lines().collect();
        assert_eq!(left, ["breakout365_direct4", "breakout365_direct6"]);
    }

    pub(crate) fn assert_decides(&self, packets: &[Packet]) {
        for wanted in [true, false] {
            for (address, transport, port, _) in some(packets, wanted) {
                let set = format!("breakout365_direct{}", family(address));
                let element = format!("{address},{}:{port}", protocol(transport));
                let said = self.0.output(Command::new("ipset").args(["test", &set, &element]));
                assert_eq!(said.is_ok(), wanted, "{element}");
            }
        }
    }
}

/// BIRD without a protocol, in a namespace of its own.
pub(crate) struct Bird {
    namespace: Namespace,
    files: TempDir,
    _process: Process,
}

impl Bird {
    pub(crate) fn start(export: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(files.path().join(name), text).unwrap();
        write("breakout365.conf", export);
        write(
            "bird.conf",
            &format!(
                "router id 192.0.2.1;\ninclude \"{}/breakout365.conf\";\n\
                 filter breakout365 {{ if net ~ BREAKOUT365_V4 then accept; reject; }}\n\
                 filter breakout365_6 {{ if net ~ BREAKOUT365_V6 then accept; reject; }}\n\
                 protocol device {{ }}\n",
                files.path().display()
            ),
        );
        let namespace = Namespace::new("bird").unwrap();
        let command = |arguments: &[&str]| {
            let mut bird = Command::new("bird");
            bird.arg("-c").arg(files.path().join("bird.conf")).args(arguments);
            bird
        };
        namespace.output(&mut command(&["-p"])).unwrap();
        let socket = files.path().join("bird.ctl");
        let mut bird = command(&["-f", "-s", socket.to_str().unwrap()]);
        bird.stdout(Stdio::null()).stderr(Stdio::null());
        let process = namespace.spawn(&mut bird).unwrap();
        wait_until("BIRD listens", || socket.exists());
        Self { namespace, files, _process: process }
    }

    /// Whether a route is in the set of its family.
    pub(crate) fn has(&self, route: IpNet) -> bool {
        let set = if route.addr().is_ipv4() { "BREAKOUT365_V4" } else { "BREAKOUT365_V6" };
        let mut birdc = Command::new("birdc");
        birdc.arg("-s").arg(self.files.path().join("bird.ctl"));
        let said =
            self.namespace.output(birdc.args(["eval", &format!("{route} ~ {set}")])).unwrap();
        match said.lines().last() {
            Some("TRUE") => true,
            Some("FALSE") => false,
            _ => panic!("{route}: {said}"),
        }
    }
}

/// pacparser, which evaluates as browsers do.
pub(crate) struct Pac(TempDir);

/// URL and host on alternate lines come in, answers go out.
const EVALUATE: &str = "
import sys, pacparser
pacparser.init()
pacparser.parse_pac_file(sys.argv[1])
lines = sys.stdin.buffer.read().decode('utf-8').split('\\n')
for url, host in zip(lines[0::2], lines[1::2]):
    print(pacparser.find_proxy(url, host))
";

impl Pac {
    pub(crate) fn new(export: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        fs::write(files.path().join("proxy.pac"), export).unwrap();
        Self(files)
    }

    /// What it says to each URL with its host.
    pub(crate) fn ask(&self, urls: &[(&str, &str)]) -> Vec<String> {
        let input: Vec<&str> = urls.iter().flat_map(|(url, host)| [*url, *host]).collect();
        let questions = self.0.path().join("urls");
        fs::write(&questions, input.join("\n")).unwrap();
        // Debian's Python: the module is a package of Debian.
        let output = Command::new("/usr/bin/python3")
            .args(["-c", EVALUATE])
            .arg(self.0.path().join("proxy.pac"))
            .stdin(fs::File::open(&questions).unwrap())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{errors}");
        let answers: Vec<String> =
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(answers.len(), urls.len(), "{errors}");
        answers
    }
}

/// Squid in a namespace of its own. It refuses every request: what is direct in one way, all else
/// in another.
pub(crate) struct Squid {
    namespace: Namespace,
    _files: TempDir,
    _process: Process,
}

const LISTEN: &str = "127.0.0.1:3128";

impl Squid {
    /// With one of the lists of an export, and a file that says where names lead, as `/etc/hosts`
    /// does.
    pub(crate) fn start(export: &str, list: &str, hosts: &str) -> Self {
        let files = tempfile::Builder::new().prefix("squid").tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(files.path().join(name), text).unwrap();
        let directory = files.path().display();
        write("breakout365.conf", export);
        write("hosts", hosts);
        write(
            "squid.conf",
            &format!(
                "include {directory}/breakout365.conf
                 http_port {LISTEN}
                 visible_hostname gateway.example
                 pid_filename none
                 access_log none
                 cache_log {directory}/log/cache.log
                 cache_store_log none
                 netdb_filename none
                 coredump_dir none
                 pinger_enable off
                 memory_cache_shared off
                 cache_mem 4 MB
                 hosts_file {directory}/hosts
                 dns_nameservers 127.0.0.1
                 dns_timeout 1 second
                 shutdown_lifetime 0 seconds
                 always_direct allow {list}
                 acl direct src all
                 deny_info 302:http://direct.invalid/ direct
                 http_access deny {list} direct
                 deny_info 302:http://inspect.invalid/ all
                 http_access deny all\n"
            ),
        );
        open_to_all(files.path(), 0o755);
        let log = files.path().join("log");
        fs::create_dir(&log).unwrap();
        // Squid becomes another user.
        open_to_all(&log, 0o777);
        let namespace = Namespace::new("squid").unwrap();
        let command = |arguments: &[&str]| {
            let mut squid = Command::new("squid");
            squid.arg("-f").arg(files.path().join("squid.conf")).args(arguments);
            squid.stdout(Stdio::piped()).stderr(Stdio::piped());
            squid
        };
        let parsed = namespace.enter(|| command(&["-k", "parse"]).output()).unwrap().unwrap();
        let said = String::from_utf8_lossy(&parsed.stderr).into_owned();
        assert!(parsed.status.success(), "{said}");
        for word in ["WARNING", "ERROR", "FATAL"] {
            assert!(!said.contains(word), "{said}");
        }
        let mut squid = command(&["-N"]);
        squid.stdout(Stdio::null()).stderr(Stdio::null());
        let process = namespace.spawn(&mut squid).unwrap();
        wait_until("Squid listens", || {
            namespace.enter(|| TcpStream::connect(LISTEN).is_ok()).unwrap()
        });
        Self { namespace, _files: files, _process: process }
    }

    /// Whether a request to this host and port is direct.
    pub(crate) fn is_direct(&self, host: &str, port: u16) -> bool {
        let request = format!("GET http://{host}:{port}/ HTTP/1.0\r\n\r\n");
        let answer = self.namespace.enter(|| {
            let mut stream = TcpStream::connect(LISTEN).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        let answer = answer.unwrap();
        let location = answer.lines().find_map(|line| line.strip_prefix("Location: "));
        match location {
            Some("http://direct.invalid/") => true,
            Some("http://inspect.invalid/") => false,
            _ => panic!("{host}:{port}: {answer}"),
        }
    }
}

fn open_to_all(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
