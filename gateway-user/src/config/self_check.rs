//! `self-check`: how many of XDP's proposals tc checks.

use toml::Spanned;

use super::ConfigError;
use super::validate::Source;

/// So few that nobody pays for it, and so many that what goes wrong is seen within minutes.
const DEFAULT: u32 = 1000;

/// What the key means: one proposal in so many; 0 is none.
pub(super) fn self_check(
    source: &Source<'_>,
    key: Option<&Spanned<i64>>,
) -> Result<u32, ConfigError> {
    let Some(at) = key else { return Ok(DEFAULT) };
    u32::try_from(*at.get_ref()).map_err(|_| {
        let problem = format_args!("{} is not from 0 to {}", at.get_ref(), u32::MAX);
        source.refuse(at, "self-check", problem)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    /// What a file says with `key` in its second line.
    fn parse(key: &str) -> Result<u32, String> {
        let text = format!("version = 1\n{key}\n[[interface]]\nname = \"lan0\"\n");
        let config = Config::parse(&text, Path::new("c.toml"));
        config.map(|config| config.self_check).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_one_in_a_thousand_unless_the_file_says_otherwise() {
        for (key, expected) in [("", 1000), ("self-check = 0", 0), ("self-check = 1", 1)] {
            assert_eq!(parse(key), Ok(expected), "{key}");
        }
        assert_eq!(parse("self-check = 4294967295"), Ok(u32::MAX));
    }

    #[test]
    fn what_is_no_share_is_refused_with_line_and_field() {
        for (key, refusal) in [
            ("self-check = -1", "c.toml:2: self-check: -1 is not from 0 to 4294967295"),
            ("self-check = 4294967296", "c.toml:2: self-check: 4294967296 is not from 0"),
            ("self-check = \"often\"", "c.toml:2: `self-check = \"often\"`"),
        ] {
            let error = parse(key).unwrap_err();
            assert!(error.starts_with(refusal), "{error}");
        }
    }
}
