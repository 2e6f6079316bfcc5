//! Doorward: the warden of the king's door.
#![forbid(unsafe_code)]

pub mod clock;
pub mod net;
pub mod policy;

pub mod config;

pub mod events;

pub mod state;
pub mod tls;
pub mod upstream;

pub mod admin;
pub mod gateway;

pub mod cli;
pub mod server;
