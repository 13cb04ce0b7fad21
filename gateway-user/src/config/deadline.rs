//! `deadline`: how long direct egress outlives a daemon that is gone.

use std::time::Duration;

use toml::Spanned;

use super::ConfigError;
use super::feed::duration;
use super::validate::Source;

/// Where the file does not say.
pub(crate) const DEFAULT_DEADLINE: Duration = Duration::from_mins(1);
/// The daemon renews it every quarter; less than this and a busy machine passes for a dead daemon.
const SHORTEST: Duration = Duration::from_secs(2);

/// What the key means; `None` is without end.
pub(super) fn deadline(
    source: &Source<'_>,
    key: Option<&Spanned<String>>,
) -> Result<Option<Duration>, ConfigError> {
    let Some(at) = key else { return Ok(Some(DEFAULT_DEADLINE)) };
    let deadline = duration(source, at, "deadline", Duration::ZERO)?;
    if deadline.is_zero() {
        return Ok(None);
    }
    if deadline < SHORTEST {
        let problem = format_args!(
            "{:?} is shorter than {}s, which a busy machine may need; \"0s\" is without end",
            at.get_ref(),
            SHORTEST.as_secs()
        );
        return Err(source.refuse(at, "deadline", problem));
    }
    Ok(Some(deadline))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    /// What a file says with `key` in its second line.
    fn parse(key: &str) -> Result<Option<Duration>, String> {
        let text = format!("version = 1\n{key}\n[[interface]]\nname = \"lan0\"\n");
        let config = Config::parse(&text, Path::new("c.toml"));
        config.map(|config| config.deadline).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_a_minute_unless_the_file_says_otherwise() {
        let seconds = |seconds| Ok(Some(Duration::from_secs(seconds)));
        assert_eq!(parse(""), seconds(60));
        assert_eq!(parse("deadline = \"60s\""), seconds(60));
        assert_eq!(parse("deadline = \"2s\""), seconds(2));
        assert_eq!(parse("deadline = \"5m\""), seconds(300));
        assert_eq!(parse("deadline = \"0s\""), Ok(None));
    }

    #[test]
    fn what_is_no_deadline_is_refused_with_line_and_field() {
        for (key, refusal) in [
            ("deadline = \"1s\"", "c.toml:2: deadline: \"1s\" is shorter than 2s"),
            ("deadline = \"1999ms\"", "c.toml:2: deadline: \"1999ms\" is shorter than 2s"),
            ("deadline = \"-5s\"", "c.toml:2: deadline: \"-5s\" is not a time"),
            ("deadline = \"soon\"", "c.toml:2: deadline: \"soon\" is not a time such as"),
            ("deadline = \"367d\"", "c.toml:2: deadline: \"367d\" is not from 0s to 366d"),
            ("deadline = 60", "c.toml:2: `deadline = 60`"),
        ] {
            let error = parse(key).unwrap_err();
            assert!(error.starts_with(refusal), "{error}");
        }
    }
}
