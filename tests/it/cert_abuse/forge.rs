//! Certificates and lists put together tag by tag, with a valid signature over whatever was asked for: rcgen makes only good ones.

use base64::Engine as _;
use doorward::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use rcgen::{KeyPair, PublicKeyData, SigningKey};

pub const DIGITAL_SIGNATURE: u16 = 0x8000;
pub const KEY_ENCIPHERMENT: u16 = 0x2000;
pub const KEY_CERT_SIGN: u16 = 0x0400;
pub const CRL_SIGN: u16 = 0x0200;

pub const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
pub const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];
pub const ANY_PURPOSE: &[u64] = &[2, 5, 29, 37, 0];

pub const ECDSA_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
pub const ED25519: &[u64] = &[1, 3, 101, 112];
pub const RSA_SHA1: &[u64] = &[1, 2, 840, 113_549, 1, 1, 5];
pub const RSA_MD5: &[u64] = &[1, 2, 840, 113_549, 1, 1, 4];

const SEQUENCE: u8 = 0x30;
const UTF8: u8 = 0x0c;
pub const PRINTABLE: u8 = 0x13;

/// What is to be signed, and by whom it claims to be.
#[derive(Clone)]
pub struct Draft {
    pub version: Option<u8>,
    pub serial: Vec<u8>,
    /// Outside and inside the signed part.
    pub algorithms: [Vec<u8>; 2],
    pub issuer: Vec<u8>,
    /// Days from now.
    pub from: i64,
    pub until: i64,
    pub subject: Vec<u8>,
    pub key: Vec<u8>,
    /// What stands between the key and the extensions.
    pub oddity: Vec<u8>,
    pub extensions: Vec<Vec<u8>>,
}

impl Draft {
    /// A client's certificate that holds: serial 1, `urn:acme:sync`, clientAuth, 90 days.
    pub fn leaf(issuer: &str, key: &KeyPair) -> Self {
        Self {
            version: Some(2),
            serial: vec![1],
            algorithms: [algorithm(ECDSA_SHA256), algorithm(ECDSA_SHA256)],
            issuer: name(issuer),
            from: -1,
            until: 90,
            subject: name("sync"),
            key: key.subject_public_key_info(),
            oddity: Vec::new(),
            extensions: vec![key_usage(DIGITAL_SIGNATURE), purposes(&[CLIENT_AUTH]), names(&[uri("urn:acme:sync")])],
        }
    }

    /// A CA's certificate that holds: serial 77, keyCertSign and cRLSign, no path length, ten years.
    pub fn authority(issuer: &str, subject: &str, key: &KeyPair) -> Self {
        Self {
            serial: vec![77],
            until: 3650,
            subject: name(subject),
            extensions: vec![basic(true, None), key_usage(KEY_CERT_SIGN | CRL_SIGN)],
            ..Self::leaf(issuer, key)
        }
    }

    pub fn with(mut self, edit: impl FnOnce(&mut Self)) -> Self {
        edit(&mut self);
        self
    }

    /// Puts this in place of every extension of the same kind, or after the others.
    pub fn set(mut self, extension: Vec<u8>) -> Self {
        self = self.without(&extension);
        self.extensions.push(extension);
        self
    }

    /// Takes every extension of this one's kind out.
    pub fn without(mut self, like: &[u8]) -> Self {
        let kind = |extension: &[u8]| {
            extension[if extension[1] < 0x80 { 2 } else { 2 + usize::from(extension[1] & 0x7f) }..][..5].to_vec()
        };
        self.extensions.retain(|extension| kind(extension) != kind(like));
        self
    }

    pub fn signed(&self, by: &KeyPair) -> Vec<u8> {
        let version = self.version.map_or_else(Vec::new, |version| tlv(0xa0, &tlv(2, &[version])));
        let validity = sequence(&[&time(self.from), &time(self.until)]);
        let extensions =
            if self.extensions.is_empty() { Vec::new() } else { tlv(0xa3, &tlv(SEQUENCE, &self.extensions.concat())) };
        let signed = sequence(&[
            &version,
            &tlv(2, &self.serial),
            &self.algorithms[1],
            &self.issuer,
            &validity,
            &self.subject,
            &self.key,
            &self.oddity,
            &extensions,
        ]);
        seal(&signed, &self.algorithms[0], by)
    }
}

/// A revocation list.
#[derive(Clone)]
pub struct List {
    pub version: Option<u8>,
    pub issuer: Vec<u8>,
    /// Days from now.
    pub from: i64,
    pub until: Option<i64>,
    /// Serials, with the extensions of their entries.
    pub revoked: Vec<(u8, Vec<u8>)>,
    pub extensions: Vec<Vec<u8>>,
}

impl List {
    /// A list that holds, from yesterday for thirty days.
    pub fn of(issuer: &str, revoked: &[u8]) -> Self {
        Self {
            version: Some(1),
            issuer: name(issuer),
            from: -1,
            until: Some(30),
            revoked: revoked.iter().map(|serial| (*serial, Vec::new())).collect(),
            extensions: vec![extension(&[2, 5, 29, 20], false, &tlv(2, &[1]))],
        }
    }

    pub fn with(mut self, edit: impl FnOnce(&mut Self)) -> Self {
        edit(&mut self);
        self
    }

