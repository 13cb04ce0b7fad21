//! Holds a plan against the guards.
//!
//! Guards of change compare the two sides and are for feeds only ([`Trigger`]). Guards of content
//! look at what would be direct, wherever it comes from. Percentages are compared in whole numbers,
//! without rounding, and small tables get no allowance: of three prefixes, one is more than 30%, and
//! losing a third of what is direct is worth a look however little it is.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::own;
use super::special;
use super::{FamilyTotals, GatewayNetworks, Guard, Guards, Plan, Refusal, Side, Trigger};
use crate::feed::SetId;
use crate::policy::{NAMED_ONLY, Policy, Rule, transport_name};

/// Why `plan`, which leads to `new`, is refused; empty when it is not. In the order of
/// [`Guard::ALL`], and at most one refusal of each guard and address family.
#[must_use]
pub fn check(
    guards: &Guards,
    plan: &Plan,
    new: &Side<'_>,
    gateway: &GatewayNetworks,
    trigger: Trigger,
) -> Vec<Refusal> {
    let mut check = Check { guards, plan, id: None, refusals: Vec::new() };
    check.no_prefixes();
    if trigger == Trigger::Feed {
        check.version_back();
        check.leaving();
        check.growth();
    }
    check.wide_prefix(new);
    check.special_space(new);
    check.own_network(new, gateway);
    check.unnamed_port(new);
    check.refusals
}

/// Whether the guards of content would hold a feed for this prefix, whichever set lists it.
#[must_use]
pub fn refuses_prefix(guards: &Guards, gateway: &GatewayNetworks, prefix: IpNet) -> bool {
    let holds = |guard| !guards.allow.contains(&guard);
    let shortest =
        if prefix.addr().is_ipv4() { guards.shortest_ipv4 } else { guards.shortest_ipv6 };
    (holds(Guard::WidePrefix) && prefix.prefix_len() < shortest)
        || (holds(Guard::SpecialSpace) && special::overlapped_by(prefix).is_some())
        || (holds(Guard::OwnNetwork) && gateway.overlapping(prefix).is_some())
}

struct Check<'a> {
    guards: &'a Guards,
    plan: &'a Plan,
    /// The plan's name, once one is needed: of a large plan it takes a while.
    id: Option<String>,
    refusals: Vec<Refusal>,
}

