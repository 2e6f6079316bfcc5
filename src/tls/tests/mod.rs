//! The room as a whole, on a PKI made in memory.

mod handshake;
mod judgement;
mod loading;
mod pki;
mod resumption;
