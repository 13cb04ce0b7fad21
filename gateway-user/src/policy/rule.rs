//! A rule: one prefix, protocol and port range that goes direct because of one endpoint set or own
//! entry; and its opposite, an exclusion.

use gateway_common::Transport;
use ipnet::IpNet;

use crate::feed::SetId;

/// Traffic to `prefix` with `transport` and a destination port from `first` to `last` goes direct,
/// unless an [`Exclusion`] says otherwise. Sets that say the same each have a rule of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Destination addresses, no host bits.
    pub prefix: IpNet,
    /// Protocol.
    pub transport: Transport,
    /// First destination port.
    pub first: u16,
    /// Last destination port, not below `first`.
    pub last: u16,
    /// The endpoint set that this comes from; from [`crate::feed::FIRST_OWN_ID`] on, an own entry.
    pub set: SetId,
}

/// Traffic to `prefix` with `transport` and a destination port from `first` to `last` is inspected,
/// whatever rules say: one protocol and port range of one of the operator's excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exclusion {
    /// Destination addresses, no host bits.
    pub prefix: IpNet,
    /// Protocol.
    pub transport: Transport,
    /// First destination port.
    pub first: u16,
    /// Last destination port, not below `first`.
    pub last: u16,
    /// The exclude that this comes from, by its place in the policy.
    pub exclude: u16,
}

impl Exclusion {
    /// Whether it has a protocol and port of `rule`, wherever both are for.
    #[must_use]
    pub fn cuts_ports_of(&self, rule: &Rule) -> bool {
        self.transport == rule.transport && self.first <= rule.last && rule.first <= self.last
    }
}
