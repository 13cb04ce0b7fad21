//! Rules and routes: what is wanted, and the steps there from what is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::{EgressError, Hop, PROTOCOL, Wanted};

pub(super) const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// What the kernel says of a rule that suppresses nothing (`fib_rule_hdr`'s -1).
const NOT_SUPPRESSED: u32 = u32::MAX;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// What iproute2 takes for it.
    pub(super) const fn option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    /// Its name in JSON and in nftables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    pub(super) fn address_family(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One of our rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule {
    pub(super) family: Family,
    pub(super) priority: u32,
    pub(super) mark: u32,
    pub(super) mask: u32,
    pub(super) table: u32,
    /// Only routes with longer prefixes count.
    pub(super) suppress: Option<u32>,
}

/// One of our routes: the default route of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Route {
    pub(super) family: Family,
    pub(super) table: u32,
    pub(super) hop: Hop,
    /// Index of the interface.
    pub(super) interface: u32,
}

/// What there is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Routing {
    pub(super) rules: BTreeSet<Rule>,
    pub(super) routes: BTreeSet<Route>,
}

/// What there is: all rules, and the routes that are ours or in our table.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) rules: Vec<(Family, RuleMessage)>,
    pub(super) routes: Vec<(Family, RouteMessage)>,
}

/// What leads from the one to the other, in this order: at no time does a marked packet meet our
/// table before the rule that lets connected routes win.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) add_routes: Vec<Route>,
    pub(super) add_rules: Vec<Rule>,
    pub(super) remove_rules: Vec<RuleMessage>,
    pub(super) remove_routes: Vec<RouteMessage>,
}

impl Routing {
    /// What `wanted` means with its uplink at index `interface` and these next hops. Per family with
    /// one: one rule by which everything but default routes of the main table wins (connected
    /// networks, LAN, VPN), one for our table, and the default route in it.
    pub(super) fn of(wanted: &Wanted, interface: u32, hops: &BTreeMap<Family, Hop>) -> Self {
        let table = wanted.egress.table;
        let mut routing = Self::default();
        for (&family, &hop) in hops {
            routing.rules.extend(Rule::ours(wanted, family));
            routing.routes.insert(Route { family, table, hop, interface });
        }
        routing
    }

    /// The families of which something is not there.
    pub(super) fn lacking(&self, seen: &Seen) -> BTreeSet<Family> {
        let ours = seen.rules.iter().filter(|(_, message)| is_our_rule(message));
        let rules: BTreeSet<_> =
            ours.filter_map(|(family, message)| Rule::read(*family, message)).collect();
        let ours = seen.routes.iter().filter(|(_, message)| is_our_route(message));
        let routes: BTreeSet<_> =
            ours.filter_map(|(family, message)| Route::read(*family, message)).collect();
        let rules = self.rules.difference(&rules).map(|rule| rule.family);
        rules.chain(self.routes.difference(&routes).map(|route| route.family)).collect()
    }

    /// The steps there; none where all is as it should be.
    pub(super) fn steps(&self, seen: &Seen) -> Result<Steps, EgressError> {
        let mut steps = Steps::default();
        let mut there = BTreeSet::new();
        for (family, message) in &seen.rules {
            let priority = priority(message);
            if !is_our_rule(message) {
                let at_ours = |rule: &Rule| rule.family == *family && rule.priority == priority;
                if self.rules.iter().any(at_ours) {
                    return Err(EgressError::ForeignRule { family: *family, priority });
                }
                continue;
            }
            match Rule::read(*family, message).filter(|rule| self.rules.contains(rule)) {
                Some(rule) => drop(there.insert(rule)),
                None => steps.remove_rules.push(message.clone()),
            }
        }
        // The later one first, as they are added the other way round.
        steps.remove_rules.sort_by_key(|message| std::cmp::Reverse(priority(message)));
        steps.add_rules = self.rules.difference(&there).copied().collect();
        let mut there = BTreeSet::new();
        for (family, message) in &seen.routes {
            let table = table(message);
            if !is_our_route(message) {
                let in_ours = |route: &Route| route.family == *family && route.table == table;
                if self.routes.iter().any(in_ours) {
                    return Err(EgressError::ForeignRoute { family: *family, table });
                }
                continue;
            }
            match Route::read(*family, message).filter(|route| self.routes.contains(route)) {
                Some(route) => drop(there.insert(route)),
                None => steps.remove_routes.push(message.clone()),
            }
        }
        steps.add_routes = self.routes.difference(&there).copied().collect();
        Ok(steps)
    }
}

impl Steps {
    pub(super) fn are_none(&self) -> bool {
        *self == Self::default()
    }

