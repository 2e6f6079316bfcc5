//! The gateway's token key, and the tokens it signs: PASETO v4.public.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsBigEndian, AsDer, Curve25519SeedBin, Pkcs8V1Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use pasetors::keys::{AsymmetricPublicKey, AsymmetricSecretKey};
use pasetors::token::UntrustedToken;
use pasetors::version4::{PublicToken, V4};
use pasetors::{Public, errors::Error as PasetoError};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::policy::approval::CONTEXT;

/// Longest token that is looked at, in bytes; ours are shorter than 300.
pub(super) const MAX_TOKEN: usize = 2048;
/// Largest key file that is read, in bytes.
const MAX_KEY_FILE: u64 = 16 * 1024;

/// The gateway's token key; made on first start, file mode 0600, zeroized on drop.
///
/// The file is Ed25519 as PKCS#8 PEM, as `openssl genpkey -algorithm ed25519` makes it.
pub struct TokenKey {
    secret: AsymmetricSecretKey<V4>,
    public: AsymmetricPublicKey<V4>,
    /// Which key signed: `{"kid":"…"}`, the beginning of the public key's SHA-256.
    footer: String,
}

/// What a token says, once its signature holds. Times are judged by the register's record, never by the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claims {
    pub id: String,
    pub serial: u32,
    /// When it was issued, for people.
    pub iat: Timestamp,
}

