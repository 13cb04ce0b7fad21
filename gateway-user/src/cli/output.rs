//! What a verb prints on standard output. A reader that has seen enough is no failure.

use std::io::{ErrorKind, Write as _};

use comfy_table::{Table, TableStyle};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::feed::Ports;

/// Prints `text`, which ends with a line break.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Internal, format_args!("cannot write the answer: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints `value` as JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| {
        Failure::new(Exit::Internal, format_args!("cannot write the answer as JSON: {error}"))
    })?;
    text.push('\n');
    print(&text)
}

/// A table of plain columns: it reads well, and `awk` reads it too.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct PortRange {
    pub(super) from: u16,
    pub(super) to: u16,
}

impl PortRange {
    pub(super) fn all_of(ports: &Ports) -> Vec<Self> {
        ports.ranges().map(|range| Self { from: *range.start(), to: *range.end() }).collect()
    }
}

/// The cell of a table for some ports.
pub(super) fn ports(ranges: &[PortRange]) -> String {
    let ports: Ports = ranges.iter().map(|range| range.from..=range.to).collect();
    if ports.is_empty() { "-".to_owned() } else { ports.to_string() }
}
