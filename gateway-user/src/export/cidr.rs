//! Prefixes, one a line.

use std::fmt::Write as _;

use super::Export;

const EXPLANATION: &str = "\
Prefixes that have direct ports. Ports are not told: the table sends only some of them direct.
Prefixes with an excluded port are left out as a whole.
";

pub(super) fn render(export: &Export) -> String {
    let mut text = export.header("#", EXPLANATION);
    for prefix in &export.open {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{prefix}");
    }
    text
}
