//! What the classifier says of a packet: a verdict, and the one reason for it.

use crate::abi::EXCLUDED_GROUP;

/// Where a packet is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Past the inspection chain, out of the direct uplink.
    Direct,
    /// Through the inspection chain, as if breakout365 were not there.
    Inspect,
}

/// Why a packet got its verdict. Every reason is a counter; only [`Reason::Matched`] is Direct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// Destination prefix, protocol and port belong to a selected endpoint set.
    Matched = 0,
    /// Neither IPv4 nor IPv6: ARP, MPLS, `PPPoE` session frames and the like.
    NotIp = 1,
    /// The frame, or the length the IP header gives, ends before the headers do.
    Truncated = 2,
    /// A header contradicts itself: wrong IP version, header length below the minimum.
    BadHeader = 3,
    /// More VLAN tags than [`crate::packet::MAX_VLAN_TAGS`].
    TooManyTags = 4,
    /// First fragment. It has ports, the later ones have not: both go the same way.
    FirstFragment = 5,
    /// Later fragment: no ports to look at.
    LaterFragment = 6,
    /// More IPv6 extension headers than [`crate::packet::MAX_EXTENSION_HEADERS`].
    ExtensionChainTooLong = 7,
    /// An IPv6 extension header that is not walked: mobility, HIP, Shim6, experimental, or one
    /// out of its place.
    ExtensionUnknown = 8,
    /// IPv6 routing header with segments left: the destination address is not the final one.
    SourceRouted = 9,
    /// AH or ESP: the ports are behind it.
    Ipsec = 10,
    /// Neither TCP nor UDP.
    ProtocolOther = 11,
    /// No selected prefix covers the destination.
    NoPrefix = 12,
    /// A selected prefix covers the destination, but not with this protocol and port.
    PortNotListed = 13,
    /// A selected prefix covers the destination with this protocol and port, and so does one of
    /// the operator's excludes.
    Excluded = 14,
    /// Only listed sources go direct, and this one is not: everything else would have matched.
    SourceNotListed = 15,
    /// It would go direct, but the operator has switched direct egress off, or nothing says that it
    /// is on.
    SwitchedOff = 16,
    /// It would go direct, but the daemon has given no sign of life within its deadline.
    DaemonGone = 17,
}

impl Reason {
    /// Every reason, in the order of its counter.
    pub const ALL: [Self; 18] = [
        Self::Matched,
        Self::NotIp,
        Self::Truncated,
        Self::BadHeader,
        Self::TooManyTags,
        Self::FirstFragment,
        Self::LaterFragment,
        Self::ExtensionChainTooLong,
        Self::ExtensionUnknown,
        Self::SourceRouted,
        Self::Ipsec,
        Self::ProtocolOther,
        Self::NoPrefix,
        Self::PortNotListed,
        Self::Excluded,
        Self::SourceNotListed,
        Self::SwitchedOff,
        Self::DaemonGone,
    ];

    /// The name used in JSON, metrics and text: stable, snake case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::NotIp => "not_ip",
            Self::Truncated => "truncated",
            Self::BadHeader => "bad_header",
            Self::TooManyTags => "too_many_tags",
            Self::FirstFragment => "first_fragment",
            Self::LaterFragment => "later_fragment",
            Self::ExtensionChainTooLong => "extension_chain_too_long",
            Self::ExtensionUnknown => "extension_unknown",
            Self::SourceRouted => "source_routed",
            Self::Ipsec => "ipsec",
            Self::ProtocolOther => "protocol_other",
            Self::NoPrefix => "no_prefix",
            Self::PortNotListed => "port_not_listed",
            Self::Excluded => "excluded",
            Self::SourceNotListed => "source_not_listed",
            Self::SwitchedOff => "switched_off",
            Self::DaemonGone => "daemon_gone",
        }
    }
}

/// Verdict, reason and, for Direct, the provenance group whose rule matched.
///
/// The two cases cannot be mixed up: a Direct decision always has a group and the reason
/// [`Reason::Matched`], an Inspect decision never has either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision(Outcome);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Direct { group: u16 },
    Inspect { reason: Reason },
}

impl Decision {
    /// What a rule of provenance group `group` (dense, from 0; see
    /// [`crate::abi::PortRange::group`]) leads to: Direct, but for [`EXCLUDED_GROUP`], which is
    /// inspected.
    #[inline(always)]
    #[must_use]
    pub const fn by_group(group: u16) -> Self {
        if group == EXCLUDED_GROUP {
            return Self(Outcome::Inspect { reason: Reason::Excluded });
        }
        Self(Outcome::Direct { group })
    }

    /// Inspect, for `reason`. [`Reason::Matched`] is no reason to inspect and is taken for a
    /// contradiction in the caller's tables: [`Reason::BadHeader`].
    #[inline(always)]
    #[must_use]
    pub const fn inspect(reason: Reason) -> Self {
        if matches!(reason, Reason::Matched) {
            return Self(Outcome::Inspect { reason: Reason::BadHeader });
        }
        Self(Outcome::Inspect { reason })
    }

    /// This decision, but Inspect where it is Direct and `refusal` has a reason against all direct
    /// egress. It is not asked about what is inspected anyway.
    #[inline(always)]
    #[must_use]
    pub fn unless(self, refusal: impl FnOnce() -> Option<Reason>) -> Self {
        match self.0 {
            Outcome::Direct { .. } => refusal().map_or(self, Self::inspect),
            Outcome::Inspect { .. } => self,
        }
    }

    /// Whether a support window may send it direct all the same: the policy has nothing against it,
    /// it has nothing for it either, or not for this source.
    #[inline(always)]
    #[must_use]
    pub const fn is_left_to_windows(self) -> bool {
        matches!(
            self.0,
            Outcome::Inspect {
                reason: Reason::NoPrefix | Reason::PortNotListed | Reason::SourceNotListed
            }
        )
    }

    /// Where the packet goes.
    #[inline(always)]
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self.0 {
            Outcome::Direct { .. } => Verdict::Direct,
            Outcome::Inspect { .. } => Verdict::Inspect,
        }
    }

    /// Why.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self.0 {
            Outcome::Direct { .. } => Reason::Matched,
            Outcome::Inspect { reason } => reason,
        }
    }

    /// The provenance group of a Direct decision.
    #[inline(always)]
    #[must_use]
    pub const fn group(self) -> Option<u16> {
        match self.0 {
            Outcome::Direct { group } => Some(group),
            Outcome::Inspect { .. } => None,
        }
    }
}
