//! What is loaded on this machine, in this network namespace.

use std::collections::BTreeSet;
use std::io;

use serde_json::Value;

use super::{Collision, Ours, RuleFacts, iptables, nft, rules};
use crate::egress::Family;
use crate::program::{NoOutput, run};

/// What was found, and what could not be looked at.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// The collisions.
    pub collisions: BTreeSet<Collision>,
    /// The ruleset of nftables; `None` where it could not be listed.
    pub ruleset: Option<Value>,
    /// What could not be looked at and why, one line each.
    pub unseen: Vec<String>,
    /// Whether there is an `nft`; `None`, it could not be run.
    pub has_nft: Option<bool>,
}

/// Lists what nftables, iptables and `rules` do with bits of `ours`. A program that is not installed
/// has made no rule. Long rulesets are read beside everything else.
pub async fn look(rules: Vec<RuleFacts>, ours: Ours) -> Looked {
    let ruleset = program("nft", &["--json", "list", "ruleset"]).await;
    let saved = saved_by_iptables().await;
    let looked = tokio::task::spawn_blocking(move || read(&rules, ours, ruleset, saved));
    looked
        .await
        .unwrap_or_else(|error| Looked { unseen: vec![error.to_string()], ..Looked::default() })
}

/// What a program printed; `None` where there is none of this name.
pub(crate) type Printed = Result<Option<String>, String>;

fn read(
    rules: &[RuleFacts],
    ours: Ours,
    ruleset: Printed,
    saved: Vec<(&'static str, Family, Printed)>,
) -> Looked {
    let mut looked = Looked { collisions: rules::collisions(rules, ours), ..Looked::default() };
    match ruleset {
        Ok(Some(text)) => {
            looked.has_nft = Some(true);
            match serde_json::from_str(&text) {
                Ok(ruleset) => {
                    looked.collisions.extend(nft::collisions(&ruleset, ours));
                    looked.ruleset = Some(ruleset);
                }
                Err(error) => looked.unseen.push(format!("`nft --json list ruleset`: {error}")),
            }
        }
        Ok(None) => {
            looked.has_nft = Some(false);
            looked.unseen.push("nftables rules: there is no `nft`".to_owned());
        }
        Err(problem) => looked.unseen.push(problem),
    }
    for (name, _, saved) in saved {
        match saved {
            Ok(Some(saved)) => {
                looked.collisions.extend(iptables::collisions(name, &saved, ours));
            }
            Ok(None) => {}
            Err(problem) => looked.unseen.push(problem),
        }
    }
    looked
}

/// The rules of iptables, by the program that has them and its family.
pub(crate) async fn saved_by_iptables() -> Vec<(&'static str, Family, Printed)> {
    let mut saved = Vec::new();
    // The one of nftables does not see what the legacy one has made, nor the other way round.
    for (name, family) in [
        ("iptables", Family::V4),
        ("ip6tables", Family::V6),
        ("iptables-legacy", Family::V4),
        ("ip6tables-legacy", Family::V6),
    ] {
        saved.push((name, family, program(&format!("{name}-save"), &[]).await));
    }
    saved
}

/// What a program prints; `None` where there is none of this name.
pub(crate) async fn program(name: &str, arguments: &[&str]) -> Printed {
    match run(name, arguments, None).await {
        Ok(text) => Ok(Some(text)),
        Err(NoOutput::Start(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("`{}`: {error}", [&[name], arguments].concat().join(" "))),
    }
}
