//! The way out: policy routing and an nftables table, installed, kept, and taken back.
//!
//! `routing` and `ruleset` say, without a kernel, what is wanted and which steps lead there from
//! what is seen; `netlink` and `nft` see and do. [`Keeper`] is what the daemon holds: it puts the
//! way out in place before anything is published, and back when somebody removes it, of which `watch`
//! and `nft_news` hear.
//!
//! The uplink's health, family by family: `sight` sees link, next hop and neighbour, `fault` judges
//! them; `probe` connects through it, `hysteresis` counts, `hold` waits where nothing is probed;
//! `standing` holds the state that follows.
//! `flows` lists and removes conntrack entries of direct flows, `vanished` hears of those that the kernel
//! removes, `ending` has their rest reset, `nudge` makes a client speak that only waits, `debt` says which
//! a change of the way out has to end.
//!
//! [`take_back()`] is what `down` does: what is ours is known by its protocol number and its comment,
//! so no configuration is needed for it.
//!
//! `dispute` says who may lead direct packets elsewhere than our table does, `undisputed` keeps XDP's
//! shorter look-up while nobody does.
//!
//! A packet's mark is a proposal; the connection mark owns the flow. See `ruleset`.

mod debt;
mod dispute;
mod ending;
mod error;
mod fault;
mod flows;
mod hold;
mod hop;
mod hysteresis;
mod keeper;
mod netlink;
mod nft;
mod nft_news;
mod nudge;
mod place;
mod probe;
mod reverse_path;
mod routing;
mod rules;
mod ruleset;
mod sight;
mod standing;
mod take_back;
mod undisputed;
mod vanished;
mod watch;

pub use error::EgressError;
pub use flows::Flow;
pub use hop::Hop;
pub(crate) use keeper::ENDED_BY;
pub use keeper::Keeper;
pub use reverse_path::unmarked_way;
pub(crate) use reverse_path::{
    STRICT, effective as reverse_path_filter, remedy as reverse_path_remedy,
};
pub use routing::Family;
pub use rules::rules;
pub use standing::Transition;
pub use take_back::{Removed, take_back};
pub use undisputed::Undisputed;

use crate::config::{Config, Egress, Mark};

/// What says, in `ip rule` and `ip route`, that a rule or route is ours. Of no routing daemon
/// (iproute2's `rt_protos`, FRR's `rt_netlink.c`); 365 in eight bits.
pub const PROTOCOL: u8 = 109;

/// Every reason why a family is down, as the observation has it.
pub(crate) fn faults() -> impl Iterator<Item = &'static str> {
    fault::Fault::ALL.into_iter().map(fault::Fault::name)
}

/// What a configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The uplink and how to get there.
    pub egress: Egress,
    /// The bits that propose Direct.
    pub mark: Mark,
    /// The inside interfaces, ascending.
    pub inside: std::collections::BTreeSet<String>,
}

/// What a connection mark says of a flow's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// The bits of the packet mark, in which "direct" is written.
    pub mark: Mark,
    /// The bit that says the way is decided.
    pub decided: u32,
}

impl Words {
    /// All bits that are ours.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.mark.mask | self.decided
    }

    /// These bits of a flow that is direct: it takes both words.
    #[must_use]
    pub const fn direct(self) -> u32 {
        self.mark.value | self.decided
    }

    /// The bits that are "decided" for the one and part of "direct" for the other: a flow that is
    /// inspected by the one would look direct by the other, to rules that ask for the mark alone.
    #[must_use]
    pub const fn confused_with(self, other: Self) -> u32 {
        (self.mark.value & other.decided) | (other.mark.value & self.decided)
    }
}

#[cfg(test)]
impl Wanted {
    /// A way out of both families by `wan0`, for unit tests to change.
    fn example() -> Self {
        use crate::config::{Action, NextHop, OnFailure};
        let egress = Egress {
            interface: "wan0".into(),
            gateway4: Some(NextHop::Learned),
            gateway6: Some(NextHop::Learned),
            table: 365,
            priority: 365,
            masquerade: false,
            clamp_mss: false,
            decided: 2,
            on_failure: OnFailure::Inspect,
            health: None,
            action: Action::Mark,
        };
        let mark = Mark { value: 1, mask: 1 };
        Self { egress, mark, inside: ["lan0".to_owned()].into() }
    }
}

impl Wanted {
    /// What its connection marks say.
    #[must_use]
    pub const fn words(&self) -> Words {
        Words { mark: self.mark, decided: self.egress.decided }
    }

    /// What `config` asks for; `None` without `[egress]`.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let inside = config.interfaces.iter().map(|interface| interface.name.clone());
        Some(Self { egress: config.egress.clone()?, mark: config.mark, inside: inside.collect() })
    }
}
