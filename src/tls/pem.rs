//! Files to DER: certificates, private keys, CRLs. The only module that names `rustls_pemfile`, an archived crate whose
//! convenience functions silently skip what they do not know; here every block is accounted for, or the file is refused.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::path::Path;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls_pemfile::Item;
use zeroize::Zeroizing;

/// Bytes of a certificate or key file; a whole distribution's root bundle is a fifth of this.
const MAX_FILE: u64 = 1024 * 1024;
/// Bytes of a CRL file. The largest seen in the wild by the makers of the parser were over 100 MB; a private CA is far below.
pub(super) const MAX_CRL_FILE: u64 = 64 * 1024 * 1024;

/// Why a file cannot be used, and the cure where there is one.
#[derive(Debug)]
pub(super) struct FileError {
    pub message: String,
    pub help: Option<String>,
}

/// What a file is for; decides which blocks may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Certificates,
    PrivateKey,
    Crls,
}

/// All certificates of a PEM file, in order; at least one. Fails closed: any other or damaged block refuses the file.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    certificates_in(&read(path, MAX_FILE, |_| Ok(()))?).map_err(|error| error.in_file(path))
}

/// The same of a file's text.
pub(super) fn certificates_in(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let certificates = items(text, Wanted::Certificates)?.into_iter().filter_map(|item| match item {
        Item::X509Certificate(der) => Some(der),
        _ => None,
    });
    Ok(certificates.collect())
}

/// The one private key of a PEM file that only its owner and group can read. Fails closed: two keys, an encrypted key,
/// any other block or loose permissions refuse the file.
pub(super) fn private_key(path: &Path) -> Result<Zeroizing<PrivateKeyDer<'static>>, FileError> {
    let text = read(path, MAX_FILE, |metadata| guarded(path, metadata))?;
    let mut keys: Vec<Zeroizing<PrivateKeyDer<'static>>> = items(&text, Wanted::PrivateKey)
        .map_err(|error| error.in_file(path))?
        .into_iter()
        .filter_map(|item| match item {
            Item::Pkcs1Key(key) => Some(Zeroizing::new(key.into())),
            Item::Pkcs8Key(key) => Some(Zeroizing::new(key.into())),
            Item::Sec1Key(key) => Some(Zeroizing::new(key.into())),
            _ => None,
        })
        .collect();
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(key),
        (Some(_), false) => Err(FileError::new("holds more than one private key", "keep one key a file").in_file(path)),
        (None, _) => Err(FileError::bare("holds no private key").in_file(path)),
    }
}

/// All CRLs of a file, PEM or DER; at least one. Fails closed: any other or damaged block refuses the file.
pub(super) fn crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
    crls_in(&read(path, MAX_CRL_FILE, |_| Ok(()))?).map_err(|error| error.in_file(path))
}

/// The same of a file's bytes.
pub(super) fn crls_in(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
    const DER_SEQUENCE: u8 = 0x30;
    if text.first() == Some(&DER_SEQUENCE) {
        return Ok(vec![CertificateRevocationListDer::from(text.to_vec())]);
    }
    let crls = items(text, Wanted::Crls)?.into_iter().filter_map(|item| match item {
        Item::Crl(der) => Some(der),
        _ => None,
    });
    Ok(crls.collect())
}

/// The wanted items of a PEM text; never empty.
fn items(text: &[u8], wanted: Wanted) -> Result<Vec<Item>, FileError> {
    for label in blocks(text)? {
        wanted.admit(label)?;
    }
    let mut found = Vec::new();
    for item in rustls_pemfile::read_all(&mut &text[..]) {
        let item = item.map_err(|error| FileError::bare(format!("holds a damaged PEM block: {error}")))?;
        match (&item, wanted) {
            (Item::X509Certificate(_), Wanted::Certificates)
            | (Item::Pkcs1Key(_) | Item::Pkcs8Key(_) | Item::Sec1Key(_), Wanted::PrivateKey)
            | (Item::Crl(_), Wanted::Crls) => found.push(item),
            _ => return Err(FileError::bare(format!("holds a PEM block that is not {}", wanted.name()))),
        }
    }
    if found.is_empty() { Err(FileError::bare(format!("holds no {}", wanted.name()))) } else { Ok(found) }
}

