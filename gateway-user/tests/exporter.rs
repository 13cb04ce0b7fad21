//! Needs root. The exporter tells Prometheus what the daemon has counted, exactly and never less
//! than before, and nothing at all that it does not know.

#![expect(clippy::float_cmp, reason = "counters are whole")]
#![expect(clippy::cast_precision_loss, reason = "tests count to thousands")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_user::exit::Exit;
use nix::sys::signal::Signal;
use rcgen::generate_simple_self_signed;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::product::{Product, with_hook};
use crate::support::scrape::{Answer, EXPORTER, exchange, get, metrics, samples, start, sum};
use crate::support::{
    self, CLIENT, DIRECT, INSPECTED, LAN, OTHER_ONLY, Sender, Site, frame, traffic,
};

const PACKETS: &str = "breakout365_packets_total";

fn counters(samples: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let is_counter = |name: &str| name.split('{').next().is_some_and(|it| it.ends_with("_total"));
    samples
        .iter()
        .filter(|(name, _)| is_counter(name))
        .map(|(name, v)| (name.clone(), *v))
        .collect()
}

#[test]
fn counters_are_exact_by_interface_and_never_go_back_over_swaps() {
    for (hook, carrier) in [("auto", "carrier=\"xdp\""), ("tc", "carrier=\"tc\"")] {
        let site = Site::new();
        site.add_lan("eth1", "lan1");
        let product = Product::new(&site, hook);
        let both =
            format!("{}[[interface]]\nname = \"lan1\"\nhook = \"{hook}\"\n", with_hook(LAN, hook));
        product.configure(&both);
        let daemon = product.start();
        let _exporter = start(&product, &site.gateway, &[]);
        let before = samples(&metrics(&site.gateway));
        // What stands has series before it has counted anything.
        assert!(before.keys().any(|name| name.starts_with(PACKETS) && name.contains("lan1")));
        let destinations: Vec<_> = DIRECT.iter().chain(INSPECTED).copied().collect();
        let many = destinations.clone();
        let sender = Sender::start(&site, move |sent| {
            frame(many[usize::try_from(sent).unwrap() % many.len()])
        });
        let mut last = counters(&before);
        for swap in 2..=6 {
            daemon.signal(Signal::SIGHUP);
            daemon.wait_for_log("published", swap);
            for _ in 0..3 {
                let now = counters(&samples(&metrics(&site.gateway)));
                for (name, value) in &last {
                    assert!(
                        now.get(name).is_some_and(|now| now >= value),
                        "{hook}: {name} went back"
                    );
                }
                last = now;
            }
        }
        let sent = sender.stop();
        site.send_from("eth1", &traffic(DIRECT));
        let marked = site.marked();
        assert_eq!(marked.direct + marked.none + marked.odd, sent + DIRECT.len() as u64);
        let after = samples(&metrics(&site.gateway));
        let packets = |labels: &[&str]| sum(&after, PACKETS, labels);
        assert_eq!(packets(&["interface=\"lan0\"", carrier]), sent as f64, "{hook}");
        let direct_of_lan1 =
            packets(&["interface=\"lan1\"", carrier, "verdict=\"direct\"", "reason=\"matched\""]);
        assert_eq!(direct_of_lan1, DIRECT.len() as f64, "{hook}");
        assert_eq!(packets(&[]), (sent + DIRECT.len() as u64) as f64, "{hook}: each packet once");
        assert_eq!(packets(&["verdict=\"direct\""]), marked.direct as f64, "{hook}");
        let of_set = ["set=\"1\"", "service_area=\"Exchange\"", "category=\"Optimize\""];
        let of_set = sum(&after, "breakout365_set_packets_total", &of_set);
        assert_eq!(of_set, marked.direct as f64, "{hook}");
        assert_eq!(after["breakout365_generation"], 6.0);
        assert_eq!(after["breakout365_publications_total{outcome=\"published\"}"], 6.0);
        // status renders the same.
        let status = product.status();
        assert_eq!(status["verdicts"]["direct"]["packets"].as_u64(), Some(marked.direct), "{hook}");
        // The next daemon begins with what it finds, which is what the last generation counted.
        daemon.end(Signal::SIGKILL);
        let found = product.status();
        let daemon = product.start();
        let taken_over = product.status();
        assert_eq!(found["verdicts"], taken_over["verdicts"], "{hook}");
        daemon.terminate();
    }
}

