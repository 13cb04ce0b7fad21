//! Frames put on an interface, and taken from it, as they are.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender};

use super::Namespace;

/// A packet socket on one interface.
pub struct Wire {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl Wire {
    /// Opens `interface` of `namespace`.
    ///
    /// # Errors
    ///
    /// There is no such interface, or it is no Ethernet.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        let opened = namespace.enter(|| {
            let found = pnet_datalink::interfaces().into_iter().find(|i| i.name == interface);
            let found = found.with_context(|| format!("no interface {interface}"))?;
            let config = Config { read_timeout: Some(TICK), ..Config::default() };
            match pnet_datalink::channel(&found, config)? {
                Channel::Ethernet(sender, receiver) => Ok(Self { sender, receiver }),
                _ => bail!("{interface} is no Ethernet interface"),
            }
        })?;
        opened.with_context(|| format!("cannot open a wire in {}", namespace.name()))
    }

    /// Sends a frame out of the interface.
    ///
    /// # Errors
    ///
    /// The interface does not take it: it is shorter than an Ethernet header, or longer than the
    /// MTU allows.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.sender.send_to(frame, None).context("the wire takes no frame")??;
        Ok(())
    }

    /// The next frame that `wanted` accepts, sent or received by the interface; `None` when there
    /// is none within `limit`. The kernel has taken a received frame's outermost VLAN tag off.
    ///
    /// # Errors
    ///
    /// The interface is gone.
    pub fn receive(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            match self.receiver.next() {
                Ok(frame) if wanted(frame) => return Ok(Some(frame.to_vec())),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                Err(error) => return Err(error).context("cannot read from the wire"),
            }
        }
        Ok(None)
    }
}

/// How often a quiet wire looks at its deadline.
const TICK: Duration = Duration::from_millis(20);