/// The labels of all blocks in order. Text before a block is a comment, as openssl writes it; after the last one it is
/// taken for the rest of a block that was cut, and refused.
fn blocks(text: &[u8]) -> Result<Vec<&[u8]>, FileError> {
    const MARK: &[u8] = b"-----";
    let mut labels = Vec::new();
    let mut open: Option<&[u8]> = None;
    let mut comment = false;
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii_end) {
        let marker = line.strip_prefix(MARK).and_then(|rest| rest.strip_suffix(MARK));
        match (open, marker) {
            (None, Some(marker)) if marker.starts_with(b"BEGIN ") => {
                open = marker.strip_prefix(b"BEGIN ");
                comment = false;
            }
            (Some(label), Some(marker)) if marker.strip_prefix(b"END ") == Some(label) => {
                labels.push(label);
                open = None;
            }
            (Some(_), None) if line.starts_with(b"Proc-Type:") && memchr::memmem::find(line, b"ENCRYPTED").is_some() => {
                return Err(encrypted());
            }
            (_, Some(_)) => return Err(misplaced(line)),
            (_, None) if memchr::memmem::find(line, MARK).is_some() => return Err(misplaced(line)),
            (None, None) => comment |= !line.is_empty() && !line.starts_with(b"#"),
            (Some(_), None) => {}
        }
    }
    if let Some(label) = open {
        return Err(FileError::bare(format!("ends within its {} block", text_of(label))));
    }
    if comment && !labels.is_empty() {
        return Err(FileError::new("has text after its last PEM block", "a block may have been cut; comments start with #"));
    }
    Ok(labels)
}

impl Wanted {
    fn name(self) -> &'static str {
        match self {
            Self::Certificates => "certificate",
            Self::PrivateKey => "private key",
            Self::Crls => "certificate revocation list",
        }
    }

    fn admit(self, label: &[u8]) -> Result<(), FileError> {
        match (self, label) {
            (Self::Certificates, b"CERTIFICATE") | (Self::Crls, b"X509 CRL") => Ok(()),
            // openssl writes the curve before the key
            (Self::PrivateKey, b"PRIVATE KEY" | b"RSA PRIVATE KEY" | b"EC PRIVATE KEY" | b"EC PARAMETERS") => Ok(()),
            (Self::PrivateKey, b"ENCRYPTED PRIVATE KEY") => Err(encrypted()),
            (_, label) if label.ends_with(b"PRIVATE KEY") => Err(FileError::new(
                format!("holds a private key where a {} is wanted", self.name()),
                "keep the key in a file of its own that only the gateway can read",
            )),
            _ => Err(FileError::bare(format!("holds a {} block where only a {} is wanted", text_of(label), self.name()))),
        }
    }
}

impl FileError {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: Some(help.into()) }
    }

    pub(super) fn bare(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    /// Puts the path before a message that is worded as its predicate.
    pub(super) fn in_file(self, path: &Path) -> Self {
        Self { message: format!("{} {}", path.display(), self.message), help: self.help }
    }
}

/// Reads a regular file of at most `max` bytes into a buffer that is wiped; `guard` judges the opened file, not its name.
fn read(path: &Path, max: u64, guard: impl Fn(&Metadata) -> Result<(), FileError>) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let failed = |error: std::io::Error| unreadable(path, &error);
    // asked by name first: opening a pipe would wait for its writer
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(FileError::bare("is not a regular file").in_file(path));
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    guard(&metadata)?;
    let too_large = || FileError::bare(format!("is larger than {} MiB", max / (1024 * 1024))).in_file(path);
    if metadata.len() > max {
        return Err(too_large());
    }
    // one allocation of the right size, so that no half-read copy of a key stays behind
    let capacity = usize::try_from(metadata.len()).map_err(|_| too_large())?.saturating_add(1);
    let mut text = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(max.saturating_add(1)).read_to_end(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= max) { Ok(text) } else { Err(too_large()) }
}

