//! What tests and tasks share: a testbed of network namespaces.

#![forbid(unsafe_code)]

pub mod testbed;
