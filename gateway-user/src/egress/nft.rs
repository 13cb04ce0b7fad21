//! The `nft` program: applies a table in one transaction, and lists it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::EgressError;
use super::ruleset::{COMMENT, TABLE};

/// The table of our name, as `nft` lists it; `None` where there is none.
///
/// # Errors
///
/// [`EgressError::ForeignTable`], or no `nft`.
pub(super) fn listing() -> Result<Option<String>, EgressError> {
    if !is_there()? {
        return Ok(None);
    }
    // Without the elements of the sets, which come and go.
    let listing = match nft(&["--stateless", "--terse", "list", "table", "inet", TABLE], None) {
        Ok(listing) => listing,
        // It went in between.
        Err(EgressError::Nft { .. }) if !is_there()? => return Ok(None),
        Err(failure) => return Err(failure),
    };
    if listing.contains(&format!("comment \"{COMMENT}\"")) {
        Ok(Some(listing))
    } else {
        Err(EgressError::ForeignTable)
    }
}

fn is_there() -> Result<bool, EgressError> {
    let tables = nft(&["list", "tables", "inet"], None)?;
    Ok(tables.lines().any(|line| line.trim() == format!("table inet {TABLE}")))
}

/// Applies a ruleset, wholly or not at all.
pub(super) fn apply(ruleset: &str) -> Result<(), EgressError> {
    nft(&["--file", "-"], Some(ruleset)).map(drop)
}

/// Removes the table.
pub(super) fn remove() -> Result<(), EgressError> {
    nft(&["delete", "table", "inet", TABLE], None).map(drop)
}

fn nft(arguments: &[&str], input: Option<&str>) -> Result<String, EgressError> {
    let no_nft = |source| EgressError::NoNft { source };
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_nft)?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // One that does not read says why in its status.
        stdin.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output().map_err(no_nft)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(EgressError::Nft {
        arguments: arguments.join(" "),
        said: said.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}
