//! Development tasks of breakout365.
fn main() {}
