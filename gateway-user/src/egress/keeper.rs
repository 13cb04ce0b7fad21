//! What the daemon holds: the way out is put in place, looked after, and taken back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::net::if_::if_nametoindex;
use tracing::{debug, error, info, warn};

use super::netlink::Netlink;
use super::routing::{Family, Routing};
use super::take_back::take_back;
use super::watch::Watch;
use super::{EgressError, Wanted, nft, reverse_path, ruleset};
use crate::config::Action;
use crate::observe::EgressState;

/// The nftables table that was applied last.
#[derive(Default)]
struct Applied {
    /// The families that were closed in it.
    closed: BTreeSet<Family>,
    /// As it was listed then; `None`, not by this process.
    listing: Option<String>,
}

/// The way out of one daemon.
#[derive(Default)]
pub struct Keeper {
    wanted: Option<Wanted>,
    applied: Applied,
    watch: Option<Watch>,
    put_back: u64,
    problem: Option<String>,
}

impl Keeper {
    /// What is kept; `None`, nothing is.
    #[must_use]
    pub fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_ref()
    }

    /// Puts `wanted` in place. Where it is what was kept before, what is in the way (such as an
    /// uplink that is down) is no reason to refuse: it is said, and looked after.
    ///
    /// # Errors
    ///
    /// It cannot be put in place. What was done by then stays until [`Keeper::go_back`].
    pub async fn establish(&mut self, wanted: &Wanted) -> Result<(), EgressError> {
        if self.wanted.as_ref() == Some(wanted) {
            self.look_again().await;
            return Ok(());
        }
        // Whatever has its name may be of another process; and it is another one now.
        self.applied = Applied::default();
        apply(wanted, &mut self.applied).await?;
        if self.watch.is_none() {
            self.watch = Some(Watch::listen()?);
        }
        let egress = &wanted.egress;
        info!(
            "direct traffic leaves by {} (table {}, rules {} and {})",
            egress.interface,
            egress.table,
            egress.priority,
            egress.priority.saturating_add(1)
        );
        if egress.gateway4.is_some()
            && let Some(problem) = reverse_path::problem(&egress.interface)
        {
            warn!("{problem}");
        }
        use_next_hops(wanted).await;
        self.wanted = Some(wanted.clone());
        self.problem = None;
        Ok(())
    }

    /// Puts back what somebody removed or changed since, and says so in one line.
    pub async fn look_again(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        use_next_hops(wanted).await;
        match apply(wanted, &mut self.applied).await {
            Ok(words) => {
                if !words.is_empty() {
                    self.put_back = self.put_back.saturating_add(1);
                    warn!(
                        "somebody removed or changed what is ours, put back: {}",
                        words.join(", ")
                    );
                }
                if self.problem.take().is_some() {
                    info!("the way out by {} is in place again", wanted.egress.interface);
                }
            }
            Err(failure) => {
                // Else flows that are inspected now would be taken for direct ones, and moved once
                // the way is there again. Where nft is what fails, the problem says so.
                close(wanted, &mut self.applied).await.ok();
                let problem = failure.to_string();
                if self.problem.as_ref() != Some(&problem) {
                    error!("the way out is not in place, what it lacks is inspected: {problem}");
                }
                self.problem = Some(problem);
            }
        }
    }

    /// Waits until something may have to be put back; for ever where nothing is kept. May be
    /// dropped and called again at any time.
    pub async fn changed(&mut self) {
        match &mut self.watch {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Puts in place what was kept before a change that failed; `None`, nothing was.
    pub async fn go_back(&mut self, before: Option<&Wanted>) {
        self.wanted = None;
        let outcome = match before {
            Some(before) => self.establish(before).await,
            None => self.release().await,
        };
        if let Err(failure) = outcome {
            error!("going back to the way out before failed too: {failure}");
            self.problem = Some(failure.to_string());
            self.wanted = before.cloned();
        }
    }

    /// Takes back whatever is ours, also what another process left.
    ///
    /// # Errors
    ///
    /// Something of ours cannot be removed.
    pub async fn release(&mut self) -> Result<(), EgressError> {
        self.wanted = None;
        self.watch = None;
        self.applied = Applied::default();
        self.problem = None;
        let removed = take_back().await?;
        if !removed.is_nothing() {
            info!("rules, routes and nftables table of the direct uplink are taken back");
        }
        Ok(())
    }

    /// For the observation.
    #[must_use]
    pub fn state(&self) -> Option<EgressState> {
        let egress = &self.wanted.as_ref()?.egress;
        Some(EgressState {
            interface: egress.interface.clone(),
            gateway4: egress.gateway4,
            gateway6: egress.gateway6,
            table: egress.table,
            priority: egress.priority,
            put_back: self.put_back,
            problem: self.problem.clone(),
        })
    }
}

/// Observes, plans and does; gives what had to be done, in words.
async fn apply(wanted: &Wanted, applied: &mut Applied) -> Result<Vec<String>, EgressError> {
    let name = &wanted.egress.interface;
    let index = if_nametoindex(name.as_str())
        .map_err(|_| EgressError::NoInterface { name: name.clone() })?;
    let routing = Routing::of(wanted, index);
    let netlink = Netlink::open()?;
    let steps = routing.steps(&netlink.see(Some(wanted.egress.table)).await?)?;
    let mut words = steps.words();
    // First the flows that are to keep their way, then the way.
    if applied.ensure(wanted, applied.closed.clone())? {
        words.push(format!("nftables table inet {}", ruleset::TABLE));
    }
    for route in &steps.add_routes {
        netlink.add_route(route).await.map_err(|source| EgressError::Route {
            gateway: route.gateway,
            interface: name.clone(),
            source,
        })?;
    }
    for rule in &steps.add_rules {
        netlink.add_rule(rule).await?;
    }
    for rule in &steps.remove_rules {
        netlink.remove_rule(rule).await?;
    }
    for route in &steps.remove_routes {
        netlink.remove_route(route).await?;
    }
    if !steps.are_none() {
        let left = routing.steps(&netlink.see(Some(wanted.egress.table)).await?)?;
        if !left.are_none() {
            return Err(EgressError::DoesNotStay { what: left.words().join(", ") });
        }
    }
    if !applied.closed.is_empty() {
        applied.ensure(wanted, BTreeSet::new())?;
    }
    Ok(words)
}

/// XDP does not ask who has an address: without this, a next hop that no other traffic uses would
/// not be known, and one whose MAC address has changed would stay as it was for ever. What fails
/// here goes up the stack, which asks.
async fn use_next_hops(wanted: &Wanted) {
    let egress = &wanted.egress;
    if egress.action != Action::Redirect {
        return;
    }
    let Ok(index) = if_nametoindex(egress.interface.as_str()) else { return };
    let Ok(netlink) = Netlink::open() else { return };
    let hops = [egress.gateway4.map(IpAddr::V4), egress.gateway6.map(IpAddr::V6)];
    for hop in hops.into_iter().flatten() {
        if let Err(error) = netlink.use_neighbour(index, hop).await {
            debug!("next hop {hop}: {error}");
        }
    }
}

/// Has the families inspected whose way is not wholly there.
async fn close(wanted: &Wanted, applied: &mut Applied) -> Result<(), EgressError> {
    let lacking = match if_nametoindex(wanted.egress.interface.as_str()) {
        Ok(index) => {
            let seen = Netlink::open()?.see(Some(wanted.egress.table)).await?;
            Routing::of(wanted, index).lacking(&seen)
        }
        Err(_) => Family::ALL.into(),
    };
    applied.ensure(wanted, lacking).map(drop)
}

impl Applied {
    /// Applies the table where it is not there, another one, or has other families closed; gives
    /// whether it had to.
    fn ensure(&mut self, wanted: &Wanted, closed: BTreeSet<Family>) -> Result<bool, EgressError> {
        let listed = nft::listing()?;
        if listed.is_some() && listed == self.listing && closed == self.closed {
            return Ok(false);
        }
        nft::apply(&ruleset::text(wanted, &closed))?;
        *self = Self { closed, listing: nft::listing()? };
        Ok(true)
    }
}
