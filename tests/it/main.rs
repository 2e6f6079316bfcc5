//! One integration binary, one file a promise.

mod architecture;
mod config;
mod drain;
mod reload;
mod state;
mod support;