    /// What is missing or too much, in words.
    pub(super) fn words(&self) -> Vec<String> {
        let routes = self.add_routes.iter().map(|route| format!("{} route", route.family));
        let rules =
            self.add_rules.iter().map(|rule| format!("{} rule {}", rule.family, rule.priority));
        let odd = (!self.remove_rules.is_empty() || !self.remove_routes.is_empty())
            .then(|| "one that is not as it should be".to_owned());
        routes.chain(rules).chain(odd).collect()
    }
}

impl Rule {
    /// The two of a family: first the one that lets what is in the main table win.
    pub(super) fn ours(wanted: &Wanted, family: Family) -> [Self; 2] {
        let egress = &wanted.egress;
        let ours = Self {
            family,
            priority: egress.priority.saturating_add(1),
            mark: wanted.mark.value,
            mask: wanted.mark.mask,
            table: egress.table,
            suppress: None,
        };
        [Self { priority: egress.priority, table: MAIN, suppress: Some(0), ..ours }, ours]
    }

    pub(super) fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.address_family();
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::FwMark(self.mark),
            RuleAttribute::FwMask(self.mask),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
        ];
        message.attributes.extend(self.suppress.map(RuleAttribute::SuppressPrefixLen));
        message
    }

    /// A rule that says all that `message` says; `None` where it says more.
    #[expect(clippy::wildcard_enum_match_arm, reason = "there are more attributes every year")]
    pub(super) fn read(family: Family, message: &RuleMessage) -> Option<Self> {
        let header = &message.header;
        let is_plain = header.src_len == 0
            && header.dst_len == 0
            && header.tos == 0
            && !header.flags.contains(RuleFlags::Invert);
        if header.action != RuleAction::ToTable || !is_plain {
            return None;
        }
        let mut rule = Self {
            family,
            priority: 0,
            mark: 0,
            mask: 0,
            table: header.table.into(),
            suppress: None,
        };
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::FwMark(mark) => rule.mark = *mark,
                RuleAttribute::FwMask(mask) => rule.mask = *mask,
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::SuppressPrefixLen(NOT_SUPPRESSED) | RuleAttribute::Protocol(_) => {}
                RuleAttribute::SuppressPrefixLen(length) => rule.suppress = Some(*length),
                _ => return None,
            }
        }
        Some(rule)
    }
}

impl Route {
    pub(super) fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = self.family.address_family();
        message.header.protocol = RouteProtocol::Other(PROTOCOL);
        message.header.scope = match self.hop {
            Hop::Via(_) => RouteScope::Universe,
            Hop::Link => RouteScope::Link,
        };
        message.header.kind = RouteType::Unicast;
        message.attributes =
            vec![RouteAttribute::Table(self.table), RouteAttribute::Oif(self.interface)];
        let gateway = self.hop.address().map(RouteAddress::from);
        message.attributes.extend(gateway.map(RouteAttribute::Gateway));
        message
    }

    /// A default route by one next hop, or by the link alone, or `None`.
    #[expect(clippy::wildcard_enum_match_arm, reason = "there are more attributes every year")]
    pub(super) fn read(family: Family, message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.kind != RouteType::Unicast || header.destination_prefix_length != 0 {
            return None;
        }
        let (mut hop, mut interface) = (Hop::Link, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Gateway(RouteAddress::Inet(v4)) => {
                    hop = Hop::Via(IpAddr::V4(*v4));
                }
                RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => {
                    hop = Hop::Via(IpAddr::V6(*v6));
                }
                RouteAttribute::Oif(index) => interface = Some(*index),
                RouteAttribute::MultiPath(_) | RouteAttribute::Via(_) => return None,
                _ => {}
            }
        }
        Some(Self { family, table: table(message), hop, interface: interface? })
    }
}

pub(super) fn is_our_rule(message: &RuleMessage) -> bool {
    message.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)))
}

pub(super) fn is_our_route(message: &RouteMessage) -> bool {
    message.header.protocol == RouteProtocol::Other(PROTOCOL)
}

pub(super) fn priority(message: &RuleMessage) -> u32 {
    let priority = message.attributes.iter().find_map(|attribute| {
        if let RuleAttribute::Priority(priority) = attribute { Some(*priority) } else { None }
    });
    priority.unwrap_or(0)
}

