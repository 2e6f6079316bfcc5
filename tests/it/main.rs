//! One integration binary, one file a promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod answers;
mod approvals;
mod architecture;
mod cert_abuse;
mod cli;
mod clock_steps;
#[path = "../common/mod.rs"]
#[allow(dead_code)]
mod common;
mod config;
mod demo;
mod disk_full;
mod door;
mod drain;
mod fleet;
mod forward;
mod framing;
mod framing_table;
mod generations;
mod headers;
mod http2_abuse;
mod http2_memory;
mod limits;
mod login_time;
mod logins;
mod memory;
mod metrics;
mod mtls;
mod pass_through;
mod plain;
mod proxy_protocol;
mod records;
mod reload;
mod revocation;
mod revocation_edges;
mod shedding;
mod signatures;
mod state;
mod support;
mod tables;
mod threats;
mod tls;
mod tls_abuse;
mod trusted_proxy;
mod upgrade;
mod upstream_faults;
