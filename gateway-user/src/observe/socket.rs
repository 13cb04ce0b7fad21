//! The reading end of the observation socket.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use super::{Observation, VERSION};
use crate::exit::{Exit, Failure};

/// Its file name in the run directory.
pub(crate) const FILE: &str = "observe.sock";
/// The daemon writes at once; while it publishes, after that.
const PATIENCE: Duration = Duration::from_secs(30);
const LONGEST: u64 = 16 << 20;

/// The state of the daemon that listens in `run_dir`; `None` where no daemon does.
///
/// # Errors
///
/// A daemon answers, but not with a document of [`VERSION`].
pub fn read(run_dir: &Path) -> Result<Option<Observation>, Failure> {
    let path = run_dir.join(FILE);
    let Ok(stream) = UnixStream::connect(&path) else { return Ok(None) };
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| failed(&path, &error))?;
    let mut json = String::new();
    stream.take(LONGEST).read_to_string(&mut json).map_err(|error| failed(&path, &error))?;
    parse(&path, &json).map(Some)
}

/// As [`read`], for who has an event loop and waits no longer than `patience`.
///
/// # Errors
///
/// A daemon answers too late, or not with a document of [`VERSION`].
pub async fn read_within(
    run_dir: &Path,
    patience: Duration,
) -> Result<Option<Observation>, Failure> {
    let path = run_dir.join(FILE);
    let answer = async {
        let Ok(stream) = tokio::net::UnixStream::connect(&path).await else { return Ok(None) };
        let mut json = String::new();
        let mut stream = stream.take(LONGEST);
        stream.read_to_string(&mut json).await.map_err(|error| failed(&path, &error))?;
        parse(&path, &json).map(Some)
    };
    match tokio::time::timeout(patience, answer).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(failed(&path, &format_args!("no answer within {patience:?}; it is busy or hangs")))
        }
    }
}

fn parse(path: &Path, json: &str) -> Result<Observation, Failure> {
    let observation: Observation =
        serde_json::from_str(json).map_err(|error| failed(path, &error))?;
    if observation.version != VERSION {
        let other = observation.version;
        return Err(failed(
            path,
            &format_args!(
                "version {other}, this binary reads {VERSION}; use the binary that the daemon runs"
            ),
        ));
    }
    Ok(observation)
}

fn failed(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Daemon, format!("{}: the daemon's state: {why}", path.display()))
}
