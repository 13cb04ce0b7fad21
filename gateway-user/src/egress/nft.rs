//! The `nft` program: applies a table in one transaction, and lists it.

use super::EgressError;
use super::ruleset::{COMMENT, TABLE};
use crate::program::{NoOutput, run};

/// The table of our name, as `nft` lists it; `None` where there is none.
///
/// # Errors
///
/// [`EgressError::ForeignTable`], or no `nft`.
pub(super) async fn listing() -> Result<Option<String>, EgressError> {
    if !is_there().await? {
        return Ok(None);
    }
    // Without the elements of the sets, which come and go.
    let listing = nft(&["--stateless", "--terse", "list", "table", "inet", TABLE], None).await;
    let listing = match listing {
        Ok(listing) => listing,
        // It went in between.
        Err(EgressError::Nft { .. }) if !is_there().await? => return Ok(None),
        Err(failure) => return Err(failure),
    };
    if listing.contains(&format!("comment \"{COMMENT}\"")) {
        Ok(Some(listing))
    } else {
        Err(EgressError::ForeignTable)
    }
}

async fn is_there() -> Result<bool, EgressError> {
    let tables = nft(&["list", "tables", "inet"], None).await?;
    Ok(tables.lines().any(|line| line.trim() == format!("table inet {TABLE}")))
}

/// Applies a ruleset, wholly or not at all.
pub(super) async fn apply(ruleset: &str) -> Result<(), EgressError> {
    nft(&["--file", "-"], Some(ruleset)).await.map(drop)
}

/// Removes the table.
pub(super) async fn remove() -> Result<(), EgressError> {
    nft(&["delete", "table", "inet", TABLE], None).await.map(drop)
}

async fn nft(arguments: &[&str], input: Option<&str>) -> Result<String, EgressError> {
    run("nft", arguments, input).await.map_err(|error| match error {
        NoOutput::Start(source) => EgressError::NoNft { source },
        NoOutput::Failed(said) => EgressError::Nft { arguments: arguments.join(" "), said },
    })
}
