//! The sandboxes of the services, as systemd scores them.

use anyhow::{Context as _, Result, bail};

use super::{Outcome, Workspace};
use crate::process::{command, find, run};

/// Of ten; less is better.
const MOST: f32 = 2.5;
const UNITS: [&str; 2] = ["breakout365.service", "breakout365-exporter.service"];

pub(super) fn sandboxed(workspace: &Workspace) -> Result<Outcome> {
    if find("systemd-analyze").is_none() {
        return Ok(Outcome::LeftOut("there is no systemd-analyze".to_owned()));
    }
    let mut scores = Vec::new();
    for unit in UNITS {
        let file = workspace.root().join("pkg/systemd").join(unit);
        let printed = run(command("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(&file))?;
        let score = score(&printed.stdout).with_context(|| format!("{unit} has no score"))?;
        if score > MOST {
            bail!("{unit}: systemd-analyze security says {score}, and {MOST} is the most");
        }
        scores.push(format!("{unit} {score}"));
    }
    Ok(Outcome::Holds(scores.join(", ")))
}

/// What it says last: `→ Overall exposure level for a.service: 1.7 OK`.
fn score(printed: &str) -> Option<f32> {
    let line = printed.lines().find(|line| line.contains("Overall exposure level"))?;
    line.split(": ").nth(1)?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_read_and_its_absence_is_none() {
        let printed = "✓ UMask=\n\n→ Overall exposure level for breakout365.service: 1.7 OK :-)\n";
        assert_eq!(score(printed), Some(1.7));
        assert_eq!(score("no unit"), None);
    }
}
