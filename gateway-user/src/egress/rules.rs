//! The routing rules of this network namespace, whoever made them, for those who only look.

use rtnetlink::packet_route::rule::{RuleAttribute, RuleFlags, RuleMessage};

use super::EgressError;
use super::netlink::Netlink;
use super::routing::{Family, is_our_rule};
use crate::marks::RuleFacts;

/// All rules of both families, in the order the kernel looks at them.
///
/// # Errors
///
/// They cannot be listed.
pub async fn rules() -> Result<Vec<RuleFacts>, EgressError> {
    let seen = Netlink::open()?.see(None).await?;
    let mut rules: Vec<_> =
        seen.rules.iter().map(|(family, message)| read(*family, message)).collect();
    rules.sort_by_key(|rule| (rule.family, rule.priority));
    Ok(rules)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "there are more attributes every year")]
fn read(family: Family, message: &RuleMessage) -> RuleFacts {
    let header = &message.header;
    let mut rule = RuleFacts {
        family,
        priority: 0,
        fwmark: None,
        table: header.table.into(),
        inverted: header.flags.contains(RuleFlags::Invert),
        selects: header.src_len != 0 || header.dst_len != 0 || header.tos != 0,
        suppresses: false,
        ours: is_our_rule(message),
    };
    let (mut value, mut mask) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(bits) => value = Some(*bits),
            RuleAttribute::FwMask(bits) => mask = Some(*bits),
            RuleAttribute::Table(table) => rule.table = *table,
            // What the kernel says of a rule that suppresses nothing (`fib_rule_hdr`'s -1).
            RuleAttribute::SuppressPrefixLen(length) => rule.suppresses = *length != u32::MAX,
            RuleAttribute::SuppressIfGroup(group) => rule.suppresses |= *group != u32::MAX,
            RuleAttribute::Iifname(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_)
            | RuleAttribute::TunId(_) => rule.selects = true,
            _ => {}
        }
    }
    // The kernel gives a mark without a mask where the mask is that of all bits.
    if value.is_some_and(|value| value != 0) || mask.is_some_and(|mask| mask != 0) {
        rule.fwmark = Some((value.unwrap_or(0), mask.unwrap_or(u32::MAX)));
    }
    rule
}
