//! The exporter: a process of its own, without privileges, that asks the daemon at each scrape.
//!
//! It keeps nothing: what the daemon does not tell is not there, so no number is older than the
//! scrape. [`SERIES`] is what there is to see, `text` writes it down, `reference` explains it, `access`
//! says who may look, `places` how many at a time, and `server` answers.

mod access;
mod once;
mod places;
mod reference;
mod series;
mod server;
mod text;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use nix::libc;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use self::access::Access;
pub use self::reference::reference;
pub use self::series::{Kind, SERIES, Sample, Series, Source, Value};
use self::server::Server;
pub use self::text::{Format, render};
use crate::exit::{Exit, Failure};

/// What the exporter is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Certificate chain and private key, PEM; without them, no TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The file of the bearer token that `/metrics` asks for.
    pub token: Option<PathBuf>,
    /// The run directory of the daemon.
    pub run_dir: PathBuf,
}

/// What became of scrapes, the one that is being answered included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrapes {
    /// Whether this one is answered by the daemon.
    pub answered: bool,
    /// Those that were.
    pub answers: u64,
    /// Those without a daemon.
    pub absent: u64,
    /// Those with a daemon that was too late, or not understood.
    pub failed: u64,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
///
/// It must not, or cannot, listen there.
pub async fn run(options: &Options) -> Result<(), Failure> {
    let access = Access::of(options)?;
    let tls = match &options.tls {
        Some((certificate, key)) => Some(access::tls(certificate, key)?),
        None => None,
    };
    let listen = options.listen;
    let cannot = |error: io::Error| {
        let problem = format!("--listen {listen}: {error}{}", remedy(&error));
        Failure::new(Exit::System, problem)
    };
    let listener = TcpListener::bind(listen).await.map_err(cannot)?;
    let stop = |kind| {
        signal(kind)
            .map_err(|error| Failure::new(Exit::Internal, format!("signal handler: {error}")))
    };
    let (mut terminate, mut interrupt) =
        (stop(SignalKind::terminate())?, stop(SignalKind::interrupt())?);
    let address = listener.local_addr().map_err(cannot)?;
    info!("listening on {address}, reading {}", options.run_dir.display());
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        warn!("systemd does not hear that it is ready: {error}");
    }
    let server = Server::new(access, tls, options.run_dir.clone());
    tokio::select! {
        () = server.run(listener) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// What to do where it cannot listen.
fn remedy(problem: &io::Error) -> &'static str {
    match problem.raw_os_error() {
        Some(libc::EADDRINUSE) => "; is another exporter running? `ss -ltnp` says who listens",
        Some(libc::EADDRNOTAVAIL) => {
            "; no interface has this address (yet); `ip address` shows those there are"
        }
        Some(libc::EACCES | libc::EPERM) => {
            "; ports below 1024 are not for this user, and a service may listen where its unit says \
             (SocketBindAllow)"
        }
        _ => "",
    }
}
