//! Doorward: the warden of the king's door. An authenticating reverse-proxy gateway that enforces a written security policy
//! and can prove that it did.
//!
//! The house has five floors and a roof. A module imports only from floors *below* its own, never sideways, never up;
//! `tests/it/architecture.rs` holds it to that. Read [`gateway`] first: `Worker::handle` is one request, top to bottom.
//!
//! **Floor 0, the pure decision core.** [`clock`] is where decisions get the time, and the timer of deadlines; [`net`] says what
//! one client is. [`policy`] holds routes, identities, logins, bans, bots, approvals and limits as values, and `Policy::decide`,
//! the only maker of permits. No I/O, no lock; `now` is a parameter.
//!
//! **Floor 1, files to values.** [`config`] reads what the file says and compiles what it means, every error at once.
//!
//! **Floor 2, what happened, told once.** [`events`] has one `Event` and one fan-out: access log, security events, metrics.
//!
//! **Floor 3, memory and adapters.** [`state`] keeps bans, guesses, limits and approvals over every reload; [`tls`] judges
//! certificates; [`upstream`] keeps the application's servers, their health and pooled connections.
//!
//! **Floor 4, two doors that do not know each other.** [`admin`] is the operators' door, [`gateway`] the public one.
//!
//! **The roof.** [`server`] wires it all: `prepare` may fail and touches nothing live, `commit` cannot fail. [`cli`] is the
//! command line, and the demo.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::print_stdout,
        clippy::print_stderr
    )
)]

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

pub mod server;

pub mod cli;
