//! Keyed hashes under a key that never leaves this process: the ledger keeps neither account names nor secrets.

use std::fmt;

use aws_lc_rs::hmac;
use ipnet::IpNet;
use zeroize::Zeroize;

use crate::policy::login::{AccountKey, ExactAccount};

/// 128 bits of HMAC-SHA256: nobody without the key can make two alike.
pub(super) type Tag = u128;

/// Different things never share a hash: each has its own first byte.
#[derive(Clone, Copy)]
enum Kind {
    Client = 1,
    Identity,
    Neighbours,
    Account,
    Exact,
    Secret,
}

pub(super) struct Keyring(hmac::Key);

impl Keyring {
    /// A fresh random key. Without randomness no process may go on: every secret it makes would be known.
    #[expect(clippy::panic, reason = "at start, before anything is served")]
    pub(super) fn new() -> Self {
        let mut bytes = [0; 32];
        if let Err(error) = getrandom::fill(&mut bytes) {
            panic!("the operating system gives no random bytes: {error}");
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        bytes.zeroize();
        Self(key)
    }

    pub(super) fn client(&self, net: IpNet) -> Tag {
        self.net(Kind::Client, net)
    }

    /// The wider prefix that a client is counted with when the table is full: /24 for IPv4, /48 for IPv6.
    pub(super) fn neighbours(&self, net: IpNet) -> Tag {
        let length = if net.addr().is_ipv4() { 24 } else { 48 };
        let wide = IpNet::new(net.addr(), net.prefix_len().min(length)).map_or(net, |wide| wide.trunc());
        self.net(Kind::Neighbours, wide)
    }

    pub(super) fn identity(&self, name: &str) -> Tag {
        self.tag(Kind::Identity, &[name.as_bytes()])
    }

    pub(super) fn account(&self, account: &AccountKey) -> Tag {
        self.tag(Kind::Account, &[account.0.as_bytes()])
    }

    pub(super) fn exact(&self, account: &ExactAccount) -> Tag {
        self.tag(Kind::Exact, &[account.as_bytes()])
    }

    /// One guess: this guesser, this account exactly, this secret.
    pub(super) fn secret(&self, who: Tag, exact: Tag, secret: &[u8]) -> Tag {
        self.tag(Kind::Secret, &[&who.to_be_bytes(), &exact.to_be_bytes(), secret])
    }

    fn net(&self, kind: Kind, net: IpNet) -> Tag {
        match net {
            IpNet::V4(net) => self.tag(kind, &[b"4", &net.addr().octets(), &[net.prefix_len()]]),
            IpNet::V6(net) => self.tag(kind, &[b"6", &net.addr().octets(), &[net.prefix_len()]]),
        }
    }

    /// Only the last part may vary in length.
    fn tag(&self, kind: Kind, parts: &[&[u8]]) -> Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&[kind as u8]);
        parts.iter().for_each(|part| context.update(part));
        let digest = context.sign();
        digest.as_ref().iter().take(16).fold(0, |tag, byte| tag << 8 | Tag::from(*byte))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring")
    }
}
