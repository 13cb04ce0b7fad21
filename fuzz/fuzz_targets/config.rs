//! Whatever text comes as a configuration: a refusal in one line with its place, or a configuration
//! that the same text always means.

#![no_main]

use std::path::Path;

use gateway_user::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let parse = || Config::parse(text, Path::new("/etc/c.toml"));
    match parse() {
        Ok(config) => assert_eq!(Ok(config), parse()),
        Err(refusal) => {
            let line = refusal.to_string();
            assert!(line.starts_with("/etc/c.toml:") && !line.contains('\n'), "{line:?}");
        }
    }
});
