//! `exporter`: the daemon's state for Prometheus, from a process of its own.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;
use crate::exporter::{self, Options};

/// Serve the daemon's state to Prometheus
///
/// Needs no privileges: it reads the observation socket of the run directory at each scrape. Paths
/// are /metrics (Prometheus text, or OpenMetrics where the client asks for it), /healthz (this
/// process lives) and /readyz (the daemon answers and has published).
#[derive(Debug, Args)]
pub struct ExporterArgs {
    /// Where to listen; other than on a loopback address only with TLS and token
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9365")]
    listen: SocketAddr,

    /// Certificate chain, PEM; a renewed one is taken with the next start
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// File with the bearer token that /metrics asks for, read at each scrape
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
///
/// As [`exporter::run`].
pub(super) fn run(args: &ExporterArgs, run_dir: &Path) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .without_time()
        .init();
    let options = Options {
        listen: args.listen,
        tls: args.tls_cert.clone().zip(args.tls_key.clone()),
        token: args.token_file.clone(),
        run_dir: run_dir.to_owned(),
    };
    super::runtime()?.block_on(exporter::run(&options))
}
