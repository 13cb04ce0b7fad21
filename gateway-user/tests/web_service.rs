//! Whatever the web service answers, the client gives a whole snapshot or one line that says why
//! not; a service of our own plays good and bad ones.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use gateway_user::config::{FeedOptions, FeedSource, Instance};
use gateway_user::feed::{self, Check, Client, FeedIdentity, FetchError, Limits, Snapshot};
use uuid::Uuid;

use crate::support::web_service::{Answer, Certificate, Script, WebService};

const OLD: &str = "2026063000";
const NEW: &str = "2026073100";
const ID: Uuid = Uuid::from_u128(0x1111_2222_3333_4444_8555_6666_7777_8888);

/// Long enough for a busy machine.
const LIMITS: Limits = Limits {
    connect: Duration::from_secs(10),
    read: Duration::from_secs(10),
    total: Duration::from_secs(30),
    body: 64 << 10,
};
/// Short enough to wait for.
const SHORT: Limits =
    Limits { read: Duration::from_secs(2), total: Duration::from_secs(5), ..LIMITS };

/// A list of one set with one prefix.
fn list(prefix: &str) -> String {
    format!(
        r#"[{{"id": 1, "serviceArea": "Exchange", "category": "Optimize", "required": true,
            "ips": ["{prefix}"], "tcpPorts": "443"}}]"#
    )
}

fn good() -> Script {
    Script::serving("Worldwide", NEW, &list("203.0.113.0/24"))
}

fn options(service: &WebService) -> FeedOptions {
    FeedOptions { ca_file: Some(service.ca_file()), ..FeedOptions::default() }
}

fn client(service: &WebService) -> Client {
    client_within(service, LIMITS)
}

fn client_within(service: &WebService, limits: Limits) -> Client {
    let base = service.base_url().parse().unwrap();
    let source = FeedSource::WebService { instance: Instance::Worldwide, base };
    Client::new(&source, &options(service), ID, limits).unwrap()
}

/// A client for a document of its own.
fn client_of(service: &WebService, path: &str) -> Client {
    let url = format!("{}{path}", service.base_url()).parse().unwrap();
    Client::new(&FeedSource::Url(url), &options(service), ID, LIMITS).unwrap()
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn new(check: Result<Check, FetchError>) -> Snapshot {
    match check {
        Ok(Check::New(snapshot)) => snapshot,
        other => panic!("expected a new snapshot, got {other:?}"),
    }
}

fn check(client: &Client, loaded: Option<&FeedIdentity>) -> Result<Check, FetchError> {
    block(client.check(loaded))
}

/// The one line and the kind of a failed check, that says where, and not who asked.
fn refused(service: &WebService, limits: Limits) -> (&'static str, String) {
    let started = Instant::now();
    let error = check(&client_within(service, limits), None).unwrap_err();
    assert!(started.elapsed() < limits.total + Duration::from_secs(5), "{error}");
    let line = error.to_string();
    assert!(!line.contains('\n') && line.starts_with(&service.base_url()), "{line}");
    assert!(!line.contains(&ID.to_string()) && !line.contains('?'), "{line}");
    assert!(FetchError::kinds().any(|kind| kind == error.kind()));
    (error.kind(), line)
}

/// What is answered to the request for the endpoints, and the kind of failure it makes.
fn endpoints(service: &WebService, answer: Answer, kind: &str, said: &str) {
    endpoints_within(service, LIMITS, answer, kind, said);
}

fn endpoints_within(service: &WebService, limits: Limits, answer: Answer, kind: &str, said: &str) {
    let description = format!("{answer:?}").chars().take(200).collect::<String>();
    service.set(good().on("/endpoints/", answer));
    let (got, line) = refused(service, limits);
    assert_eq!(got, kind, "{description}: {line}");
    assert!(line.contains(said), "{description}: {line}");
}

#[test]
fn endpoints_are_asked_for_only_when_the_version_of_this_instance_moved() {
    let service = WebService::start(Script::serving("Worldwide", OLD, &list("203.0.113.0/25")));
    let client = client(&service);
    let first = new(check(&client, None));
    assert_eq!(first.instance.as_deref(), Some("Worldwide"));
    assert_eq!(first.version.as_deref(), Some(OLD));
    let version = format!("/version/Worldwide?ClientRequestId={ID}");
    let endpoints = format!("/endpoints/Worldwide?ClientRequestId={ID}");
    assert_eq!(service.requests(), [version.clone(), endpoints.clone()]);

    let loaded = first.identity();
    let unchanged = Check::Unchanged { version: Some(OLD.to_owned()) };
    assert_eq!(check(&client, Some(&loaded)).unwrap(), unchanged);
    assert_eq!(service.requests().concat(), version);

    service.set(good());
    let second = new(check(&client, Some(&loaded)));
    assert_eq!(second.version.as_deref(), Some(NEW));
    assert_ne!(second.digest, first.digest);
    assert_eq!(service.requests(), [version.clone(), endpoints.clone()]);

    // Whether a version may go back is for the guards to say.
    service.set(Script::serving("Worldwide", OLD, &list("203.0.113.0/25")));
    assert_eq!(new(check(&client, Some(&second.identity()))), first);
    service.requests();

    // The same version of another instance is another feed.
    let other = FeedIdentity { instance: Some("China".to_owned()), ..loaded };
    assert_eq!(new(check(&client, Some(&other))), first);
    assert_eq!(service.requests(), [version, endpoints]);
}

#[test]
fn a_version_may_stand_in_a_list_of_instances() {
    let versions = format!(
        r#"[{{"instance": "China", "latest": "{OLD}"}},
            {{"instance": "Worldwide", "latest": "{NEW}", "versions": ["{NEW}"]}}]"#
    );
    let service = WebService::start(good().on("/version/", Answer::json(&versions)));
    assert_eq!(new(check(&client(&service), None)).version.as_deref(), Some(NEW));
}

