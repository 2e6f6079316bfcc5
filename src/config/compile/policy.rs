//! `[bans]`, `[limit.*]` and `[approvals]`.

use std::io::Read;
use std::path::Path;

use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

use crate::config::Listen;
use crate::config::file::{ApprovalsTable, BansTable, LimitTable, SignerTable};
use crate::config::read::Named;
use crate::policy::approval::{ApprovalRules, Party, Signer};
use crate::policy::ban::BanRules;
use crate::policy::limit::{LimitKey, LimitSpec};

use super::Compiler;
use super::listen::{overlap, show_net};

/// DER of a SubjectPublicKeyInfo for Ed25519, up to the 32 bytes of the key (RFC 8410 section 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// No public key in PEM comes near this many bytes.
const LONGEST_KEY_FILE: u64 = 64 * 1024;

impl Compiler<'_> {
    /// Who speaks for others is never banned himself: that would hold everybody behind him.
    pub(super) fn bans(&mut self, table: &BansTable, listen: &Listen) -> BanRules {
        if table.first.value > table.max.value {
            let span = if table.max.span.is_default() { &table.first.span } else { &table.max.span };
            self.error("`bans.max` is shorter than `bans.first`", span, "the first ban is the shortest, `max` the longest");
        }
        for net in &table.always {
            if net.value.prefix_len() == 0 {
                self.error(format!("`bans.always`: {} refuses everybody", net.value), &net.span, "name the nets to refuse");
            }
            if let Some(spared) = table.never.iter().find(|spared| overlap(&spared.value, &net.value)) {
                let message = format!(
                    "`bans.always`: {} overlaps {}, which may never be banned",
                    show_net(&net.value),
                    show_net(&spared.value)
                );
                self.error(message, &net.span, "an address is on one of the two lists at most");
            }
        }
        for net in table.never.iter().filter(|net| net.value.prefix_len() == 0) {
            let message = format!("`bans.never`: {} spares everybody: nobody of that family can be banned", net.value);
            self.warn(message, &net.span, "name the nets that may never be banned");
        }
        let speakers = listen.trusted_proxies.iter().chain(listen.proxy_protocol.iter());
        BanRules {
            first: table.first.value.0,
            factor: table.factor.u32(),
            max: table.max.value.0,
            forget: table.forget.0,
            never: table.never.iter().map(|net| net.value).chain(speakers.copied()).collect(),
            always: table.always.iter().map(|net| net.value).collect(),
            answer: table.answer,
        }
    }

    /// In the file's order: a limit's id is its place.
    pub(super) fn limits(&mut self, named: &Named<LimitTable>) -> Option<Vec<LimitSpec>> {
        let limits: Vec<_> = named.0.iter().map(|entry| self.limit(&entry.name.value, entry.table.as_ref()?)).collect();
        limits.into_iter().collect()
    }

    fn limit(&mut self, name: &str, table: &LimitTable) -> Option<LimitSpec> {
        let key: Vec<LimitKey> = match &table.key {
            None => Vec::new(),
            Some(key) => {
                let consequence = "it would be one budget for everybody";
                let help = "such as \"client\" or [\"identity\", \"route\"]";
                self.not_empty(&format!("limit.{name}.key"), key, consequence, help);
                self.no_twins(&key.value, |key| format!("the key `{}`", key_name(*key)));
                key.value.iter().map(|key| key.value).collect()
            }
        };
        let mut quota = table.rate.as_ref()?.value;
        match table.burst {
            Some(burst) => quota.burst = burst.u32(),
            None => self.show_default(&format!("limit.{name}"), "burst", quota.burst.into()),
        }
        if let (Some(fault), Some(rate)) = (quota.fault(), &table.rate) {
            self.error(format!("`limit.{name}`: {fault}"), &rate.span, "lower `burst`, or raise `rate`");
        }
        table.key.as_ref()?;
        Some(LimitSpec { name: name.into(), key, quota, mode: table.mode })
    }

    pub(super) fn approvals(&mut self, table: &ApprovalsTable) -> Option<ApprovalRules> {
        let require = &table.require.bot;
        let consequence = "approvals would hold without anybody's signature";
        self.not_empty("approvals.require.bot", require, consequence, "such as [\"provider\"]");
        self.no_twins(&require.value, |party| format!("the party `{}`", party_name(*party)));
        let signers: Vec<_> = table.signer.0.iter().map(|entry| self.signer(&entry.name.value, entry.table.as_ref()?)).collect();
        for (at, entry) in table.signer.0.iter().enumerate() {
            let key = signers.get(at).and_then(Option::as_ref).map(|signer| signer.public_key);
            let twin = signers.iter().take(at).flatten().find(|other| Some(other.public_key) == key);
            if let (Some(twin), Some(public_key)) = (twin, entry.table.as_ref().and_then(|table| table.public_key.as_ref())) {
                let message =
                    format!("`approvals.signer.{}` has the key of `{}`: one key would sign for two", entry.name.value, twin.name);
                self.error(message, &public_key.span, "each signer has a key of their own");
            }
        }
        for party in require.value.iter().filter(|party| !party.span.is_default()) {
            let signs = |entry: &SignerTable| entry.party.as_ref().is_none_or(|signs| signs.value == party.value);
            if !table.signer.0.iter().any(|entry| entry.table.as_ref().is_none_or(signs)) {
                let message = format!("no signer signs for `{}`: no approval could ever hold", party_name(party.value));
                self.warn(message, &party.span, "add [approvals.signer.NAME] with that party");
            }
        }
        let signers = signers.into_iter().collect::<Option<Vec<Signer>>>()?;
        Some(ApprovalRules { signers, require_bot: require.value.iter().map(|party| party.value).collect() })
    }

    /// Fails closed: a key that cannot be read refuses the config.
    fn signer(&mut self, name: &str, table: &SignerTable) -> Option<Signer> {
        let path = table.public_key.as_ref()?;
        match read_public_key(&path.value) {
            Ok(public_key) => Some(Signer { name: name.to_owned(), public_key, party: table.party.as_ref()?.value }),
            Err(fault) => {
                let message = format!("`approvals.signer.{name}.public_key`: {}: {fault}", path.value.display());
                self.error(
                    message,
                    &path.span,
                    "openssl pkey -in KEY -pubout makes one from an Ed25519 key; relative paths start at the working directory",
                );
                None
            }
        }
    }
}

fn read_public_key(path: &Path) -> Result<[u8; 32], String> {
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LONGEST_KEY_FILE).read_to_end(&mut pem).map_err(|error| error.to_string())?;
    let private = pem.windows(PRIVATE.len()).any(|window| window == PRIVATE);
    if private {
        return Err("it holds a private key, which belongs to the signer alone".to_owned());
    }
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(&pem).map_err(|_| "it holds no public key in PEM".to_owned())?;
    let key = spki.strip_prefix(&ED25519_SPKI).and_then(|key| <[u8; 32]>::try_from(key).ok());
    key.ok_or_else(|| "its key is not Ed25519".to_owned())
}

const PRIVATE: &[u8] = b"PRIVATE KEY-----";

pub(super) const fn key_name(key: LimitKey) -> &'static str {
    match key {
        LimitKey::Approval => "approval",
        LimitKey::Identity => "identity",
        LimitKey::Account => "account",
        LimitKey::Client => "client",
        LimitKey::Tenant => "tenant",
        LimitKey::Route => "route",
    }
}

const fn party_name(party: Party) -> &'static str {
    match party {
        Party::Provider => "provider",
        Party::Customer => "customer",
    }
}
