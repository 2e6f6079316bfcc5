//! `approvals sign`: the signature is made here, over what was shown here; the private key never leaves.

use std::path::Path;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::{Zeroize, Zeroizing};

use super::client::{Gateway, segment};
use super::{Failure, approvals, output};
use crate::admin::api::{ApprovalPayload, SignApproval};
use crate::policy::approval::Approval;

/// Fails closed: nothing is signed that is not, byte for byte, made from the record that was shown.
pub(super) fn sign(gateway: &Gateway, id: &str, signer: &str, key: &Path) -> Result<(), Failure> {
    // The key first: a wrong file should cost nothing.
    let key = load_key(key)?;
    let offered: ApprovalPayload = gateway.get(&format!("/approvals/{}/payload", segment(id)))?;
    let message = agreed(id, &offered)?;
    output::message(&approvals::record(&offered.approval));
    let signature = STANDARD.encode(key.sign(&message));
    let asked = SignApproval { signer: signer.to_owned(), signature };
    let signed: Approval = gateway.post(&format!("/approvals/{}/sign", segment(id)), &asked)?;
    output::message(&format!("signed {} as {}", output::printable(&signed.id), output::printable(signer)));
    Ok(())
}

/// The bytes to sign, made anew from the record. Fails closed: another id, or bytes that differ from the gateway's, are
/// not signed.
pub(super) fn agreed(id: &str, offered: &ApprovalPayload) -> Result<Vec<u8>, Failure> {
    let refused = |why: &str| Failure::Failed(format!("not signed: {why}"));
    if offered.approval.id != id {
        return Err(refused("the gateway answered with another record"));
    }
    let message = offered.approval.canonical_bytes();
    let theirs = STANDARD.decode(&offered.payload).map_err(|_| refused("the gateway's payload is not base64"))?;
    if message == theirs {
        Ok(message)
    } else {
        Err(refused("the gateway's bytes are not those of the record it shows (another version?)"))
    }
}

fn load_key(path: &Path) -> Result<Ed25519KeyPair, Failure> {
    let failed = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
    let pem = Zeroizing::new(std::fs::read(path).map_err(|error| failed(error.to_string()))?);
    warn_if_open(path);
    let mut der = PrivatePkcs8KeyDer::from_pem_slice(&pem)
        .map_err(|_| failed("holds no unencrypted PKCS#8 private key in PEM (openssl genpkey -algorithm ed25519)".to_owned()))?;
    let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
    der.zeroize();
    key.map_err(|_| failed("is not an Ed25519 key (openssl genpkey -algorithm ed25519)".to_owned()))
}

/// Says so where others than the signer may read the key.
fn warn_if_open(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let open = std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0);
    if open {
        output::message(&format!("warning: others than you may read {} (chmod 600)", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, KeyPair, UnparsedPublicKey};

    use super::*;
    use crate::admin::testing::ALICE_KEY;

    #[test]
    fn keys_as_openssl_makes_them_sign() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alice.key");
        std::fs::write(&path, ALICE_KEY).unwrap();
        let key = load_key(&path).unwrap();
        let signature = key.sign(b"message");
        assert!(UnparsedPublicKey::new(&ED25519, key.public_key().as_ref()).verify(b"message", signature.as_ref()).is_ok());
    }

    #[test]
    fn what_is_no_ed25519_key_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alice.key");
        let ec = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for (text, told) in [("nonsense", "PKCS#8"), (&*ec, "Ed25519")] {
            std::fs::write(&path, text).unwrap();
            let Failure::Failed(message) = load_key(&path).map(drop).unwrap_err() else { panic!() };
            assert!(message.contains("alice.key") && message.contains(told), "{message}");
        }
        assert!(load_key(Path::new("does/not/exist")).is_err());
    }
}
