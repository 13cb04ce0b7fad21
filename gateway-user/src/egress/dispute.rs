//! Who may lead packets elsewhere that are marked and go to selected prefixes: rules of others before ours,
//! and routes of the main and local tables, which win over our default route.
//!
//! Where nobody does, our table alone has the say, and XDP looks the way up there only, in two thirds of
//! the time ([ADR 24](../../../docs/adr/0024-undisputed.md)).

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType,
};
use rtnetlink::packet_route::rule::RuleMessage;

use super::Wanted;
use super::netlink::{Netlink, is_unknown_family};
use super::routing::{Family, MAIN, Rule, priority, table};

/// `RT_TABLE_LOCAL` (kernel `include/uapi/linux/rtnetlink.h`).
const LOCAL: u32 = 255;

/// What there may be a dispute about.
pub(super) struct Subject {
    wanted: Wanted,
    /// Where packets may go direct to, ascending, no two of which have an address in common.
    prefixes: Vec<IpNet>,
}

impl Subject {
    pub(super) fn new(wanted: Wanted, prefixes: impl Iterator<Item = IpNet>) -> Self {
        let mut prefixes = IpNet::aggregate(&prefixes.collect());
        prefixes.sort();
        Self { wanted, prefixes }
    }

    /// Who disputes a family's way, in words; `None`, nobody.
    ///
    /// # Errors
    ///
    /// Rules or routes cannot be listed.
    pub(super) async fn look(
        &self,
        netlink: &Netlink,
        family: Family,
    ) -> io::Result<Option<String>> {
        let rules = match netlink.rules(family).await {
            Err(error) if is_unknown_family(&error) => {
                return Ok(Some("the kernel knows no such family".to_owned()));
            }
            rules => rules?,
        };
        if let Some(who) = self.by_rule(family, &rules) {
            return Ok(Some(who));
        }
        for (number, name) in [(MAIN, "main"), (LOCAL, "local")] {
            let mut filter = Netlink::filter(family);
            filter.attributes.push(RouteAttribute::Table(number));
            let disputes = |route: &RouteMessage| table(route) == number && self.is_by_route(route);
            if let Some(route) = netlink.find_route(filter, disputes).await? {
                let to =
                    destination(&route).map_or_else(|| "default".to_owned(), |to| to.to_string());
                return Ok(Some(format!("the route to {to} of table {name}")));
            }
        }
        Ok(None)
    }

    /// A rule before ours, which may lead anywhere, or that one of ours is not there.
    fn by_rule(&self, family: Family, rules: &[RuleMessage]) -> Option<String> {
        let ours = Rule::ours(&self.wanted, family);
        // The kernel's own first rule. The routes of its table are looked at like those of ours.
        let of_kernel =
            Rule { priority: 0, mark: 0, mask: 0, table: LOCAL, suppress: None, family };
        let read = |message: &RuleMessage| Rule::read(family, message);
        for message in rules {
            let is_known =
                read(message).is_some_and(|rule| rule == of_kernel || ours.contains(&rule));
            if priority(message) <= ours[1].priority && !is_known {
                return Some(format!("rule {} before ours", priority(message)));
            }
        }
        let is_there = |rule: &Rule| rules.iter().any(|message| read(message) == Some(*rule));
        let missing = ours.iter().find(|rule| !is_there(rule))?;
        Some(format!("rule {} is not there", missing.priority))
    }

    /// A route of which a selected prefix has an address, but for default routes that our first rule
    /// suppresses.
    fn is_by_route(&self, route: &RouteMessage) -> bool {
        if is_cached(route) || is_suppressed(route) {
            return false;
        }
        // One that cannot be read may be any.
        let Some(to) = destination(route) else { return true };
        let first = self.prefixes.partition_point(|prefix| prefix.broadcast() < to.network());
        self.prefixes.get(first).is_some_and(|prefix| prefix.contains(&to) || to.contains(prefix))
    }

    /// Whether there may be another answer after this message.
    #[expect(clippy::wildcard_enum_match_arm, reason = "there are more messages every year")]
    pub(super) fn is_touched_by(&self, message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
        match &message.payload {
            NetlinkPayload::InnerMessage(inner) => match inner {
                RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => true,
                RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                    [MAIN, LOCAL].contains(&table(route)) && self.is_by_route(route)
                }
                _ => false,
            },
            NetlinkPayload::Overrun(_) => true,
            _ => false,
        }
    }
}

/// Our first rule passes a default route of the main table by, if it leads anywhere: one that refuses or
/// swallows packets ends the look-up (`fib_rules_lookup`, kernel `net/core/fib_rules.c`). The local table
/// has a rule of the kernel's, which suppresses nothing.
fn is_suppressed(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0
        && table(route) == MAIN
        && matches!(route.header.kind, RouteType::Unicast | RouteType::Throw)
}