#[test]
fn versions_of_other_instances_and_versions_that_are_none_are_refused() {
    let service = WebService::start(good());
    for (answer, kind, said) in [
        (Answer::version("China", NEW), "instance", "asked for Worldwide, answered for \"China\""),
        (Answer::version("worldwide", NEW), "instance", "answered for \"worldwide\""),
        (Answer::json("[]"), "instance", "answered for \"\""),
        (Answer::version("Worldwide", "202607310"), "version", "\"202607310\" is not ten digits"),
        (Answer::version("Worldwide", "20260731000"), "version", "is not ten digits"),
        (Answer::version("Worldwide", "2026-07-31"), "version", "is not ten digits"),
        (Answer::version("Worldwide", "latest"), "version", "is not ten digits"),
        (Answer::json(r#"{"instance":"Worldwide","latest":2026073100}"#), "version", "version"),
        (Answer::json(r#"{"latest":"2026073100"}"#), "version", "version"),
        (Answer::json("<html>sign in</html>").typed("text/html"), "version", "version"),
        (Answer::json(""), "version", "version"),
    ] {
        let description = format!("{answer:?}");
        service.set(good().on("/version/", answer));
        let (got, line) = refused(&service, LIMITS);
        assert_eq!(got, kind, "{description}: {line}");
        assert!(line.contains(said), "{description}: {line}");
        assert!(service.requests().iter().all(|request| !request.starts_with("/endpoints")));
    }
}

#[test]
fn statuses_are_told_apart_and_429_waits_an_hour_or_more() {
    let service = WebService::start(good());
    for status in [204, 304, 400, 403, 404, 500, 503] {
        endpoints(&service, Answer::status(status), "status", &status.to_string());
    }
    for (answer, seconds) in [
        (Answer::status(429), 3600),
        (Answer::status(429).with("retry-after", "5"), 3600),
        (Answer::status(429).with("retry-after", "7200"), 7200),
        (Answer::status(429).with("retry-after", "99999999999"), 24 * 3600),
        (Answer::status(429).with("retry-after", "soon"), 3600),
    ] {
        service.set(good().on("/endpoints/", answer));
        let error = check(&client(&service), None).unwrap_err();
        assert_eq!(error.kind(), "rate_limited", "{error}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(seconds)), "{error}");
    }
    service.set(good().on("/endpoints/", Answer::status(500)));
    assert_eq!(check(&client(&service), None).unwrap_err().retry_after(), None);
}

#[test]
fn answers_that_come_too_slowly_are_given_up() {
    let service = WebService::start(good());
    let answer = || Answer::json(&list("203.0.113.0/24"));
    endpoints_within(&service, SHORT, answer().stalling_after(0), "timeout", "in time");
    endpoints_within(&service, SHORT, answer().stalling_after(40), "timeout", "in time");
    // Each piece comes in time; the whole does not.
    let slowly = answer().slowly(1, Duration::from_millis(100));
    endpoints_within(&service, SHORT, slowly, "timeout", "no whole answer within 5 s");
}

#[test]
fn answers_that_break_off_are_refused() {
    let service = WebService::start(good());
    let text = list("203.0.113.0/24");
    endpoints(&service, Answer::json(&text).claiming(text.len() + 1), "body", "not whole");
    endpoints(&service, Answer::raw(b"not HTTP at all\r\n\r\n"), "body", "not whole");
    endpoints(&service, Answer::raw(b""), "body", "not whole");
    // A length too short cuts the list itself.
    endpoints(&service, Answer::json(&text).claiming(text.len() - 1), "refused", "JSON");
}

#[test]
fn answers_that_are_too_long_are_not_read_to_the_end() {
    let service = WebService::start(good());
    let long = vec![b' '; LIMITS.body + 1];
    let said = "longer than 65536 bytes";
    endpoints(&service, Answer::json("").with_body(&long), "too_large", said);
    endpoints(&service, Answer::json("").with_body(&long).without_length(), "too_large", said);
    endpoints(&service, Answer::json("[]").claiming(usize::MAX >> 1), "too_large", said);
    let mut longest = list("203.0.113.0/24").into_bytes();
    longest.resize(LIMITS.body, b' ');
    service.set(good().on("/endpoints/", Answer::json("").with_body(&longest).without_length()));
    new(check(&client(&service), None));
}

#[test]
fn what_is_no_endpoint_list_is_refused_whatever_its_type_says() {
    let service = WebService::start(good());
    let page = "<!doctype html><title>Sign in</title>";
    endpoints(&service, Answer::json(page).typed("text/html"), "refused", "endpoint set");
    endpoints(&service, Answer::json(page), "refused", "endpoint set");
    endpoints(&service, Answer::json(""), "refused", "is empty");
    endpoints(&service, Answer::json("[]"), "refused", "an empty list");
    endpoints(&service, Answer::json("{}"), "refused", "sets");
    endpoints(&service, Answer::json(&list("203.0.113.1/24")), "refused", "host bits");
    endpoints(&service, Answer::json("\u{fffd}"), "refused", "endpoint set");
    let envelope = feed::write(&Snapshot {
        instance: Some("China".to_owned()),
        ..feed::parse(list("203.0.113.0/24").as_bytes(), "x").unwrap()
    });
    endpoints(&service, Answer::json(&envelope.unwrap()), "instance", "answered for \"China\"");
    // The type does not matter where the content is good.
    let list = Answer::status(200).typed("text/plain").with_body(list("203.0.113.0/24").as_bytes());
    service.set(good().on("/endpoints/", list));
    new(check(&client(&service), None));
}

/// Whether they may go direct is for the guards to say.
#[test]
fn an_attackers_list_is_read_as_it_is() {
    let service = WebService::start(good());
    for prefix in ["0.0.0.0/0", "10.0.0.0/8", "::/0"] {
        service.set(Script::serving("Worldwide", NEW, &list(prefix)));
        let snapshot = new(check(&client(&service), None));
        assert!(snapshot.sets[&1].prefixes.contains(&prefix.parse().unwrap()));
    }
}

#[test]
fn redirects_are_followed_on_the_same_host_only() {
    let service = WebService::start(good());
    let elsewhere = WebService::start(good());
    let moved = |status| {
        good()
            .on("/endpoints/", Answer::redirect(status, "/moved/1"))
            .on("/moved/1", Answer::redirect(status, &format!("{}/moved/2", service.base_url())))
            .on("/moved/2", Answer::redirect(status, "3"))
            .on("/moved/3", Answer::json(&list("203.0.113.0/24")))
    };
    for status in [301, 302, 303, 307, 308] {
        service.set(moved(status));
        new(check(&client(&service), None));
    }
    let other_port = format!("{}/endpoints/Worldwide", elsewhere.base_url());
    let other_scheme = service.base_url().replace("https", "http");
    for location in [
        other_port.as_str(),
        other_scheme.as_str(),
        "//endpoints.example/endpoints/Worldwide",
        "https://endpoints.example:443/",
        "file:///etc/passwd",
    ] {
        endpoints(&service, Answer::redirect(302, location), "redirect", "another host");
    }
    assert!(elsewhere.requests().is_empty());
    endpoints(&service, Answer::redirect(302, "/endpoints/Worldwide"), "redirect", "3 times");
    endpoints(&service, Answer::redirect(302, "https://"), "redirect", "no URL");
    endpoints(&service, Answer::status(302), "redirect", "not where to");
}

#[test]
fn a_server_that_cannot_prove_who_it_is_is_told_nothing() {
    for (certificate, said) in [
        (Certificate::Expired, "expired"),
        (Certificate::WrongName, "not valid for name"),
        (Certificate::UnknownCa, "UnknownIssuer"),
    ] {
        let service = WebService::proving(certificate, good());
        let (kind, line) = refused(&service, LIMITS);
        assert_eq!(kind, "tls", "{certificate:?}: {line}");
        assert!(line.contains(said), "{certificate:?}: {line}");
        assert!(service.requests().is_empty(), "{certificate:?}");
    }
    // The built-in roots do not know the test's authority either.
    let service = WebService::start(good());
    let base = service.base_url().parse().unwrap();
    let source = FeedSource::WebService { instance: Instance::Worldwide, base };
    let client = Client::new(&source, &FeedOptions::default(), ID, LIMITS).unwrap();
    assert_eq!(check(&client, None).unwrap_err().kind(), "tls");
    assert!(service.requests().is_empty());
}

#[test]
fn hosts_that_are_not_there_are_told_apart() {
    let client = |base: &str, proxy: Option<&str>| {
        let source =
            FeedSource::WebService { instance: Instance::China, base: base.parse().unwrap() };
        let proxy = proxy.map(|proxy| proxy.parse().unwrap());
        let options = FeedOptions { proxy, ..FeedOptions::default() };
        Client::new(&source, &options, ID, LIMITS).unwrap()
    };
    // A port that was free a moment ago.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody_there = format!("https://{nobody}");
    let error = check(&client(&nobody_there, None), None).unwrap_err();
    assert_eq!(error.kind(), "connect", "{error}");
    let line = error.to_string();
    assert!(line.starts_with(&format!("{nobody_there}/version/China: no connection: ")), "{line}");
    // RFC 6761, section 6.4: no such name ever is.
    let error = check(&client("https://feed.invalid", None), None).unwrap_err();
    assert_eq!(error.kind(), "dns", "{error}");
    // What the proxy cannot be asked is asked nobody else.
    let proxy = format!("http://{nobody}");
    let error = check(&client("https://feed.invalid", Some(&proxy)), None).unwrap_err();
    assert_eq!(error.kind(), "connect", "{error}");
}

/// A proxy for one client, which answers `answer` and then, if `to` says so, passes bytes on. Gives
/// what it was asked.
fn proxy(answer: &'static str, to: Option<String>) -> (String, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://user:word@{}", listener.local_addr().unwrap());
    let asked = thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(&client).lines().map(Result::unwrap);
        let asked: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        (&client).write_all(answer.as_bytes()).unwrap();
        if let Some(to) = to {
            let server = TcpStream::connect(to).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| std::io::copy(&mut &client, &mut &server).ok());
                std::io::copy(&mut &server, &mut &client).ok();
                // The client has all it wants; the other direction ends with this.
                client.shutdown(std::net::Shutdown::Both).ok();
            });
        }
        asked.join("\n")
    });
    (url, asked)
}