#[test]
fn a_list_that_changes_leaves_the_counters_of_sets_that_go() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    let _exporter = start(&product, &site.gateway, &[]);
    site.send_from(CLIENT, &traffic(DIRECT));
    let feed = fs::read_to_string(product.file("feed.json")).unwrap();
    let changed = feed.replace("\"id\": 1", "\"id\": 2").replace("40.96.0.0/13", "198.51.100.0/25");
    fs::write(product.file("feed.json"), changed).unwrap();
    product.configure(&format!(
        "{}[guards]\nallow = [\"prefixes_leaving\", \"space_leaving\", \"special_space\"]\n",
        with_hook(LAN, "auto")
    ));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("published", 2);
    site.send_from(CLIENT, &[frame(OTHER_ONLY)]);
    let now = samples(&metrics(&site.gateway));
    let set = |id: &str| sum(&now, "breakout365_set_packets_total", &[&format!("set=\"{id}\"")]);
    assert_eq!((set("1"), set("2")), (DIRECT.len() as f64, 1.0), "{now:#?}");
    daemon.terminate();
}

#[test]
fn without_a_daemon_it_says_so_and_has_no_numbers_of_before() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let no_capabilities = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"];
    let bare = Product::new(&site, "auto").through(&no_capabilities);
    let ask = |path: &str| get(&site.gateway, EXPORTER, path, "").unwrap();
    let daemon = product.start();
    // Without any capability, and before there is a daemon to ask: another run directory.
    let exporter = start(&bare, &site.gateway, &[]);
    let only_own = |text: &str| {
        let samples = samples(text);
        assert_eq!(samples["breakout365_up"], 0.0);
        let own =
            |name: &String| name == "breakout365_up" || name.starts_with("breakout365_exporter_");
        assert!(samples.keys().all(own), "{text}");
    };
    only_own(&metrics(&site.gateway));
    assert_eq!(ask("/healthz").status, 200);
    assert_eq!(ask("/readyz").status, 503);
    drop(exporter);
    let _exporter = start(&product, &site.gateway, &[]);
    assert_eq!(samples(&metrics(&site.gateway))["breakout365_up"], 1.0);
    let ready = ask("/readyz");
    assert_eq!((ready.status, ready.body.trim()), (200, "generation 1 is published"));
    daemon.end(Signal::SIGKILL);
    only_own(&metrics(&site.gateway));
    assert_eq!((ask("/healthz").status, ask("/readyz").status), (200, 503));
    // One that hangs is no daemon either, and nobody waits for it longer than Prometheus does.
    let daemon = product.start();
    daemon.signal(Signal::SIGSTOP);
    let start = Instant::now();
    only_own(&metrics(&site.gateway));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    only_own(&metrics(&site.gateway));
    let log = fs::read_to_string(product.file("exporter.log")).unwrap();
    assert_eq!(log.matches("no answer within").count(), 1, "said once: {log}");
    daemon.signal(Signal::SIGCONT);
    assert_eq!(samples(&metrics(&site.gateway))["breakout365_up"], 1.0);
    daemon.terminate();
}

#[test]
fn each_format_is_what_was_asked_for() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    let _exporter = start(&product, &site.gateway, &[]);
    let open = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    let open = get(&site.gateway, EXPORTER, "/metrics", open).unwrap();
    assert!(open.headers["content-type"].starts_with("application/openmetrics-text"));
    assert!(open.body.ends_with("\n# EOF\n"));
    assert!(open.body.contains("\n# TYPE breakout365_packets counter\n"));
    let text = get(&site.gateway, EXPORTER, "/metrics", "").unwrap();
    assert!(text.headers["content-type"].starts_with("text/plain; version=0.0.4"));
    assert!(text.body.contains("\n# TYPE breakout365_packets_total counter\n"));
    let names = |text: &str| samples(text).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&open.body), names(&text.body));
    for (request, status) in [
        ("GET /metrics/ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        ("HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("nonsense\r\n\r\n", 400),
    ] {
        let bytes = site.gateway.enter(|| exchange(EXPORTER, request.as_bytes())).unwrap().unwrap();
        assert_eq!(Answer::parse(&bytes).unwrap().status, status, "{request:?}");
    }
    daemon.terminate();
}

#[test]
fn clients_that_send_too_much_or_too_slowly_keep_nobody_out() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    let _exporter = start(&product, &site.gateway, &[]);
    let long = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    for request in [long, many] {
        let answer = site.gateway.enter(|| exchange(EXPORTER, request.as_bytes())).unwrap();
        let status = answer.ok().and_then(|bytes| Some(Answer::parse(&bytes)?.status));
        // Refused, or hung up on while still sending.
        assert!(matches!(status, None | Some(431)), "{status:?}");
    }
    // As many as are served at a time, and more, that never end their request.
    let slow: Vec<TcpStream> = site
        .gateway
        .enter(|| {
            let connect = |_| {
                let mut stream = TcpStream::connect(EXPORTER).unwrap();
                stream.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
                stream
            };
            (0..48).map(connect).collect()
        })
        .unwrap();
    let begin = Instant::now();
    assert_eq!(get(&site.gateway, EXPORTER, "/healthz", "").unwrap().status, 200);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    drop(slow);
    daemon.terminate();
}

