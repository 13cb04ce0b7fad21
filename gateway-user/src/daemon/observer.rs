//! The observation socket: whoever connects gets the state as it is then, and is not listened to.
//!
//! The daemon's loop is asked for it, so that no document is older than what is decided meanwhile
//! and none is made between two generations. While the loop is busy, who asks waits.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::error;

use super::socket::Listener;
use crate::exit::Failure;
use crate::observe::{self, Observation};

/// For a client that does not take what it asked for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients at a time; more wait.
const CLIENTS: usize = 16;

/// One client that waits for a document.
pub(super) type Asked = oneshot::Sender<Vec<u8>>;

/// The writing end.
#[derive(Debug)]
pub(super) struct Observer {
    asked: mpsc::Receiver<Asked>,
    task: JoinHandle<()>,
}

impl Observer {
    /// Listens in `run_dir`. Anyone on the machine may look.
    pub(super) fn listen(run_dir: &Path) -> Result<Self, Failure> {
        let listener = Listener::bind(&run_dir.join(observe::FILE), 0o666)?;
        let (ask, asked) = mpsc::channel(CLIENTS);
        let places = Arc::new(Semaphore::new(CLIENTS));
        let task = tokio::spawn(async move {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let stream = listener.accept().await;
                let ask = ask.clone();
                tokio::spawn(async move {
                    serve(stream, &ask).await;
                    drop(place);
                });
            }
        });
        Ok(Self { asked, task })
    }

    /// Waits until somebody asks.
    pub(super) async fn asked(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            // The task has ended, which it does not while this is there.
            None => std::future::pending().await,
        }
    }
}

/// The document as it is sent.
pub(super) fn document(observation: &Observation) -> Vec<u8> {
    match serde_json::to_vec(observation) {
        Ok(json) => json,
        Err(error) => {
            error!("the state cannot be told: {error}");
            Vec::new()
        }
    }
}

async fn serve(mut stream: UnixStream, ask: &mpsc::Sender<Asked>) {
    let (answer, document) = oneshot::channel();
    if ask.send(answer).await.is_err() {
        return;
    }
    if let Ok(document) = document.await {
        drop(timeout(PATIENCE, stream.write_all(&document)).await);
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
