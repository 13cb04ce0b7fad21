//! One look: observes, plans and does, so that what is asked for is in place as far as the uplink
//! lets it, and closes the families that it does not let.

use std::collections::{BTreeMap, BTreeSet};

use super::debt::Debt;
use super::fault::{Fault, Sight};
use super::netlink::Netlink;
use super::routing::{Family, Routing};
use super::ruleset::{Before, Past};
use super::standing::Standings;
use super::{EgressError, Hop, Wanted, nft, ruleset};

/// What was put in place last.
#[derive(Default)]
pub(super) struct Applied {
    /// The families that were closed in the nftables table.
    closed: BTreeSet<Family>,
    /// The largest packets in it, where it has them.
    mtus: BTreeMap<Family, u32>,
    /// The table as it was listed then; `None`, not by this process.
    listing: Option<String>,
    /// Rules and routes.
    routing: Option<Routing>,
    /// What was in place before, as far as the table has to know.
    pub(super) past: Past,
    /// What of it is in the table.
    known: Past,
}

/// What was seen and done.
#[derive(Default)]
pub(super) struct Look {
    /// What somebody had removed or changed.
    pub(super) words: Vec<String>,
    /// The families that are down.
    pub(super) faults: BTreeMap<Family, Fault>,
    /// The next hops there are.
    pub(super) hops: BTreeMap<Family, Hop>,
    /// The largest packets that the uplink takes, bytes.
    pub(super) mtus: BTreeMap<Family, u32>,
    /// Index of the uplink; zero, it is not there, and `None`, it was not looked at.
    pub(super) index: Option<u32>,
    /// What cannot be put in place, although link and next hop are there.
    pub(super) problem: Option<EgressError>,
    /// A family is down and the nftables table may not say so: what is decided direct finds no way.
    pub(super) has_dead_end: bool,
}

impl Look {
    /// What is seen of link and next hops, and what probes say.
    fn of(sight: &Sight, standings: &Standings) -> Self {
        let mut look = Self {
            index: Some(sight.link.map_or(0, |link| link.index)),
            hops: sight.next_hops(),
            mtus: sight.mtus(),
            ..Self::default()
        };
        for (family, standing) in &standings.families {
            let fault = sight.fault(*family, standing.fault).or_else(|| standing.probed());
            look.faults.extend(fault.map(|fault| (*family, fault)));
        }
        look
    }

    /// The families that are down.
    pub(super) fn down(&self) -> BTreeSet<Family> {
        self.faults.keys().copied().collect()
    }

    /// Nothing was seen: what is down stays down, and probes are believed.
    pub(super) fn as_before(applied: &Applied, standings: &Standings) -> Self {
        let mut look = Self::default();
        for (family, standing) in &standings.families {
            let fault = standing.fault.or_else(|| standing.probed());
            look.faults.extend(fault.map(|fault| (*family, fault)));
        }
        look.has_dead_end = applied.is_open_to(&look.down());
        look
    }

    /// The rules and routes that are to be there as things stand.
    fn routing(&self, wanted: &Wanted) -> Routing {
        let mut hops = self.hops.clone();
        hops.retain(|family, _| self.faults.get(family).is_none_or(|it| it.leaves_routes()));
        Routing::of(wanted, self.index.unwrap_or(0), &hops)
    }
}

/// Looks, and does what is to be done; `down` hears of what is down before. Unless it `may_wait`, an
/// uplink that is not there or a next hop that cannot be reached is an error; what was done by then stays.
pub(super) async fn look(
    wanted: &Wanted,
    applied: &mut Applied,
    standings: &Standings,
    may_wait: bool,
    down: impl Fn(&Look),
) -> Result<Look, EgressError> {
    let netlink = Netlink::open()?;
    let sight = netlink.see_uplink(&wanted.egress).await?;
    let look = look_once(&netlink, &sight, wanted, applied, standings, may_wait, &down).await;
    let lacks_something = match &look {
        Ok(look) => {
            !look.words.is_empty() || look.faults.values().any(|fault| *fault == Fault::NotInPlace)
        }
        Err(error) => {
            matches!(error, EgressError::Route { .. } | EgressError::DoesNotStay { .. })
        }
    };
    if lacks_something && let Some(sight) = netlink.went(&sight, &wanted.egress).await {
        return look_once(&netlink, &sight, wanted, applied, standings, may_wait, &down).await;
    }
    look
}

