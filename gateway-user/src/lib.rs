//! breakout365: direct egress for Microsoft 365 traffic on Linux gateways.
//!
//! Reading order, along the way of the data: [`feed`] reads what Microsoft publishes into a
//! `Snapshot`; [`config`] reads what the operator wants; [`policy`] compiles both into a
//! [`policy::Table`]; [`replay`] classifies captures by one; [`datapath`] turns a table into a generation in the kernel and publishes it;
//! [`daemon`] keeps that going; [`cli`] is the verbs of the one binary, and [`exit`] what they
//! tell the shell. Everything up to `policy` is pure.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod exit;
pub mod feed;
pub mod policy;
pub mod replay;
