//! One integration binary, one file a promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod answers;
mod approvals;
mod architecture;
mod config;
mod door;
mod drain;
mod forward;
mod framing;
mod headers;
mod limits;
mod logins;
mod mtls;
mod plain;
mod proxy_protocol;
mod reload;
mod state;
mod support;
mod tls;
mod trusted_proxy;
mod upgrade;
