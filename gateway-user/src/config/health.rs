//! `[egress.health]`: which hosts are connected to through the uplink, and how many answers or
//! silences change its state.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::feed::duration;
use super::validate::Source;

/// Of the Optimize category of the Worldwide instance (set 1), in both families, and what the uplink
/// is there for: if they do not answer there, direct egress is of no use.
const PROBES: [&str; 2] = ["outlook.office365.com:443", "outlook.office.com:443"];
const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);
const FALL: u32 = 3;
const RISE: u32 = 3;
/// More often than this is a burden for who answers.
const SHORTEST: Duration = Duration::from_millis(100);
/// Beyond that a count says nothing of the uplink of now.
const MOST: u32 = 100;
const MOST_PROBES: usize = 16;

/// How the uplink is probed. A round asks every probe at once; it is good when one of them answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whom to connect to, at least one, in the order of the file.
    pub probes: Vec<Target>,
    /// From the beginning of a round to that of the next one.
    pub interval: Duration,
    /// How long an answer may take, at most `interval`.
    pub timeout: Duration,
    /// Rounds without answer, one after the other, by which an uplink is down; 1 to 100.
    pub fall: u32,
    /// Rounds with one by which it is up again; 1 to 100.
    pub rise: u32,
}

/// A host and a TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name, or its address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// `[egress.health]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Spec {
    probes: Option<Spanned<Vec<Spanned<String>>>>,
    interval: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
    fall: Option<Spanned<u32>>,
    rise: Option<Spanned<u32>>,
}

/// What the section means.
pub(super) fn health(source: &Source<'_>, spec: &Spec) -> Result<Health, ConfigError> {
    let interval = time(source, spec.interval.as_ref(), "egress.health.interval", INTERVAL)?;
    let timeout = match &spec.timeout {
        Some(_) => time(source, spec.timeout.as_ref(), "egress.health.timeout", TIMEOUT)?,
        None => TIMEOUT.min(interval),
    };
    if let Some(at) = spec.timeout.as_ref().filter(|_| timeout > interval) {
        let problem = format_args!("{:?} is longer than egress.health.interval", at.get_ref());
        return Err(source.refuse(at, "egress.health.timeout", problem));
    }
    Ok(Health {
        probes: probes(source, spec.probes.as_ref())?,
        interval,
        timeout,
        fall: count(source, spec.fall.as_ref(), "egress.health.fall", FALL)?,
        rise: count(source, spec.rise.as_ref(), "egress.health.rise", RISE)?,
    })
}

fn probes(
    source: &Source<'_>,
    list: Option<&Spanned<Vec<Spanned<String>>>>,
) -> Result<Vec<Target>, ConfigError> {
    let field = "egress.health.probes";
    let Some(list) = list else { return Ok(PROBES.iter().filter_map(|it| target(it)).collect()) };
    let count = list.get_ref().len();
    if count == 0 || count > MOST_PROBES {
        let problem = format_args!("{count} of them; name 1 to {MOST_PROBES}");
        return Err(source.refuse(list, field, problem));
    }
    let read = |at: &Spanned<String>| {
        target(at.get_ref()).ok_or_else(|| {
            let problem = format_args!(
                "{:?} is not HOST:PORT, such as \"outlook.office365.com:443\" or \
                 \"[2001:db8::1]:443\"",
                at.get_ref()
            );
            source.refuse(at, field, problem)
        })
    };
    list.get_ref().iter().map(read).collect()
}

/// A name has letters, digits, hyphens and dots; an IPv6 address stands in brackets.
fn target(text: &str) -> Option<Target> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let host = if let Some(inside) = host.strip_prefix('[') {
        inside.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok()?.to_string()
    } else {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        (!host.is_empty() && host.chars().all(is_of_name)).then(|| host.to_owned())?
    };
    Some(Target { host, port })
}

fn time(
    source: &Source<'_>,
    key: Option<&Spanned<String>>,
    field: &str,
    default: Duration,
) -> Result<Duration, ConfigError> {
    let Some(at) = key else { return Ok(default) };
    let time = duration(source, at, field, Duration::ZERO)?;
    if time < SHORTEST {
        let problem = format_args!("{:?} is shorter than {}ms", at.get_ref(), SHORTEST.as_millis());
        return Err(source.refuse(at, field, problem));
    }
    Ok(time)
}

