//! Inspection programs as they are installed: found, started in a namespace, waited for.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, io};

use anyhow::{Context as _, Result, bail};

use crate::testbed::{self, Namespace, Process};

/// A program with its files.
#[derive(Debug)]
pub(super) struct Program {
    name: &'static str,
    process: Process,
    log: PathBuf,
}

/// Where it is, by `PATH` and by the directories of system tools.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(directories)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// A directory below `files` for a program that gives up being root.
pub(super) fn directory(files: &Path, name: &str) -> Result<PathBuf> {
    let directory = files.join(name);
    fs::create_dir(&directory)
        .and_then(|()| fs::set_permissions(&directory, Permissions::from_mode(0o777)))
        .with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

impl Program {
    /// Starts it in `namespace`, with a log in `directory`.
    pub(super) fn start(
        namespace: &Namespace,
        name: &'static str,
        directory: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let found = find(name).with_context(|| format!("{name} is not installed"))?;
        let mut command = Command::new(found);
        command.args(arguments).current_dir(directory).env("HOME", directory);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = namespace.spawn(&mut command)?;
        Ok(Self { name, process, log })
    }

    /// Waits until `is_ready`.
    ///
    /// # Errors
    ///
    /// It ends before, or takes too long.
    pub(super) fn wait(&mut self, mut is_ready: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.wait_for(Duration::from_millis(30))? {
                bail!("{} ended ({status}): {}", self.name, self.last_words());
            }
            if is_ready()? {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {PATIENCE:?}: {}", self.name, self.last_words());
            }
        }
    }

    /// Waits until it takes connections on `port` of `namespace`'s loopback.
    pub(super) fn wait_for_port(&mut self, namespace: &Namespace, port: u16) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        self.wait(|| {
            let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(500));
            Ok(namespace.enter(connect)?.is_ok())
        })
    }

    /// Leaves it running.
    pub(super) fn release(self) {
        self.process.release();
    }

    fn last_words(&self) -> String {
        last_lines(&self.log)
    }
}

/// The end of a log, in one line.
pub(super) fn last_lines(log: &Path) -> String {
    let log = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = log.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// A log's text; one that is not there yet is empty.
pub(super) fn text_of(log: &Path) -> Result<String> {
    match fs::read(log) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", log.display())),
    }
}

/// Waits for something that happens on its own.
pub(super) fn wait_until(what: &str, happened: impl FnMut() -> Result<bool>) -> Result<()> {
    testbed::wait_until(what, PATIENCE, happened)
}

/// A count once it has not changed for a moment: a flow's last packets come after its answer.
pub(super) fn settled(mut count: impl FnMut() -> Result<u64>) -> Result<u64> {
    let mut last = count()?;
    let mut unchanged = 0;
    wait_until("packets have ceased", || {
        let now = count()?;
        unchanged = if now == last { unchanged + 1 } else { 0 };
        last = now;
        Ok(unchanged > 15)
    })?;
    Ok(last)
}

/// How long a program may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
