//! Notes: what a person should know about a selection.

use std::fmt;

use gateway_common::Transport;

use super::transport_name;
use crate::feed::SetId;

/// Something a person should know about a selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The policy fits the sign-in set, but does not name it.
    SignInLeftOut {
        /// Its id.
        set: SetId,
    },
    /// The policy selects sign-in hosts.
    SignInDirect {
        /// The set that has them.
        set: SetId,
    },
    /// The policy fits a set with this port, but does not name the set.
    PortLeftOut {
        /// The set.
        set: SetId,
        /// The protocol of the port.
        transport: Transport,
        /// The port.
        port: u16,
    },
    /// The policy names a set that has no prefix or no port for it.
    NamedWithoutRule {
        /// The set.
        set: SetId,
    },
    /// An own include is for all ports, and this one has to be named.
    OwnPortLeftOut {
        /// The include's name.
        include: String,
        /// The protocol of the port.
        transport: Transport,
        /// The port.
        port: u16,
    },
    /// An own include has no prefix of a selected address family.
    OwnWithoutRule {
        /// The include's name.
        include: String,
    },
    /// An exclude takes nothing away from what is selected.
    ExcludeCutsNothing {
        /// The exclude's name.
        exclude: String,
    },
}

impl Note {
    /// Whether it is about a danger or a mistake, not about something held back.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        match self {
            Self::SignInDirect { .. }
            | Self::NamedWithoutRule { .. }
            | Self::OwnWithoutRule { .. } => true,
            Self::SignInLeftOut { .. }
            | Self::PortLeftOut { .. }
            | Self::OwnPortLeftOut { .. }
            | Self::ExcludeCutsNothing { .. } => false,
        }
    }

    /// The set of the feed it is about.
    #[must_use]
    pub const fn set(&self) -> Option<SetId> {
        match self {
            Self::SignInLeftOut { set }
            | Self::SignInDirect { set }
            | Self::PortLeftOut { set, .. }
            | Self::NamedWithoutRule { set } => Some(*set),
            Self::OwnPortLeftOut { .. }
            | Self::OwnWithoutRule { .. }
            | Self::ExcludeCutsNothing { .. } => None,
        }
    }

    /// The name of the own entry it is about.
    #[must_use]
    pub fn own(&self) -> Option<&str> {
        match self {
            Self::SignInLeftOut { .. }
            | Self::SignInDirect { .. }
            | Self::PortLeftOut { .. }
            | Self::NamedWithoutRule { .. } => None,
            Self::OwnPortLeftOut { include: name, .. }
            | Self::OwnWithoutRule { include: name }
            | Self::ExcludeCutsNothing { exclude: name } => Some(name),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SignInLeftOut { set } => write!(
                f,
                "set {set} (sign-in) stays inspected: direct sign-in would go past \
                 proxy-injected tenant restrictions; add it to include-sets if you use none"
            ),
            Self::SignInDirect { set } => write!(
                f,
                "set {set} is direct: proxy-injected tenant restrictions stop working for sign-in"
            ),
            Self::PortLeftOut { set, transport, port } => write!(
                f,
                "set {set}: {}/{port} stays inspected; add the set to include-sets to send it \
                 direct",
                transport_name(*transport)
            ),
            Self::NamedWithoutRule { set } => write!(
                f,
                "set {set} is in include-sets but adds nothing: it has no prefix of a selected \
                 address family or no port"
            ),
            Self::OwnPortLeftOut { include, transport, port } => write!(
                f,
                "include {include:?}: {}/{port} stays inspected; list it in the include's ports \
                 to send it direct",
                transport_name(*transport)
            ),
            Self::OwnWithoutRule { include } => write!(
                f,
                "include {include:?} adds nothing: it has no prefix of a selected address family"
            ),
            Self::ExcludeCutsNothing { exclude } => write!(
                f,
                "exclude {exclude:?} takes nothing away: no selected set or include has its \
                 prefixes with its ports"
            ),
        }
    }
}
