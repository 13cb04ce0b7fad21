//! `[guards]`: the limits that refuse a plan.

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::validate::Source;
use crate::plan::{Guard, Guards};

/// `[guards]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Spec {
    max_prefixes_leaving: Option<Spanned<u8>>,
    max_space_leaving: Option<Spanned<u8>>,
    max_growth: Option<Spanned<u32>>,
    shortest_ipv4: Option<Spanned<u8>>,
    shortest_ipv6: Option<Spanned<u8>>,
    #[serde(default)]
    allow: Vec<Spanned<String>>,
}

/// What the section means.
pub(super) fn guards(source: &Source<'_>, spec: Spec) -> Result<Guards, ConfigError> {
    let default = Guards::default();
    let percent = |key: &str, value: Option<Spanned<u8>>, default: u8| match value {
        Some(value) if *value.get_ref() > 100 => {
            let problem = format_args!("{} is no percentage from 0 to 100", value.get_ref());
            Err(source.refuse(&value, key, problem))
        }
        value => Ok(value.map_or(default, Spanned::into_inner)),
    };
    let length = |key: &str, value: Option<Spanned<u8>>, longest: u8, default: u8| match value {
        Some(value) if !(1..=longest).contains(value.get_ref()) => {
            let problem =
                format_args!("{} is no prefix length from 1 to {longest}", value.get_ref());
            Err(source.refuse(&value, key, problem))
        }
        value => Ok(value.map_or(default, Spanned::into_inner)),
    };
    let max_growth = match spec.max_growth {
        Some(value) if *value.get_ref() == 0 => {
            let problem = "0 times as many prefixes would refuse every feed; 1 is no growth";
            return Err(source.refuse(&value, "guards.max-growth", problem));
        }
        value => value.map_or(default.max_growth, Spanned::into_inner),
    };
    let allow = spec.allow.iter().map(|name| match name.get_ref().parse() {
        Ok(Guard::NoPrefixes) => {
            let problem = "no_prefixes cannot be switched off: nothing would go direct";
            Err(source.refuse(name, "guards.allow", problem))
        }
        Ok(guard) => Ok(guard),
        Err(reason) => {
            let all = Guard::ALL.map(Guard::name);
            let known = all.iter().filter(|name| **name != Guard::NoPrefixes.name());
            let known = known.copied().collect::<Vec<_>>().join(", ");
            let problem = format_args!("{:?} {reason}; there are {known}", name.get_ref());
            Err(source.refuse(name, "guards.allow", problem))
        }
    });
    Ok(Guards {
        allow: allow.collect::<Result<_, _>>()?,
        max_prefixes_leaving: percent(
            "guards.max-prefixes-leaving",
            spec.max_prefixes_leaving,
            default.max_prefixes_leaving,
        )?,
        max_space_leaving: percent(
            "guards.max-space-leaving",
            spec.max_space_leaving,
            default.max_space_leaving,
        )?,
        max_growth,
        shortest_ipv4: length(
            "guards.shortest-ipv4",
            spec.shortest_ipv4,
            32,
            default.shortest_ipv4,
        )?,
        shortest_ipv6: length(
            "guards.shortest-ipv6",
            spec.shortest_ipv6,
            128,
            default.shortest_ipv6,
        )?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    /// What a file says whose `[guards]`, in line 4, has `keys` from line 5 on.
    fn parse(keys: &str) -> Result<Guards, String> {
        let text = format!("version = 1\n[[interface]]\nname = \"lan0\"\n[guards]\n{keys}");
        let config = Config::parse(&text, Path::new("c.toml"));
        config.map(|config| config.guards).map_err(|error| error.to_string())
    }

    #[test]
    fn every_key_has_its_meaning() {
        assert_eq!(parse(""), Ok(Guards::default()));
        let keys = "max-prefixes-leaving = 0\nmax-space-leaving = 100\nmax-growth = 7\n\
                    shortest-ipv4 = 1\nshortest-ipv6 = 128\n\
                    allow = [\"own_network\", \"special_space\"]";
        let guards = Guards {
            max_prefixes_leaving: 0,
            max_space_leaving: 100,
            max_growth: 7,
            shortest_ipv4: 1,
            shortest_ipv6: 128,
            allow: [Guard::OwnNetwork, Guard::SpecialSpace].into(),
        };
        assert_eq!(parse(keys), Ok(guards));
    }

    #[test]
    fn limits_that_limit_nothing_or_everything_are_refused_with_line_and_field() {
        for (keys, refusal) in [
            (
                "max-prefixes-leaving = 101",
                "c.toml:5: guards.max-prefixes-leaving: 101 is no percentage from 0 to 100",
            ),
            (
                "\nmax-space-leaving = 255",
                "c.toml:6: guards.max-space-leaving: 255 is no percentage from 0 to 100",
            ),
            (
                "max-growth = 0",
                "c.toml:5: guards.max-growth: 0 times as many prefixes would refuse every feed; 1 is \
                 no growth",
            ),
            (
                "shortest-ipv4 = 33",
                "c.toml:5: guards.shortest-ipv4: 33 is no prefix length from 1 to 32",
            ),
            (
                "shortest-ipv6 = 0",
                "c.toml:5: guards.shortest-ipv6: 0 is no prefix length from 1 to 128",
            ),
            (
                "allow = [\"own_network\",\n\"no_prefixes\"]",
                "c.toml:6: guards.allow: no_prefixes cannot be switched off: nothing would go direct",
            ),
            (
                "allow = [\"everything\"]",
                "c.toml:5: guards.allow: \"everything\" names no guard; there are version_back, \
                 prefixes_leaving, space_leaving, table_growth, wide_prefix, special_space, \
                 own_network, unnamed_port",
            ),
        ] {
            assert_eq!(parse(keys), Err(refusal.to_owned()));
        }
    }
}