#[test]
fn other_machines_need_tls_and_a_token() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    site.gateway.run("ip address add 198.51.100.9/32 dev lan0").unwrap();
    let (cert, key, token) = (product.file("cert"), product.file("key"), product.file("token"));
    let made = generate_simple_self_signed(["gateway.test".to_owned()]).unwrap();
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::write(&token, "0123456789abcdef0123\n").unwrap();
    let words = |paths: [&std::path::PathBuf; 3]| paths.map(|path| path.display().to_string());
    let [cert_word, key_word, token_word] = words([&cert, &key, &token]);
    let tls = ["--tls-cert", cert_word.as_str(), "--tls-key", key_word.as_str()];
    let with_token = ["--token-file", token_word.as_str()];
    let listen = ["exporter", "--listen", "198.51.100.9:9365"];
    let usage = Exit::Usage as i32;
    for insecure in
        [&listen[..], &[&listen[..], &tls].concat(), &[&listen[..], &with_token].concat()]
    {
        product.assert_refused(
            insecure,
            usage,
            &["198.51.100.9:9365", "--token-file", "127.0.0.1"],
        );
    }
    product.assert_refused(&["exporter", "--tls-cert", &cert_word], usage, &["--tls-key"]);
    let _other = site.gateway.enter(|| std::net::TcpListener::bind(EXPORTER).unwrap()).unwrap();
    product.assert_refused(&["exporter"], Exit::System as i32, &["is another exporter running?"]);
    let elsewhere = ["exporter", "--listen", "192.0.2.77:9365"];
    product.assert_refused(
        &[&elsewhere[..], &tls, &with_token].concat(),
        Exit::System as i32,
        &["192.0.2.77:9365", "no interface has this address"],
    );
    let swapped = ["exporter", "--tls-cert", &key_word, "--tls-key", &cert_word];
    product.assert_refused(&swapped, usage, &["--tls-"]);

    let daemon = product.start();
    let all = [&listen[..], &tls, &with_token].concat();
    let _exporter = product.spawn(&all, "exporter.log");
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(&cert).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let ask = |path: &str, headers: &str| {
        let request = format!("GET {path} HTTP/1.0\r\nHost: gateway.test\r\n{headers}\r\n");
        let config = Arc::clone(&config);
        site.gateway
            .enter(move || {
                let stream = TcpStream::connect("198.51.100.9:9365").ok()?;
                let name = ServerName::try_from("gateway.test").unwrap();
                let connection = ClientConnection::new(config, name).unwrap();
                let mut tls = StreamOwned::new(connection, stream);
                tls.write_all(request.as_bytes()).ok()?;
                let mut answer = Vec::new();
                // The server may end without saying goodbye.
                tls.read_to_end(&mut answer).ok();
                Answer::parse(&answer)
            })
            .unwrap()
    };
    support::wait_until("it answers over TLS", || {
        ask("/healthz", "").is_some_and(|answer| answer.status == 200)
    });
    for wrong in
        ["", "Authorization: Bearer 0123456789abcdef0124\r\n", "Authorization: Basic eA==\r\n"]
    {
        let answer = ask("/metrics", wrong).unwrap();
        assert_eq!((answer.status, answer.headers["www-authenticate"].as_str()), (401, "Bearer"));
        assert!(!answer.body.contains("breakout365_up"), "{wrong}");
    }
    let answer = ask("/metrics", "Authorization: Bearer 0123456789abcdef0123\r\n").unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(samples(&answer.body)["breakout365_up"], 1.0);
    // Who connects and says nothing keeps nobody out, and is hung up on before long.
    let idle: Vec<TcpStream> = site
        .gateway
        .enter(|| (0..48).map(|_| TcpStream::connect("198.51.100.9:9365").unwrap()).collect())
        .unwrap();
    let begin = Instant::now();
    assert_eq!(ask("/healthz", "").unwrap().status, 200);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let mut last = idle.last().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    let hung_up = last.read(&mut [0]);
    assert!(matches!(hung_up, Ok(0)), "{hung_up:?}");
    drop(idle);
    // A token that is gone is the exporter's fault, not its client's.
    let granted = "Authorization: Bearer 0123456789abcdef0123\r\n";
    let there = fs::read(&token).unwrap();
    fs::remove_file(&token).unwrap();
    assert_eq!([(); 2].map(|()| ask("/metrics", granted).unwrap().status), [503, 503]);
    let log = fs::read_to_string(product.file("exporter.log")).unwrap();
    assert_eq!(log.matches(&token_word).count(), 1, "{log}");
    fs::write(&token, there).unwrap();
    assert_eq!(ask("/metrics", granted).unwrap().status, 200);
    // Without TLS nothing is answered.
    let plain = get(&site.gateway, "198.51.100.9:9365", "/healthz", "");
    assert!(plain.is_err(), "{plain:?}");
    daemon.terminate();
}