#[test]
fn through_a_proxy_the_host_still_has_to_prove_who_it_is() {
    let service = WebService::start(Script::new().on("/", Answer::json(&list("203.0.113.0/24"))));
    let address = service.base_url().strip_prefix("https://").unwrap().to_owned();
    let client = |url: &str, proxy: &str| {
        let options = FeedOptions { proxy: Some(proxy.parse().unwrap()), ..options(&service) };
        Client::new(&FeedSource::Url(url.parse().unwrap()), &options, ID, LIMITS).unwrap()
    };
    let (url, asked) = proxy("HTTP/1.1 200 Go on\r\n\r\n", Some(address.clone()));
    new(check(&client(&format!("{}/feed.json", service.base_url()), &url), None));
    let asked = asked.join().unwrap();
    assert!(asked.starts_with(&format!("CONNECT {address} HTTP/1.1")), "{asked}");
    assert!(asked.to_lowercase().contains("proxy-authorization: basic dxnlcjp3b3jk"), "{asked}");

    // The proxy leads elsewhere than it was asked to; it is also who looks up the name.
    let (url, asked) = proxy("HTTP/1.1 200 Go on\r\n\r\n", Some(address));
    let error = check(&client("https://feed.invalid/feed.json", &url), None).unwrap_err();
    assert_eq!(error.kind(), "tls", "{error}");
    assert!(asked.join().unwrap().starts_with("CONNECT feed.invalid:443 "));

    let (url, asked) = proxy("HTTP/1.1 407 Who are you\r\n\r\n", None);
    let error = check(&client("https://feed.invalid/feed.json", &url), None).unwrap_err();
    assert_eq!(error.kind(), "connect", "{error}");
    assert!(!error.to_string().contains("word"), "{error}");
    asked.join().unwrap();
}

