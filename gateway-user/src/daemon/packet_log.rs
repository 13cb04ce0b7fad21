//! Prints the log records of the debug flavour while a generation serves; the shipped flavour has
//! none.

use crate::datapath::Published;
use crate::exit::Failure;

/// Between two looks for log records.
#[cfg(feature = "packet-log")]
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// The task that prints.
pub(super) struct PacketLog {
    #[cfg(feature = "packet-log")]
    task: tokio::task::JoinHandle<()>,
}

impl PacketLog {
    #[cfg(not(feature = "packet-log"))]
    #[expect(clippy::unnecessary_wraps, reason = "the debug flavour can fail")]
    pub(super) fn start(published: Published) -> Result<Option<Self>, Failure> {
        drop(published);
        Ok(None)
    }

    #[cfg(feature = "packet-log")]
    pub(super) fn start(mut published: Published) -> Result<Option<Self>, Failure> {
        use crate::exit::Exit;

        let mut logger = aya_log::EbpfLogger::init(published.generation.ebpf_mut())
            .map_err(|error| Failure::new(Exit::Internal, format!("packet log: {error}")))?;
        let task = tokio::spawn(async move {
            let mut pause = tokio::time::interval(PAUSE);
            loop {
                pause.tick().await;
                logger.flush();
            }
        });
        Ok(Some(Self { task }))
    }
}

#[cfg(feature = "packet-log")]
impl Drop for PacketLog {
    fn drop(&mut self) {
        self.task.abort();
    }
}
