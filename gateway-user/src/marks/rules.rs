//! Routing rules by mark.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Collision, MarkOf, Ours};
use crate::egress::Family;

/// What a routing rule asks for, as far as anybody here wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of one rule")]
pub struct RuleFacts {
    /// `IPv4` or `IPv6`.
    pub family: Family,
    /// Its priority; lower ones are looked at first.
    pub priority: u32,
    /// Mark and mask; `None` where it does not ask for a mark.
    pub fwmark: Option<(u32, u32)>,
    /// The table it leads to.
    pub table: u32,
    /// Whether it only takes what does not match.
    pub inverted: bool,
    /// Whether it asks for anything: addresses, interfaces, ports, users.
    pub selects: bool,
    /// Whether only routes longer than some prefix count.
    pub suppresses: bool,
    /// Whether we installed it.
    pub ours: bool,
}

impl RuleFacts {
    /// As `ip rule` would name it.
    #[must_use]
    pub fn place(&self) -> String {
        let option = if self.family == Family::V6 { " -6" } else { "" };
        let not = if self.inverted { "not " } else { "" };
        let mark = self.fwmark.map(|(mark, mask)| format!(", {not}fwmark {mark:#x}/{mask:#x}"));
        format!("ip{option} rule {}{}", self.priority, mark.unwrap_or_default())
    }
}

/// The rules that ask for our bits. One that asks for exactly our mark is how traffic gets to an
/// uplink that is not `[egress]`'s.
pub(super) fn collisions(rules: &[RuleFacts], ours: Ours) -> BTreeSet<Collision> {
    let theirs = rules.iter().filter(|rule| !rule.ours);
    let told = theirs.filter_map(|rule| {
        let (value, mask) = rule.fwmark?;
        let (does, bits) = ours.compared(MarkOf::Packet, mask, Some(value))?;
        Some(Collision { place: rule.place(), of: MarkOf::Packet, does, bits })
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::super::Use;
    use super::*;
    use crate::config::Mark;

    #[test]
    fn rules_that_ask_for_our_bits_are_named_and_ours_are_not() {
        let ours = Ours { mark: Mark { value: 0x100, mask: 0x100 }, decided: 0x200 };
        let rule = |mark, mask, ours| RuleFacts {
            family: Family::V4,
            priority: 100,
            fwmark: Some((mark, mask)),
            table: 7,
            inverted: false,
            selects: false,
            suppresses: false,
            ours,
        };
        for (rule, does) in [
            (rule(0x100, 0xff00, false), Some(Use::Reads)),
            (rule(0x1, u32::MAX, false), Some(Use::Compares)),
            (rule(0x1, 0xff, false), None),
            (rule(0x100, 0x100, false), None),
            (rule(0x100, 0xff00, true), None),
        ] {
            let found = collisions(std::slice::from_ref(&rule), ours);
            assert_eq!(found.first().map(|it| it.does), does, "{rule:?}");
        }
        let found = collisions(&[rule(0x100, 0xff00, false)], ours).pop_first().unwrap();
        let told = "ip rule 100, fwmark 0x100/0xff00 reads our bits of the packet mark (0x100)";
        assert_eq!(found.to_string(), told);
    }
}