impl Check<'_> {
    /// `instead` is what else than accepting the plan would do.
    fn refuse(&mut self, guard: Guard, what: String, limit: String, instead: &str) {
        if !self.guards.allow.contains(&guard) {
            let id = self.id.get_or_insert_with(|| self.plan.id());
            let accept = format!("`breakout365 plan accept {id}` takes it all the same{instead}");
            self.refusals.push(Refusal { guard, what, limit, accept });
        }
    }

    fn no_prefixes(&mut self) {
        let plan = self.plan;
        if plan.ipv4.space_after == 0 && plan.ipv6.space_after == 0 {
            self.refusals.push(Refusal {
                guard: Guard::NoPrefixes,
                what: "nothing would be direct".to_owned(),
                limit: "something has to be".to_owned(),
                accept: "cannot be accepted; select more, or run `breakout365 down`".to_owned(),
            });
        }
    }

    /// Versions of different instances, and of feeds that say none, are not compared.
    fn version_back(&mut self) {
        let Some(old) = &self.plan.old_feed else { return };
        let new = &self.plan.new_feed;
        if let (Some(before), Some(after)) = (&old.version, &new.version)
            && old.instance == new.instance
            && after < before
        {
            self.refuse(
                Guard::VersionBack,
                format!("the new feed has version {after}, the live one {before}"),
                "versions only go up".to_owned(),
                "",
            );
        }
    }

    fn leaving(&mut self) {
        let limit = self.guards.max_prefixes_leaving;
        for (family, totals) in families(self.plan) {
            let FamilyTotals { prefixes_leaving: leaving, prefixes_before: before, .. } = *totals;
            if is_more_than(leaving, limit, before) {
                self.refuse(
                    Guard::PrefixesLeaving,
                    format!("{leaving} of {before} {family} prefixes leave"),
                    format!("at most {limit}% may (guards.max-prefixes-leaving)"),
                    "",
                );
            }
        }
        let limit = self.guards.max_space_leaving;
        for ((family, totals), unit) in families(self.plan).into_iter().zip(["addresses", "/64s"]) {
            let FamilyTotals { space_lost: lost, space_before: before, .. } = *totals;
            if is_more_than(lost, limit, before) {
                self.refuse(
                    Guard::SpaceLeaving,
                    format!("{lost} of {before} direct {family} {unit} leave"),
                    format!("at most {limit}% may (guards.max-space-leaving)"),
                    "",
                );
            }
        }
    }

    fn growth(&mut self) {
        let plan = self.plan;
        let before = plan.ipv4.prefixes_before.saturating_add(plan.ipv6.prefixes_before);
        let after = plan.ipv4.prefixes_after.saturating_add(plan.ipv6.prefixes_after);
        let limit = self.guards.max_growth;
        if before > 0 && after > before.saturating_mul(limit.into()) {
            self.refuse(
                Guard::TableGrowth,
                format!("{before} prefixes become {after}"),
                format!("at most {limit} times as many may (guards.max-growth)"),
                "",
            );
        }
    }

    fn wide_prefix(&mut self, new: &Side<'_>) {
        let guards = self.guards;
        let shortest = |prefix: IpNet| {
            if prefix.addr().is_ipv4() { guards.shortest_ipv4 } else { guards.shortest_ipv6 }
        };
        let wide = first(new, |rule| {
            let wide = rule.prefix.prefix_len() < shortest(rule.prefix);
            (wide && !own::may_be_wide(new.policy, rule.set)).then_some(())
        });
        if let Some(Found { rule, more, .. }) = wide {
            let key = if rule.prefix.addr().is_ipv4() { "ipv4" } else { "ipv6" };
            let instead = if own::is_own(rule.set) {
                ", and so does allow-wide = true on the entry"
            } else {
                ""
            };
            self.refuse(
                Guard::WidePrefix,
                format!("{} lists {}{more}", subject(new.policy, rule.set), rule.prefix),
                format!("nothing shorter than /{} (guards.shortest-{key})", shortest(rule.prefix)),
                instead,
            );
        }
    }

    fn special_space(&mut self, new: &Side<'_>) {
        let special = first(new, |rule| special::overlapped_by(rule.prefix));
        if let Some(Found { rule, seen, more }) = special {
            self.refuse(
                Guard::SpecialSpace,
                format!("{} lists {} ({seen}){more}", subject(new.policy, rule.set), rule.prefix),
                "special-purpose space is never a public service".to_owned(),
                ", and \"special_space\" in guards.allow takes all like it",
            );
        }
    }

    fn own_network(&mut self, new: &Side<'_>, gateway: &GatewayNetworks) {
        let own = first(new, |rule| gateway.overlapping(rule.prefix));
        if let Some(Found { rule, seen, more }) = own {
            self.refuse(
                Guard::OwnNetwork,
                format!(
                    "{} lists {}, which overlaps {seen} of this gateway{more}",
                    subject(new.policy, rule.set),
                    rule.prefix
                ),
                "the gateway's own addresses and connected networks are never direct".to_owned(),
                ", and \"own_network\" in guards.allow takes all like it",
            );
        }
    }

    /// The compiler holds these ports back; this finds it out when one day it does not.
    fn unnamed_port(&mut self, new: &Side<'_>) {
        let unnamed = first(new, |rule| {
            if own::is_own(rule.set) || new.policy.include_sets.contains(&rule.set) {
                return None;
            }
            NAMED_ONLY.into_iter().find(|(transport, port)| {
                *transport == rule.transport && (rule.first..=rule.last).contains(port)
            })
        });
        if let Some(Found { rule, seen: (transport, port), more }) = unnamed {
            let set = rule.set;
            self.refuse(
                Guard::UnnamedPort,
                format!(
                    "set {set} would send {}/{port} to {} direct{more}",
                    transport_name(transport),
                    rule.prefix
                ),
                "mail and name service only for sets in policy.include-sets".to_owned(),
                "",
            );
        }
    }
}

fn families(plan: &Plan) -> [(&'static str, &FamilyTotals); 2] {
    [("IPv4", &plan.ipv4), ("IPv6", &plan.ipv6)]
}

/// Whether `part` is more than `percent` of `whole`, exactly.
fn is_more_than(part: u64, percent: u8, whole: u64) -> bool {
    u128::from(part) * 100 > u128::from(whole) * u128::from(percent)
}

/// The first rule that is found at fault, with what was seen, and " and N more" where other
/// prefixes are, too.
struct Found<T> {
    rule: Rule,
    seen: T,
    more: String,
}

fn first<T>(new: &Side<'_>, fault: impl Fn(&Rule) -> Option<T>) -> Option<Found<T>> {
    let mut found: Option<(Rule, T)> = None;
    let mut prefixes: BTreeSet<IpNet> = BTreeSet::new();
    for rule in &new.compiled.rules {
        if let Some(seen) = fault(rule) {
            prefixes.insert(rule.prefix);
            found.get_or_insert((*rule, seen));
        }
    }
    let (rule, seen) = found?;
    let more = match prefixes.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    Some(Found { rule, seen, more })
}

fn subject(policy: &Policy, set: SetId) -> String {
    match own::name(policy, set) {
        Some(name) => format!("own entry {name:?}"),
        None if own::is_own(set) => "an own entry".to_owned(),
        None => format!("set {set}"),
    }
}
