//! Why a family has no way out: judged from what is seen of link and next hop, and what probes say.

use std::collections::BTreeMap;
use std::fmt;

use super::hop::Hop;
use super::routing::Family;

/// Why a family is down. The earlier one is the cause of the later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// The interface is not there.
    NoInterface,
    /// It is set down.
    SetDown,
    /// It has no carrier, or is not operational for another reason.
    NoCarrier,
    /// No default route says what the next hop is.
    NoNextHop,
    /// The next hop does not say its link layer address.
    NextHopFailed,
    /// Rules, route or nftables table cannot be put in place.
    NotInPlace,
    /// Nobody answers beyond the next hop.
    ProbesFailed,
    /// Link and next hop came back, and that has not lasted yet.
    Settling,
}

impl Fault {
    /// All of them.
    pub(super) const ALL: [Self; 8] = [
        Self::NoInterface,
        Self::SetDown,
        Self::NoCarrier,
        Self::NoNextHop,
        Self::NextHopFailed,
        Self::NotInPlace,
        Self::ProbesFailed,
        Self::Settling,
    ];

    /// Its name in JSON; stable.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NoInterface => "no_interface",
            Self::SetDown => "set_down",
            Self::NoCarrier => "no_carrier",
            Self::NoNextHop => "no_next_hop",
            Self::NextHopFailed => "next_hop_failed",
            Self::NotInPlace => "not_in_place",
            Self::ProbesFailed => "probes_failed",
            Self::Settling => "settling",
        }
    }

    /// Whether the kernel can hold rules and route meanwhile; probes need them.
    pub(super) fn leaves_routes(self) -> bool {
        self >= Self::NextHopFailed || self == Self::NoCarrier
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoInterface => "the interface is not there (`ip link`)",
            Self::SetDown => "the interface is set down",
            Self::NoCarrier => "no carrier",
            Self::NoNextHop => "no default route on it says what the next hop is",
            Self::NextHopFailed => "the next hop does not answer (`ip neighbour`)",
            Self::NotInPlace => "its rules and route cannot be put in place",
            Self::ProbesFailed => "no probe is answered",
            Self::Settling => "it came back a moment ago",
        })
    }
}

/// The uplink's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Index of the interface.
    pub(super) index: u32,
    /// Whether it is set up.
    pub(super) is_up: bool,
    /// Whether it is operational (`IFF_RUNNING`: carrier, or a driver that does not know).
    pub(super) is_running: bool,
    /// Whether it has one other end, which needs no address: point-to-point, or without ARP.
    pub(super) has_one_end: bool,
    /// The largest packet of IPv4 that it takes, bytes.
    pub(super) mtu4: u32,
    /// And of IPv6.
    pub(super) mtu6: u32,
}

/// What the kernel knows of a next hop's link layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// It is known, or none is needed.
    Known,
    /// It was asked for in vain.
    Failed,
    /// Nobody asked, or the answer is awaited.
    Open,
}

/// What is seen of the uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sight {
    /// `None`, there is no such interface.
    pub(super) link: Option<Link>,
    /// The next hops of the families that have one, and what is known of them.
    pub(super) hops: BTreeMap<Family, (Hop, Neighbour)>,
}

impl Sight {
    /// Why `family`, which is to have a next hop, is down by link and next hop. A question that is
    /// open leaves it as it `was`.
    pub(super) fn fault(&self, family: Family, was: Option<Fault>) -> Option<Fault> {
        let Some(link) = self.link else { return Some(Fault::NoInterface) };
        if !link.is_up {
            return Some(Fault::SetDown);
        }
        if !link.is_running {
            return Some(Fault::NoCarrier);
        }
        match self.hops.get(&family) {
            None => Some(Fault::NoNextHop),
            Some((_, Neighbour::Failed)) => Some(Fault::NextHopFailed),
            Some((_, Neighbour::Open)) => was.filter(|was| *was == Fault::NextHopFailed),
            Some((_, Neighbour::Known)) => None,
        }
    }

    /// The largest packets that the link takes, bytes.
    pub(super) fn mtus(&self) -> BTreeMap<Family, u32> {
        let of = |link: Link| [(Family::V4, link.mtu4), (Family::V6, link.mtu6)];
        self.link.into_iter().flat_map(of).collect()
    }

    /// The next hops alone.
    pub(super) fn next_hops(&self) -> BTreeMap<Family, Hop> {
        self.hops.iter().map(|(family, (hop, _))| (*family, *hop)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(is_up: bool, is_running: bool, neighbour: Option<Neighbour>) -> Sight {
        let hop = Hop::Via("192.0.2.1".parse().unwrap());
        let hop = neighbour.map(|neighbour| (Family::V4, (hop, neighbour)));
        let has_one_end = false;
        let link = Link { index: 7, is_up, is_running, has_one_end, mtu4: 1500, mtu6: 1500 };
        Sight { link: Some(link), hops: hop.into_iter().collect() }
    }

    #[test]
    fn the_first_cause_is_the_one_that_is_named() {
        let known = Some(Neighbour::Known);
        for (sight, fault) in [
            (Sight::default(), Some(Fault::NoInterface)),
            (sight(false, false, None), Some(Fault::SetDown)),
            (sight(true, false, None), Some(Fault::NoCarrier)),
            (sight(true, true, None), Some(Fault::NoNextHop)),
            (sight(true, true, Some(Neighbour::Failed)), Some(Fault::NextHopFailed)),
            (sight(true, true, known), None),
        ] {
            assert_eq!(sight.fault(Family::V4, None), fault, "{sight:?}");
        }
        assert_eq!(sight(true, true, known).fault(Family::V6, None), Some(Fault::NoNextHop));
    }

    #[test]
    fn a_next_hop_that_is_asked_again_is_no_answer_yet() {
        let open = sight(true, true, Some(Neighbour::Open));
        assert_eq!(open.fault(Family::V4, None), None);
        assert_eq!(open.fault(Family::V4, Some(Fault::NoCarrier)), None);
        let failed = Some(Fault::NextHopFailed);
        assert_eq!(open.fault(Family::V4, failed), failed);
    }
}
