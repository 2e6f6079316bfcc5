//! One integration binary, one file a promise.

mod architecture;
mod config;
mod door;
mod mtls;
mod support;
mod tls;
