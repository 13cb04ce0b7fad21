//! breakout365: direct egress for Microsoft 365 traffic on Linux gateways.
//!
//! Reading order, along the way of the data: [`feed`] reads what Microsoft publishes into a
//! `Snapshot`; [`config`] reads what the operator wants; [`policy`] compiles both into a
//! [`policy::Table`]; [`datapath`] turns a table into a generation in the kernel and publishes it;
//! [`daemon`] keeps that going; [`cli`] is the verbs of the one binary, and [`exit`] what they
//! tell the shell. Beside that way, [`replay`] classifies captures by a table, and [`export`]
//! writes one down for other programs. Everything up to `policy` is pure, and so is `export`.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod exit;
pub mod export;
pub mod feed;
pub mod policy;
pub mod replay;
