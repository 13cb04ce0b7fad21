//! `top` shows what the daemon tells, outlives it, and gives the terminal back. Needs root.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use gateway_user::exit::Exit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::testbed::Process;

use crate::support::product::Product;
use crate::support::{CLIENT, DIRECT, INSPECTED, PATIENCE, Sender, Site, traffic, wait_until};

/// What switches to the other screen of a terminal, and back.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// `top` on a terminal of its own, which `script` plays and writes down.
struct Screen {
    script: Process,
    written: std::path::PathBuf,
}

impl Screen {
    fn open(site: &Site, product: &Product<'_>) -> Self {
        let written = product.file("screen");
        // Of the one before.
        fs::remove_file(&written).ok();
        let command = format!(
            "stty rows 30 cols 100; exec '{}' top --run-dir '{}'",
            env!("CARGO_BIN_EXE_breakout365"),
            product.run_dir().display()
        );
        let mut script = Command::new("script");
        script.args(["--quiet", "--flush", "--return", "--command", &command]).arg(&written);
        script.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::null());
        Self { script: site.gateway.spawn(&mut script).unwrap(), written }
    }

    fn text(&self) -> String {
        fs::read(&self.written)
            .map(|bytes| String::from_utf8_lossy(&bytes).into())
            .unwrap_or_default()
    }

    fn wait_for(&self, words: &str) {
        wait_until(&format!("the screen says {words:?}"), || self.text().contains(words));
    }

    fn press(&mut self, key: &[u8]) {
        let keyboard = self.script.child().stdin.as_mut().unwrap();
        keyboard.write_all(key).and_then(|()| keyboard.flush()).unwrap();
    }

    /// Waits for the end, which is success, on the screen that was there before.
    fn assert_ends(mut self) {
        let status = self.script.wait_for(PATIENCE).unwrap();
        let text = self.text();
        assert!(status.is_some_and(|status| status.success()), "{status:?}: {text}");
        assert!(text.rfind(LEAVE) > text.rfind(ENTER), "{text}");
    }

    /// The process of `top`: what `script` has started.
    fn process(&self) -> Pid {
        let id = self.script.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        Pid::from_raw(children.split_whitespace().next().unwrap().parse().unwrap())
    }
}

#[test]
fn one_frame_has_the_rates_of_what_is_sent() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    product.assert_refused(&["top"], Exit::Daemon as i32, &["no daemon answers"]);
    let daemon = product.start();
    site.send_from(CLIENT, &traffic(INSPECTED));
    let frames = traffic(DIRECT);
    let sender = Sender::start(&site, move |sent| {
        frames[usize::try_from(sent).unwrap() % frames.len()].clone()
    });
    wait_until("packets come", || site.marked().direct > 100);
    // Standard output is no terminal here.
    let mut rate = 0;
    wait_until("a frame has a rate", || {
        let text = product.text(&["top"]);
        assert!(text.contains("generation 1, feed "), "{text}");
        assert!(text.contains("no_prefix"), "{text}");
        let line = text.lines().find(|line| line.contains("1 Exchange")).unwrap();
        let mut words = line.trim_matches('│').split_whitespace();
        rate = words.nth(2).unwrap().parse().unwrap();
        rate > 0
    });
    // One in a millisecond, or a bit less: a machine that is busy measures wrongly, by no power of ten.
    assert!((50..10_000).contains(&rate), "{rate}");
    sender.stop();
    product.text(&["off"]);
    assert!(product.text(&["top", "--once"]).contains("OFF     everything is inspected"));
    daemon.terminate();
}

#[test]
fn the_terminal_is_given_back_by_q_and_by_a_signal_and_a_restart_is_waited_for() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    let mut screen = Screen::open(&site, &product);
    screen.wait_for("generation 1");
    screen.wait_for("uplink");
    daemon.end(Signal::SIGKILL);
    screen.wait_for("no daemon answers");
    let daemon = product.start();
    // Only what has changed on the screen is written.
    wait_until("the next one is seen", || screen.text().rmatches("daemon").count() > 1);
    screen.press(b"q");
    screen.assert_ends();

    let screen = Screen::open(&site, &product);
    screen.wait_for("Exchange");
    kill(screen.process(), Signal::SIGTERM).unwrap();
    screen.assert_ends();
    daemon.terminate();
}
