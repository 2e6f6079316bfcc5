//! One integration binary, one file a promise.

mod architecture;
mod config;
mod door;
mod mtls;
mod plain;
mod proxy_protocol;
mod support;
mod tls;
mod trusted_proxy;