    pub fn extended(mut self, extension: Vec<u8>) -> Self {
        self.extensions.push(extension);
        self
    }

    pub fn signed(&self, by: &KeyPair) -> Vec<u8> {
        let version = self.version.map_or_else(Vec::new, |version| tlv(2, &[version]));
        let algorithm = algorithm(ECDSA_SHA256);
        let until = self.until.map_or_else(Vec::new, time);
        let entries: Vec<u8> = self
            .revoked
            .iter()
            .flat_map(|(serial, extensions)| {
                let extensions = if extensions.is_empty() { Vec::new() } else { tlv(SEQUENCE, extensions) };
                sequence(&[&tlv(2, &[*serial]), &time(-1), &extensions])
            })
            .collect();
        let revoked = if entries.is_empty() { Vec::new() } else { tlv(SEQUENCE, &entries) };
        let extensions =
            if self.extensions.is_empty() { Vec::new() } else { tlv(0xa0, &tlv(SEQUENCE, &self.extensions.concat())) };
        let signed = sequence(&[&version, &algorithm, &self.issuer, &time(self.from), &until, &revoked, &extensions]);
        seal(&signed, &algorithm, by)
    }

    pub fn pem(&self, by: &KeyPair) -> String {
        pem("X509 CRL", &self.signed(by))
    }
}

fn seal(signed: &[u8], algorithm: &[u8], by: &KeyPair) -> Vec<u8> {
    let signature = [&[0][..], &by.sign(signed).unwrap()].concat();
    sequence(&[signed, algorithm, &tlv(3, &signature)])
}

pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        0x100..=0xffff => out.extend([0x82, (length >> 8) as u8, length as u8]),
        _ => out.extend([0x83, (length >> 16) as u8, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}

pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

pub fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = vec![(arcs[0] * 40 + arcs[1]) as u8];
    for arc in &arcs[2..] {
        let mut digits = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            digits.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        content.extend(digits.iter().rev());
    }
    tlv(6, &content)
}

pub fn algorithm(arcs: &[u64]) -> Vec<u8> {
    // RSA's parameters are NULL, those of the curves absent (RFC 3279, 5758)
    let null: &[u8] = if arcs.starts_with(&[1, 2, 840, 113_549]) { &[5, 0] } else { &[] };
    sequence(&[&oid(arcs), null])
}

pub fn name(common: &str) -> Vec<u8> {
    name_as(UTF8, common)
}

pub fn name_as(tag: u8, common: &str) -> Vec<u8> {
    sequence(&[&tlv(0x31, &sequence(&[&oid(&[2, 5, 4, 3]), &tlv(tag, common.as_bytes())]))])
}

/// Days from now as UTCTime, as RFC 5280 wants it before 2050.
pub fn time(days: i64) -> Vec<u8> {
    let at: Timestamp = Clock::system().now().wall + SignedDuration::from_hours(days * 24);
    tlv(0x17, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
}

pub fn extension(arcs: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    sequence(&[&oid(arcs), critical, &tlv(4, value)])
}

pub fn basic(ca: bool, path_length: Option<&[u8]>) -> Vec<u8> {
    let ca: &[u8] = if ca { &[1, 1, 0xff] } else { &[] };
    let length = path_length.map_or_else(Vec::new, |length| tlv(2, length));
    extension(&[2, 5, 29, 19], true, &sequence(&[ca, &length]))
}

pub fn key_usage(bits: u16) -> Vec<u8> {
    extension(&[2, 5, 29, 15], true, &tlv(3, &[0, (bits >> 8) as u8, bits as u8]))
}

pub fn purposes(list: &[&[u64]]) -> Vec<u8> {
    extension(&[2, 5, 29, 37], false, &tlv(SEQUENCE, &list.iter().flat_map(|arcs| oid(arcs)).collect::<Vec<_>>()))
}

pub fn names(list: &[Vec<u8>]) -> Vec<u8> {
    extension(&[2, 5, 29, 17], false, &tlv(SEQUENCE, &list.concat()))
}

pub fn uri(text: &str) -> Vec<u8> {
    tlv(0x86, text.as_bytes())
}

pub fn dns(text: &str) -> Vec<u8> {
    tlv(0x82, text.as_bytes())
}

pub fn email(text: &str) -> Vec<u8> {
    tlv(0x81, text.as_bytes())
}

pub fn address(bytes: &[u8]) -> Vec<u8> {
    tlv(0x87, bytes)
}

pub fn directory(common: &str) -> Vec<u8> {
    tlv(0xa4, &name(common))
}

pub fn constraints(permitted: &[Vec<u8>], excluded: &[Vec<u8>]) -> Vec<u8> {
    let part = |tag: u8, bases: &[Vec<u8>]| {
        if bases.is_empty() {
            return Vec::new();
        }
        tlv(tag, &bases.iter().flat_map(|base| sequence(&[base])).collect::<Vec<_>>())
    };
    extension(&[2, 5, 29, 30], true, &sequence(&[&part(0xa0, permitted), &part(0xa1, excluded)]))
}

/// An issuingDistributionPoint with this content.
pub fn scope(content: &[u8]) -> Vec<u8> {
    extension(&[2, 5, 29, 28], true, &tlv(SEQUENCE, content))
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