fn unreadable(path: &Path, error: &std::io::Error) -> FileError {
    let message = format!("cannot read {}: {error}", path.display());
    match error.kind() {
        ErrorKind::PermissionDenied => {
            FileError::new(message, "let the user that the gateway runs as read it, and enter its folder")
        }
        ErrorKind::NotFound => {
            FileError::new(message, "put it there, or name another; relative paths start at the working directory")
        }
        _ => FileError::bare(message),
    }
}

/// Fails closed: a key that others can read, or the group can replace, is not a secret.
#[cfg(unix)]
fn guarded(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    use std::os::unix::fs::MetadataExt;
    let mode = metadata.mode() & 0o777;
    if mode & 0o027 == 0 {
        return Ok(());
    }
    let whom = if mode & 0o007 != 0 { "everybody" } else { "its group" };
    let how = if mode & 0o022 != 0 { "written" } else { "read" };
    Err(FileError::new(
        format!("can be {how} by {whom} (mode {mode:04o})"),
        format!("chmod 0600 {0}, or 0640 where the gateway reads it by its group", path.display()),
    )
    .in_file(path))
}

#[cfg(not(unix))]
fn guarded(_path: &Path, _metadata: &Metadata) -> Result<(), FileError> {
    Ok(())
}

fn encrypted() -> FileError {
    FileError::new(
        "holds an encrypted private key, which the gateway cannot open",
        "write it decrypted (openssl pkey -in OLD -out NEW) and guard it by file permissions",
    )
}

