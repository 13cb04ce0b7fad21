//! Which kernels are tried, and where Debian has them.

use clap::ValueEnum;
use clap::builder::PossibleValue;

/// A line of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Series {
    /// The oldest that the product is written for: Debian 11.
    V5_10,
    /// Debian 12: no TCX.
    V6_1,
    /// Debian 13.
    V6_12,
    /// The newest that Debian's stable release can have.
    Newest,
}

/// Where a series is in Debian's archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suites {
    /// In the main archive.
    pub(super) main: &'static str,
    /// In the security archive, which may have a newer one of the same series.
    pub(super) security: Option<&'static str>,
}

impl Series {
    /// All of them, oldest first.
    pub(super) const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::Newest];

    /// Its name, on the command line and in the cache.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Newest => "newest",
        }
    }

    pub(super) fn suites(self) -> Suites {
        let (main, security) = match self {
            Self::V5_10 => ("bullseye", Some("bullseye-security")),
            Self::V6_1 => ("bookworm", Some("bookworm-security")),
            Self::V6_12 => ("trixie", Some("trixie-security")),
            Self::Newest => ("trixie-backports", None),
        };
        Suites { main, security }
    }

    /// How tc is to be attached: TCX is in 6.6 and newer (kernel commit e420bed02507).
    pub(super) fn tc(self) -> &'static str {
        match self {
            Self::V5_10 | Self::V6_1 => "clsact",
            Self::V6_12 | Self::Newest => "tcx",
        }
    }
}

impl ValueEnum for Series {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}
