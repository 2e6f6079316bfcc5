//! ClientHellos by hand, for what no client library says any more.

/// What a server may be offered.
#[derive(Clone)]
pub struct Hello {
    /// `legacy_version`.
    pub version: u16,
    /// `supported_versions`; none: the extension is absent.
    pub versions: &'static [u16],
    pub suites: &'static [u16],
    pub compressions: &'static [u8],
    /// Further extensions, as they are on the wire.
    pub more: Vec<u8>,
    /// Bytes of a padding extension (RFC 7685).
    pub padding: usize,
}

impl Default for Hello {
    /// TLS 1.2 and 1.3, as a modern client says it, but without a key share: the server asks for one, or takes 1.2.
    fn default() -> Self {
        Self {
            version: 0x0303,
            versions: &[0x0304, 0x0303],
            suites: &[0x1301, 0x1302, 0xc02b, 0xc02f, 0xc02c, 0xc030],
            compressions: &[0],
            more: Vec::new(),
            padding: 0,
        }
    }
}

impl Hello {
    /// The handshake message.
    pub fn message(&self) -> Vec<u8> {
        let mut extensions = vec![];
        let mut add = |kind: u16, body: &[u8]| {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(two(body));
        };
        let name = [&[0][..], &two(b"localhost")].concat();
        add(0, &two(&name));
        add(10, &two(&[0, 23, 0, 29]));
        add(11, &[1, 0]);
        add(13, &two(&[4, 3, 8, 4, 4, 1, 5, 3, 8, 5, 5, 1, 8, 6, 6, 1, 2, 1]));
        if !self.versions.is_empty() {
            let list: Vec<u8> = self.versions.iter().flat_map(|version| version.to_be_bytes()).collect();
            add(43, &[&[u8::try_from(list.len()).unwrap_or(0)][..], &list].concat());
            // An empty key share asks for a HelloRetryRequest.
            add(51, &[0, 0]);
        }
        if self.padding > 0 {
            add(21, &vec![0; self.padding]);
        }
        extensions.extend(&self.more);
        let suites: Vec<u8> = self.suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.push(0);
        body.extend(two(&suites));
        body.push(u8::try_from(self.compressions.len()).unwrap_or(0));
        body.extend(self.compressions);
        body.extend(two(&extensions));
        handshake(1, body.len(), &body)
    }

    /// In records of so many bytes.
    pub fn records(&self, size: usize) -> Vec<u8> {
        self.message().chunks(size).flat_map(|piece| record(22, piece)).collect()
    }
}

/// What a server said first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// ServerHello or HelloRetryRequest, with the version of its record.
    Hello,
    Alert(u8),
    Nothing,
    Other(u8),
}

/// Reads the first record of an answer.
pub fn said(bytes: &[u8]) -> Said {
    match bytes {
        [] => Said::Nothing,
        [21, _, _, 0, 2, _, alert, ..] => Said::Alert(*alert),
        [22, _, _, _, _, 2, ..] => Said::Hello,
        [other, ..] => Said::Other(*other),
    }
}

/// A record.
pub fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1][..], &two(payload)].concat()
}

/// A handshake message that says to be so long.
pub fn handshake(kind: u8, length: usize, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [&[kind][..], &length[1..], body].concat()
}

fn two(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()[..], bytes].concat()
}

/// What must be refused, with the alert that says why.
pub fn refused() -> Vec<(&'static str, Vec<u8>, &'static [u8])> {
    let hello = |change: fn(&mut Hello)| {
        let mut hello = Hello::default();
        change(&mut hello);
        hello.records(16_384)
    };
    const VERSION: &[u8] = &[70];
    // Without a suite or a curve in common: handshake_failure, or insufficient_security.
    const SUITES: &[u8] = &[40, 71];
    const ILLEGAL: &[u8] = &[47, 50, 40];
    vec![
        ("SSL 3.0", hello(|hello| (hello.version, hello.versions) = (0x0300, &[])), VERSION),
        ("TLS 1.0", hello(|hello| (hello.version, hello.versions) = (0x0301, &[])), VERSION),
        ("TLS 1.1", hello(|hello| (hello.version, hello.versions) = (0x0302, &[])), VERSION),
        ("TLS 1.0 by supported_versions", hello(|hello| hello.versions = &[0x0301]), VERSION),
        ("TLS 1.1 by supported_versions", hello(|hello| hello.versions = &[0x0302, 0x0301]), VERSION),
        ("TLS 1.4 alone", hello(|hello| hello.versions = &[0x0305]), VERSION),
        ("static RSA", hello(|hello| (hello.versions, hello.suites) = (&[], &[0x009c, 0x009d, 0x002f, 0x0035, 0x003c])), SUITES),
        ("CBC", hello(|hello| (hello.versions, hello.suites) = (&[], &[0xc009, 0xc00a, 0xc013, 0xc014, 0xc027, 0xc028])), SUITES),
        ("3DES and RC4", hello(|hello| (hello.versions, hello.suites) = (&[], &[0x000a, 0x0005, 0xc012, 0xc011])), SUITES),
        ("no encryption", hello(|hello| (hello.versions, hello.suites) = (&[], &[0x0001, 0x0002, 0x003b, 0xc010])), SUITES),
        (
            "anonymous key exchange",
            hello(|hello| (hello.versions, hello.suites) = (&[], &[0x0034, 0x006c, 0xc018, 0x00a6])),
            SUITES,
        ),
        ("finite-field key exchange", hello(|hello| (hello.versions, hello.suites) = (&[], &[0x009e, 0x009f, 0x0033])), SUITES),
        ("export", hello(|hello| (hello.versions, hello.suites) = (&[], &[0x0003, 0x0006, 0x0008])), SUITES),
        ("compression without a choice", hello(|hello| (hello.versions, hello.compressions) = (&[], &[1])), ILLEGAL),
        ("no suites", hello(|hello| hello.suites = &[]), &[40, 47, 50, 71]),
        ("an SSL 2.0 hello", vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80], &[10, 40, 50, 70]),
        ("a message of 16 MiB", record(22, &handshake(1, 0xff_ffff, &[0; 1000])), &[10, 22, 40, 47, 50]),
        ("an empty record", record(22, &[]), &[10, 40, 47, 50]),
        ("a record over the limit", [&[22, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat(), &[10, 22, 50, 70]),
        ("application data first", record(23, b"GET / HTTP/1.1\r\n\r\n"), &[10, 20, 50]),
        ("an alert first", record(21, &[2, 40]), &[10, 40]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), &[10, 22, 50, 70]),
        ("Finished first", record(22, &handshake(20, 12, &[0; 12])), &[10, 40]),
        ("trailing bytes", record(22, &[&Hello::default().message()[..], &[0; 8]].concat()), &[10, 47, 50]),
    ]
}
