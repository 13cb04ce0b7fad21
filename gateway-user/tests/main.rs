//! Every test of the product from outside, in one program: each would link all of it again. Those whose first
//! line says so need root.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step is a failed test, and a test's inputs are its own"
)]

mod a_day;
mod captures;
mod compiler_equals_linear_model;
mod consumers;
mod daemon;
mod doctor;
mod documented;
mod documented_commands;
mod egress;
mod explain;
mod export;
mod exporter;
mod feed_is_understood_or_refused;
mod feed_verbs;
mod five_years;
mod foreign;
mod gateway_networks;
mod generations;
mod guards;
mod hooks;
mod live_feed;
mod metrics;
mod networkd;
mod odd_ways;
mod offline_verbs;
mod openwrt;
mod other_marks;
mod packets;
mod papers;
mod parting;
mod plan_laws;
mod point_to_point;
mod probes;
mod prometheus;
mod redirect;
mod replay;
mod restarts;
mod revoke;
mod scenarios;
mod segment_size;
mod self_check;
mod service_manager;
mod shadow;
mod snippets;
mod sources;
mod state_directory;
mod support;
mod support_window;
mod survival;
mod swaps;
mod switches;
mod taking_back;
mod ten_thousand_flows;
mod top;
mod trace;
mod units;
mod uplink;
mod vanished_flows;
mod web_service;
mod window_laws;
mod window_programs;
mod without_ethernet;