pub(super) fn table(message: &RouteMessage) -> u32 {
    let table = message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Table(table) = attribute { Some(*table) } else { None }
    });
    table.unwrap_or(message.header.table.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mark;

    fn both() -> BTreeMap<Family, Hop> {
        let hops = [(Family::V4, "192.0.2.1"), (Family::V6, "fe80::1")];
        hops.map(|(family, hop)| (family, Hop::Via(hop.parse().unwrap()))).into()
    }

    /// The kernel with all of `routing` in place.
    fn in_place(routing: &Routing) -> Seen {
        Seen {
            rules: routing.rules.iter().map(|rule| (rule.family, rule.message())).collect(),
            routes: routing.routes.iter().map(|route| (route.family, route.message())).collect(),
        }
    }

    #[test]
    fn from_nothing_everything_is_added_and_a_second_pass_is_empty() {
        let routing = Routing::of(&Wanted::example(), 7, &both());
        let steps = routing.steps(&Seen::default()).unwrap();
        assert_eq!((steps.add_rules.len(), steps.add_routes.len()), (4, 2));
        assert!(steps.remove_rules.is_empty() && steps.remove_routes.is_empty());
        assert_eq!(routing.steps(&in_place(&routing)).unwrap(), Steps::default());
    }

    #[test]
    fn a_family_lacks_something_without_its_route_or_one_of_its_rules() {
        let routing = Routing::of(&Wanted::example(), 7, &both());
        let mut seen = in_place(&routing);
        assert_eq!(routing.lacking(&seen), BTreeSet::new());
        seen.routes.retain(|(family, _)| *family == Family::V4);
        assert_eq!(routing.lacking(&seen), [Family::V6].into());
        seen.rules.remove(0);
        assert_eq!(routing.lacking(&seen), Family::ALL.into());
    }

    #[test]
    fn a_family_without_next_hop_has_no_rule_and_no_route() {
        let mut hops = both();
        hops.remove(&Family::V6);
        let routing = Routing::of(&Wanted::example(), 7, &hops);
        assert!(routing.rules.iter().all(|rule| rule.family == Family::V4));
        assert_eq!(routing.routes.len(), 1);
        // And one that had one loses both.
        let steps = routing.steps(&in_place(&Routing::of(&Wanted::example(), 7, &both()))).unwrap();
        assert_eq!((steps.remove_rules.len(), steps.remove_routes.len()), (2, 1));
        assert_eq!(priority(&steps.remove_rules[0]), 366, "our table goes first");
    }

    #[test]
    fn a_route_without_next_hop_is_another_one() {
        let by_link: BTreeMap<_, _> = Family::ALL.map(|family| (family, Hop::Link)).into();
        let routing = Routing::of(&Wanted::example(), 7, &by_link);
        assert!(routing.steps(&in_place(&routing)).unwrap().are_none());
        let steps = routing.steps(&in_place(&Routing::of(&Wanted::example(), 7, &both()))).unwrap();
        assert_eq!((steps.add_routes.len(), steps.remove_routes.len()), (2, 2));
    }

    #[test]
    fn what_differs_is_added_anew_and_the_other_removed() {
        let old = in_place(&Routing::of(&Wanted::example(), 7, &both()));
        let steps = Routing::of(&Wanted::example(), 8, &both()).steps(&old).unwrap();
        assert_eq!((steps.add_routes.len(), steps.remove_routes.len()), (2, 2), "the index");
        let mut other = Wanted::example();
        other.mark = Mark { value: 4, mask: 4 };
        let steps = Routing::of(&other, 7, &both()).steps(&old).unwrap();
        assert_eq!((steps.add_rules.len(), steps.remove_rules.len()), (4, 4), "the mark");
        assert!(steps.add_routes.is_empty());
    }

    #[test]
    fn what_is_not_ours_stays_and_in_our_place_is_refused() {
        let routing = Routing::of(&Wanted::example(), 7, &both());
        let foreign = |priority| {
            let mut message = routing.rules.first().unwrap().message();
            message.attributes.retain(|attribute| {
                !matches!(attribute, RuleAttribute::Protocol(_) | RuleAttribute::Priority(_))
            });
            message.attributes.push(RuleAttribute::Priority(priority));
            message
        };
        let mut seen = in_place(&routing);
        seen.rules.push((Family::V4, foreign(364)));
        assert!(routing.steps(&seen).unwrap().are_none());
        seen.rules.push((Family::V6, foreign(366)));
        let refusal = routing.steps(&seen).unwrap_err().to_string();
        assert!(refusal.starts_with("IPv6 rule priority 366 is taken"), "{refusal}");
        let mut seen = in_place(&routing);
        let mut route = routing.routes.first().unwrap().message();
        route.header.protocol = RouteProtocol::Static;
        seen.routes.push((Family::V4, route));
        let refusal = routing.steps(&seen).unwrap_err().to_string();
        assert!(refusal.starts_with("table 365 holds an IPv4 route"), "{refusal}");
    }
}
