//! Asks for the feed over HTTPS, and answers only with what was understood as a whole.

use std::time::Duration;

use reqwest::header::{ACCEPT, LOCATION, RETRY_AFTER};
use reqwest::{Proxy, Response, StatusCode, redirect};
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

use super::fetch_error::{Kind, RATE_LIMIT_PAUSE, plain};
use super::{
    Changes, FeedIdentity, FetchError, Snapshot, embedded, is_version, parse, read, trust,
};
use crate::config::{FeedOptions, FeedSource, Instance};

/// How often an answer may send to another place of the same host.
const MOST_REDIRECTS: usize = 3;
/// A server's wish to be left alone is not a way to be left alone for good.
const LONGEST_PAUSE: Duration = Duration::from_hours(24);

/// How long and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the connection, TLS included.
    pub connect: Duration,
    /// Between two pieces of an answer.
    pub read: Duration,
    /// For one request with its redirects, from beginning to end.
    pub total: Duration,
    /// Longest answer, in bytes.
    pub body: usize,
}

/// 10 s, 30 s, 2 min and 8 MiB; the largest list published has about 50 KiB.
impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(30),
            total: Duration::from_mins(2),
            body: 8 << 20,
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// What is loaded is what the source has.
    Unchanged {
        /// Its version, where the source says.
        version: Option<String>,
    },
    /// Another snapshot.
    New(Snapshot),
}

/// Asks one source of the feed.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    source: FeedSource,
    id: Uuid,
    limits: Limits,
}

