//! The observation socket: whoever connects gets the latest document, and is not listened to.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::error;

use super::socket::Listener;
use crate::exit::Failure;
use crate::observe::{self, Observation};

/// For a client that does not take what it asked for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The writing end.
#[derive(Debug)]
pub(super) struct Observer {
    latest: watch::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Observer {
    /// Listens in `run_dir`. Anyone on the machine may look.
    pub(super) fn listen(run_dir: &Path) -> Result<Self, Failure> {
        let listener = Listener::bind(&run_dir.join(observe::FILE), 0o666)?;
        let (latest, document) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            loop {
                let mut stream = listener.accept().await;
                let mut document = document.clone();
                tokio::spawn(async move {
                    // Nothing to tell yet: the first generation is on its way.
                    if document.wait_for(|json| !json.is_empty()).await.is_ok() {
                        let json = document.borrow().clone();
                        drop(timeout(PATIENCE, stream.write_all(&json)).await);
                    }
                });
            }
        });
        Ok(Self { latest, task })
    }

    /// Tells this from now on.
    pub(super) fn tell(&self, observation: &Observation) {
        match serde_json::to_vec(observation) {
            Ok(json) => {
                self.latest.send_replace(json);
            }
            Err(error) => error!("the state cannot be told: {error}"),
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
