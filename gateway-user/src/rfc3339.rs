//! Times as people and programs read them.

use jiff::Timestamp;

/// RFC 3339 in whole seconds, UTC.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
