//! What verbs print: text, tables and JSON, to a standard output that may be closed any time.

use std::io::{self, Write as _};

use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Prints `text` and a line break.
///
/// # Errors
///
/// Standard output cannot be written to. A reader that has left, as `head` does, is no error.
pub(super) fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(Exit::Internal, format!("standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Prints `value` as indented JSON.
///
/// # Errors
///
/// As [`text`].
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Exit::Internal, format!("JSON: {error}")))?;
    text(&json)
}

/// A table with these column heads.
pub(super) fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(heads);
    table
}
