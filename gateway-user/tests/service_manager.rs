//! What systemd is told is so: ready when a generation serves, pinged while the loop goes round.
//! Needs root.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::support::product::{Product, with_hook};
use crate::support::stage::{ALWAYS, Stage, THIRD, base};
use crate::support::web_service::Script;
use crate::support::{LAN, PATIENCE, Site, wait_until};

/// A service manager that only listens.
struct Manager {
    directory: TempDir,
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        Self { directory, socket, heard: Vec::new() }
    }

    /// What puts a daemon under it, which is to ping it within `watchdog`.
    fn wrapper(&self, watchdog: Duration) -> [String; 3] {
        let socket = self.directory.path().join("notify");
        [
            "env".to_owned(),
            format!("NOTIFY_SOCKET={}", socket.display()),
            format!("WATCHDOG_USEC={}", watchdog.as_micros()),
        ]
    }

    /// Listens for `time`, and gives what came then.
    fn listen(&mut self, time: Duration) -> &[String] {
        let (end, before) = (Instant::now() + time, self.heard.len());
        let mut buffer = [0; 4096];
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            // A timeout of nothing would be none.
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            if let Ok(length) = self.socket.recv(&mut buffer) {
                let said = String::from_utf8(buffer[..length].to_vec()).unwrap();
                self.heard.extend(said.lines().map(str::to_owned));
            }
        }
        &self.heard[before..]
    }

    /// Listens until a line begins so, and gives that line.
    fn wait_for(&mut self, beginning: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let came = self.listen(Duration::from_millis(100));
            if let Some(line) = came.iter().find(|line| line.starts_with(beginning)) {
                return line.clone();
            }
            assert!(Instant::now() < deadline, "{beginning:?} is not in {:?}", self.heard);
        }
    }

    fn count(&self, line: &str) -> usize {
        self.heard.iter().filter(|heard| *heard == line).count()
    }
}

fn words(wrapper: &[String; 3]) -> [&str; 3] {
    wrapper.each_ref().map(String::as_str)
}

#[test]
fn it_is_ready_when_a_generation_serves_and_not_before() {
    let site = Site::new();
    let mut manager = Manager::new();
    let wrapper = manager.wrapper(Duration::from_secs(2));
    let mut stage = Stage::new(&site, Script::new());
    stage.product = stage.product.through(&words(&wrapper));
    let config = std::fs::read_to_string(stage.product.config()).unwrap();
    stage.product.configure(&config.replace("Worldwide", "China"));
    let daemon = stage.product.start_without_feed();
    let status = manager.wait_for("STATUS=");
    assert!(status.starts_with("STATUS=no feed is there yet"), "{status}");
    // It is alive, and asks for more time.
    manager.listen(Duration::from_secs(1));
    assert!(manager.count("WATCHDOG=1") > 0, "{:?}", manager.heard);
    let more = manager.heard.iter().any(|line| line.starts_with("EXTEND_TIMEOUT_USEC="));
    assert!(more, "{:?}", manager.heard);
    assert_eq!(manager.count("READY=1"), 0, "{:?}", manager.heard);
    stage.service.set(Script::serving("China", THIRD, &base()));
    let status = manager.wait_for("STATUS=generation 1, ");
    assert!(status.contains(THIRD), "{status}");
    manager.listen(Duration::from_millis(500));
    assert_eq!(manager.count("READY=1"), 1, "{:?}", manager.heard);
    stage.assert_direct(&[ALWAYS]);
    daemon.terminate();
    manager.wait_for("STOPPING=1");
    assert_eq!(manager.count("STOPPING=1"), 1, "{:?}", manager.heard);
}

#[test]
fn a_start_that_fails_is_never_ready() {
    let site = Site::new();
    let mut manager = Manager::new();
    let wrapper = manager.wrapper(Duration::from_secs(2));
    let product = Product::new(&site, "auto").through(&words(&wrapper));
    product.configure(&with_hook("absent0", "auto"));
    let output = product.verb(&["run"]);
    assert!(!output.status.success());
    manager.listen(Duration::from_millis(100));
    assert_eq!(manager.count("READY=1"), 0, "{:?}", manager.heard);
}

