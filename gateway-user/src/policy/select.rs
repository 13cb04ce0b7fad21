//! From sets to rules: what the policy selects, and what is held back for safety unless named.

use std::collections::BTreeSet;
use std::fmt;

use gateway_common::Transport;
use ipnet::IpNet;

use super::{PolicyError, Rule, transport_name};
use crate::feed::{Category, EndpointSet, Ports, SetId, Snapshot};

/// The set that holds the sign-in hosts. A proxy that injects tenant restrictions does it in
/// exactly this traffic, so no category selects it: it goes direct only when it is named.
pub const SIGN_IN_SET: SetId = 56;

/// Ports that go direct only for a set that is named: mail and name service are what an
/// inspection chain exists to see.
pub(super) const NAMED_ONLY: [(Transport, u16); 3] =
    [(Transport::Tcp, 25), (Transport::Tcp, 53), (Transport::Udp, 53)];

/// Sign-in hosts of the instances: the set that lists one is that instance's sign-in set.
const SIGN_IN_HOSTS: [&str; 3] =
    ["login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn"];

/// What the operator selects.
///
/// A set is in when it is not excluded, and is either included by id or fits categories, service
/// areas and `required_only` together.
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
}

/// Category Optimize, every service area, both families.
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
        }
    }
}

impl Policy {
    /// Whether the set is named by its id.
    pub(super) fn names(&self, set: &EndpointSet) -> bool {
        self.include_sets.contains(&set.id)
    }

    fn fits(&self, set: &EndpointSet) -> bool {
        let areas = self.service_areas.as_ref();
        self.categories.contains(&set.category)
            && areas.is_none_or(|areas| areas.contains(&set.service_area))
            && (set.required || !self.required_only)
    }

    /// Whether the set is in.
    pub(super) fn selects(&self, set: &EndpointSet) -> bool {
        !self.exclude_sets.contains(&set.id) && (self.names(set) || self.fits(set))
    }

    fn takes(&self, prefix: IpNet) -> bool {
        match prefix {
            IpNet::V4(_) => self.ipv4,
            IpNet::V6(_) => self.ipv6,
        }
    }
}

/// Something a person should know about a selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The policy fits the sign-in set, but does not name it.
    SignInLeftOut {
        /// Its id.
        set: SetId,
    },
    /// The policy selects sign-in hosts.
    SignInDirect {
        /// The set that has them.
        set: SetId,
    },
    /// The policy fits a set with this port, but does not name the set.
    PortLeftOut {
        /// The set.
        set: SetId,
        /// The protocol of the port.
        transport: Transport,
        /// The port.
        port: u16,
    },
    /// The policy names a set that has no prefix or no port for it.
    NamedWithoutRule {
        /// The set.
        set: SetId,
    },
}

impl Note {
    /// Whether it is about a danger, not about something held back.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        match self {
            Self::SignInDirect { .. } | Self::NamedWithoutRule { .. } => true,
            Self::SignInLeftOut { .. } | Self::PortLeftOut { .. } => false,
        }
    }

    /// The set it is about.
    #[must_use]
    pub const fn set(&self) -> SetId {
        match self {
            Self::SignInLeftOut { set }
            | Self::SignInDirect { set }
            | Self::PortLeftOut { set, .. }
            | Self::NamedWithoutRule { set } => *set,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SignInLeftOut { set } => write!(
                f,
                "set {set} (sign-in) stays inspected: direct sign-in would go past \
                 proxy-injected tenant restrictions; add it to include-sets if you use none"
            ),
            Self::SignInDirect { set } => write!(
                f,
                "set {set} is direct: proxy-injected tenant restrictions stop working for sign-in"
            ),
            Self::PortLeftOut { set, transport, port } => write!(
                f,
                "set {set}: {}/{port} stays inspected; add the set to include-sets to send it \
                 direct",
                transport_name(*transport)
            ),
            Self::NamedWithoutRule { set } => write!(
                f,
                "set {set} is in include-sets but adds nothing: it has no prefix of a selected \
                 address family or no port"
            ),
        }
    }
}

pub(super) struct Selection {
    pub(super) rules: Vec<Rule>,
    pub(super) notes: Vec<Note>,
}

pub(super) fn select(snapshot: &Snapshot, policy: &Policy) -> Result<Selection, PolicyError> {
    refuse_unknown_names(snapshot, policy)?;
    let mut selection = Selection { rules: Vec::new(), notes: Vec::new() };
    for set in snapshot.sets.values() {
        let named = policy.names(set);
        if !policy.selects(set) {
            continue;
        }
        selection.add(set, policy, named)?;
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
            return Err(PolicyError::WholeInternet { prefix: *whole, set: set.id });
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
            for prefix in &prefixes {
                self.rules.extend(ports.ranges().map(|range| Rule {
                    prefix: *prefix,
                    transport,
                    first: *range.start(),
                    last: *range.end(),
                    set: set.id,
                }));
            }
        }
        Ok(())
    }

    fn hold_back(&mut self, set: SetId, transport: Transport, ports: &Ports) -> Ports {
        let mut rest = ports.clone();
        for (_, port) in NAMED_ONLY.into_iter().filter(|(of, _)| *of == transport) {
            if rest.contains(port) {
                rest = rest.without(port);
                self.notes.push(Note::PortLeftOut { set, transport, port });
            }
        }
        rest
    }
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
