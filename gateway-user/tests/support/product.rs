//! The binary in a gateway: its configuration, its daemon, its verbs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use xtask::testbed::Process;

use super::foreign::tcx_programs;
use super::{LAN, PATIENCE, Site, wait_until};

/// The binary with a configuration of its own, the pins of a site, and a wrapper in front of it.
pub(crate) struct Product<'a> {
    site: &'a Site,
    files: TempDir,
    pins: PathBuf,
    binary: PathBuf,
    wrapper: Vec<String>,
}

/// A daemon that was started.
pub(crate) struct Daemon {
    process: Process,
    log: PathBuf,
}

impl<'a> Product<'a> {
    /// With `hook` on the inside interface of `site`.
    pub(crate) fn new(site: &'a Site, hook: &str) -> Self {
        let product = Self {
            site,
            files: tempfile::tempdir().unwrap(),
            pins: site.bpffs.pins(),
            binary: env!("CARGO_BIN_EXE_breakout365").into(),
            wrapper: Vec::new(),
        };
        fs::write(product.files.path().join("feed.json"), FEED).unwrap();
        product.configure(&with_hook(LAN, hook));
        product
    }

    /// The same product, with other pins.
    pub(crate) fn with_pins(mut self, pins: impl Into<PathBuf>) -> Self {
        self.pins = pins.into();
        self
    }

    /// From now on another version runs: the same program with another number, at another path. Gives
    /// that number.
    pub(crate) fn upgrade(&mut self) -> String {
        let old = env!("CARGO_PKG_VERSION");
        let new = format!("{}9", &old[..old.len() - 1]);
        let other = self.file("breakout365-other");
        fs::copy(&self.binary, &other).unwrap();
        let script = format!("s/{}/{new}/g", old.replace('.', "\\."));
        let mut sed = Command::new("sed");
        let changed = sed.env("LC_ALL", "C").args(["-i", &script]).arg(&other).status().unwrap();
        assert!(changed.success() && new != old);
        self.binary = other;
        new
    }

    /// The same product, run through a command line that ends where the binary's begins.
    pub(crate) fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// The same product, for which `script` runs before each call of `nft`, in the directory of its
    /// files, and in place of it where it exits. `$text` is what is to be applied, if anything.
    pub(crate) fn with_nft(self, script: &str) -> Self {
        let (files, directory) = (self.files.path().display(), self.file("bin"));
        fs::create_dir(&directory).unwrap();
        let script = format!(
            "#!/bin/sh\n\
             PATH=${{PATH#*:}}\n\
             cd {files}\n\
             text=\n\
             if test \"$1\" = --file; then text=$(cat); fi\n\
             {script}\n\
             printf '%s' \"$text\" | nft \"$@\"\n"
        );
        let nft = directory.join("nft");
        fs::write(&nft, script).unwrap();
        fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("PATH={}:{}", directory.display(), std::env::var("PATH").unwrap());
        self.through(&["env", &path])
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.files.path().join("config.toml")
    }

    /// What outlives the daemon.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.files.path().join("state")
    }

    /// The daemon's sockets.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.files.path().join("run")
    }

    /// A file beside the configuration.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.config(), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let wrapper = self.wrapper.iter().map(OsStr::new);
        let mut words = wrapper.chain([self.binary.as_os_str()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("--pins").arg(&self.pins);
        command.arg("--state-dir").arg(self.state_dir()).arg("--run-dir").arg(self.run_dir());
        command.args(arguments).env_remove("RUST_LOG");
        if arguments.first() == Some(&"run") {
            command.arg("--config").arg(self.config());
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end, in the gateway.
    pub(crate) fn verb(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        self.site.gateway.enter(|| command.output()).unwrap().unwrap()
    }

    /// Starts a verb that goes on, in the gateway; what it says goes to the file `log`.
    pub(crate) fn spawn(&self, arguments: &[&str], log: &str) -> Process {
        let file = File::create(self.file(log)).unwrap();
        let mut command = self.command(arguments);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        self.site.gateway.spawn(&mut command).unwrap()
    }

    /// What `status --json` prints.
    pub(crate) fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// What a verb prints with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.verb(&[arguments, &["--json"]].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What a verb prints for people.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let output = self.verb(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a daemon and waits until it has published, and done all that comes with that.
    pub(crate) fn start(&self) -> Daemon {
        let daemon = self.start_until("published");
        // It answers between one thing and the next.
        wait_until("it answers", || !self.status()["daemon"].is_null());
        daemon
    }

    /// Starts a daemon that has no feed yet, and waits until it says so.
    pub(crate) fn start_without_feed(&self) -> Daemon {
        let daemon = self.start_until("no feed is there yet");
        // The kernel lets go of a link a moment after its last reference.
        wait_until("nothing is attached", || tcx_programs(&self.site.gateway, LAN).is_empty());
        daemon
    }

    fn start_until(&self, said: &str) -> Daemon {
        let log = self.files.path().join("log");
        let file = File::create(&log).unwrap();
        let mut command = self.command(&["run"]);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let mut daemon = Daemon { process: self.site.gateway.spawn(&mut command).unwrap(), log };
        wait_until(&format!("the daemon says {said:?}"), || {
            let ended = daemon.process.child().try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {}", daemon.log());
            daemon.log().contains(said)
        });
        daemon
    }

    /// Asserts that a verb is refused: with this exit code, nothing on standard output, and one
    /// line on standard error that has all of `words` in it.
    pub(crate) fn assert_refused(&self, arguments: &[&str], exit: i32, words: &[&str]) {
        let output = self.verb(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {stderr}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{arguments:?}");
        // A daemon logs on standard error, too.
        let lines: Vec<_> =
            stderr.lines().filter(|line| !line.trim_start().starts_with("INFO ")).collect();
        let [line] = lines[..] else { panic!("{arguments:?} says more than one line: {stderr}") };
        assert!(line.starts_with("breakout365: "), "{line}");
        for word in words {
            assert!(line.contains(word), "{word:?} is not in {line:?}");
        }
    }
}

/// A test that fails tells what the daemon said.
impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(log) = fs::read_to_string(&self.log)
        {
            eprintln!("the daemon's log:\n{log}");
        }
    }
}

impl Daemon {
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until the log has `text` in it `times` times.
    pub(crate) fn wait_for_log(&self, text: &str, times: usize) {
        wait_until(&format!("the log says {text:?} {times} times"), || {
            self.log().matches(text).count() >= times
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal).unwrap();
    }

    /// Sends a signal that ends it, and waits for that.
    pub(crate) fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let status = self.process.wait_for(PATIENCE).unwrap();
        status.unwrap_or_else(|| panic!("{signal} does not end it: {}", self.log()))
    }

    /// Ends it by SIGTERM, which is success.
    pub(crate) fn terminate(self) {
        let status = self.end(Signal::SIGTERM);
        assert!(status.success(), "{status}, signal {:?}", status.signal());
    }
}

/// A configuration with one interface and the feed that [`super::one_table`] is from.
pub(crate) fn with_hook(interface: &str, hook: &str) -> String {
    format!(
        "version = 1\n\
         feed.file = \"feed.json\"\n\
         [[interface]]\n\
         name = \"{interface}\"\n\
         hook = \"{hook}\"\n"
    )
}

const FEED: &str = r#"[{
    "id": 1, "serviceArea": "Exchange", "serviceAreaDisplayName": "Exchange Online",
    "ips": ["40.96.0.0/13", "2603:1006::/40"], "tcpPorts": "443", "udpPorts": "443",
    "expressRoute": true, "category": "Optimize", "required": true
}]"#;
