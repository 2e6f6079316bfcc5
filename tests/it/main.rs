//! One integration binary, one file a promise.

mod architecture;
#[path = "../common/mod.rs"]
#[allow(dead_code)]
mod common;
mod config;
mod framing_table;
mod http2_abuse;
mod support;
mod tls_abuse;
