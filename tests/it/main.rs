//! One integration binary, one file a promise.

mod architecture;
mod config;
mod shedding;
mod support;
mod tables;