/// An exception of one destination (of its MTU, mostly), not a route.
fn is_cached(route: &RouteMessage) -> bool {
    route.header.flags.contains(RouteFlags::Cloned)
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute {
            Some(IpAddr::V4(*address))
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(address)) = attribute {
            Some(IpAddr::V6(*address))
        } else {
            None
        }
    });
    IpNet::new(address?, route.header.destination_prefix_length).ok()
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::rule::RuleAttribute;

    use super::*;

    fn subject() -> Subject {
        let prefixes = ["40.96.0.0/13", "40.104.0.0/15", "52.96.0.0/14", "2603:1006::/40"];
        let prefixes = prefixes.map(|prefix| prefix.parse().unwrap());
        Subject::new(Wanted::example(), prefixes.into_iter())
    }

    fn route(to: &str) -> RouteMessage {
        let to: IpNet = to.parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.destination_prefix_length = to.prefix_len();
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(to.network())));
        message
    }

    fn of_table(mut message: RouteMessage, table: u32, kind: RouteType) -> RouteMessage {
        message.header.kind = kind;
        message.attributes.push(RouteAttribute::Table(table));
        message
    }

    #[test]
    fn a_route_disputes_the_way_where_it_has_an_address_of_a_selected_prefix() {
        let subject = subject();
        let main = |to| of_table(route(to), MAIN, RouteType::Unicast);
        for (to, disputes) in [
            ("40.96.0.0/13", true),
            ("40.100.0.1/32", true),
            ("40.105.255.255/32", true),
            ("40.106.0.0/32", false),
            ("40.95.255.255/32", false),
            ("40.64.0.0/10", true),
            ("0.0.0.0/1", true),
            ("128.0.0.0/1", false),
            ("52.100.0.0/14", false),
            ("52.0.0.0/8", true),
            ("0.0.0.0/0", false),
            ("::/0", false),
            ("2000::/3", true),
            ("2603:1006:ff::/48", true),
            ("2603:1007::/32", false),
            ("fe80::/64", false),
            ("::/1", true),
        ] {
            assert_eq!(subject.is_by_route(&main(to)), disputes, "{to}");
        }
        for default in ["0.0.0.0/0", "::/0"] {
            let local = of_table(route(default), LOCAL, RouteType::Local);
            assert!(subject.is_by_route(&local), "nothing suppresses it");
            for kind in [RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit] {
                assert!(subject.is_by_route(&of_table(route(default), MAIN, kind)), "{kind:?}");
            }
            let mut bare = of_table(route(default), MAIN, RouteType::BlackHole);
            bare.attributes.retain(|it| !matches!(it, RouteAttribute::Destination(_)));
            assert!(subject.is_by_route(&bare), "as the kernel lists it");
        }
        let mut cached = main("40.100.0.1/32");
        cached.header.flags = RouteFlags::Cloned;
        assert!(!subject.is_by_route(&cached), "an MTU that was learned");
        let mut odd = main("128.0.0.0/1");
        odd.attributes.clear();
        assert!(subject.is_by_route(&odd), "it may lead anywhere");
    }

    #[test]
    fn a_rule_disputes_the_way_where_it_stands_before_ours_whatever_it_says() {
        let subject = subject();
        let [main, ours] = Rule::ours(&subject.wanted, Family::V4);
        let local = Rule { priority: 0, mark: 0, mask: 0, table: LOCAL, suppress: None, ..ours };
        let later = Rule { priority: 32766, mark: 0, mask: 0, table: MAIN, suppress: None, ..ours };
        let messages =
            |rules: &[Rule]| -> Vec<RuleMessage> { rules.iter().map(Rule::message).collect() };
        let who = |rules: &[RuleMessage]| subject.by_rule(Family::V4, rules);
        let as_usual = messages(&[local, main, ours, later]);
        assert_eq!(who(&as_usual), None);
        // Where the local table comes last, as some have it, its routes are looked at all the same.
        let moved = Rule { priority: 400, ..local };
        assert_eq!(who(&messages(&[main, ours, moved, later])), None);
        for priority in [1, 364, 365, 366] {
            let other = Rule { priority, mark: 8, mask: 8, ..later };
            let rules = messages(&[local, main, ours, later, other]);
            assert_eq!(who(&rules), Some(format!("rule {priority} before ours")));
        }
        let mut odd = messages(&[local, main, ours, later]);
        odd[0].attributes.push(RuleAttribute::Iifname("lan0".into()));
        assert_eq!(who(&odd).as_deref(), Some("rule 0 before ours"));
        for (missing, number) in [(main, 365), (ours, 366)] {
            let left: Vec<Rule> =
                [local, main, ours, later].into_iter().filter(|rule| *rule != missing).collect();
            assert_eq!(who(&messages(&left)), Some(format!("rule {number} is not there")));
        }
    }
}
