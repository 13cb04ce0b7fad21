//! What tests and tasks share: a testbed of network namespaces, scenarios with real inspection
//! systems in it, and the commands that the papers show.

#![forbid(unsafe_code)]

pub mod papers;
pub mod scenario;
pub mod testbed;