fn misplaced(line: &[u8]) -> FileError {
    let shown: String = text_of(line).chars().take(64).collect();
    FileError::new(format!("has a misplaced PEM marker: {shown}"), "a block may have been cut or pasted with blanks before it")
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().take(80).collect()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use proptest::prelude::*;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    fn block(label: &str, der: &[u8]) -> String {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<_> = body.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    fn refusal(text: &str, wanted: Wanted) -> String {
        items(text.as_bytes(), wanted).expect_err("refused").message
    }

    #[test]
    fn comments_before_blocks_are_read_over() {
        let text = format!(
            "Certificate:\n    Data:\n{}\n# the issuer\n{}# end\n\n",
            block("CERTIFICATE", b"a"),
            block("CERTIFICATE", b"b")
        );
        assert_eq!(items(text.as_bytes(), Wanted::Certificates).unwrap().len(), 2);
    }

    #[test]
    fn the_curve_before_an_ec_key_is_read_over() {
        let text = block("EC PARAMETERS", b"p") + &block("EC PRIVATE KEY", b"k");
        assert!(matches!(items(text.as_bytes(), Wanted::PrivateKey).unwrap()[..], [Item::Sec1Key(_)]));
    }

    #[test]
    fn nothing_wrong_or_cut_is_skipped_in_silence() {
        let good = block("CERTIFICATE", b"good");
        assert!(refusal("", Wanted::Certificates).contains("no certificate"));
        assert!(refusal("hello\n", Wanted::Crls).contains("no certificate revocation list"));
        assert!(refusal(&block("EC PARAMETERS", b"p"), Wanted::PrivateKey).contains("no private key"));
        assert!(refusal(&(good.clone() + &block("PRIVATE KEY", b"k")), Wanted::Certificates).contains("private key"));
        assert!(refusal(&(good.clone() + &block("TRUSTED CERTIFICATE", b"x")), Wanted::Certificates).contains("TRUSTED"));
        assert!(refusal(&good, Wanted::PrivateKey).contains("CERTIFICATE block"));
        assert!(refusal(&(good.clone() + "TUlJQ2FqQ0NB\n"), Wanted::Certificates).contains("after its last"));
        assert!(refusal(good.trim_end().trim_end_matches('-'), Wanted::Certificates).contains("misplaced"));
        assert!(refusal(&good.replace("-----END", "----END"), Wanted::Certificates).contains("misplaced"));
        assert!(refusal(&format!(" {good}"), Wanted::Certificates).contains("misplaced"));
        assert!(refusal(&good.replace("Z29vZA", "Z29*ZA"), Wanted::Certificates).contains("damaged"));
        assert!(refusal(&good.lines().take(2).collect::<Vec<_>>().join("\n"), Wanted::Certificates).contains("ends within"));
        let cut = good.split_inclusive('\n').take(2).collect::<String>() + &good;
        assert!(refusal(&cut, Wanted::Certificates).contains("misplaced"));
    }

    #[test]
    fn an_encrypted_key_is_named_as_such() {
        assert!(refusal(&block("ENCRYPTED PRIVATE KEY", b"k"), Wanted::PrivateKey).contains("encrypted"));
        let legacy = block("RSA PRIVATE KEY", b"k").replacen('\n', "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n", 1);
        assert!(refusal(&legacy, Wanted::PrivateKey).contains("encrypted"));
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_cure() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), block("PRIVATE KEY", b"k")).unwrap();
        for (mode, fine) in
            [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o660, false), (0o604, false), (0o602, false)]
        {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let result = private_key(file.path());
            assert_eq!(result.is_ok(), fine, "{mode:o}");
            if let Err(error) = result {
                assert!(error.help.unwrap().starts_with("chmod 0600"));
            }
        }
    }

    #[test]
    fn two_keys_in_a_file_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), block("PRIVATE KEY", b"k") + &block("PRIVATE KEY", b"l")).unwrap();
        assert!(private_key(file.path()).unwrap_err().message.contains("more than one"));
    }

    #[test]
    fn a_missing_file_and_a_directory_are_clear_errors() {
        assert!(certificates(Path::new("/nonexistent/a.pem")).unwrap_err().message.starts_with("cannot read /nonexistent/a.pem"));
        let folder = tempfile::tempdir().unwrap();
        assert!(certificates(folder.path()).unwrap_err().message.contains("not a regular file"));
    }

    #[test]
    fn a_file_of_another_user_names_the_cure() {
        let told = unreadable(Path::new("a.key"), &ErrorKind::PermissionDenied.into());
        assert_eq!(told.message, "cannot read a.key: permission denied");
        assert!(told.help.is_some_and(|help| help.contains("the user that the gateway runs as")));
    }

    proptest! {
        /// So that the swap to `PemObject` is this one file.
        #[test]
        fn equal_to_pem_object(ders in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..4), comment in "[ -,.-~\n]{0,40}") {
            let text: String = ders.iter().map(|der| format!("{comment}\n{}", block("CERTIFICATE", der))).collect();
            let ours: Vec<_> = items(text.as_bytes(), Wanted::Certificates).unwrap().into_iter().map(|item| match item {
                Item::X509Certificate(der) => der,
                other => panic!("{other:?}"),
            }).collect();
            let theirs: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(&ours, &theirs);
            prop_assert_eq!(ours.iter().map(|der| der.to_vec()).collect::<Vec<_>>(), ders);
        }

        /// Whatever we accept, `PemObject` reads alike: we are stricter, never different.
        #[test]
        fn never_accepts_what_pem_object_reads_otherwise(
            der in prop::collection::vec(any::<u8>(), 1..80), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut text = (block("PRIVATE KEY", &der) + &block("EC PARAMETERS", &der)).into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            if let Ok(found) = items(&text, Wanted::PrivateKey) {
                let theirs: Vec<_> = PrivateKeyDer::pem_slice_iter(&text).collect::<Result<_, _>>().unwrap();
                prop_assert_eq!(found.len(), theirs.len());
                for (ours, theirs) in found.iter().zip(&theirs) {
                    let ours = match ours {
                        Item::Pkcs8Key(key) => key.secret_pkcs8_der(),
                        Item::Pkcs1Key(key) => key.secret_pkcs1_der(),
                        Item::Sec1Key(key) => key.secret_sec1_der(),
                        other => panic!("{other:?}"),
                    };
                    prop_assert_eq!(ours, theirs.secret_der());
                }
            }
        }
    }
}
