//! Whatever bytes come as a feed: a refusal in one line, or a snapshot that its own canonical text
//! reads back to.

#![no_main]

use gateway_user::feed::{MAX_BYTES, parse, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let snapshot = match parse(bytes, "fuzz") {
        Ok(snapshot) => snapshot,
        Err(refusal) => {
            let line = refusal.to_string();
            assert!(line.starts_with("fuzz: ") && !line.contains('\n'), "{line:?}");
            return;
        }
    };
    let text = write(&snapshot).expect("a snapshot can be written");
    assert!(text.len() <= MAX_BYTES);
    let again = parse(text.as_bytes(), "canonical").expect("what was written is read");
    assert_eq!(again, snapshot);
    assert_eq!(write(&again).expect("it can be written again"), text);
});