#[test]
fn the_watchdog_is_not_pinged_while_the_loop_hangs() {
    let site = Site::new();
    let mut manager = Manager::new();
    let wrapper = manager.wrapper(Duration::from_secs(1));
    let product = Product::new(&site, "auto").through(&words(&wrapper));
    let daemon = product.start();
    manager.wait_for("READY=1");
    let pings = |came: &[String]| came.iter().filter(|line| *line == "WATCHDOG=1").count();
    let came = manager.listen(Duration::from_secs(2));
    assert!(pings(came) >= 2, "{came:?}");
    // Reading a configuration that nobody writes takes for ever.
    let text = std::fs::read_to_string(product.config()).unwrap();
    std::fs::remove_file(product.config()).unwrap();
    mkfifo(&product.config(), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    daemon.signal(Signal::SIGHUP);
    manager.wait_for("RELOADING=1");
    let came = manager.listen(Duration::from_secs(2));
    assert_eq!(pings(came), 0, "{came:?}");
    std::fs::write(product.config(), text).unwrap();
    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");
    site.assert_it_marks();
    daemon.terminate();
}

#[test]
fn a_reload_that_is_refused_ends_and_is_in_the_status() {
    let site = Site::new();
    let mut manager = Manager::new();
    let wrapper = manager.wrapper(Duration::from_mins(1));
    let product = Product::new(&site, "auto").through(&words(&wrapper));
    let daemon = product.start();
    manager.wait_for("READY=1");
    product.configure(&with_hook("absent0", "auto"));
    daemon.signal(Signal::SIGHUP);
    let status = manager.wait_for("STATUS=generation 1, ");
    assert!(status.contains("absent0: not found"), "{status}");
    wait_until("the reload has ended", || {
        manager.listen(Duration::from_millis(50));
        manager.count("READY=1") == 2
    });
    assert_eq!(manager.count("RELOADING=1"), 1, "{:?}", manager.heard);
    product.configure(&with_hook(LAN, "auto"));
    daemon.signal(Signal::SIGHUP);
    manager.wait_for("STATUS=generation 2, ");
    daemon.terminate();
}

/// A journal that only listens, where the daemon looks for the real one.
struct Journal {
    directory: TempDir,
    socket: UnixDatagram,
}

impl Journal {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("socket")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { directory, socket }
    }

    /// What shows a daemon this journal: systemd says by device and inode that standard error leads
    /// there.
    fn wrapper(&self) -> [String; 6] {
        let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
                      mount --bind \"$0\" /run/systemd/journal && \
                      JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec \"$@\"";
        let directory = self.directory.path().display().to_string();
        ["unshare", "--mount", "sh", "-c", script]
            .map(str::to_owned)
            .into_iter()
            .chain([directory])
            .collect::<Vec<_>>()
            .try_into()
            .unwrap()
    }

    /// The next record, of lines `NAME=value`, or `NAME`, length and value (systemd's "Native Journal
    /// Protocol").
    fn record(&self) -> BTreeMap<String, String> {
        let mut buffer = [0; 16384];
        let length = self.socket.recv(&mut buffer).unwrap();
        let mut rest = &buffer[..length];
        let mut fields = BTreeMap::new();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8(rest[..end].to_vec()).unwrap();
            rest = &rest[end + 1..];
            let (name, value) = if let Some((name, value)) = line.split_once('=') {
                (name.to_owned(), value.to_owned())
            } else {
                let (size, after) = rest.split_first_chunk::<8>().unwrap();
                let size = usize::try_from(u64::from_le_bytes(*size)).unwrap();
                let value = String::from_utf8(after[..size].to_vec()).unwrap();
                rest = &after[size + 1..];
                (line, value)
            };
            fields.insert(name, value);
        }
        fields
    }

    /// The next record that is an event.
    fn event(&self) -> BTreeMap<String, String> {
        loop {
            let record = self.record();
            if record.contains_key("B365_EVENT") {
                return record;
            }
        }
    }
}

fn assert_fields(record: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(record.get(*name).map(String::as_str), Some(*value), "{name} of {record:?}");
    }
}

#[test]
fn the_journal_has_what_an_operator_cares_about_in_fields_and_nothing_else() {
    let site = Site::new();
    let journal = Journal::new();
    let wrapper = journal.wrapper();
    let product = Product::new(&site, "tc").through(&wrapper.each_ref().map(String::as_str));
    let mut daemon = product.spawn(&["run"], "log");
    let published = journal.event();
    let first = [("B365_EVENT", "published"), ("B365_GENERATION", "1"), ("B365_TRIGGER", "start")];
    assert_fields(&published, &first);
    assert!(published["MESSAGE"].starts_with("generation 1 published: "), "{published:?}");
    assert_eq!(published["PRIORITY"], "5");
    // The file says nothing of a version.
    assert!(!published.contains_key("B365_FEED_VERSION"), "{published:?}");
    product.configure(&with_hook("absent0", "tc"));
    daemon.signal(Signal::SIGHUP).unwrap();
    let refused = journal.event();
    let fields = [("B365_EVENT", "failed"), ("B365_TRIGGER", "reload"), ("PRIORITY", "3")];
    assert_fields(&refused, &fields);
    site.gateway.run(&format!("ip link delete {LAN}")).unwrap();
    let gone = journal.event();
    let fields = [("B365_EVENT", "interface_gone"), ("B365_INTERFACE", LAN), ("PRIORITY", "4")];
    assert_fields(&gone, &fields);
    // Over two looks, nothing more is said.
    journal.socket.set_read_timeout(Some(Duration::from_secs(21))).unwrap();
    let quiet = journal.socket.recv(&mut [0; 4096]);
    assert!(quiet.is_err(), "said something: {}", quiet.unwrap());
    daemon.signal(Signal::SIGTERM).unwrap();
    journal.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_fields(&journal.event(), &[("B365_EVENT", "stopped")]);
    assert!(daemon.wait_for(PATIENCE).unwrap().is_some_and(|status| status.success()));
}
