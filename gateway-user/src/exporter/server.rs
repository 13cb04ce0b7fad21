//! The HTTP server: three paths, one request for each connection, and a limit on everything.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::Scrapes;
use super::access::{Access, Admission};
use super::once::Once;
use super::places::Places;
use super::text::{Format, render};
use crate::observe::{self, Observation};

/// For TLS, before which nothing of a request can come.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// For the headers of a request.
const HEADERS: Duration = Duration::from_secs(5);
/// Bytes of a request line with its headers.
const LONGEST_HEAD: usize = 16 << 10;
/// Headers of a request.
const MOST_HEADERS: usize = 64;
/// For a daemon that publishes; below the ten seconds that Prometheus waits.
const DAEMON: Duration = Duration::from_secs(7);
/// For all of a connection, however slowly its client reads.
const CONNECTION: Duration = Duration::from_secs(20);
/// Where the system has no more file descriptors, trying again at once would not help.
const PAUSE: Duration = Duration::from_millis(200);

/// What answers.
pub(super) struct Server {
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
}

struct Shared {
    access: Access,
    run_dir: PathBuf,
    scrapes: Mutex<Scrapes>,
    /// Why the daemon's state was not read.
    unread: Once,
    /// Why nobody was admitted.
    closed: Once,
}

impl Server {
    pub(super) fn new(access: Access, tls: Option<TlsAcceptor>, run_dir: PathBuf) -> Self {
        let scrapes = Mutex::new(Scrapes::default());
        let (unread, closed) = (Once::default(), Once::default());
        Self { tls, shared: Arc::new(Shared { access, run_dir, scrapes, unread, closed }) }
    }

    /// Answers for ever.
    pub(super) async fn run(&self, listener: TcpListener) {
        let mut places = Places::default();
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(connection) => connection,
                Err(error) => {
                    warn!("a connection cannot be accepted: {error}");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let (tls, shared) = (self.tls.clone(), Arc::clone(&self.shared));
            let task = tokio::spawn(async move {
                let served = timeout(CONNECTION, serve(stream, tls, shared)).await;
                if let Err(problem) = served.unwrap_or(Err("took too long".into())) {
                    debug!("a connection ended early: {problem}");
                }
            });
            places.take(peer.ip(), task.abort_handle());
        }
    }
}

type Problem = Box<dyn std::error::Error + Send + Sync>;

async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
) -> Result<(), Problem> {
    match tls {
        Some(tls) => talk(timeout(HANDSHAKE, tls.accept(stream)).await??, shared).await,
        None => talk(stream, shared).await,
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: Arc<Shared>,
) -> Result<(), Problem> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(LONGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    Ok(connection.await?)
}

type Answer = Response<Full<Bytes>>;

impl Shared {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        let is_known = ["/metrics", "/healthz", "/readyz"].contains(&path);
        if is_known && ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match path {
            "/metrics" => self.metrics(request.headers()).await,
            "/healthz" => plain(StatusCode::OK, "ok"),
            "/readyz" => self.ready().await,
            _ => plain(StatusCode::NOT_FOUND, "there is /metrics, /healthz and /readyz"),
        }
    }

    async fn metrics(&self, headers: &HeaderMap) -> Answer {
        let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let admission = self.access.admits(authorization);
        if let Some(problem) = self.closed.news(admission.problem()) {
            warn!("nobody is admitted: {problem}");
        }
        match admission {
            Admission::Granted => {}
            Admission::Denied => {
                let mut answer = plain(StatusCode::UNAUTHORIZED, "a bearer token is needed");
                answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                return answer;
            }
            Admission::Closed(_) => {
                let text = "the exporter cannot read its token; its log says why";
                return plain(StatusCode::SERVICE_UNAVAILABLE, text);
            }
        }
        let accept: Vec<_> =
            headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let format = Format::accepted(&accept.join(","));
        let (scrapes, state) = self.scrape().await;
        let text = render(format, &scrapes, state.as_ref());
        typed(StatusCode::OK, format.content_type(), text)
    }

    async fn scrape(&self) -> (Scrapes, Option<Observation>) {
        let read = observe::read_within(&self.run_dir, DAEMON).await;
        let problem = read.as_ref().err().map(ToString::to_string);
        if let Some(problem) = self.unread.news(problem.as_deref()) {
            warn!("{problem}");
        }
        // What a panic left there are counters all the same.
        let mut scrapes = self.scrapes.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, state) = match read {
            Ok(Some(state)) => (&mut scrapes.answers, Some(state)),
            Ok(None) => (&mut scrapes.absent, None),
            Err(_) => (&mut scrapes.failed, None),
        };
        *count = count.saturating_add(1);
        (Scrapes { answered: state.is_some(), ..*scrapes }, state)
    }

    async fn ready(&self) -> Answer {
        match observe::read_within(&self.run_dir, DAEMON).await {
            Ok(Some(Observation { generation: Some(generation), .. })) => {
                plain(StatusCode::OK, &format!("generation {generation} is published"))
            }
            Ok(Some(_)) => plain(StatusCode::SERVICE_UNAVAILABLE, "nothing is published yet"),
            Ok(None) => plain(StatusCode::SERVICE_UNAVAILABLE, "no daemon answers"),
            Err(failure) => plain(StatusCode::SERVICE_UNAVAILABLE, &failure.to_string()),
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Answer {
    typed(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn typed(status: StatusCode, content_type: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
