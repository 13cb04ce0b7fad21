//! breakout365.
fn main() {}
