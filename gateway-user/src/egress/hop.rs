//! Where packets of a family go next: to an address, or to the other end of the uplink.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::routing::Family;
use crate::config::{Egress, NextHop};

/// A next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// This address, on the uplink.
    Via(IpAddr),
    /// Whoever is at the other end of a link that knows no addresses of its own: point-to-point, or
    /// without ARP.
    Link,
}

impl Hop {
    /// Its address, if it has one.
    #[must_use]
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Via(address) => Some(address),
            Self::Link => None,
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Via(address) => write!(f, "via {address}"),
            Self::Link => f.write_str("without next hop"),
        }
    }
}

/// The families that are to have a next hop.
pub(super) fn next_hops(egress: &Egress) -> BTreeMap<Family, NextHop<IpAddr>> {
    let v4 = egress.gateway4.map(|hop| (Family::V4, hop.map(IpAddr::V4)));
    let v6 = egress.gateway6.map(|hop| (Family::V6, hop.map(IpAddr::V6)));
    v4.into_iter().chain(v6).collect()
}