#[test]
fn a_document_of_its_own_is_new_when_its_content_is() {
    let first = list("203.0.113.0/24");
    let service = WebService::start(Script::new().on("/feed.json", Answer::json(&first)));
    let client = client_of(&service, "/feed.json?team=a");
    let snapshot = new(check(&client, None));
    assert_eq!((&snapshot.instance, &snapshot.version), (&None, &None));
    assert_eq!(service.requests(), ["/feed.json?team=a"]);
    let loaded = snapshot.identity();
    assert_eq!(check(&client, Some(&loaded)).unwrap(), Check::Unchanged { version: None });
    service.set(Script::new().on("/feed.json", Answer::json(&list("203.0.113.0/25"))));
    assert_ne!(new(check(&client, Some(&loaded))).digest, loaded.digest);
    let embedded = feed::embedded().unwrap();
    let envelope = feed::write(&embedded).unwrap();
    service.set(Script::new().on("/feed.json", Answer::json(&envelope)));
    assert_eq!(new(check(&client, Some(&loaded))), embedded);
    assert_eq!(block(client.changes(OLD)).unwrap(), feed::Changes::default());
}

#[test]
fn changes_are_asked_for_by_version_and_may_be_empty() {
    let changes = r#"[{"id": 1, "endpointSetId": 1, "disposition": "Change", "impact": "AddedIp",
        "version": "2026073100", "add": {"effectiveDate": "20260831", "ips": ["203.0.113.0/24"]}}]"#;
    let service = WebService::start(good().on("/changes/", Answer::json(changes)));
    let client = client(&service);
    let got = block(client.changes(OLD)).unwrap();
    assert_eq!(got.changes.len(), 1);
    assert_eq!(got.changes[0].effective.unwrap().to_string(), "2026-08-31");
    let asked = format!("/changes/Worldwide/{OLD}?ClientRequestId={ID}");
    assert_eq!(service.requests(), [asked]);
    service.set(good());
    assert_eq!(block(client.changes(OLD)).unwrap(), feed::Changes::default());
    service.requests();
    assert_eq!(block(client.changes("0/../../version")).unwrap_err().kind(), "version");
    assert!(service.requests().is_empty());
    service.set(good().on("/changes/", Answer::json("{}")));
    assert_eq!(block(client.changes(OLD)).unwrap_err().kind(), "refused");
}

#[test]
fn an_authority_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "no certificate here\n").unwrap();
    for (path, said) in
        [(PathBuf::from("/nonexistent/ca.pem"), "cannot be read"), (empty, "holds no certificate")]
    {
        let options = FeedOptions { ca_file: Some(path.clone()), ..FeedOptions::default() };
        let error = Client::new(&FeedSource::Embedded, &options, ID, LIMITS).unwrap_err();
        let line = error.to_string();
        assert!(line.starts_with(&format!("feed.ca-file {}: {said}", path.display())), "{line}");
    }
}
