//! One integration binary, one file a promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod answers;
mod approvals;
mod architecture;
mod cert_abuse;
mod cli;
mod config;
mod demo;
mod door;
mod drain;
mod forward;
mod framing;
mod headers;
mod limits;
mod logins;
mod metrics;
mod mtls;
mod plain;
mod proxy_protocol;
mod records;
mod reload;
mod state;
mod support;
mod tls;
mod trusted_proxy;
mod upgrade;
