//! A rule: one prefix, protocol and port range that goes direct because of one endpoint set.

use gateway_common::Transport;
use ipnet::IpNet;

use crate::feed::SetId;

/// Traffic to `prefix` with `transport` and a destination port from `first` to `last` goes direct.
/// Sets that say the same each have a rule of their own.
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
    /// The endpoint set that this comes from.
    pub set: SetId,
}
