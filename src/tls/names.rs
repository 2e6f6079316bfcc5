//! Names of unverified certificates, for events: found by webpki, read by a bounded reader, capped and escaped.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Bytes of text per name.
const MAX_TEXT: usize = 1024;
/// What a leaf is called that webpki cannot parse.
const UNREADABLE: &str = "(unreadable)";

/// Subject and issuer of a leaf that nobody has verified. Never fails: what cannot be read is shown as hex or as `(unreadable)`.
pub(super) fn describe(leaf: &CertificateDer<'_>) -> (String, String) {
    match EndEntityCert::try_from(leaf) {
        Ok(leaf) => (distinguished_name(leaf.subject()), distinguished_name(leaf.issuer())),
        Err(_) => (UNREADABLE.to_owned(), UNREADABLE.to_owned()),
    }
}

/// Whether the leaf holds an RSA key shorter than the 2,048 bits below which its signatures are not verified at all.
pub(super) fn has_short_rsa_key(leaf: &CertificateDer<'_>) -> bool {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    let modulus_bytes = |spki: &[u8]| {
        let mut spki = Reader(Reader(spki).take(SEQUENCE)?);
        if Reader(spki.take(SEQUENCE)?).take(OID)? != RSA {
            return None;
        }
        let key = spki.take(BIT_STRING)?.strip_prefix(&[0])?;
        let modulus = Reader(Reader(key).take(SEQUENCE)?).take(INTEGER)?;
        Some(modulus.strip_prefix(&[0]).unwrap_or(modulus).len())
    };
    EndEntityCert::try_from(leaf)
        .is_ok_and(|leaf| modulus_bytes(&leaf.subject_public_key_info()).is_some_and(|bytes| bytes < 256))
}

/// `CN=...,O=...` of the content of a DER `Name`.
fn distinguished_name(mut der: &[u8]) -> String {
    let mut text = Text::default();
    let mut sets = Reader(der);
    while let Some(set) = sets.take(SET) {
        der = sets.0;
        let mut attributes = Reader(set);
        while let Some(attribute) = attributes.take(SEQUENCE) {
            if text.full {
                return text.out;
            }
            let mut attribute = Reader(attribute);
            let (Some(kind), Some((tag, value))) = (attribute.take(OID), attribute.next()) else {
                text.hex("#", set);
                continue;
            };
            text.attribute(kind, tag, value);
        }
        if !attributes.0.is_empty() {
            text.hex("#", attributes.0);
        }
    }
    if !der.is_empty() {
        text.hex("#", der);
    }
    text.out
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// Walks DER of definite length; `None` at the end and at the first thing out of order.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |length, &digit| (length << 8) | usize::from(digit)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    fn take(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let mut ahead = Reader(self.0);
        let (tag, value) = ahead.next()?;
        (tag == wanted).then(|| {
            self.0 = ahead.0;
            value
        })
    }
}

/// Text that cannot break a log line or a page, and does not grow beyond its cap.
#[derive(Default)]
struct Text {
    out: String,
    full: bool,
}

