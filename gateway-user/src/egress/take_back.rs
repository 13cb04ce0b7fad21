//! Taking back what is ours, by its marks of ownership alone.

use serde::Serialize;

use super::netlink::Netlink;
use super::routing::{Routing, Steps};
use super::{EgressError, nft};

/// What was taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Rules, of both families.
    pub rules: usize,
    /// Routes, of both families.
    pub routes: usize,
    /// Whether the nftables table was there.
    pub table: bool,
}

/// Removes our rules, routes and nftables table, whoever installed them when, and nothing else.
///
/// # Errors
///
/// Something of ours cannot be removed.
pub async fn take_back() -> Result<Removed, EgressError> {
    let netlink = Netlink::open()?;
    let Steps { remove_rules, remove_routes, .. } =
        Routing::default().steps(&netlink.see(None).await?)?;
    for rule in &remove_rules {
        netlink.remove_rule(rule).await?;
    }
    for route in &remove_routes {
        netlink.remove_route(route).await?;
    }
    let table = match nft::listing() {
        Ok(listing) => listing.is_some(),
        // Without the program, there is no table that it made.
        Err(EgressError::NoNft { .. } | EgressError::ForeignTable) => false,
        // Nor where the kernel has no nftables: what has left no rule and no route was never here.
        Err(_) if remove_rules.is_empty() && remove_routes.is_empty() => false,
        Err(error) => return Err(error),
    };
    if table {
        nft::remove()?;
    }
    Ok(Removed { rules: remove_rules.len(), routes: remove_routes.len(), table })
}

impl Removed {
    /// Whether there was nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}
