//! How rules and exclusions are written in a plan's JSON, and read back.

use gateway_common::Transport;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::feed::SetId;
use crate::policy::{Exclusion, Rule};

#[derive(Serialize, Deserialize)]
#[serde(remote = "Transport", rename_all = "lowercase")]
enum Protocol {
    Tcp,
    Udp,
}

#[derive(Serialize, Deserialize)]
struct RuleShape {
    prefix: IpNet,
    #[serde(with = "Protocol")]
    protocol: Transport,
    from: u16,
    to: u16,
    set: SetId,
}

#[derive(Serialize, Deserialize)]
struct ExclusionShape {
    prefix: IpNet,
    #[serde(with = "Protocol")]
    protocol: Transport,
    from: u16,
    to: u16,
    exclude: u16,
}

/// A list of [`Rule`]s.
pub(super) mod rules {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::{Rule, RuleShape};

    pub(in crate::plan) fn serialize<S: Serializer>(
        rules: &[Rule],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(rules.iter().map(|rule| RuleShape {
            prefix: rule.prefix,
            protocol: rule.transport,
            from: rule.first,
            to: rule.last,
            set: rule.set,
        }))
    }

    pub(in crate::plan) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Rule>, D::Error> {
        let shapes = Vec::<RuleShape>::deserialize(deserializer)?;
        let rule = |shape: RuleShape| Rule {
            prefix: shape.prefix,
            transport: shape.protocol,
            first: shape.from,
            last: shape.to,
            set: shape.set,
        };
        Ok(shapes.into_iter().map(rule).collect())
    }
}

/// A list of [`Exclusion`]s.
pub(super) mod exclusions {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::{Exclusion, ExclusionShape};

    pub(in crate::plan) fn serialize<S: Serializer>(
        exclusions: &[Exclusion],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(exclusions.iter().map(|exclusion| ExclusionShape {
            prefix: exclusion.prefix,
            protocol: exclusion.transport,
            from: exclusion.first,
            to: exclusion.last,
            exclude: exclusion.exclude,
        }))
    }

    pub(in crate::plan) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Exclusion>, D::Error> {
        let shapes = Vec::<ExclusionShape>::deserialize(deserializer)?;
        let exclusion = |shape: ExclusionShape| Exclusion {
            prefix: shape.prefix,
            transport: shape.protocol,
            first: shape.from,
            last: shape.to,
            exclude: shape.exclude,
        };
        Ok(shapes.into_iter().map(exclusion).collect())
    }
}
