//! `[feed]`: where the endpoint list comes from, how often it is asked for, and what an old one
//! means.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::ConfigError;
use super::validate::Source;

/// Microsoft's web service.
const SERVICE: &str = "https://endpoints.office.com";
const HOUR: Duration = Duration::from_hours(1);
const DEFAULT_MAX_AGE: Duration = Duration::from_hours(14 * 24);
/// More than a year is a mistake in a unit.
const MOST_DAYS: u64 = 366;

/// Where the feed comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FeedSource {
    /// The snapshot in the binary.
    #[default]
    Embedded,
    /// A file of the web service's shape.
    File(PathBuf),
    /// A document of the web service's shape, over HTTPS.
    Url(Url),
    /// The web service, or a mirror that answers like it.
    WebService {
        /// Whose endpoints.
        instance: Instance,
        /// What stands before `/version`, `/endpoints` and `/changes`.
        base: Url,
    },
}

/// Where to look, for people.
impl fmt::Display for FeedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("the binary"),
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => {
                // A query may hold what proves who asks.
                let mut url = url.clone();
                url.set_query(None);
                url.fmt(f)
            }
            Self::WebService { instance, base } => {
                write!(f, "{instance} of {}", base.as_str().trim_end_matches('/'))
            }
        }
    }
}

/// One of Microsoft's clouds, each with an endpoint list of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instance {
    /// Every tenant that is in none of the others.
    Worldwide,
    /// Operated by 21Vianet.
    China,
    /// US government, Department of Defense.
    UsGovDoD,
    /// US government, GCC High.
    UsGovGccHigh,
}

impl Instance {
    /// Every instance.
    pub const ALL: [Self; 4] = [Self::Worldwide, Self::China, Self::UsGovDoD, Self::UsGovGccHigh];

    /// The web service's name of it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worldwide => "Worldwide",
            Self::China => "China",
            Self::UsGovDoD => "USGovDoD",
            Self::UsGovGccHigh => "USGovGCCHigh",
        }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected Worldwide, China, USGovDoD or USGovGCCHigh")]
pub struct UnknownInstance;

impl FromStr for Instance {
    type Err = UnknownInstance;

    /// The exact name, case included.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|instance| instance.name() == text).ok_or(UnknownInstance)
    }
}

/// How the feed is kept up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedOptions {
    /// Between two checks, before jitter.
    pub poll_interval: Duration,
    /// The proxy that checks go through; without one, none, whatever the environment says.
    pub proxy: Option<Url>,
    /// PEM certificates to trust in place of the built-in roots.
    pub ca_file: Option<PathBuf>,
    /// How long the feed is good for after the last successful check.
    pub max_age: Duration,
    /// What happens then.
    pub on_stale: OnStale,
    /// Whether additions wait for the day that Microsoft uses them from.
    pub hold_additions: HoldAdditions,
}

impl Default for FeedOptions {
    fn default() -> Self {
        Self {
            poll_interval: HOUR,
            proxy: None,
            ca_file: None,
            max_age: DEFAULT_MAX_AGE,
            on_stale: OnStale::Keep,
            hold_additions: HoldAdditions::Never,
        }
    }
}

/// `on-stale`: what a feed older than `max-age` means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStale {
    /// It goes on serving; the state is degraded.
    #[default]
    Keep,
    /// Everything is inspected.
    Inspect,
}

/// `hold-additions`: when a prefix that is new in the feed goes direct.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldAdditions {
    /// At once.
    #[default]
    Never,
    /// On its effective date, where the web service gives one.
    UntilEffective,
}

/// `[feed]` as the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Feed {
    instance: Option<Spanned<String>>,
    url: Option<Spanned<String>>,
    file: Option<Spanned<PathBuf>>,
    service: Option<Spanned<String>>,
    poll_interval: Option<Spanned<String>>,
    proxy: Option<Spanned<String>>,
    ca_file: Option<Spanned<PathBuf>>,
    max_age: Option<Spanned<String>>,
    #[serde(default)]
    on_stale: OnStale,
    #[serde(default)]
    hold_additions: HoldAdditions,
}

