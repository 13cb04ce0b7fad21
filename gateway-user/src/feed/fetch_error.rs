//! Why the feed could not be fetched: one line for people, one word for metrics.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use url::Url;

use super::FeedError;

/// How long the web service wants to be left alone after too many requests.
pub const RATE_LIMIT_PAUSE: Duration = Duration::from_hours(1);

/// Why the feed could not be fetched: the URL, the cause, and what to do, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
pub struct FetchError {
    kind: Kind,
    line: String,
    retry_after: Option<Duration>,
}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The host has no address.
    Dns,
    /// No connection.
    Connect,
    /// No proof that it is the right host.
    Tls,
    /// Too slow.
    Timeout,
    /// Any other status than success, redirect and 429.
    Status,
    /// Status 429.
    RateLimited,
    /// More bytes than any feed has.
    TooLarge,
    /// Sent to another host, or around in circles.
    Redirect,
    /// The answer broke off, or is no HTTP.
    Body,
    /// The answer is whole and not understood.
    Refused,
    /// The answer is about another instance.
    Instance,
    /// No version, or none of ten digits.
    Version,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Status,
        Self::RateLimited,
        Self::TooLarge,
        Self::Redirect,
        Self::Body,
        Self::Refused,
        Self::Instance,
        Self::Version,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::RateLimited => "rate_limited",
            Self::TooLarge => "too_large",
            Self::Redirect => "redirect",
            Self::Body => "body",
            Self::Refused => "refused",
            Self::Instance => "instance",
            Self::Version => "version",
        }
    }

    /// What an operator can do about it.
    const fn advice(self) -> &'static str {
        match self {
            Self::Dns => "check this machine's resolver, or set feed.proxy",
            Self::Connect => "check that this machine may connect there, or set feed.proxy",
            Self::Tls => "check this machine's clock, and feed.ca-file if somebody breaks TLS",
            Self::Timeout => "check the way there; it is tried again later",
            Self::Status => "check feed.url or feed.service; it is tried again later",
            Self::RateLimited => "ask less often; the next try is in an hour",
            Self::TooLarge => "check what is served there",
            Self::Redirect => "set feed.url or feed.service to where the feed is",
            Self::Body => "it is tried again later",
            Self::Refused => "the feed so far stays; check what is served there",
            Self::Instance => "check feed.instance and feed.service",
            Self::Version => "check feed.service",
        }
    }
}

impl FetchError {
    /// Every word that [`FetchError::kind`] may give.
    pub fn kinds() -> impl Iterator<Item = &'static str> {
        Kind::ALL.into_iter().map(Kind::name)
    }

    /// A stable word for the kind of failure, as metrics and the journal name it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        self.kind.name()
    }

    /// How long not to ask again, where the server wants to be left alone.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(super) fn new(kind: Kind, place: impl fmt::Display, cause: impl fmt::Display) -> Self {
        let line = format!("{place}: {cause}; {}", kind.advice());
        Self {
            kind,
            line: line.split_whitespace().collect::<Vec<_>>().join(" "),
            retry_after: None,
        }
    }

    pub(super) fn rate_limited(url: &Url, retry_after: Duration) -> Self {
        let error = Self::new(Kind::RateLimited, plain(url), "too many requests (429)");
        Self { retry_after: Some(retry_after), ..error }
    }

    /// The feed's own refusal names the place.
    pub(super) fn refused(error: &FeedError) -> Self {
        let line = format!("{error}; {}", Kind::Refused.advice());
        Self { kind: Kind::Refused, line, retry_after: None }
    }

    /// What reqwest says, in a line of ours: its own names the URL with the client's id.
    pub(super) fn transport(url: &Url, error: &reqwest::Error) -> Self {
        let (kind, what) = if error.is_timeout() {
            (Kind::Timeout, "no answer in time")
        } else if error.is_dns() {
            (Kind::Dns, "no address")
        } else if chain(error).any(<dyn Error>::is::<rustls::Error>) {
            (Kind::Tls, "not trusted")
        } else if error.is_connect() {
            (Kind::Connect, "no connection")
        } else {
            (Kind::Body, "the answer is not whole")
        };
        Self::new(kind, plain(url), format_args!("{what}: {}", root_cause(error)))
    }
}

/// A URL for people: without the query, which holds the client's id.
pub(super) fn plain(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn root_cause(error: &reqwest::Error) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

/// An error and what caused it, in turn. An I/O error made from another one is that one's cause,
/// and hides it from `source`.
fn chain(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |error| cause(*error))
}

fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inside) => Some(inside),
        None => error.source(),
    }
}