impl Client {
    /// A client for `source` with the web service's id of this machine. It opens no connection.
    ///
    /// # Errors
    ///
    /// `ca-file` cannot be read or holds no certificate, or the proxy is none.
    pub fn new(
        source: &FeedSource,
        options: &FeedOptions,
        id: Uuid,
        limits: Limits,
    ) -> Result<Self, FetchError> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(trust::tls(options.ca_file.as_deref())?)
            .https_only(true)
            .redirect(redirect::Policy::none())
            .connect_timeout(limits.connect)
            .read_timeout(limits.read)
            .user_agent(concat!("breakout365/", env!("CARGO_PKG_VERSION")));
        builder = match &options.proxy {
            Some(proxy) => builder.proxy(
                Proxy::all(proxy.clone())
                    .map_err(|error| FetchError::new(Kind::Connect, "feed.proxy", error))?,
            ),
            None => builder.no_proxy(),
        };
        let http = builder
            .build()
            .map_err(|error| FetchError::new(Kind::Tls, "the HTTPS client", error))?;
        Ok(Self { http, source: source.clone(), id, limits })
    }

    /// Asks once whether the source has another snapshot than the one `loaded`. Of the web
    /// service it asks for the endpoints only if the version of this instance is not the one
    /// loaded, in either direction.
    ///
    /// # Errors
    ///
    /// Anything short of a whole answer that is understood.
    pub async fn check(&self, loaded: Option<&FeedIdentity>) -> Result<Check, FetchError> {
        let snapshot = match &self.source {
            FeedSource::Embedded => embedded().map_err(|error| FetchError::refused(&error))?,
            FeedSource::File(path) => read(path).map_err(|error| FetchError::refused(&error))?,
            FeedSource::Url(url) => self.snapshot(url.clone()).await?,
            FeedSource::WebService { instance, base } => {
                return self.check_service(*instance, base, loaded).await;
            }
        };
        if loaded.is_some_and(|loaded| loaded.digest == snapshot.digest) {
            return Ok(Check::Unchanged { version: snapshot.version });
        }
        Ok(Check::New(snapshot))
    }

    /// What the web service says about the versions after `since`; nothing for other sources,
    /// which do not say.
    ///
    /// # Errors
    ///
    /// `since` is no version, or there is no whole answer that is a list.
    pub async fn changes(&self, since: &str) -> Result<Changes, FetchError> {
        let FeedSource::WebService { instance, base } = &self.source else {
            return Ok(Changes::default());
        };
        let url = self.url(base, &["changes", instance.name(), since]);
        if !is_version(since) {
            let cause = format_args!("{since:?} is not ten digits");
            return Err(FetchError::new(Kind::Version, plain(&url), cause));
        }
        let bytes = self.get(url.clone()).await?;
        Changes::parse(&bytes).map_err(|error| FetchError::new(Kind::Refused, plain(&url), error))
    }

    async fn check_service(
        &self,
        instance: Instance,
        base: &Url,
        loaded: Option<&FeedIdentity>,
    ) -> Result<Check, FetchError> {
        let version = self.latest(instance, base).await?;
        if loaded.is_some_and(|loaded| {
            loaded.instance.as_deref() == Some(instance.name())
                && loaded.version.as_ref() == Some(&version)
        }) {
            return Ok(Check::Unchanged { version: Some(version) });
        }
        let url = self.url(base, &["endpoints", instance.name()]);
        let snapshot = self.snapshot(url.clone()).await?;
        if let Some(other) = snapshot.instance.as_deref().filter(|it| *it != instance.name()) {
            return Err(other_instance(&url, instance, other));
        }
        let instance = Some(instance.name().to_owned());
        Ok(Check::New(Snapshot { instance, version: Some(version), ..snapshot }))
    }

    /// The version of `instance` that the web service has.
    async fn latest(&self, instance: Instance, base: &Url) -> Result<String, FetchError> {
        let url = self.url(base, &["version", instance.name()]);
        let bytes = self.get(url.clone()).await?;
        let answer: Versions = serde_json::from_slice(&bytes).map_err(|error| {
            let cause = format_args!("is not a version of an instance: {error}");
            FetchError::new(Kind::Version, plain(&url), cause)
        })?;
        let versions = match answer {
            Versions::One(version) => vec![version],
            Versions::All(versions) => versions,
        };
        let Some(Latest { latest, .. }) = versions.iter().find(|it| it.instance == instance.name())
        else {
            let others: Vec<_> = versions.iter().map(|it| it.instance.as_str()).collect();
            return Err(other_instance(&url, instance, &others.join(", ")));
        };
        if !is_version(latest) {
            let cause = format_args!("version {latest:?} is not ten digits");
            return Err(FetchError::new(Kind::Version, plain(&url), cause));
        }
        Ok(latest.clone())
    }

    fn url(&self, base: &Url, segments: &[&str]) -> Url {
        let mut url = base.clone();
        // An https URL always has a path to add to.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url.query_pairs_mut().append_pair("ClientRequestId", &self.id.to_string());
        url
    }

    async fn snapshot(&self, url: Url) -> Result<Snapshot, FetchError> {
        let bytes = self.get(url.clone()).await?;
        parse(&bytes, &plain(&url)).map_err(|error| FetchError::refused(&error))
    }

    async fn get(&self, url: Url) -> Result<Vec<u8>, FetchError> {
        let total = self.limits.total;
        tokio::time::timeout(total, self.follow(&url)).await.unwrap_or_else(|_| {
            let cause = format_args!("no whole answer within {} s", total.as_secs_f32());
            Err(FetchError::new(Kind::Timeout, plain(&url), cause))
        })
    }

    /// Gets `url`, and where its host sends on to, as long as it is the same host.
    async fn follow(&self, url: &Url) -> Result<Vec<u8>, FetchError> {
        let mut at = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let request = self.http.get(at.clone()).header(ACCEPT, "application/json");
            let response =
                request.send().await.map_err(|error| FetchError::transport(&at, &error))?;
            if !leads_on(response.status()) {
                return self.body(&at, response).await;
            }
            at = target(&at, &response)?;
        }
        let cause = format_args!("sends on more than {MOST_REDIRECTS} times");
        Err(FetchError::new(Kind::Redirect, plain(url), cause))
    }

    async fn body(&self, url: &Url, mut response: Response) -> Result<Vec<u8>, FetchError> {
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(FetchError::rate_limited(url, pause(&response)));
        }
        if status != StatusCode::OK {
            return Err(FetchError::new(Kind::Status, plain(url), format_args!("says {status}")));
        }
        let limit = self.limits.body;
        let too_large = || {
            let cause = format_args!("the answer is longer than {limit} bytes");
            FetchError::new(Kind::TooLarge, plain(url), cause)
        };
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| FetchError::transport(url, &error))?
        {
            if bytes.len().saturating_add(chunk.len()) > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// The answer to `/version/INSTANCE`; without the instance, and from mirrors, a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Versions {
    One(Latest),
    All(Vec<Latest>),
}

#[derive(Deserialize)]
struct Latest {
    instance: String,
    latest: String,
}

fn other_instance(url: &Url, asked: Instance, got: &str) -> FetchError {
    let cause = format_args!("asked for {asked}, answered for {got:?}");
    FetchError::new(Kind::Instance, plain(url), cause)
}

/// RFC 9110, section 15.4; the others of the 300s are no answer to what was asked.
fn leads_on(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

/// Where a redirect leads; another scheme, host or port is refused.
fn target(from: &Url, response: &Response) -> Result<Url, FetchError> {
    let refuse = |cause: &str| FetchError::new(Kind::Redirect, plain(from), cause);
    let location = response
        .headers()
        .get(LOCATION)
        .and_then(|location| location.to_str().ok())
        .ok_or_else(|| refuse(&format!("says {} and not where to", response.status())))?;
    let to = from
        .join(location)
        .map_err(|reason| refuse(&format!("sends on to {location:?}, no URL: {reason}")))?;
    if to.origin() != from.origin() {
        let other = to.origin().ascii_serialization();
        return Err(refuse(&format!("sends on to {other}, another host, port or scheme")));
    }
    Ok(to)
}

/// How long the server wants to be left alone: an hour, or longer if it says so in seconds.
fn pause(response: &Response) -> Duration {
    let said = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let said = said.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    said.unwrap_or_default().clamp(RATE_LIMIT_PAUSE, LONGEST_PAUSE)
}