/// What `[feed]` means.
pub(super) fn feed(
    source: &Source<'_>,
    spec: &Feed,
) -> Result<(FeedSource, FeedOptions), ConfigError> {
    let from = feed_source(source, spec)?;
    let default = FeedOptions::default();
    let proxy = match &spec.proxy {
        Some(text) => Some(proxy(source, text)?),
        None => None,
    };
    let ca_file = match &spec.ca_file {
        Some(file) => Some(path(source, file, "feed.ca-file", "the built-in roots")?),
        None => None,
    };
    let max_age = match &spec.max_age {
        Some(text) => duration(source, text, "feed.max-age", Duration::from_secs(1))?,
        None => default.max_age,
    };
    let options = FeedOptions {
        poll_interval: poll_interval(source, spec, &from)?,
        proxy,
        ca_file,
        max_age,
        on_stale: spec.on_stale,
        hold_additions: spec.hold_additions,
    };
    if options.max_age < options.poll_interval {
        // One of them is in the file: the defaults agree with each other.
        if let Some(at) = spec.max_age.as_ref().or(spec.poll_interval.as_ref()) {
            let problem = "shorter than feed.poll-interval: every feed would be stale before its \
                           next check";
            return Err(source.refuse(at, "feed.max-age", problem));
        }
    }
    Ok((from, options))
}

fn feed_source(source: &Source<'_>, spec: &Feed) -> Result<FeedSource, ConfigError> {
    if let Some(at) = &spec.url
        && spec.instance.is_some()
    {
        return Err(source.refuse(at, "feed.url", "feed.instance is there too; take one out"));
    }
    if let Some(at) = &spec.file
        && (spec.instance.is_some() || spec.url.is_some())
    {
        let other = if spec.url.is_some() { "feed.url" } else { "feed.instance" };
        let problem = format_args!("{other} is there too; take one out");
        return Err(source.refuse(at, "feed.file", problem));
    }
    if let (Some(at), None) = (&spec.service, &spec.instance) {
        let problem = "without feed.instance it has no meaning; say which instance";
        return Err(source.refuse(at, "feed.service", problem));
    }
    if let Some(name) = &spec.instance {
        let instance = name.get_ref().parse().map_err(|reason| {
            let problem = format_args!("{:?}: {reason}", name.get_ref());
            source.refuse(name, "feed.instance", problem)
        })?;
        let base = match &spec.service {
            Some(text) => service(source, text)?,
            None => parsed(SERVICE).map_err(|reason| {
                source.refuse(name, "feed.instance", format_args!("{SERVICE}: {reason}"))
            })?,
        };
        return Ok(FeedSource::WebService { instance, base });
    }
    if let Some(text) = &spec.url {
        return https(source, text, "feed.url").map(FeedSource::Url);
    }
    match &spec.file {
        Some(file) => {
            path(source, file, "feed.file", "the feed in the binary").map(FeedSource::File)
        }
        None => Ok(FeedSource::Embedded),
    }
}

/// A path of the file, which starts at its directory where it is relative.
fn path(
    source: &Source<'_>,
    at: &Spanned<PathBuf>,
    field: &str,
    without: &str,
) -> Result<PathBuf, ConfigError> {
    if at.get_ref().as_os_str().is_empty() {
        return Err(source.refuse(at, field, format_args!("empty; leave it out for {without}")));
    }
    Ok(source.path.parent().unwrap_or(Path::new("")).join(at.get_ref()))
}

fn service(source: &Source<'_>, at: &Spanned<String>) -> Result<Url, ConfigError> {
    let url = https(source, at, "feed.service")?;
    if url.query().is_some() {
        let problem =
            format_args!("{:?} has a query; it is the part before /version", at.get_ref());
        return Err(source.refuse(at, "feed.service", problem));
    }
    Ok(url)
}

