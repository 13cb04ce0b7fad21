//! What tests and tasks share: a testbed of network namespaces, and scenarios with real inspection
//! systems in it.

#![forbid(unsafe_code)]

pub mod scenario;
pub mod testbed;
