//! The commands that the papers show: of `sh` blocks, of indented blocks, and between backticks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// What an operator can type. Another word at the beginning of a line of a `sh` block is an error;
/// elsewhere it is no command.
const PROGRAMS: [&str; 24] = [
    "apt",
    "breakout365",
    "bpftool",
    "cargo",
    "conntrack",
    "curl",
    "dnf",
    "dpkg",
    "ethtool",
    "install",
    "ip",
    "ip6tables-restore",
    "ipset",
    "iptables",
    "iptables-restore",
    "journalctl",
    "networkctl",
    "nft",
    "nmcli",
    "rpm",
    "sysctl",
    "systemctl",
    "tc",
    "timedatectl",
];

/// Every command with the papers that show it. Blanks are single, comments are cut off. `verbs` are
/// those of `breakout365`: between backticks, one that is followed by more is a command without its
/// first word.
///
/// # Errors
///
/// A paper cannot be read, or a line of a block begins with a program that is not known here.
pub fn commands(verbs: &BTreeSet<String>) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in texts()? {
        for command in commands_of(&text, verbs).with_context(|| name.clone())? {
            found.entry(command).or_default().insert(name.clone());
        }
    }
    Ok(found)
}

/// The README and every page of `docs` but the decisions, which say what was true when they were
/// taken.
///
/// # Errors
///
/// One cannot be read.
pub fn texts() -> Result<BTreeMap<String, String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut papers: Vec<PathBuf> = vec![root.join("README.md")];
    for entry in fs::read_dir(root.join("docs")).context("docs")? {
        papers.push(entry.context("docs")?.path());
    }
    papers.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let read = |path: PathBuf| -> Result<(String, String)> {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        Ok((name, text))
    };
    papers.into_iter().map(read).collect()
}

fn commands_of(text: &str, verbs: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let mut commands = BTreeSet::new();
    for (number, piece) in text.split("```").enumerate() {
        if number % 2 == 1 {
            if let Some(block) = piece.strip_prefix("sh\n") {
                add_lines(&mut commands, block.lines())?;
            }
            continue;
        }
        let indented = piece.lines().filter(|line| line.starts_with("    ")).map(without_comment);
        commands.extend(indented.filter(|line| PROGRAMS.contains(&first_word(line))));
        let prose: Vec<&str> = piece.lines().filter(|line| !line.starts_with("    ")).collect();
        // Headings and paragraphs end what a forgotten backtick begins.
        for paragraph in prose.join("\n").split("\n\n") {
            commands.extend(paragraph.split('`').skip(1).step_by(2).filter_map(|quoted| {
                let command = single_blanks(quoted);
                let (first, _) = command.split_once(' ')?;
                if verbs.contains(first) {
                    return Some(format!("breakout365 {command}"));
                }
                PROGRAMS.contains(&first).then_some(command)
            }));
        }
    }
    Ok(commands)
}

fn add_lines<'a>(
    commands: &mut BTreeSet<String>,
    lines: impl Iterator<Item = &'a str>,
) -> Result<()> {
    for line in lines {
        let command = without_comment(line);
        let first = first_word(&command);
        if first.is_empty() {
            continue;
        }
        if !PROGRAMS.contains(&first) {
            bail!("`{first}` of `{command}` is not known: add it to PROGRAMS");
        }
        commands.insert(command);
    }
    Ok(())
}

fn without_comment(line: &str) -> String {
    single_blanks(line.split(" #").next().unwrap_or_default())
}

fn first_word(command: &str) -> &str {
    command.split(' ').next().unwrap_or_default()
}

fn single_blanks(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        commands_of(text, &BTreeSet::from(["feed".to_owned()])).unwrap().into_iter().collect()
    }

    #[test]
    fn blocks_lines_and_backticks_are_read() {
        let text = "Say `ip -d\n  rule` or `feed diff A B`, not `nft` or `feed`.\n\n    \
                    cargo xtask lab   # shows\n\n```sh\nnft -f FILE  # loads\n```\n\n```\nip no\n```\n";
        assert_eq!(
            found(text),
            ["breakout365 feed diff A B", "cargo xtask lab", "ip -d rule", "nft -f FILE"]
        );
    }

    #[test]
    fn a_program_that_is_not_known_is_an_error() {
        assert!(commands_of("```sh\nrm -r /\n```\n", &BTreeSet::new()).is_err());
    }
}
