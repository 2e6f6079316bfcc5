//! TLS 1.3 records (RFC 8446 section 5) under the keys that rustls agreed on: sealed and opened from one buffer into another.
//! By rustls each record would be an allocation and a copy or two more.

use std::io;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{Iv, Nonce as RecordNonce, make_tls13_aad};

use crate::buffer::Buffer;

/// The plaintext of one record.
pub const MOST: usize = 16 * 1024;
pub const SEALED: usize = HEADER + MOST + TAIL;
const HEADER: usize = 5;
const TAG: usize = 16;
/// The type within, and the tag.
const TAIL: usize = 1 + TAG;
const ALERT: u8 = 21;
const DATA: u8 = 23;

/// One direction's key.
struct Key {
    key: LessSafeKey,
    iv: Iv,
    record: u64,
}

pub struct Sealer(Key);

pub struct Opener {
    key: Key,
    /// The client said goodbye.
    pub closed: bool,
}

impl Key {
    fn new((record, secrets): (u64, ConnectionTrafficSecrets)) -> io::Result<Self> {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { return Err(io::ErrorKind::Unsupported.into()) };
        let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).map_err(io::Error::other)?;
        Ok(Self { key: LessSafeKey::new(key), iv, record })
    }

    fn nonce(&mut self) -> Nonce {
        let nonce = RecordNonce::new(&self.iv, self.record).0;
        self.record += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Sealer {
    pub fn new(secrets: (u64, ConnectionTrafficSecrets)) -> io::Result<Self> {
        Key::new(secrets).map(Self)
    }

    /// All of it, in as few records as hold it.
    pub fn seal(&mut self, plain: &[u8], into: &mut Buffer) -> io::Result<()> {
        plain.chunks(MOST).try_for_each(|plain| into.put(|free| self.record(plain, free)))
    }

    fn record(&mut self, plain: &[u8], into: &mut [u8]) -> io::Result<usize> {
        let length = plain.len() + TAIL;
        let header = make_tls13_aad(length);
        let (start, rest) = into.split_at_mut(HEADER);
        let (body, tail) = rest[..length].split_at_mut(plain.len());
        start.copy_from_slice(&header);
        let nonce = self.0.nonce();
        let sealed = self.0.key.seal_out_of_place_scatter(nonce, Aad::from(header), plain, body, &[DATA], tail);
        sealed.map(|()| HEADER + length).map_err(io::Error::other)
    }
}

impl Opener {
    pub fn new(secrets: (u64, ConnectionTrafficSecrets)) -> io::Result<Self> {
        Ok(Self { key: Key::new(secrets)?, closed: false })
    }

    /// All records that came whole, up to a goodbye.
    pub fn open(&mut self, came: &mut Buffer, plain: &mut Buffer) -> io::Result<()> {
        let mut opened = 0;
        while let Some((header, rest)) = came.filled()[opened..].split_first_chunk::<HEADER>() {
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            let Some(record) = rest.get(..length).filter(|_| !self.closed) else { break };
            plain.put(|free| self.record(*header, record, free))?;
            opened += HEADER + length;
        }
        came.drop_front(opened);
        Ok(())
    }

    /// Of what is no data only an alert is understood, and taken for a goodbye.
    fn record(&mut self, header: [u8; HEADER], sealed: &[u8], into: &mut [u8]) -> io::Result<usize> {
        let (body, tag) = sealed.split_last_chunk::<TAG>().ok_or(io::ErrorKind::InvalidData)?;
        let into = &mut into[..body.len()];
        let nonce = self.key.nonce();
        self.key.key.open_separate_gather(nonce, Aad::from(header), body, tag, into).map_err(io::Error::other)?;
        match into.iter().rposition(|byte| *byte != 0).map(|end| (end, into[end])) {
            Some((end, DATA)) => Ok(end),
            Some((_, ALERT)) => {
                self.closed = true;
                Ok(0)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}
