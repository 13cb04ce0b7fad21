//! breakout365.