async fn look_once(
    netlink: &Netlink,
    sight: &Sight,
    wanted: &Wanted,
    applied: &mut Applied,
    standings: &Standings,
    may_wait: bool,
    down: impl Fn(&Look),
) -> Result<Look, EgressError> {
    let mut look = Look::of(sight, standings);
    down(&look);
    if sight.link.is_none() {
        let name = wanted.egress.interface.clone();
        let problem = EgressError::NoInterface { name };
        if !may_wait {
            return Err(problem);
        }
        look.problem = Some(problem);
    }
    let routing = look.routing(wanted);
    let steps = routing.steps(&netlink.see(Some(wanted.egress.table)).await?)?;
    if applied.routing.as_ref() == Some(&routing) {
        look.words = steps.words();
    }
    // First the flows that are to keep their way or to lose it, then the way.
    let closed = look.faults.keys().chain(&applied.closed).copied().collect();
    let mut was_changed = applied.ensure(wanted, closed, &look.mtus).await?;
    let mut refused = BTreeSet::new();
    for route in &steps.add_routes {
        let Err(source) = netlink.add_route(route).await else { continue };
        refused.insert(*route);
        // Of an uplink that is down it is no wonder.
        if !look.faults.contains_key(&route.family) {
            let (hop, interface) = (route.hop, wanted.egress.interface.clone());
            let problem = EgressError::Route { hop, interface, source };
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
    // What was never there, nobody has removed.
    applied.routing = refused.is_empty().then_some(routing);
    let closed: BTreeSet<Family> = look.faults.keys().copied().collect();
    // It was looked at a moment ago.
    if closed != applied.closed {
        was_changed |= applied.ensure(wanted, closed, &look.mtus).await?;
    }
    if was_changed {
        look.words.push(format!("nftables table inet {}", ruleset::TABLE));
    }
    Ok(look)
}

/// After a look that failed: closes the families that are down, and those whose way is not wholly
/// there.
pub(super) async fn close(
    wanted: &Wanted,
    applied: &mut Applied,
    standings: &Standings,
) -> Result<Look, EgressError> {
    let netlink = Netlink::open()?;
    let sight = netlink.see_uplink(&wanted.egress).await?;
    let mut look = Look::of(&sight, standings);
    let seen = netlink.see(Some(wanted.egress.table)).await?;
    let lacking = look.routing(wanted).lacking(&seen);
    if !lacking.is_empty()
        && let Some(sight) = netlink.went(&sight, &wanted.egress).await
    {
        look = Look::of(&sight, standings);
    }
    for family in lacking {
        look.faults.entry(family).or_insert(Fault::NotInPlace);
    }
    // Where nft is what fails, what is closed stays so, and the problem of the look says why.
    if applied.ensure(wanted, look.down(), &look.mtus).await.is_err() {
        look.has_dead_end = applied.is_open_to(&look.down());
        let families = standings.families.keys().filter(|family| applied.keeps_closed(**family));
        for family in families {
            look.faults.entry(*family).or_insert(Fault::NotInPlace);
        }
    }
    Ok(look)
}

impl Past {
    /// What the table of `wanted` has to know, while programs mark for what was `before` and flows are
    /// `owed`.
    pub(super) fn under(&self, wanted: &Wanted, before: Option<&Wanted>, owed: &[Debt]) -> Self {
        let new = before.and_then(|before| Debt::between(before, wanted));
        let debts = || owed.iter().chain(&new).rev();
        let words = debts().find_map(|debt| match debt {
            Debt::Words { words, .. } => Some(*words),
            Debt::Uplink { .. } | Debt::Inside { .. } => None,
        });
        let is_parting = debts().any(|debt| matches!(debt, Debt::Uplink { .. }));
        let mut was_inside = self.was_inside.clone();
        let mut still_inside = self.still_inside.clone();
        still_inside.extend(before.into_iter().flat_map(|before| before.inside.iter().cloned()));
        still_inside.retain(|name| !wanted.inside.contains(name));
        was_inside.retain(|name| !wanted.inside.contains(name) && !still_inside.contains(name));
        Self { words, is_parting, still_inside, was_inside }
    }
}

impl Applied {
    /// Nothing is in place yet.
    pub(super) fn after(past: Past) -> Self {
        Self { past, ..Self::default() }
    }

    /// The flows of a change are ended, with which no program marks any more for what was before.
    pub(super) fn paid(&mut self, debt: &Debt) {
        match debt {
            Debt::Words { words, .. } => {
                self.past.words.take_if(|left| left == words);
            }
            Debt::Uplink { .. } => self.past.is_parting = false,
            Debt::Inside { .. } => {}
        }
        let still = std::mem::take(&mut self.past.still_inside);
        self.past.was_inside.extend(still);
    }

    /// Whether the table knows something else than it should.
    pub(super) fn is_behind(&self) -> bool {
        self.past != self.known
    }

    /// Applies the table with nothing direct any more.
    pub(super) async fn part(&mut self, wanted: &Wanted) -> Result<(), EgressError> {
        self.past.is_parting = true;
        let (closed, mtus) = (self.closed.clone(), self.mtus.clone());
        self.ensure(wanted, closed, &mtus).await.map(drop)
    }

    /// Whether the table that is there inspects this family, or there is none of this process.
    fn keeps_closed(&self, family: Family) -> bool {
        self.listing.is_none() || self.closed.contains(&family)
    }

    /// Whether the table there may let a family go direct that is down: what another process or another
    /// configuration has left may let anything.
    fn is_open_to(&self, down: &BTreeSet<Family>) -> bool {
        self.listing.is_none() || !down.is_subset(&self.closed)
    }

    /// Applies the table where it is not there, another one, or has other families closed or other
    /// packet sizes; gives whether somebody had changed it since.
    async fn ensure(
        &mut self,
        wanted: &Wanted,
        closed: BTreeSet<Family>,
        mtus: &BTreeMap<Family, u32>,
    ) -> Result<bool, EgressError> {
        let mtus = if wanted.egress.clamp_mss { mtus.clone() } else { BTreeMap::new() };
        let listed = nft::listing().await?;
        let is_same = listed.is_some() && listed == self.listing;
        if is_same && closed == self.closed && mtus == self.mtus && !self.is_behind() {
            return Ok(false);
        }
        let was_ours = self.listing.is_some();
        if !is_same {
            self.closed.clear();
        }
        let before = if is_same { Before::Alike } else { Before::Unknown };
        nft::apply(&ruleset::text(wanted, &closed, &mtus, &self.past, before)).await?;
        (self.closed, self.mtus, self.known) = (closed, mtus, self.past.clone());
        self.listing = nft::listing().await?;
        Ok(was_ours && !is_same)
    }
}
