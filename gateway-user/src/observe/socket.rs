//! The reading end of the observation socket.

use std::io::{self, Read as _};
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
    let Some(stream) = connected(&path, UnixStream::connect(&path))? else { return Ok(None) };
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
        let connecting = tokio::net::UnixStream::connect(&path).await;
        let Some(stream) = connected(&path, connecting)? else { return Ok(None) };
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

/// Nobody listens where there is no socket, or one that a killed daemon left. Whatever else keeps
/// from connecting says nothing about the daemon.
fn connected<S>(path: &Path, connecting: io::Result<S>) -> Result<Option<S>, Failure> {
    match connecting {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(failed(path, &format_args!("cannot connect: {error}"))),
    }
}

fn parse(path: &Path, json: &str) -> Result<Observation, Failure> {
    if json.is_empty() {
        // Half a document would be one whose counters go back.
        return Err(failed(path, &"it answers without one; its log says why"));
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn both(run_dir: &Path) -> [Result<Option<Observation>, String>; 2] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let within = runtime.block_on(read_within(run_dir, Duration::from_secs(5)));
        [read(run_dir), within].map(|outcome| outcome.map_err(|failure| failure.to_string()))
    }

    #[test]
    fn no_daemon_is_no_socket_or_one_that_is_left_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(both(directory.path()), [Ok(None), Ok(None)]);
        drop(UnixListener::bind(directory.path().join(FILE)).unwrap());
        assert_eq!(both(directory.path()), [Ok(None), Ok(None)], "left by a killed daemon");
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        for outcome in both(&file) {
            let failure = outcome.unwrap_err();
            assert!(failure.contains("cannot connect"), "{failure}");
        }
    }

    #[test]
    fn a_daemon_that_cannot_tell_its_state_is_not_misread() {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(FILE)).unwrap();
        let closing = std::thread::spawn(move || {
            for _ in 0..2 {
                drop(listener.accept().unwrap());
            }
        });
        for outcome in both(directory.path()) {
            let failure = outcome.unwrap_err();
            assert!(failure.contains("its log says why"), "{failure}");
        }
        closing.join().unwrap();
    }
}
