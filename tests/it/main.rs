//! One integration binary, one file a promise.

mod architecture;
mod config;
mod drain;
mod state;
mod support;