fn count(
    source: &Source<'_>,
    key: Option<&Spanned<u32>>,
    field: &str,
    default: u32,
) -> Result<u32, ConfigError> {
    let Some(at) = key else { return Ok(default) };
    if !(1..=MOST).contains(at.get_ref()) {
        let problem = format_args!("{} is not from 1 to {MOST}", at.get_ref());
        return Err(source.refuse(at, field, problem));
    }
    Ok(*at.get_ref())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    /// What a file says whose `[egress.health]`, in line 7, has `keys` from line 8 on.
    fn parse(keys: &str) -> Result<Option<Health>, String> {
        let text = format!(
            "version = 1\n[[interface]]\nname = \"lan0\"\n[egress]\ninterface = \"wan0\"\n\
             gateway4 = \"auto\"\n[egress.health]\n{keys}"
        );
        let config = Config::parse(&text, Path::new("c.toml"));
        config
            .map(|config| config.egress.and_then(|egress| egress.health))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_section_probes_two_hosts_that_the_uplink_is_for() {
        let health = parse("").unwrap().unwrap();
        let probes: Vec<_> = health.probes.iter().map(ToString::to_string).collect();
        assert_eq!(probes, PROBES);
        assert_eq!((health.interval, health.timeout), (INTERVAL, TIMEOUT));
        assert_eq!((health.fall, health.rise), (3, 3));
    }

    #[test]
    fn every_key_has_its_meaning() {
        let keys = "probes = [\"10.0.0.1:80\", \"[2001:DB8::1]:443\", \"a-b.example:1\"]\n\
                    interval = \"1s\"\ntimeout = \"100ms\"\nfall = 1\nrise = 100";
        let health = parse(keys).unwrap().unwrap();
        let probes: Vec<_> = health.probes.iter().map(ToString::to_string).collect();
        assert_eq!(probes, ["10.0.0.1:80", "[2001:db8::1]:443", "a-b.example:1"]);
        assert_eq!(health.interval, Duration::from_secs(1));
        assert_eq!(health.timeout, Duration::from_millis(100));
        assert_eq!((health.fall, health.rise), (1, 100));
        let health = parse("interval = \"1s\"").unwrap().unwrap();
        assert_eq!(health.timeout, Duration::from_secs(1), "no longer than the interval");
    }

    #[test]
    fn what_cannot_be_is_refused_with_line_and_field() {
        for (keys, refusal) in [
            ("probes = []", "c.toml:8: egress.health.probes: 0 of them; name 1 to 16"),
            (
                "probes = [\n\"10.0.0.1\"]",
                "c.toml:9: egress.health.probes: \"10.0.0.1\" is not HOST:PORT, such as",
            ),
            ("probes = [\"::1:443\"]", "c.toml:8: egress.health.probes: \"::1:443\" is not"),
            ("probes = [\"a b:443\"]", "c.toml:8: egress.health.probes: \"a b:443\" is not"),
            ("probes = [\"a:0\"]", "c.toml:8: egress.health.probes: \"a:0\" is not"),
            (
                "interval = \"99ms\"",
                "c.toml:8: egress.health.interval: \"99ms\" is shorter than 100ms",
            ),
            (
                "interval = \"1s\"\ntimeout = \"2s\"",
                "c.toml:9: egress.health.timeout: \"2s\" is longer than egress.health.interval",
            ),
            ("timeout = \"soon\"", "c.toml:8: egress.health.timeout: \"soon\" is not a time"),
            ("fall = 0", "c.toml:8: egress.health.fall: 0 is not from 1 to 100"),
            ("rise = 101", "c.toml:8: egress.health.rise: 101 is not from 1 to 100"),
            ("raise = 1", "c.toml:8: `raise = 1`"),
        ] {
            let error = parse(keys).unwrap_err();
            assert!(error.starts_with(refusal), "{error}");
        }
    }
}