impl Text {
    fn attribute(&mut self, kind: &[u8], tag: u8, value: &[u8]) {
        if !self.out.is_empty() {
            self.push(",");
        }
        let name = match kind {
            [0x55, 0x04, 0x03] => "CN",
            [0x55, 0x04, 0x05] => "serialNumber",
            [0x55, 0x04, 0x06] => "C",
            [0x55, 0x04, 0x07] => "L",
            [0x55, 0x04, 0x08] => "ST",
            [0x55, 0x04, 0x0a] => "O",
            [0x55, 0x04, 0x0b] => "OU",
            [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01] => "emailAddress",
            [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19] => "DC",
            _ => "",
        };
        if name.is_empty() {
            self.hex("oid:", kind);
        } else {
            self.push(name);
        }
        self.push("=");
        match (tag, std::str::from_utf8(value)) {
            // UTF8String, NumericString, PrintableString, T61String, IA5String, VisibleString
            (0x0c | 0x12 | 0x13 | 0x14 | 0x16 | 0x1a, Ok(value)) => self.escaped(value.chars()),
            // BMPString
            (0x1e, _) if value.len().is_multiple_of(2) => {
                let units =
                    value.chunks_exact(2).map(|unit| unit.iter().fold(0_u16, |word, &byte| (word << 8) | u16::from(byte)));
                self.escaped(char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)));
            }
            _ => self.hex("#", value),
        }
    }

    fn escaped(&mut self, chars: impl Iterator<Item = char>) {
        for char in chars {
            match char {
                _ if self.full => return,
                ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' | '#' => self.push_all(['\\', char]),
                ' '..='~' => self.push_all([char]),
                // letters of any script; what turns or hides text is not among them
                _ if char.is_alphanumeric() => self.push_all([char]),
                _ => self.push_all(char.escape_unicode()),
            }
        }
    }

    fn hex(&mut self, prefix: &str, bytes: &[u8]) {
        self.push(prefix);
        for byte in bytes {
            if self.full {
                return;
            }
            self.push(&format!("{byte:02x}"));
        }
    }

    fn push(&mut self, text: &str) {
        self.push_all(text.chars());
    }

    /// All of it or nothing, so that an escape is never cut in two.
    fn push_all(&mut self, chars: impl IntoIterator<Item = char>) {
        const MARK: char = '…';
        if self.full {
            return;
        }
        let before = self.out.len();
        self.out.extend(chars);
        if self.out.len() > MAX_TEXT - MARK.len_utf8() {
            self.out.truncate(before);
            self.out.push(MARK);
            self.full = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
        let length = value.len();
        let mut der = vec![tag];
        match length {
            0..0x80 => der.push(length as u8),
            0x80..0x100 => der.extend([0x81, length as u8]),
            _ => der.extend([0x82, (length >> 8) as u8, length as u8]),
        }
        der.extend(value);
        der
    }

    fn attribute(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        tlv(SET, &tlv(SEQUENCE, &[tlv(OID, oid), tlv(tag, value)].concat()))
    }

    const CN: &[u8] = &[0x55, 0x04, 0x03];

    #[test]
    fn names_are_read_as_people_write_them() {
        let name = [attribute(CN, 0x0c, "Zoë".as_bytes()), attribute(&[0x55, 0x04, 0x0a], 0x13, b"Acme Ltd")].concat();
        assert_eq!(distinguished_name(&name), "CN=Zoë,O=Acme Ltd");
        assert_eq!(distinguished_name(&attribute(CN, 0x1e, &[0, b'A', 0x20, 0xac])), "CN=A\\u{20ac}");
        assert_eq!(distinguished_name(&attribute(&[0x55, 0x1d], 0x04, &[1, 2])), "oid:551d=#0102");
    }

    #[test]
    fn what_would_break_a_line_is_escaped() {
        let text = distinguished_name(&attribute(CN, 0x0c, "a\r\nO=evil\u{202e}\u{1b}[31m,\0".as_bytes()));
        assert_eq!(text, "CN=a\\u{d}\\u{a}O\\=evil\\u{202e}\\u{1b}[31m\\,\\u{0}");
    }

    #[test]
    fn the_rest_of_a_damaged_name_is_hex() {
        assert_eq!(distinguished_name(&[0x31, 0x7f, 0x01]), "#317f01");
        assert_eq!(distinguished_name(&tlv(SET, &[0x05, 0x00])), "#0500");
        assert_eq!(describe(&CertificateDer::from(&b"junk"[..])).0, UNREADABLE);
    }

    proptest! {
        #[test]
        fn never_panics_and_never_grows_beyond_its_cap(
            der in prop::collection::vec(any::<u8>(), 0..400), value in prop::collection::vec(any::<u8>(), 0..5000), tag in 0x0c_u8..0x20,
        ) {
            for text in [distinguished_name(&der), distinguished_name(&attribute(CN, tag, &value))] {
                prop_assert!(text.len() <= MAX_TEXT);
                prop_assert!(!text.chars().any(char::is_control));
            }
        }
    }
}
