//! One integration binary, one file a promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod architecture;
mod cert_abuse;
mod config;
mod forward;
mod framing;
mod headers;
mod pass_through;
mod support;
mod upgrade;
mod upstream_faults;
