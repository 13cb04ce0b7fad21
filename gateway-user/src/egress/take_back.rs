//! Taking back what is ours, by its marks of ownership alone.

use std::fmt;

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

/// Removes our rules, routes and nftables table, whoever installed them when, and nothing else. What
/// cannot be removed is no reason to leave the rest: gives what is removed, and why the others are not.
pub async fn take_back() -> (Removed, Vec<EgressError>) {
    let mut removed = Removed::default();
    let routing = remove_routing(&mut removed).await;
    let table = remove_table(&mut removed).await;
    (removed, [routing, table].into_iter().filter_map(Result::err).collect())
}

async fn remove_routing(removed: &mut Removed) -> Result<(), EgressError> {
    let netlink = Netlink::open()?;
    let Steps { remove_rules, remove_routes, .. } =
        Routing::default().steps(&netlink.see(None).await?)?;
    for rule in &remove_rules {
        netlink.remove_rule(rule).await?;
        removed.rules = removed.rules.saturating_add(1);
    }
    for route in &remove_routes {
        netlink.remove_route(route).await?;
        removed.routes = removed.routes.saturating_add(1);
    }
    Ok(())
}

async fn remove_table(removed: &mut Removed) -> Result<(), EgressError> {
    let is_there = match nft::listing().await {
        Ok(listing) => listing.is_some(),
        // Without the program, there is no table that it made.
        Err(EgressError::NoNft { .. } | EgressError::ForeignTable) => false,
        Err(EgressError::Nft { said, .. }) if is_without_nftables(&said) => false,
        Err(error) => return Err(error),
    };
    if is_there {
        nft::remove().await?;
        removed.table = true;
    }
    Ok(())
}

/// Whether the kernel has no nftables, by what `nft` said: there is no such netlink protocol or, where
/// others use that, no such subsystem of it (kernel `net/netfilter/nfnetlink.c`).
fn is_without_nftables(said: &str) -> bool {
    said.contains("Protocol not supported")
        || said.contains("cache initialization failed: Invalid argument")
}

impl Removed {
    /// Whether there was nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules, {} routes", self.rules, self.routes)?;
        f.write_str(if self.table { ", and the nftables table" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_that_has_no_nftables_has_no_table_for_certain() {
        for (said, is_without) in [
            ("mnl.c:60: Unable to initialize Netlink socket: Protocol not supported", true),
            ("netlink: Error: cache initialization failed: Invalid argument", true),
            ("Operation not permitted (you must be root)", false),
            ("Error: Could not process rule: Device or resource busy", false),
            ("it had not ended after 10 s and was killed; try it by hand", false),
        ] {
            assert_eq!(is_without_nftables(said), is_without, "{said}");
        }
    }
}
