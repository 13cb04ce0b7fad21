//! What systemd is told is so: ready when a generation serves, pinged while the loop goes round.
//! Needs root.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use support::product::{Product, with_hook};
use support::stage::{ALWAYS, Stage, THIRD, base};
use support::web_service::Script;
use support::{LAN, PATIENCE, Site, wait_until};
use tempfile::TempDir;

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
    manager.listen(Duration::from_millis(100));
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
    assert!(pings(came) >= 4, "{came:?}");
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