/// TLS is the only proof of where the feed comes from.
fn https(source: &Source<'_>, at: &Spanned<String>, field: &str) -> Result<Url, ConfigError> {
    let refuse = |problem: &dyn fmt::Display| {
        source.refuse(at, field, format_args!("{:?} {problem}", at.get_ref()))
    };
    let url =
        parsed(at.get_ref()).map_err(|reason| refuse(&format_args!("is no URL: {reason}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        // Not quoted: refusals end up in logs.
        return Err(source.refuse(at, field, "holds a user name or password; take it out"));
    }
    if url.scheme() != "https" {
        return Err(refuse(&"is not https, which alone proves where the feed comes from"));
    }
    if url.fragment().is_some() {
        return Err(refuse(&"has a fragment (#), which no server sees"));
    }
    Ok(url)
}

fn proxy(source: &Source<'_>, at: &Spanned<String>) -> Result<Url, ConfigError> {
    let refuse = |problem: &dyn fmt::Display| source.refuse(at, "feed.proxy", problem);
    let url =
        parsed(at.get_ref()).map_err(|reason| refuse(&format_args!("is no URL: {reason}")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refuse(&"expected http://HOST:PORT or https://HOST:PORT"));
    }
    Ok(url)
}

fn parsed(text: &str) -> Result<Url, url::ParseError> {
    Url::parse(text)
}

fn poll_interval(
    source: &Source<'_>,
    spec: &Feed,
    from: &FeedSource,
) -> Result<Duration, ConfigError> {
    let Some(at) = &spec.poll_interval else { return Ok(HOUR) };
    let field = "feed.poll-interval";
    let interval = duration(source, at, field, Duration::from_secs(1))?;
    let is_microsofts = matches!(from, FeedSource::WebService { base, .. }
        if parsed(SERVICE).is_ok_and(|service| service.host() == base.host()));
    if is_microsofts && interval < HOUR {
        let problem = format_args!(
            "{:?} is less than 1h, and Microsoft asks for no more than that",
            at.get_ref()
        );
        return Err(source.refuse(at, field, problem));
    }
    Ok(interval)
}

/// A time such as `90s`, `5m`, `1h` or `14d`, from `shortest` to a year; a day has 24 hours.
pub(super) fn duration(
    source: &Source<'_>,
    at: &Spanned<String>,
    field: &str,
    shortest: Duration,
) -> Result<Duration, ConfigError> {
    let refuse = |problem: &dyn fmt::Display| {
        source.refuse(at, field, format_args!("{:?} {problem}", at.get_ref()))
    };
    let duration = at
        .get_ref()
        .parse::<Span>()
        .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| refuse(&"is not a time such as \"90s\", \"5m\", \"1h\" or \"14d\""))?;
    if duration < shortest || duration > Duration::from_hours(MOST_DAYS * 24) {
        let problem = format_args!("is not from {}s to {MOST_DAYS}d", shortest.as_secs());
        return Err(refuse(&problem));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    /// What `[feed]` with these lines means; they begin in line 5.
    fn parse(lines: &str) -> Result<(FeedSource, FeedOptions), String> {
        let text = format!("version = 1\n[[interface]]\nname = \"lan0\"\n[feed]\n{lines}\n");
        Config::parse(&text, Path::new("/etc/b/c.toml"))
            .map(|config| (config.feed, config.feed_options))
            .map_err(|error| error.to_string())
    }

    fn service(instance: Instance, base: &str) -> FeedSource {
        FeedSource::WebService { instance, base: base.parse().unwrap() }
    }

    #[test]
    fn every_source_and_option_has_its_meaning() {
        assert_eq!(parse(""), Ok((FeedSource::Embedded, FeedOptions::default())));
        for instance in Instance::ALL {
            let (source, options) = parse(&format!("instance = \"{instance}\"")).unwrap();
            assert_eq!(source, service(instance, "https://endpoints.office.com"));
            assert_eq!(options, FeedOptions::default());
        }
        let (source, options) = parse(
            r#"
            instance = "China"
            service = "https://mirror.example:8443/m365/"
            poll-interval = "90s"
            proxy = "http://user:word@proxy.example:3128"
            ca-file = "ca.pem"
            max-age = "1h 30m"
            on-stale = "inspect"
            hold-additions = "until-effective"
            "#,
        )
        .unwrap();
        assert_eq!(source, service(Instance::China, "https://mirror.example:8443/m365/"));
        let expected = FeedOptions {
            poll_interval: Duration::from_secs(90),
            proxy: Some("http://user:word@proxy.example:3128".parse().unwrap()),
            ca_file: Some(PathBuf::from("/etc/b/ca.pem")),
            max_age: Duration::from_mins(90),
            on_stale: OnStale::Inspect,
            hold_additions: HoldAdditions::UntilEffective,
        };
        assert_eq!(options, expected);
        let (source, options) =
            parse("url = \"https://mirror.example/f.json?key=1\"\npoll-interval = \"1s\"").unwrap();
        assert_eq!(source, FeedSource::Url("https://mirror.example/f.json?key=1".parse().unwrap()));
        assert_eq!(source.to_string(), "https://mirror.example/f.json");
        assert_eq!(options.poll_interval, Duration::from_secs(1));
    }

    #[test]
    fn the_defaults_are_an_hour_and_two_weeks() {
        let FeedOptions { poll_interval, max_age, .. } = FeedOptions::default();
        assert_eq!((poll_interval.as_secs(), max_age.as_secs()), (3600, 1_209_600));
    }

    #[test]
    fn contradictions_are_refused_with_line_and_field() {
        let instance = "instance = \"Worldwide\"\n";
        let cases = [
            (
                "instance = \"Germany\"".to_owned(),
                "5: feed.instance: \"Germany\": expected Worldwide, China, USGovDoD or USGovGCCHigh",
            ),
            (
                format!("{instance}url = \"https://a.example/\""),
                "6: feed.url: feed.instance is there too; take one out",
            ),
            (
                format!("file = \"f.json\"\n{instance}"),
                "5: feed.file: feed.instance is there too; take one out",
            ),
            (
                "url = \"https://a.example/\"\nfile = \"f.json\"".to_owned(),
                "6: feed.file: feed.url is there too; take one out",
            ),
            (
                "service = \"https://a.example\"".to_owned(),
                "5: feed.service: without feed.instance it has no meaning; say which instance",
            ),
            (
                format!("{instance}service = \"http://a.example\""),
                "6: feed.service: \"http://a.example\" is not https, which alone proves where the \
                 feed comes from",
            ),
            (
                format!("{instance}service = \"https://a.example/?b\""),
                "6: feed.service: \"https://a.example/?b\" has a query; it is the part before /version",
            ),
            (
                "url = \"a.example/f.json\"".to_owned(),
                "5: feed.url: \"a.example/f.json\" is no URL: relative URL without a base",
            ),
            (
                "url = \"https://me:word@a.example/\"".to_owned(),
                "5: feed.url: holds a user name or password; take it out",
            ),
            (
                "url = \"https://a.example/#x\"".to_owned(),
                "5: feed.url: \"https://a.example/#x\" has a fragment (#), which no server sees",
            ),
            (
                format!("{instance}proxy = \"socks5://a.example\""),
                "6: feed.proxy: expected http://HOST:PORT or https://HOST:PORT",
            ),
            (
                "ca-file = \"\"".to_owned(),
                "5: feed.ca-file: empty; leave it out for the built-in roots",
            ),
            (
                format!("{instance}poll-interval = \"59m\""),
                "6: feed.poll-interval: \"59m\" is less than 1h, and Microsoft asks for no more \
                 than that",
            ),
            (
                format!(
                    "{instance}service = \"https://endpoints.office.com/\"\npoll-interval = \"1m\""
                ),
                "7: feed.poll-interval: \"1m\" is less than 1h, and Microsoft asks for no more \
                 than that",
            ),
            (
                "poll-interval = \"0s\"".to_owned(),
                "5: feed.poll-interval: \"0s\" is not from 1s to 366d",
            ),
            ("max-age = \"367d\"".to_owned(), "5: feed.max-age: \"367d\" is not from 1s to 366d"),
            (
                "max-age = \"59m\"".to_owned(),
                "5: feed.max-age: shorter than feed.poll-interval: every feed would be stale before \
                 its next check",
            ),
            (
                "poll-interval = \"15d\"".to_owned(),
                "5: feed.max-age: shorter than feed.poll-interval: every feed would be stale before \
                 its next check",
            ),
        ];
        for (lines, refusal) in cases {
            assert_eq!(parse(&lines), Err(format!("/etc/b/c.toml:{refusal}")), "{lines}");
        }
    }

    #[test]
    fn times_that_are_none_are_refused() {
        for text in ["", "1", "1x", "-1h", "1mo", "1y", "h", "1 h 1", "forever"] {
            let refusal = parse(&format!("max-age = \"{text}\"")).unwrap_err();
            let start = format!("/etc/b/c.toml:5: feed.max-age: \"{text}\" is not ");
            assert!(refusal.starts_with(&start), "{refusal}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z0-9:/.@#?%\\[\\] -]{0,30}", key in 0usize..6) {
            let key = ["instance", "url", "service", "poll-interval", "proxy", "max-age"][key];
            if let Err(refusal) = parse(&format!("{key} = '{text}'")) {
                prop_assert!(refusal.starts_with("/etc/b/c.toml:5: "), "{refusal}");
            }
        }
    }
}
