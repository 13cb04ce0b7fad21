//! `feed fetch` and `feed diff` of the real binary: what came, what changes, and nothing else.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use gateway_user::feed;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::web_service::{Answer, Certificate, Script, WebService};

fn breakout365(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_breakout365")).args(arguments).output().unwrap()
}

fn text_of(arguments: &[&str]) -> String {
    let output = breakout365(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn json_of(arguments: &[&str]) -> Value {
    serde_json::from_str(&text_of(&[arguments, &["--json"]].concat())).unwrap()
}

/// The one line of a refusal.
fn refusal(arguments: &[&str], code: i32) -> String {
    let output = breakout365(arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed an answer");
    let line = errors.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{errors}");
    line.strip_prefix("breakout365: ").unwrap().to_owned()
}

/// Two versions of a list: set 1 changes in every way, 2 leaves, 3 enters, 4 changes its name.
fn lists() -> (Value, Value) {
    let set = |id: u32, more: Value| {
        let mut set = json!({
            "id": id, "serviceArea": "Exchange", "serviceAreaDisplayName": "Exchange Online",
            "category": "Allow", "required": false, "tcpPorts": "80, 443",
        });
        set.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        set
    };
    let old = json!([
        set(1, json!({"ips": ["203.0.113.0/24", "2001:db8::/32"], "urls": ["a.example"]})),
        set(2, json!({"ips": ["198.51.100.0/24"]})),
        set(4, json!({})),
    ]);
    let new = json!([
        set(
            1,
            json!({
                "ips": ["203.0.113.0/25", "2001:db8::/32"], "urls": ["b.example"], "tcpPorts": "443",
                "udpPorts": "3478-3481", "category": "Optimize", "required": true,
            })
        ),
        set(3, json!({"urls": ["c.example"], "serviceArea": "Skype"})),
        set(4, json!({"serviceAreaDisplayName": "Mail"})),
    ]);
    (old, new)
}

struct Site {
    directory: TempDir,
    config: PathBuf,
}

impl Site {
    fn new(feed: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.toml");
        let text = format!("version = 1\n[[interface]]\nname = \"lan0\"\n[feed]\n{feed}\n");
        fs::write(&config, text).unwrap();
        Self { directory, config }
    }

    fn of(service: &WebService) -> Self {
        let (base, ca) = (service.base_url(), service.ca_file());
        let ca = ca.display();
        Self::new(&format!("instance = \"China\"\nservice = \"{base}\"\nca-file = \"{ca}\""))
    }

    fn fetch(&self) -> [&str; 4] {
        ["feed", "fetch", "--config", self.config.to_str().unwrap()]
    }

    fn file(&self, name: &str, content: &Value) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, content.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn fetch_shows_what_the_source_has_and_writes_it_canonically() {
    let (old, new) = lists();
    let service = WebService::start(Script::serving("China", "2026063000", &old.to_string()));
    let site = Site::of(&service);
    let out = site.directory.path().join("out.json");
    let out = out.to_str().unwrap();
    let shown = json_of(&[&site.fetch()[..], &["--out", out]].concat());
    assert_eq!(shown["source"], json!(format!("China of {}", service.base_url())));
    assert_eq!((&shown["instance"], &shown["version"]), (&json!("China"), &json!("2026063000")));
    assert_eq!(shown["counts"]["sets"], json!(3));
    assert_eq!(shown["sets"][1]["prefixes"], json!(["198.51.100.0/24"]));
    let written = feed::read(out.as_ref()).unwrap();
    assert_eq!(fs::read_to_string(out).unwrap(), feed::write(&written).unwrap());
    assert_eq!((written.instance.as_deref(), written.sets.len()), (Some("China"), 3));

    service.set(Script::serving("China", "2026073100", &new.to_string()));
    let text = text_of(&site.fetch());
    assert!(
        text.starts_with(&format!(
            "from China of {}\nChina, version 2026073100",
            service.base_url()
        ))
    );
    // Each is asked under an id of its own; the daemon's stays the daemon's.
    let ids: std::collections::BTreeSet<String> = service
        .requests()
        .iter()
        .map(|request| request.split("ClientRequestId=").nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 2);
    let mut files: Vec<_> = fs::read_dir(site.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["config.toml", "out.json"]);
}

#[test]
fn fetch_that_fails_ends_with_code_12_and_writes_nothing() {
    let (old, _) = lists();
    let good = || Script::serving("China", "2026063000", &old.to_string());
    let service = WebService::start(good().on("/endpoints/", Answer::status(500)));
    let site = Site::of(&service);
    let out = site.directory.path().join("out.json");
    let arguments = [&site.fetch()[..], &["--out", out.to_str().unwrap()]].concat();
    let line = refusal(&arguments, 12);
    let start = format!("{}/endpoints/China: says 500 Internal Server Error; ", service.base_url());
    assert!(line.starts_with(&start), "{line}");
    service.set(good().on("/endpoints/", Answer::json("[]")));
    refusal(&arguments, 12);
    let distrusted = WebService::proving(Certificate::WrongName, good());
    let line = refusal(&Site::of(&distrusted).fetch(), 12);
    assert!(line.contains("/version/China: not trusted: "), "{line}");
    assert!(!out.exists());
}

#[test]
fn fetch_reads_a_file_where_that_is_the_source_and_says_where_there_is_none() {
    let site = Site::new("file = \"feed.json\"");
    let path = site.file("feed.json", &lists().1);
    assert_eq!(json_of(&site.fetch())["source"], json!(path));
    fs::remove_file(path).unwrap();
    refusal(&site.fetch(), 12);
    let nothing = Site::new("");
    let line = refusal(&nothing.fetch(), 3);
    assert!(line.contains("set feed.instance = \"Worldwide\""), "{line}");
}

#[test]
fn no_verb_takes_the_feed_in_the_binary_for_that_of_another_instance() {
    let site = |instance: &str| Site::new(&format!("instance = \"{instance}\""));
    // Nothing was fetched here.
    let nothing = tempfile::tempdir().unwrap();
    let state = nothing.path().to_str().unwrap();
    let sites = ["Worldwide", "China", "USGovDoD", "USGovGCCHigh"].map(site);
    let [worldwide, others @ ..] = sites.each_ref().map(|site| {
        ["policy", "show", "--state-dir", state, "--config", site.config.to_str().unwrap()]
    });
    json_of(&worldwide);
    for arguments in others {
        let line = refusal(&arguments, 4);
        assert!(line.contains("neither in the binary nor in"), "{line}");
    }
}

#[test]
fn diff_tells_what_enters_leaves_and_changes_by_set() {
    let (old, new) = lists();
    let site = Site::new("");
    let (a, b) = (site.file("a.json", &old), site.file("b.json", &new));
    let diff = json_of(&["feed", "diff", &a, &b]);
    assert_eq!(diff["from"]["digest"], json!(feed::read(a.as_ref()).unwrap().digest));
    assert_eq!(diff["to"]["digest"], json!(feed::read(b.as_ref()).unwrap().digest));
    let change = |from: Value, to: Value| json!({"from": from, "to": to});
    let none = || Value::Null;
    let same = json!({
        "service_area": "Exchange", "prefixes_in": [], "prefixes_out": [], "urls_in": [],
        "urls_out": [],
    });
    let set = |more: Value| {
        let mut set = same.clone();
        set.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        set
    };
    assert_eq!(
        diff["sets"],
        json!([
            set(json!({
                "id": 1, "presence": "stays",
                "prefixes_in": ["203.0.113.0/25"], "prefixes_out": ["203.0.113.0/24"],
                "urls_in": ["b.example"], "urls_out": ["a.example"],
                "tcp": change(json!("80,443"), json!("443")),
                "udp": change(json!(""), json!("3478-3481")),
                "category": change(json!("Allow"), json!("Optimize")),
                "required": change(json!(false), json!(true)),
            })),
            set(json!({
                "id": 2, "presence": "leaves", "prefixes_out": ["198.51.100.0/24"],
                "tcp": change(json!("80,443"), none()), "udp": change(json!(""), none()),
                "category": change(json!("Allow"), none()),
                "required": change(json!(false), none()),
            })),
            set(json!({
                "id": 3, "presence": "enters", "service_area": "Skype", "urls_in": ["c.example"],
                "tcp": change(none(), json!("80,443")), "udp": change(none(), json!("")),
                "category": change(none(), json!("Allow")),
                "required": change(none(), json!(false)),
            })),
            set(json!({"id": 4, "presence": "stays"})),
        ])
    );
    let text = text_of(&["feed", "diff", &a, &b]);
    let (_, sets) = text.split_once("\n\n").unwrap();
    assert_eq!(
        sets,
        "set 1 Exchange changes\n  category: Allow -> Optimize\n  required: no -> yes\n  \
         tcp: 80,443 -> 443\n  udp: none -> 3478-3481\n  + 203.0.113.0/25\n  - 203.0.113.0/24\n  \
         + b.example\n  - a.example\n\n\
         set 2 Exchange leaves\n  category: Allow\n  required: no\n  tcp: 80,443\n  udp: none\n  \
         - 198.51.100.0/24\n\n\
         set 3 Skype enters\n  category: Allow\n  required: no\n  tcp: 80,443\n  udp: none\n  \
         + c.example\n\n\
         set 4 Exchange changes\n  only names and notes\n"
    );
}

#[test]
fn diff_of_a_list_with_itself_is_empty_and_bad_lists_end_with_code_4() {
    let site = Site::new("");
    let list = site.file("a.json", &lists().0);
    assert_eq!(json_of(&["feed", "diff", &list, &list])["sets"], json!([]));
    assert!(text_of(&["feed", "diff", &list, &list]).ends_with("\nno set differs\n"));
    let empty = site.file("empty.json", &json!([]));
    assert!(refusal(&["feed", "diff", &list, &empty], 4).starts_with(&empty));
    refusal(&["feed", "diff", "/nonexistent.json", &list], 4);
}