impl TokenKey {
    /// Loads the key, or makes one when the file is missing and `create` is set. Fails closed on a readable-by-others or damaged file.
    pub fn load(path: &Path, create: bool) -> Result<Self, String> {
        let failed = |cause: String| format!("{}: {cause}", path.display());
        match File::open(path) {
            Ok(file) => Self::read(file).map_err(failed),
            Err(error) if error.kind() == ErrorKind::NotFound && create => Self::make(path).map_err(failed),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    fn read(file: File) -> Result<Self, String> {
        // Asked of the open file, so that nobody can swap it in between.
        let found = file.metadata().map_err(|error| error.to_string())?;
        if !found.is_file() {
            return Err("is not a regular file".to_owned());
        }
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(format!("others than its owner have access to it (mode {mode:04o}): chmod 600"));
        }
        // Room for all of it at once: a vector that grows leaves copies behind.
        let mut pem = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE as usize + 1));
        file.take(MAX_KEY_FILE + 1).read_to_end(&mut pem).map_err(|error| error.to_string())?;
        if pem.len() as u64 > MAX_KEY_FILE {
            return Err("is too large for a key".to_owned());
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| "holds no `PRIVATE KEY` in PEM".to_owned())?;
        let der = Zeroizing::new(der);
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| "is not an Ed25519 key".to_owned())?;
        Self::from_pair(&pair)
    }

    /// Written whole beside its place, then given its name if nothing has that name yet: a crash leaves no half key.
    fn make(path: &Path) -> Result<Self, String> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|error| format!("no randomness: {error}"))?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|error| error.to_string())?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|error| error.to_string())?;
        let body = Zeroizing::new(STANDARD.encode(der.as_ref()));
        let mut pem = Zeroizing::new(String::with_capacity(256));
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        pem.push_str(&body);
        pem.push_str("\n-----END PRIVATE KEY-----\n");

        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let written = tempfile::Builder::new()
            .prefix(".approvals-key-")
            .make_in(directory, |path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path))
            .and_then(|mut file| {
                file.write_all(pem.as_bytes())?;
                file.as_file().sync_all()?;
                Ok(file)
            })
            .map_err(|error| error.to_string())?;
        match written.persist_noclobber(path) {
            Ok(_) => {}
            // Another start was faster: its key is the one that counts.
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
                return Self::read(File::open(path).map_err(|error| error.to_string())?);
            }
            Err(error) => return Err(error.error.to_string()),
        }
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| error.to_string())?;
        Self::from_pair(&pair)
    }

    fn from_pair(pair: &Ed25519KeyPair) -> Result<Self, String> {
        let unusable = |_| "the key cannot be used".to_owned();
        let public = pair.public_key().as_ref();
        let seed = pair.seed().map_err(unusable)?;
        let seed: Curve25519SeedBin<'_> = seed.as_be_bytes().map_err(unusable)?;
        let secret = Zeroizing::new([seed.as_ref(), public].concat());
        let unusable = |_: PasetoError| "the key cannot be used".to_owned();
        Ok(Self {
            secret: AsymmetricSecretKey::from(&secret).map_err(unusable)?,
            public: AsymmetricPublicKey::from(public).map_err(unusable)?,
            footer: format!("{{\"kid\":\"{}\"}}", hex(digest(&SHA256, public).as_ref().get(..8).unwrap_or_default())),
        })
    }

    /// A signed token; the secret half of nothing, but whoever holds it is the bot.
    pub(super) fn issue(&self, claims: &Claims) -> Result<String, String> {
        let message = serde_json::to_vec(claims).map_err(|error| error.to_string())?;
        PublicToken::sign(&self.secret, &message, Some(self.footer.as_bytes()), Some(CONTEXT.as_bytes()))
            .map_err(|error| error.to_string())
    }

    /// The claims of a token that this key signed. Fails closed: anything else is `None`, and what cannot be ours costs no
    /// signature check.
    pub(super) fn verify(&self, token: &[u8]) -> Option<Claims> {
        if token.len() > MAX_TOKEN || !token.starts_with(PublicToken::HEADER.as_bytes()) || !token.is_ascii() {
            return None;
        }
        let untrusted = UntrustedToken::<Public, V4>::try_from(str::from_utf8(token).ok()?).ok()?;
        if untrusted.untrusted_footer() != self.footer.as_bytes() {
            return None;
        }
        let trusted =
            PublicToken::verify(&self.public, &untrusted, Some(self.footer.as_bytes()), Some(CONTEXT.as_bytes())).ok()?;
        serde_json::from_str(trusted.payload()).ok()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn claims() -> Claims {
        Claims { id: "apr-abc".into(), serial: 3, iat: Timestamp::UNIX_EPOCH }
    }

    fn error_of(path: &Path, create: bool) -> String {
        TokenKey::load(path, create).err().expect("a refusal")
    }

    #[test]
    fn the_first_start_makes_a_key_for_its_owner_alone_and_later_ones_load_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("approvals.key");
        assert!(error_of(&path, false).contains("approvals.key"), "check creates nothing");
        assert!(!path.exists());
        let made = TokenKey::load(&path, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left behind");
        let text = fs::read_to_string(&path).unwrap();
        for create in [false, true] {
            let loaded = TokenKey::load(&path, create).unwrap();
            assert_eq!(loaded.verify(made.issue(&claims()).unwrap().as_bytes()), Some(claims()));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "never overwritten");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("approvals.key");
        TokenKey::load(&path, true).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(error_of(&path, true).contains("chmod 600"), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(TokenKey::load(&path, true).is_ok());
    }

    #[test]
    fn a_damaged_key_is_refused_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("approvals.key");
        TokenKey::load(&path, true).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let foreign = aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING)
            .unwrap()
            .to_pkcs8v1()
            .unwrap();
        let foreign = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(foreign));
        for bad in
            ["", &good[..60], "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", &foreign, &"x".repeat(20_000)]
        {
            fs::write(&path, bad).unwrap();
            assert!(!error_of(&path, true).is_empty());
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
        assert!(error_of(directory.path(), true).contains("not a regular file"));
        assert!(!error_of(&directory.path().join("nowhere/approvals.key"), true).is_empty());
    }

    #[test]
    fn only_this_key_in_this_context_unchanged_makes_a_token_ours() {
        let directory = tempfile::tempdir().unwrap();
        let key = TokenKey::load(&directory.path().join("one"), true).unwrap();
        let other = TokenKey::load(&directory.path().join("two"), true).unwrap();
        let token = key.issue(&claims()).unwrap();
        assert!(token.starts_with("v4.public.") && token.len() < 300, "{token}");
        assert_eq!(key.verify(token.as_bytes()), Some(claims()));
        assert_eq!(other.verify(token.as_bytes()), None);

        let message = serde_json::to_vec(&claims()).unwrap();
        let footer = Some(key.footer.as_bytes());
        for (footer, context) in [(footer, None), (footer, Some(&b"doorward-approval-v2"[..])), (None, Some(CONTEXT.as_bytes()))]
        {
            let foreign = PublicToken::sign(&key.secret, &message, footer, context).unwrap();
            assert_eq!(key.verify(foreign.as_bytes()), None);
        }
        // Another key under this key's name.
        let forged = PublicToken::sign(&other.secret, &message, footer, Some(CONTEXT.as_bytes())).unwrap();
        assert_eq!(key.verify(forged.as_bytes()), None);
        let unknown = br#"{"id":"apr-abc","serial":3,"iat":"1970-01-01T00:00:00Z","exp":"2999-01-01T00:00:00Z"}"#;
        let unknown = PublicToken::sign(&key.secret, unknown, footer, Some(CONTEXT.as_bytes())).unwrap();
        assert_eq!(key.verify(unknown.as_bytes()), None);

        for position in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.verify(&changed), None, "byte {position}");
            assert_eq!(key.verify(&token.as_bytes()[..position]), None);
        }
        assert_eq!(key.verify(&[token.as_bytes(), &b"A".repeat(MAX_TOKEN)].concat()), None);
    }

    static KEY: LazyLock<TokenKey> = LazyLock::new(|| {
        let directory = tempfile::tempdir().unwrap();
        TokenKey::load(&directory.path().join("key"), true).unwrap()
    });

    proptest! {
        #[test]
        fn whatever_a_stranger_presents_is_not_ours(token in "(v4\\.public\\.)?[ -~]{0,120}(\\.[A-Za-z0-9_-]{0,40})?", raw: Vec<u8>) {
            prop_assert_eq!(KEY.verify(token.as_bytes()), None);
            prop_assert_eq!(KEY.verify(&raw), None);
        }
    }
}
