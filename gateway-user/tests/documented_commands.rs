//! Every command that the papers show is typed on a gateway, and does what they say. Needs root.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use gateway_user::cli::Cli;

use crate::documented::gateway::{Before, Gateway, RUN, Said};
use crate::documented::rows::{Outcome, PLACEHOLDERS, ROWS};

fn verbs() -> BTreeSet<String> {
    Cli::command().get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
}

fn text_of(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The quick start's configuration.
fn config() -> String {
    let page = text_of("docs/quick-start.md");
    page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

#[test]
fn every_command_of_the_papers_has_a_row_and_every_row_a_paper() {
    let papers = xtask::papers::commands(&verbs()).unwrap();
    let rows: BTreeSet<&str> = ROWS.iter().map(|(command, ..)| *command).collect();
    assert_eq!(rows.len(), ROWS.len(), "a command has two rows");
    let without: Vec<_> = papers
        .iter()
        // Tasks are held against the parser of `cargo xtask`, by a test of its own.
        .filter(|(command, _)| !command.starts_with("cargo xtask "))
        .filter(|(command, _)| !rows.contains(command.as_str()))
        // The name of a verb, as prose has it, of which a row has the rest.
        .filter(|(command, _)| !rows.iter().any(|row| row.starts_with(&format!("{command} "))))
        .collect();
    assert!(without.is_empty(), "not in tests/documented/rows.rs: {without:#?}");
    let gone: Vec<_> = rows.into_iter().filter(|row| !papers.contains_key(*row)).collect();
    assert!(gone.is_empty(), "no paper has these any more: {gone:#?}");
}

#[test]
fn what_is_run_elsewhere_is_run_there() {
    for (command, _, outcome) in ROWS {
        if let Outcome::Elsewhere(file, text) = outcome {
            assert!(text_of(file).contains(text), "{command}: {text:?} is not in {file}");
        }
    }
}

/// Outputs that papers show: the paper, words of the block that shows it, and the command.
const EXAMPLES: [(&str, &str, &str); 4] = [
    ("README.md", "40.96.0.1 tcp/443: direct", "breakout365 explain 40.96.0.1 tcp/443"),
    ("README.md", "direct traffic leaves by", "cat daemon.log"),
    ("docs/status.md", "daemon  running", "breakout365 status"),
    ("docs/status.md", "> 40.96.0.1:443 ", "cat trace.log"),
];

/// Lines of an example that are not in what was printed, numbers, addresses and times aside. A line
/// that a label begins is known by its label, since what follows is of the machine.
fn strangers(example: &str, printed: &str) -> Vec<String> {
    let shapes: BTreeSet<String> = printed.lines().map(shape).collect();
    example.lines().map(shape).filter(|shape| !shapes.contains(shape)).collect()
}

fn shape(line: &str) -> String {
    let label = line.get(..8).filter(|label| label.ends_with(' ') && !label.starts_with(' '));
    if let Some(label) = label.filter(|label| !label.trim_end().contains(' ')) {
        return label.trim_end().to_owned();
    }
    let text: String =
        line.chars().map(|it| if it.is_ascii_hexdigit() { '0' } else { it }).collect();
    let words = text.split(|it: char| !it.is_ascii_alphanumeric() && it != '_');
    let words = words.map(|word| word.trim_matches('0')).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

fn compare_examples(gateway: &Gateway) -> Vec<String> {
    let mut problems = Vec::new();
    for (paper, words, command) in EXAMPLES {
        let paper_text = text_of(paper);
        let blocks = paper_text.split("```").skip(1).step_by(2);
        let plain = blocks.filter_map(|block| block.strip_prefix('\n'));
        let example = plain.filter(|block| block.contains(words)).last().unwrap();
        let printed = gateway.type_in(command).text;
        let strangers = strangers(example, &printed);
        if !strangers.is_empty() {
            problems.push(format!("{paper}: {strangers:#?} is not in `{command}`:\n{printed}"));
        }
    }
    problems
}

#[test]
fn every_command_does_what_the_papers_say() {
    let mut gateway = Gateway::new(&config());
    let (mut problems, mut compared) = (Vec::new(), false);
    for (command, before, outcome) in ROWS {
        if let Outcome::Elsewhere(..) = outcome {
            continue;
        }
        if *before == Before::Flow && !compared {
            compared = true;
            problems.extend(compare_examples(&gateway));
        }
        gateway.prepare(*before);
        let plan = if command.contains(" ID") { gateway.plan() } else { None };
        let line = filled(command, plan.as_deref());
        if let Some(problem) = problem(&gateway, &line, *outcome) {
            problems.push(format!("`{command}`, typed as `{line}`: {problem}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// With the values that its placeholders stand for.
fn filled(command: &str, plan: Option<&str>) -> String {
    let value = |word| PLACEHOLDERS.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
    let words = command.split(' ').map(|word| match word {
        "ID" => plan.unwrap_or(word),
        word => value(word).unwrap_or(word),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn problem(gateway: &Gateway, line: &str, outcome: Outcome) -> Option<String> {
    let (said, codes, text): (Said, &[i32], _) = match outcome {
        Outcome::Says(text) => (gateway.type_in(line), &[0], text),
        Outcome::Does(look, text) => {
            let said = gateway.type_in(line);
            let seen = if said.code == Some(0) { gateway.type_in(look) } else { said };
            (seen, &[0], text)
        }
        Outcome::Ends(codes, text) => (gateway.type_in(line), codes, text),
        Outcome::As(other, text) => (gateway.type_in(other), &[0], text),
        Outcome::GoesOn(texts) => (gateway.type_in_until(line, texts), &[0], ""),
        Outcome::IsTheDaemon(text) => {
            assert_eq!(line, RUN);
            (Said { code: Some(0), text: gateway.log("daemon.log") }, &[0], text)
        }
        Outcome::Elsewhere(..) => return None,
    };
    let Said { code, text: printed } = said;
    if !code.is_some_and(|code| codes.contains(&code)) {
        return Some(format!("ended with {code:?}: {printed}"));
    }
    (!printed.contains(text)).then(|| format!("does not say {text:?}: {printed}"))
}
