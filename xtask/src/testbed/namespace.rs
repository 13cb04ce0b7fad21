//! A named network namespace with its own loopback, and ways to run things inside it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::names::{one_at_a_time, sweep_once};
use super::{Owner, Process};

/// A network namespace under `/run/netns`. It ends with its value, and everything that runs in it
/// with it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    role: String,
    handle: File,
    released: bool,
}

impl Namespace {
    /// A namespace of this process with the loopback interface up. `role` is a short word for
    /// people.
    ///
    /// # Errors
    ///
    /// Not root, or no iproute2.
    pub fn new(role: &str) -> Result<Self> {
        Self::owned(role, Owner::Process)
    }

    /// As [`Namespace::new`], for `owner`.
    ///
    /// # Errors
    ///
    /// Also when a kept namespace of this role exists.
    pub fn owned(role: &str, owner: Owner) -> Result<Self> {
        sweep_once();
        let name = owner.name(role);
        let path = path_of(&name);
        one_at_a_time(|| output(Command::new("ip").args(["netns", "add", &name]), None))?;
        let handle = match File::open(&path) {
            Ok(handle) => handle,
            Err(error) => {
                Self::remove(&name)?;
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        let namespace = Self { name, role: role.to_owned(), handle, released: false };
        namespace.run("ip link set lo up")?;
        // Loose by default on some distributions; the testbed routes asymmetrically on purpose.
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
        }
        Ok(namespace)
    }

    /// The name `ip netns` knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The word it was made with.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// The file that stands for it: `nsenter --net=PATH` enters the network and leaves the mounts
    /// alone, where `ip netns exec` would hide the BPF file systems.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Runs `work` on a new thread in this namespace. Threads and processes started there, and
    /// sockets opened there, belong to the namespace too. A panic in `work` is a panic here.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || -> Result<T> {
            setns(&self.handle, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter namespace {}", self.name))?;
            Ok(work())
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a command line, split at white space, and gives its standard output.
    ///
    /// # Errors
    ///
    /// The command cannot be run or fails; its standard error is in the message.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("the command line is empty")?;
        self.output(Command::new(program).args(words))
    }

    /// Runs `command` and gives its standard output.
    ///
    /// # Errors
    ///
    /// As [`Namespace::run`].
    pub fn output(&self, command: &mut Command) -> Result<String> {
        self.enter(|| output(command, None))?.with_context(|| format!("in {}", self.name))
    }

    /// Loads an nftables ruleset.
    ///
    /// # Errors
    ///
    /// No nftables, or it refuses the ruleset.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        self.input(Command::new("nft").args(["-f", "-"]), ruleset)
    }

    /// Adds iptables rules, the same for both families.
    ///
    /// # Errors
    ///
    /// No iptables, or it refuses them.
    pub fn iptables(&self, rules: &str) -> Result<()> {
        for program in ["iptables-restore", "ip6tables-restore"] {
            self.input(Command::new(program).arg("--noflush"), rules)?;
        }
        Ok(())
    }

    /// Runs `ip` for each line of `batch`, up to the first that fails.
    ///
    /// # Errors
    ///
    /// One of them fails.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.input(Command::new("ip").args(["-batch", "-"]), batch)
    }

    /// Starts `command` in its own process group, so that a Ctrl-C for us is not one for it.
    ///
    /// # Errors
    ///
    /// The command cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Process> {
        self.enter(|| Process::spawn(command))?.with_context(|| format!("in {}", self.name))
    }

    /// Sets `net/...` under `/proc/sys` for this namespace alone.
    ///
    /// # Errors
    ///
    /// There is no such setting, or it refuses the value.
    pub fn sysctl(&self, setting: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(setting);
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("cannot set {setting}={value} in {}", self.name))
    }

    /// Makes it a router of both families.
    ///
    /// # Errors
    ///
    /// The settings cannot be changed.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl("net/ipv6/conf/all/forwarding", "1")
    }

    fn input(&self, command: &mut Command, text: &str) -> Result<()> {
        self.enter(|| output(command, Some(text)))?
            .with_context(|| format!("in {}", self.name))
            .map(drop)
    }

    /// Leaves the namespace, and what runs in it, to its [`Owner`].
    pub fn release(mut self) {
        self.released = true;
    }

    /// Every name under `/run/netns`, ours or not, ascending.
    pub(super) fn names() -> Result<Vec<String>> {
        let entries = match fs::read_dir(NETNS) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {NETNS}")),
        };
        let mut names: Vec<_> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Ends everything in a namespace and removes it. One that is already gone is no error: two
    /// sweeps may meet.
    pub(super) fn remove(name: &str) -> Result<()> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            for _ in 0..PATIENCE {
                let pids = pids(name)?;
                if pids.is_empty() {
                    break;
                }
                for pid in pids {
                    // It may have ended by itself since.
                    kill(pid, signal).ok();
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        let deleted =
            one_at_a_time(|| output(Command::new("ip").args(["netns", "delete", name]), None));
        if path_of(name).exists() { deleted.map(drop) } else { Ok(()) }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        if let Err(error) = Self::remove(&self.name) {
            eprintln!("testbed: namespace {} stays: {error:#}", self.name);
        }
    }
}

const NETNS: &str = "/run/netns";
/// How often a process is asked to end before it is made to: 10 ms apart, one second in all.
const PATIENCE: u32 = 100;

fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

/// The processes in a namespace, without this one: a thread of ours in there ends by itself.
fn pids(name: &str) -> Result<Vec<Pid>> {
    if !path_of(name).exists() {
        return Ok(Vec::new());
    }
    let listed = output(Command::new("ip").args(["netns", "pids", name]), None)?;
    let pids = listed.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw);
    Ok(pids.filter(|pid| *pid != Pid::this()).collect())
}

/// Runs `command` with `input` and gives what it prints, or one line about its failure.
fn output(command: &mut Command, input: Option<&str>) -> Result<String> {
    let line = format!("{command:?}").replace('"', "");
    let mut child = command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A command that does not read its input says why in its status.
        stdin.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output().with_context(|| format!("cannot run `{line}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let said = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        bail!("`{line}` failed ({}): {said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
