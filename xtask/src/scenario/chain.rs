//! The rules that an inspection system on the gateway needs beside the product: the very files
//! that the product keeps for it.

use std::path::Path;

use anyhow::Result;

use crate::testbed::Namespace;

use super::network::INSIDE;
use super::product::MARK;

/// A file of rules, with places for what differs from gateway to gateway.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// Its name, for people.
    pub name: &'static str,
    text: &'static str,
}

/// Traffic to ports 80 and 443 into a local proxy.
pub(super) const REDIRECT: Chain = Chain {
    name: "redirect.nft",
    text: include_str!("../../../gateway-user/src/export/chains/redirect.nft"),
};
/// Nothing of the clients' passes the gateway but direct flows: all else has to take the proxy.
pub(super) const FORWARD: Chain = Chain {
    name: "forward.nft",
    text: include_str!("../../../gateway-user/src/export/chains/forward.nft"),
};
/// Traffic to port 80 into a local proxy that keeps the clients' addresses.
pub(super) const TPROXY: Chain = Chain {
    name: "tproxy.nft",
    text: include_str!("../../../gateway-user/src/export/chains/tproxy.nft"),
};
/// The same for iptables.
pub(super) const TPROXY_IPTABLES: Chain = Chain {
    name: "tproxy.iptables",
    text: include_str!("../../../gateway-user/src/export/chains/tproxy.iptables"),
};
/// The routing that both need.
const TPROXY_ROUTING: Chain = Chain {
    name: "tproxy.ip",
    text: include_str!("../../../gateway-user/src/export/chains/tproxy.ip"),
};
/// Everything forwarded into a queue, both directions.
pub(super) const QUEUE: Chain = Chain {
    name: "queue.iptables",
    text: include_str!("../../../gateway-user/src/export/chains/queue.iptables"),
};

/// All of them.
pub const CHAINS: [Chain; 6] = [REDIRECT, FORWARD, TPROXY, TPROXY_IPTABLES, TPROXY_ROUTING, QUEUE];

/// What is filled in.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The mark that says direct, and its mask.
    pub mark: u32,
    /// The inside interface.
    pub inside: &'a str,
    /// The port that the proxy listens on.
    pub port: u16,
    /// The number of the queue.
    pub queue: u16,
}

impl Chain {
    /// The rules for one gateway.
    #[must_use]
    pub fn filled(&self, places: &Places) -> String {
        let Places { mark, inside, port, queue } = places;
        let mark = format!("{mark:#010x}");
        self.text
            .replace("{mask}", &mark)
            .replace("{value}", &mark)
            .replace("{inside}", inside)
            .replace("{port}", &port.to_string())
            .replace("{queue}", &queue.to_string())
    }

    /// Loads them into `gateway`, for a proxy on `port`.
    pub(super) fn load(&self, gateway: &Namespace, port: u16) -> Result<()> {
        self.load_for(gateway, port, MARK)
    }

    /// As [`Chain::load`], where another mark says direct.
    pub(super) fn load_for(&self, gateway: &Namespace, port: u16, mark: u32) -> Result<()> {
        let text = self.filled(&Places { mark, inside: INSIDE, port, queue: QUEUE_NUMBER });
        if Path::new(self.name).extension().is_some_and(|kind| kind == "nft") {
            gateway.nft(&text)
        } else {
            gateway.iptables(&text)
        }
    }
}

/// Loads the routing that brings what TPROXY takes to a local socket, both families.
pub(super) fn load_tproxy_routing(gateway: &Namespace) -> Result<()> {
    for family in ["-4", "-6"] {
        for line in TPROXY_ROUTING.text.lines() {
            gateway.run(&format!("ip {family} {line}"))?;
        }
    }
    Ok(())
}

/// The queue of the scenarios.
pub(super) const QUEUE_NUMBER: u16 = 0;
