//! The control socket: one request a connection, one reply, each a line of JSON.
//!
//! Only root and the socket's group may connect (mode 0660); what is asked for is done by the
//! daemon's own loop, one request after the other.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::socket::Listener;
use crate::exit::{Exit, Failure};
use crate::policy::WindowSets;

/// Its file name in the run directory.
const FILE: &str = "control.sock";
/// In bytes: some ten thousand prefixes, and less than a command line takes.
const LONGEST_REQUEST: usize = 1 << 18;
/// For a client that connects and says nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// A large table takes seconds to publish.
const LONGEST_WORK: Duration = Duration::from_mins(2);

/// What can be asked of a running daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Take the configuration file into use.
    Reload,
    /// As `Reload`, and go back unless `Confirm` comes within so many seconds.
    Apply {
        /// Seconds; `None` needs no confirmation.
        confirm_within: Option<u64>,
    },
    /// Keep what was applied.
    Confirm,
    /// Go to the generation before.
    Rollback,
    /// The pending plan, or what a reload would change.
    PlanShow,
    /// Publish the pending plan, guards or not.
    PlanAccept {
        /// Its id, so that nobody accepts another plan than the one they read.
        id: String,
    },
    /// Open a support window.
    SupportStart {
        /// Source addresses.
        clients: BTreeSet<IpNet>,
        /// What goes direct.
        sets: WindowSets,
        /// Seconds.
        length: u64,
        /// The operator's words about it.
        note: String,
    },
    /// Every support window that is known.
    SupportList,
    /// End a support window.
    SupportStop {
        /// Its id.
        id: u32,
    },
    /// What a support window let go direct.
    SupportReport {
        /// Its id.
        id: u32,
    },
    /// Forget the pending plan, and this version of the feed with it.
    PlanReject {
        /// Its id.
        id: String,
    },
    /// End direct flows.
    Revoke {
        /// To these endpoint sets.
        sets: Vec<crate::feed::SetId>,
        /// To these prefixes.
        prefixes: Vec<ipnet::IpNet>,
        /// All of them.
        all: bool,
    },
}

/// What the daemon says of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Done.
    Done {
        /// For people.
        text: String,
        /// For machines.
        report: Value,
    },
    /// Not done; what was before stays.
    Refused {
        /// The exit code the verb ends with.
        exit: Exit,
        /// One line.
        message: String,
    },
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        Self::Refused { exit: failure.exit, message: failure.to_string() }
    }
}

/// A request that waits for its reply.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: Request,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// The listening end.
#[derive(Debug)]
pub(super) struct Control {
    calls: mpsc::Receiver<Call>,
    task: JoinHandle<()>,
}

impl Control {
    /// Listens in `run_dir`.
    pub(super) fn listen(run_dir: &Path) -> Result<Self, Failure> {
        let listener = Listener::bind(&run_dir.join(FILE), 0o660)?;
        let (sender, calls) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            loop {
                let stream = listener.accept().await;
                tokio::spawn(serve(stream, sender.clone()));
            }
        });
        Ok(Self { calls, task })
    }

    /// The next request.
    pub(super) async fn call(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            // The task that sends lives as long as this value.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection. A client that goes away in the middle gets no reply; what it asked for is done.
async fn serve(mut stream: tokio::net::UnixStream, calls: mpsc::Sender<Call>) {
    let reply = match timeout(PATIENCE, read(&mut stream)).await {
        Ok(Ok(request)) => {
            let (reply, answer) = oneshot::channel();
            if calls.send(Call { request, reply }).await.is_err() {
                return;
            }
            match answer.await {
                Ok(reply) => reply,
                Err(_) => Failure::new(Exit::Internal, "the daemon is stopping").into(),
            }
        }
        Ok(Err(why)) => Failure::new(Exit::Usage, why).into(),
        Err(_) => return,
    };
    if let Ok(mut line) = serde_json::to_vec(&reply) {
        line.push(b'\n');
        drop(timeout(PATIENCE, stream.write_all(&line)).await);
    }
}

async fn read(stream: &mut tokio::net::UnixStream) -> Result<Request, String> {
    let mut line = String::new();
    let longest = u64::try_from(LONGEST_REQUEST).unwrap_or(u64::MAX);
    tokio::io::BufReader::new(stream.take(longest))
        .read_line(&mut line)
        .await
        .map_err(|error| format!("not a request: {error}"))?;
    if line.len() >= LONGEST_REQUEST && !line.ends_with('\n') {
        return Err(too_long());
    }
    serde_json::from_str(&line).map_err(|error| format!("not a request: {error}"))
}

fn too_long() -> String {
    format!("a request of more than {LONGEST_REQUEST} bytes; ask for less at once")
}

/// Asks the daemon that listens in `run_dir`.
///
/// # Errors
///
/// No daemon answers, or it refuses: with its own exit code and message.
pub fn ask(run_dir: &Path, request: &Request) -> Result<(String, Value), Failure> {
    let path = run_dir.join(FILE);
    match exchange(&path, request)? {
        Reply::Done { text, report } => Ok((text, report)),
        Reply::Refused { exit, message } => Err(Failure::new(exit, message)),
    }
}

fn exchange(path: &PathBuf, request: &Request) -> Result<Reply, Failure> {
    let failed = |what: &str, why: &dyn std::fmt::Display| {
        let path = path.display();
        Failure::new(
            Exit::Daemon,
            format!("{path}: {what}: {why}; is the daemon running (systemctl status breakout365)?"),
        )
    };
    let mut stream =
        UnixStream::connect(path).map_err(|error| failed("no daemon answers", &error))?;
    let mut line = serde_json::to_vec(request).map_err(|error| failed("cannot ask", &error))?;
    line.push(b'\n');
    if line.len() > LONGEST_REQUEST {
        return Err(Failure::new(Exit::Usage, too_long()));
    }
    stream.set_read_timeout(Some(LONGEST_WORK)).map_err(|error| failed("cannot ask", &error))?;
    stream.write_all(&line).map_err(|error| failed("cannot ask", &error))?;
    stream.shutdown(Shutdown::Write).map_err(|error| failed("cannot ask", &error))?;
    let mut reply = String::new();
    BufReader::new(stream)
        .read_line(&mut reply)
        .map_err(|error| failed("the daemon does not reply", &error))?;
    serde_json::from_str(&reply).map_err(|error| failed("the reply is not understood", &error))
}
