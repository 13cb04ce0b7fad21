//! One look: observes, plans and does, so that what is asked for is in place as far as the uplink
//! lets it, and closes the families that it does not let.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::fault::Fault;
use super::netlink::Netlink;
use super::routing::{Family, Routing};
use super::standing::Standings;
use super::{EgressError, Wanted, nft, ruleset};

/// What was put in place last.
#[derive(Default)]
pub(super) struct Applied {
    /// The families that were closed in the nftables table.
    closed: BTreeSet<Family>,
    /// The table as it was listed then; `None`, not by this process.
    listing: Option<String>,
    /// Rules and routes.
    routing: Option<Routing>,
}

/// What was seen and done.
#[derive(Default)]
pub(super) struct Look {
    /// What somebody had removed or changed.
    pub(super) words: Vec<String>,
    /// The families that are down.
    pub(super) faults: BTreeMap<Family, Fault>,
    /// The next hops there are.
    pub(super) hops: BTreeMap<Family, IpAddr>,
    /// Index of the uplink; zero, it is not there.
    pub(super) index: u32,
    /// What cannot be put in place, although link and next hop are there.
    pub(super) problem: Option<EgressError>,
}

impl Look {
    /// Nothing was seen, but what is down.
    pub(super) fn closed(faults: BTreeMap<Family, Fault>) -> Self {
        Self { faults, ..Self::default() }
    }
}

/// Looks, and does what is to be done. Unless it `may_wait`, an uplink that is not there or a next hop
/// that cannot be reached is an error, and what was in place before still is.
pub(super) async fn look(
    wanted: &Wanted,
    applied: &mut Applied,
    standings: &Standings,
    may_wait: bool,
) -> Result<Look, EgressError> {
    let netlink = Netlink::open()?;
    let sight = netlink.see_uplink(&wanted.egress).await?;
    let mut look = Look {
        index: sight.link.map_or(0, |link| link.index),
        hops: sight.next_hops(),
        ..Look::default()
    };
    for (family, standing) in &standings.families {
        let fault = sight.fault(*family, standing.fault).or_else(|| standing.probed());
        look.faults.extend(fault.map(|fault| (*family, fault)));
    }
    if sight.link.is_none() {
        let name = wanted.egress.interface.clone();
        let problem = EgressError::NoInterface { name };
        if !may_wait {
            return Err(problem);
        }
        look.problem = Some(problem);
    }
    let leaves_routes =
        |family: &Family| look.faults.get(family).is_none_or(|it| it.leaves_routes());
    let mut hops = look.hops.clone();
    hops.retain(|family, _| leaves_routes(family));
    let routing = Routing::of(wanted, look.index, &hops);
    let steps = routing.steps(&netlink.see(Some(wanted.egress.table)).await?)?;
    if applied.routing.as_ref() == Some(&routing) {
        look.words = steps.words();
    }
    // First the flows that are to keep their way or to lose it, then the way.
    let closed = look.faults.keys().chain(&applied.closed).copied().collect();
    if applied.ensure(wanted, closed)? {
        look.words.push(format!("nftables table inet {}", ruleset::TABLE));
    }
    let mut refused = BTreeSet::new();
    for route in &steps.add_routes {
        let Err(source) = netlink.add_route(route).await else { continue };
        refused.insert(*route);
        // Of an uplink that is down it is no wonder.
        if !look.faults.contains_key(&route.family) {
            let (gateway, interface) = (route.gateway, wanted.egress.interface.clone());
            let problem = EgressError::Route { gateway, interface, source };
            if !may_wait {
                return Err(problem);
            }
            look.problem = Some(problem);
            look.faults.insert(route.family, Fault::NotInPlace);
        }
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
        let mut left = routing.steps(&netlink.see(Some(wanted.egress.table)).await?)?;
        left.add_routes.retain(|route| !refused.contains(route));
        if !left.are_none() {
            return Err(EgressError::DoesNotStay { what: left.words().join(", ") });
        }
    }
    if refused.is_empty() {
        applied.routing = Some(routing);
    }
    applied.ensure(wanted, look.faults.keys().copied().collect())?;
    Ok(look)
}

/// Closes the families whose way is not wholly there, after a look that failed; gives all that are
/// down.
pub(super) async fn close(
    wanted: &Wanted,
    applied: &mut Applied,
    standings: &Standings,
) -> Result<BTreeMap<Family, Fault>, EgressError> {
    let lacking = match &applied.routing {
        Some(routing) => routing.lacking(&Netlink::open()?.see(Some(wanted.egress.table)).await?),
        None => standings.families.keys().copied().collect(),
    };
    let before = standings.families.iter();
    let before = before.filter_map(|(family, standing)| Some((*family, standing.fault?)));
    let lacking = lacking.into_iter().map(|family| (family, Fault::NotInPlace));
    let faults: BTreeMap<_, _> = lacking.chain(before).collect();
    applied.ensure(wanted, faults.keys().copied().collect())?;
    Ok(faults)
}

impl Applied {
    /// Applies the table where it is not there, another one, or has other families closed; gives
    /// whether somebody had changed it since.
    fn ensure(&mut self, wanted: &Wanted, closed: BTreeSet<Family>) -> Result<bool, EgressError> {
        let listed = nft::listing()?;
        let is_same = listed.is_some() && listed == self.listing;
        if is_same && closed == self.closed {
            return Ok(false);
        }
        let was_ours = self.listing.is_some();
        nft::apply(&ruleset::text(wanted, &closed))?;
        *self = Self { closed, listing: nft::listing()?, routing: self.routing.take() };
        Ok(was_ours && !is_same)
    }
}
