//! What is loaded on this machine, in this network namespace.

use std::collections::BTreeSet;
use std::io;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Collision, Ours, RuleFacts, iptables, nft, rules};

/// What was found, and what could not be looked at.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// The collisions.
    pub collisions: BTreeSet<Collision>,
    /// The ruleset of nftables; `None` where it could not be listed.
    pub ruleset: Option<Value>,
    /// What could not be looked at and why, one line each.
    pub unseen: Vec<String>,
}

/// Lists what nftables, iptables and `rules` do with bits of `ours`. A program that is not installed
/// has made no rule.
#[must_use]
pub fn look(rules: &[RuleFacts], ours: Ours) -> Looked {
    let mut looked = Looked { collisions: rules::collisions(rules, ours), ..Looked::default() };
    match program("nft", &["--json", "list", "ruleset"]) {
        Ok(Some(text)) => match serde_json::from_str(&text) {
            Ok(ruleset) => {
                looked.collisions.extend(nft::collisions(&ruleset, ours));
                looked.ruleset = Some(ruleset);
            }
            Err(error) => looked.unseen.push(format!("`nft --json list ruleset`: {error}")),
        },
        Ok(None) => looked.unseen.push("nftables rules: there is no `nft`".to_owned()),
        Err(problem) => looked.unseen.push(problem),
    }
    // The one of nftables does not see what the legacy one has made, nor the other way round.
    for name in ["iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy"] {
        match program(&format!("{name}-save"), &[]) {
            Ok(Some(saved)) => {
                looked.collisions.extend(iptables::collisions(name, &saved, ours));
            }
            Ok(None) => {}
            Err(problem) => looked.unseen.push(problem),
        }
    }
    looked
}

/// What a program prints; `None` where there is none of this name.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Result<Option<String>, String> {
    let line = [&[name], arguments].concat().join(" ");
    let output =
        Command::new(name).args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("`{line}`: {}", said.split_whitespace().collect::<Vec<_>>().join(" ")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("`{line}`: {error}")),
    }
}
