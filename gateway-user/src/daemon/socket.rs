//! Unix sockets of the daemon: bound where a stale one may lie, and gone with their value.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use tokio::net::UnixListener;

use crate::exit::{Exit, Failure};

/// A listening socket; its file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Binds `path` with permissions `mode`, and makes the directory where it is missing. What a
    /// killed daemon left there is replaced; a socket that somebody still answers on is not.
    pub(super) fn bind(path: &Path, mode: u32) -> Result<Self, Failure> {
        let failed = |what: &str, error: io::Error| {
            let path = path.display();
            Failure::new(
                Exit::System,
                format!("{path}: {what}: {error}; --run-dir names another directory"),
            )
        };
        if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
            // Whatever the umask: anyone may look.
            DirBuilder::new()
                .recursive(true)
                .create(directory)
                .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o755)))
                .map_err(|error| failed("cannot create its directory", error))?;
        }
        match UnixStream::connect(path) {
            Ok(_) => {
                let problem = format!("{}: another breakout365 answers here", path.display());
                return Err(Failure::new(
                    Exit::Busy,
                    format!("{problem}; stop it (systemctl stop breakout365)"),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => fs::remove_file(path).map_err(|error| failed("cannot remove", error))?,
        }
        // Nobody may connect between binding and setting the mode.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(|error| failed("cannot listen", error))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(|error| failed("cannot set permissions", error))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The next connection. One that fails on its way in is passed over.
    pub(super) async fn accept(&self) -> tokio::net::UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                // Out of descriptors, for one: a pause, and again.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A file that is gone already is no loss.
        drop(fs::remove_file(&self.path));
    }
}
