//! One integration binary, one file a promise.

mod architecture;
mod cli;
mod config;
mod demo;
mod drain;
mod metrics;
mod records;
mod reload;
mod state;
mod support;
