//! From sets to rules: what the policy selects, and what is held back for safety unless named.

use std::collections::BTreeSet;
use std::net::IpAddr;

use gateway_common::Transport;
use ipnet::IpNet;

use super::own::{self, Exclude, OwnInclude, Sources};
use super::{Note, PolicyError, Rule};
use crate::feed::{Category, EndpointSet, Ports, SetId, Snapshot};

/// The set that holds the sign-in hosts. A proxy that injects tenant restrictions does it in
/// exactly this traffic, so no category selects it: it goes direct only when it is named.
pub const SIGN_IN_SET: SetId = 56;

/// Ports that go direct only for a set that is named: mail and name service are what an
/// inspection chain exists to see.
pub(crate) const NAMED_ONLY: [(Transport, u16); 3] =
    [(Transport::Tcp, 25), (Transport::Tcp, 53), (Transport::Udp, 53)];

/// Sign-in hosts of the instances: the set that lists one is that instance's sign-in set.
const SIGN_IN_HOSTS: [&str; 3] =
    ["login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn"];

/// What the operator selects.
///
/// A set is in when it is not excluded, and is either included by id or fits categories, service
/// areas and `required_only` together. Own includes come beside the sets, own excludes cut holes
/// into both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Categories.
    pub categories: BTreeSet<Category>,
    /// Service areas; `None` is all.
    pub service_areas: Option<BTreeSet<String>>,
    /// Only sets that Microsoft calls required.
    pub required_only: bool,
    /// Sets that are in whatever else is selected.
    pub include_sets: BTreeSet<SetId>,
    /// Sets that are out whatever else is selected.
    pub exclude_sets: BTreeSet<SetId>,
    /// Whether IPv4 prefixes are in.
    pub ipv4: bool,
    /// Whether IPv6 prefixes are in.
    pub ipv6: bool,
    /// What goes direct besides, in the operator's order.
    pub includes: Vec<OwnInclude>,
    /// What never does, in the operator's order.
    pub excludes: Vec<Exclude>,
    /// Whose traffic goes direct.
    pub sources: Sources,
}

/// Category Optimize, every service area, both families, everybody.
impl Default for Policy {
    fn default() -> Self {
        Self {
            categories: BTreeSet::from([Category::Optimize]),
            service_areas: None,
            required_only: false,
            include_sets: BTreeSet::new(),
            exclude_sets: BTreeSet::new(),
            ipv4: true,
            ipv6: true,
            includes: Vec::new(),
            excludes: Vec::new(),
            sources: Sources::default(),
        }
    }
}

impl Policy {
    /// Whether the set is named by its id.
    pub(super) fn names(&self, set: &EndpointSet) -> bool {
        self.include_sets.contains(&set.id)
    }

    /// Whether the set would be in by what it is, named or not.
    pub(crate) fn fits(&self, set: &EndpointSet) -> bool {
        self.misfit(set).is_none()
    }

    fn misfit(&self, set: &EndpointSet) -> Option<LeftOut> {
        let areas = self.service_areas.as_ref();
        if !self.categories.contains(&set.category) {
            Some(LeftOut::Category)
        } else if areas.is_some_and(|areas| !areas.contains(&set.service_area)) {
            Some(LeftOut::ServiceArea)
        } else if self.required_only && !set.required {
            Some(LeftOut::NotRequired)
        } else {
            None
        }
    }

    /// Why nothing of the set is in; `None` where it is, as far as prefixes, ports and
    /// [`LeftOut::SignIn`] let it.
    fn leaves_out(&self, set: &EndpointSet) -> Option<LeftOut> {
        if self.exclude_sets.contains(&set.id) {
            Some(LeftOut::ById)
        } else if self.names(set) {
            None
        } else {
            self.misfit(set)
        }
    }

    /// Whether the set is in.
    pub(super) fn selects(&self, set: &EndpointSet) -> bool {
        self.leaves_out(set).is_none()
    }

    /// Why the set has no rule for `address`, which it lists with `port`; `None` where it has one.
    #[must_use]
    pub fn why_not(
        &self,
        set: &EndpointSet,
        address: IpAddr,
        transport: Transport,
        port: u16,
    ) -> Option<LeftOut> {
        let named = self.names(set);
        self.leaves_out(set).or_else(|| {
            if !self.takes(address.into()) {
                Some(LeftOut::Family)
            } else if !named && is_sign_in(set) {
                Some(LeftOut::SignIn)
            } else if !named && NAMED_ONLY.contains(&(transport, port)) {
                Some(LeftOut::Port)
            } else {
                None
            }
        })
    }

    fn takes(&self, prefix: IpNet) -> bool {
        match prefix {
            IpNet::V4(_) => self.ipv4,
            IpNet::V6(_) => self.ipv6,
        }
    }
}

/// Why a set, or a port of it, is not selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It is in `exclude-sets`.
    ById,
    /// Its category is not selected.
    Category,
    /// Its service area is not selected.
    ServiceArea,
    /// It is not required, and only required ones are selected.
    NotRequired,
    /// The address family is off.
    Family,
    /// It has the sign-in hosts, and is not named.
    SignIn,
    /// The port goes direct only for a set that is named.
    Port,
}

