//! The papers say what the code says, as far as that can be told cheaply.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use gateway_common::Reason;
use gateway_user::config::{Config, Mark};
use gateway_user::doctor::Check;

const README: &str = "README.md";
const ARCHITECTURE: &str = "docs/architecture.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn text_of(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Files below `directory` with one of these extensions, relative to the root; nothing built.
fn files(directory: &str, extension: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                directories.push(path);
            } else if path.is_file() && path.extension().is_some_and(|it| it == extension) {
                found.insert(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    assert!(!found.is_empty(), "no .{extension} file in {directory}");
    found
}

/// The cells of every row of every table, without the blanks around them.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    rows.map(|row| row.split('|').map(str::trim).collect()).collect()
}

/// What stands between backticks on one line, outside of fenced blocks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let outside = text.split("```").step_by(2);
    outside.flat_map(str::lines).flat_map(|line| line.split('`').skip(1).step_by(2))
}

fn is_source(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "rs")
}

#[test]
fn the_readme_begins_with_the_two_commands() {
    let readme = text_of(README);
    let mut lines = readme.lines().filter(|line| !line.is_empty());
    assert_eq!(lines.next(), Some("# breakout365"));
    for command in ["cargo xtask lab", "cargo xtask test"] {
        let line = lines.next().unwrap();
        assert!(line.starts_with(&format!("    {command} ")), "{line}");
    }
}

#[test]
fn the_readme_lists_every_exit_code_with_its_number() {
    let source = text_of("gateway-user/src/exit.rs");
    let codes: BTreeMap<u8, String> = source
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .filter_map(|(name, code)| Some((code.parse().ok()?, name.to_lowercase())))
        .collect();
    assert_eq!(codes.get(&0).map(String::as_str), Some("success"), "the enum is read wrongly");
    let readme = text_of(README);
    let section = readme.split("## Exit codes").nth(1).unwrap().split("\n## ").next().unwrap();
    let listed: BTreeMap<u8, String> = rows(section)
        .into_iter()
        .filter_map(|row| Some((row[0].parse().ok()?, row[1].to_owned())))
        .collect();
    assert_eq!(listed, codes);
}

#[test]
fn the_readmes_configuration_and_mark_are_valid_and_the_defaults() {
    let readme = text_of(README);
    let toml = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let config = Config::parse(toml, Path::new(README)).unwrap();
    assert_eq!(config.mark, Mark::default());
    let mark = format!("{:#010x}/{:#010x}", config.mark.value, config.mark.mask);
    assert!(readme.contains(&format!("packets carry `{mark}`")), "{mark}");
    assert!(config.egress.is_some());
}

#[test]
fn the_architecture_lists_every_reason_with_its_counter() {
    let architecture = text_of(ARCHITECTURE);
    let counters = architecture.split("## Counters").nth(1).unwrap();
    let counters = counters.split("\n## ").next().unwrap();
    let rows = rows(counters);
    let listed: Vec<(String, &str)> = rows
        .iter()
        .filter_map(|row| Some((row[0].to_owned(), row[1].strip_prefix('`')?.strip_suffix('`')?)))
        .collect();
    let reasons: Vec<_> =
        Reason::ALL.map(|reason| ((reason as u32).to_string(), reason.name())).into();
    assert_eq!(listed, reasons);
}

#[test]
fn the_manual_lists_every_check_of_the_doctor() {
    let manual = text_of("docs/doctor.md");
    let listed: Vec<&str> = rows(&manual)
        .into_iter()
        .filter_map(|row| row[0].strip_prefix('`')?.strip_suffix('`'))
        .collect();
    let checks: Vec<&str> = Check::ALL.iter().map(|check| check.name()).collect();
    assert_eq!(listed, checks);
}

/// What a heading is linked by: small letters, blanks as hyphens, and no other marks.
fn anchors(text: &str) -> BTreeSet<String> {
    let outside: String = text.split("```").step_by(2).collect();
    let headings = outside.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let letters = heading.trim_start_matches('#').trim().to_lowercase();
        let letters = letters.chars().map(|it| if it == ' ' { '-' } else { it });
        letters.filter(|it| it.is_alphanumeric() || matches!(it, '-' | '_')).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_into_a_page_leads_to_a_heading() {
    let mut links = 0;
    for paper in files(".", "md") {
        let text = text_of(paper.to_str().unwrap());
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let Some((file, anchor)) = target.split_once('#') else { continue };
            if target.contains("://") {
                continue;
            }
            let page = match file {
                "" => text.clone(),
                file => text_of(paper.parent().unwrap().join(file).to_str().unwrap()),
            };
            assert!(anchors(&page).contains(anchor), "{} links to {target}", paper.display());
            links += 1;
        }
    }
    assert!(links > 20, "the papers are read wrongly");
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let mut links = 0;
    for paper in files(".", "md") {
        let text = text_of(paper.to_str().unwrap());
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if target.contains("://") || file.is_empty() {
                continue;
            }
            let path = root().join(paper.parent().unwrap()).join(file);
            assert!(path.is_file(), "{} links to {target}", paper.display());
            links += 1;
        }
    }
    assert!(links > 0, "no link was found");
}

