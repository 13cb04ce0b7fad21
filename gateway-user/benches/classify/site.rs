//! An interface of the benchmark's own to publish on.

use anyhow::{Context as _, Result};
use gateway_user::config::Mode;
use gateway_user::datapath::{
    Blueprint, FeedIdentity, HookRequest, Interface, TcCarrier, XdpRequest,
};
use gateway_user::policy::Table;
use xtask::testbed::{BpfFs, End, Namespace, Offloads, link};

use crate::MARK;

/// Name of the interface.
pub(crate) const LAN: &str = "lan0";

/// A namespace with [`LAN`], joined to another one, and pins. Vanishes with its value.
pub(crate) struct Site {
    pub(crate) inside: Namespace,
    _outside: Namespace,
    pub(crate) bpffs: BpfFs,
}

impl Site {
    pub(crate) fn new() -> Result<Self> {
        let bpffs = BpfFs::new()?;
        let (inside, outside) = (Namespace::new("bench")?, Namespace::new("peer")?);
        let end = |namespace, interface, last| End {
            namespace,
            interface,
            mac: [2, 0, 0, 0, 0, last],
            addresses: &[],
        };
        link(&end(&inside, LAN, 2), &end(&outside, "wan0", 3), Offloads::None)?;
        Ok(Self { inside, _outside: outside, bpffs })
    }
}

/// What to publish for `table`.
pub(crate) fn blueprint(table: Table) -> Blueprint {
    Blueprint {
        table,
        mark: MARK,
        mode: Mode::Mark,
        feed: FeedIdentity { instance: None, version: None, digest: String::new() },
        sets: Vec::new(),
        own: Vec::new(),
        deadline: None,
        starts_off: false,
        self_check: 1000,
        redirect: None,
    }
}

/// Native XDP on [`LAN`] of the namespace this is called in.
pub(crate) fn native_hook() -> Result<HookRequest> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interface = runtime.block_on(Interface::find(LAN)).context("interface of the benchmark")?;
    Ok(HookRequest { interface, xdp: XdpRequest::Native, tc: TcCarrier::Best })
}