pub(super) struct Selection {
    pub(super) rules: Vec<Rule>,
    pub(super) notes: Vec<Note>,
}

pub(super) fn select(snapshot: &Snapshot, policy: &Policy) -> Result<Selection, PolicyError> {
    refuse_unknown_names(snapshot, policy)?;
    let mut selection = Selection { rules: Vec::new(), notes: Vec::new() };
    for set in snapshot.sets.values() {
        if policy.selects(set) {
            selection.add(set, policy, policy.names(set))?;
        }
    }
    for (place, include) in policy.includes.iter().enumerate() {
        selection.add_own(own::own_id(place), include, policy)?;
    }
    Ok(selection)
}

impl Selection {
    fn add(&mut self, set: &EndpointSet, policy: &Policy, named: bool) -> Result<(), PolicyError> {
        let prefixes: Vec<IpNet> =
            set.prefixes.iter().copied().filter(|prefix| policy.takes(*prefix)).collect();
        if prefixes.is_empty() || (set.tcp.is_empty() && set.udp.is_empty()) {
            // Most sets have host names only: nothing is missing unless this one was asked for.
            if named {
                self.notes.push(Note::NamedWithoutRule { set: set.id });
            }
            return Ok(());
        }
        if let Some(whole) = prefixes.iter().find(|prefix| prefix.prefix_len() == 0) {
            return Err(PolicyError::WholeInternet {
                prefix: *whole,
                of: format!("set {}", set.id),
            });
        }
        if is_sign_in(set) {
            if !named {
                self.notes.push(Note::SignInLeftOut { set: set.id });
                return Ok(());
            }
            self.notes.push(Note::SignInDirect { set: set.id });
        }
        for (transport, ports) in [(Transport::Tcp, &set.tcp), (Transport::Udp, &set.udp)] {
            let ports =
                if named { ports.clone() } else { self.hold_back(set.id, transport, ports) };
            self.rules.extend(own::rules(&prefixes, transport, &ports, set.id));
        }
        Ok(())
    }

    /// An include names the ports it lists. Those of one for all ports are not named.
    fn add_own(
        &mut self,
        id: SetId,
        include: &OwnInclude,
        policy: &Policy,
    ) -> Result<(), PolicyError> {
        let prefixes: Vec<IpNet> =
            include.prefixes.iter().copied().filter(|prefix| policy.takes(*prefix)).collect();
        if prefixes.is_empty() {
            self.notes.push(Note::OwnWithoutRule { include: include.name.clone() });
            return Ok(());
        }
        if let Some(whole) = prefixes.iter().find(|prefix| prefix.prefix_len() == 0) {
            let of = format!("include {:?}", include.name);
            return Err(PolicyError::WholeInternet { prefix: *whole, of });
        }
        for transport in own::transports(include.protocol) {
            let ports = match &include.ports {
                Some(ports) => ports.clone(),
                None => without_named_only(&all_ports(), transport, |port| {
                    self.notes.push(Note::OwnPortLeftOut {
                        include: include.name.clone(),
                        transport,
                        port,
                    });
                }),
            };
            self.rules.extend(own::rules(&prefixes, transport, &ports, id));
        }
        Ok(())
    }

    fn hold_back(&mut self, set: SetId, transport: Transport, ports: &Ports) -> Ports {
        without_named_only(ports, transport, |port| {
            self.notes.push(Note::PortLeftOut { set, transport, port });
        })
    }
}

/// `ports` without those that have to be named; `left_out` hears of each of them.
fn without_named_only(ports: &Ports, transport: Transport, mut left_out: impl FnMut(u16)) -> Ports {
    let mut rest = ports.clone();
    for (_, port) in NAMED_ONLY.into_iter().filter(|(of, _)| *of == transport) {
        if rest.contains(port) {
            rest = rest.without(port);
            left_out(port);
        }
    }
    rest
}

fn all_ports() -> Ports {
    Ports::from_iter([1..=u16::MAX])
}

/// Whether the set is its instance's sign-in set.
pub(super) fn is_sign_in(set: &EndpointSet) -> bool {
    set.id == SIGN_IN_SET || SIGN_IN_HOSTS.iter().any(|host| set.urls.contains(*host))
}

fn refuse_unknown_names(snapshot: &Snapshot, policy: &Policy) -> Result<(), PolicyError> {
    let mut ids = policy.include_sets.iter().chain(&policy.exclude_sets);
    if let Some(set) = ids.find(|id| !snapshot.sets.contains_key(id)) {
        return Err(PolicyError::UnknownSet { set: *set });
    }
    let known: BTreeSet<&str> =
        snapshot.sets.values().map(|set| set.service_area.as_str()).collect();
    let mut areas = policy.service_areas.iter().flatten();
    if let Some(area) = areas.find(|area| !known.contains(area.as_str())) {
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        return Err(PolicyError::UnknownArea { area: area.clone(), known });
    }
    Ok(())
}