/// `path.rs` and `path.rs::test`, from the root.
#[test]
fn every_source_file_and_test_that_papers_name_is_there() {
    let mut tests = 0;
    for paper in files(".", "md") {
        let content = text_of(paper.to_str().unwrap());
        for name in quoted(&content) {
            let (file, test) =
                name.split_once("::").map_or((name, None), |(f, test)| (f, Some(test)));
            if !file.contains('/') || !is_source(file) || file.contains(' ') {
                continue;
            }
            assert!(root().join(file).is_file(), "{} names {file}", paper.display());
            if let Some(test) = test {
                let there = text_of(file).contains(&format!("fn {test}("));
                assert!(there, "{} names {test} of {file}", paper.display());
                tests += 1;
            }
        }
    }
    assert!(tests > 0, "no test is named");
}

#[test]
fn every_invariant_names_what_enforces_and_what_proves_it() {
    let architecture = text_of(ARCHITECTURE);
    let invariants = architecture.split("## Invariants").nth(1).unwrap();
    let invariants = invariants.split("\n## ").next().unwrap();
    for (number, invariant) in (1..).zip(invariants.split("\n**I").skip(1)) {
        assert!(invariant.starts_with(&format!("{number}. ")), "I{number}: {invariant}");
        for line in ["\n- enforced: ", "\n- proved: `gateway-user/tests/"] {
            assert!(invariant.contains(line), "I{number} lacks {line:?}");
        }
    }
}

/// Of what is shipped: the BPF crate's other objects are for benchmark and tests.
#[test]
fn unsafe_is_only_where_the_architecture_says() {
    let not_shipped =
        ["gateway-ebpf/src/bench.rs", "gateway-ebpf/src/foreign.rs"].map(PathBuf::from);
    let sources = ["gateway-common/src", "gateway-ebpf/src", "gateway-user/src"];
    let with_unsafe: BTreeSet<PathBuf> = sources
        .iter()
        .flat_map(|directory| files(directory, "rs"))
        .filter(|file| !not_shipped.contains(file))
        .filter(|file| {
            let text = text_of(file.to_str().unwrap());
            ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| text.contains(word))
        })
        .collect();
    let architecture = text_of(ARCHITECTURE);
    let invariant = architecture.split("**I13. ").nth(1).unwrap().split("- enforced").next();
    let named = quoted(invariant.unwrap()).filter(|name| is_source(name)).map(PathBuf::from);
    assert_eq!(with_unsafe, named.collect());
}

/// Every event that the daemon logs by name, and what it says of it.
#[test]
fn the_manual_lists_every_event_of_the_log_with_its_fields() {
    let text = text_of("docs/status.md");
    let table = text.split("| `B365_EVENT` |").nth(1).unwrap().split("\n\n").next().unwrap();
    let words = |cell: &str| -> BTreeSet<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut listed = BTreeMap::new();
    for row in table.lines().skip(2) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let fields = words(cells.last().unwrap());
        for event in words(cells[0]) {
            assert!(listed.insert(event.clone(), fields.clone()).is_none(), "{event} twice");
        }
    }
    let mut logged = BTreeSet::new();
    for source in files("gateway-user/src", "rs") {
        let text = text_of(source.to_str().unwrap());
        for (at, _) in text.match_indices("event = \"") {
            let record = &text[at..];
            let event = record.split('"').nth(1).unwrap();
            let fields = listed.get(event);
            let fields = fields.unwrap_or_else(|| panic!("status.md lacks the event {event}"));
            // Up to the message, the next text that no name stands before.
            let head = record.split(", \"").next().unwrap().split(",\n").collect::<Vec<_>>();
            let more = head.iter().flat_map(|part| part.split(", ")).skip(1);
            let is_name = |name: &str| {
                !name.is_empty() && name.chars().all(|it| it.is_ascii_lowercase() || it == '_')
            };
            let names = more.map(|part| part.split('=').next().unwrap().trim());
            for name in names.take_while(|name| is_name(name)) {
                assert!(fields.contains(&name.to_ascii_uppercase()), "status.md: {event}: {name}");
            }
            logged.insert(event.to_owned());
        }
    }
    assert_eq!(logged, listed.into_keys().collect());
}

#[test]
fn every_file_of_tests_is_in_their_program() {
    let program = text_of("gateway-user/tests/main.rs");
    let listed: BTreeSet<&str> =
        program.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    let there: BTreeSet<String> = files("gateway-user/tests", "rs")
        .iter()
        .filter_map(|file| {
            let inside = file.strip_prefix("gateway-user/tests").ok()?;
            Some(inside.iter().next()?.to_str()?.trim_end_matches(".rs").to_owned())
        })
        .filter(|name| name != "main")
        .collect();
    assert!(there.iter().map(String::as_str).eq(listed), "{there:?}");
}
