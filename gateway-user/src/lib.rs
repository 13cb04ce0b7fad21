//! breakout365: direct egress for Microsoft 365 traffic on Linux gateways.
//!
//! Reading order, along the way of the data: [`feed`] reads and fetches what Microsoft publishes as
//! a `Snapshot`; [`config`] reads what the operator wants; [`policy`] compiles both into a
//! [`policy::Table`]; [`plan`] says what that changes, and refuses too much; [`datapath`] turns a
//! table into a generation in the kernel and publishes it; [`egress`] is the way out for what that
//! marks; [`window`] is what goes direct for some clients for some time; [`daemon`] keeps all of it
//! going and tells what [`observe`] describes. [`cli`] is the verbs of the one binary, and [`exit`] what
//! they tell the shell. Beside that way, [`replay`] classifies captures by a table, [`export`]
//! writes one down for other programs, [`exporter`] tells Prometheus what the daemon observes,
//! [`marks`] finds who else uses our bits, `translation` who translates addresses on the uplink, and
//! [`doctor`] says what is in the way; `program` runs other programs. But for fetching,
//! everything up to `plan` is pure, and so is
//! `export`.

#![deny(unsafe_code)]

mod bursts;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod doctor;
pub mod egress;
pub mod exit;
pub mod export;
pub mod exporter;
pub mod feed;
pub mod marks;
pub mod observe;
pub mod plan;
pub mod policy;
mod program;
pub mod replay;
mod rfc3339;
mod translation;
pub mod window;
