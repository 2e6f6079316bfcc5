//! Client certificates of every bad and odd kind: each has its exact cause in the event and its exact alert, over TLS 1.2 and
//! 1.3, where a certificate is required and where it is optional. Lists too large or malformed never replace a good one.

mod forge;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::support::{BASE, OPEN_SITE, Stage, Visitor, doorward, event, open, run};
use forge::*;

use AlertDescription as Alert;

/// No handshake and no event takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A set of CAs with a site that demands its certificates and one that lets its routes decide.
struct World {
    name: &'static str,
    key: KeyPair,
    root: Draft,
    lists: Vec<String>,
    /// More lines of the set.
    lines: &'static str,
}

struct Case {
    world: &'static str,
    name: &'static str,
    chain: Vec<Vec<u8>>,
    expected: Expected,
}

#[derive(Clone, Copy)]
enum Expected {
    Holds,
    /// Where required the alert; where optional the routes' refusal.
    Refused(&'static str, AlertDescription),
    /// What rustls itself cannot read ends the handshake everywhere.
    Unreadable(&'static str, AlertDescription),
}

use Expected::{Holds, Refused, Unreadable};

/// Everything that signs, made once.
struct Keys {
    /// Of every leaf.
    leaf: KeyPair,
    /// Of every first and second intermediate.
    middle: KeyPair,
    second: KeyPair,
    stranger: KeyPair,
    edwards: KeyPair,
}

impl World {
    fn new(name: &'static str) -> Self {
        let key = KeyPair::generate().unwrap();
        let root = Draft::authority(name, name, &key);
        Self { name, key, root, lists: Vec::new(), lines: "" }
    }

    fn root(mut self, edit: impl FnOnce(Draft) -> Draft) -> Self {
        self.root = edit(self.root);
        self
    }

    /// Each list is a file.
    fn lists(mut self, lists: impl FnOnce(&Self) -> Vec<String>) -> Self {
        self.lists = lists(&self);
        self
    }

    fn lines(mut self, lines: &'static str) -> Self {
        self.lines = lines;
        self
    }

    fn write(&self, folder: &std::path::Path) -> String {
        let path = |name: String, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let root = path(format!("{}.pem", self.name), &pem("CERTIFICATE", &self.root.signed(&self.key)));
        let lists = self.lists.iter().enumerate();
        let lists: Vec<_> = lists.map(|(at, list)| path(format!("{}-{at}.crl", self.name), list)).collect();
        let crls = if lists.is_empty() { String::new() } else { format!("crls = {lists:?}") };
        let mut text = format!("\n[client_ca.{}]\nroots = [{root:?}]\n{crls}\n{}\n", self.name, self.lines);
        for (prefix, demand) in [("r", "required"), ("o", "optional")] {
            let _ = writeln!(
                text,
                "[[site]]\nhosts = [\"{prefix}-{0}.tenants.localhost\"]\nclient_ca = \"{0}\"\nclient_cert = \"{demand}\"\n  \
                 [[site.route]]\n  path = \"/\"\n  upstream = \"portal\"\n  bots = \"any\"\n  client_cert = \"required\"",
                self.name
            );
        }
        text
    }
}

/// The cases of one world are written down beside it.
struct Book<'a> {
    keys: &'a Keys,
    worlds: Vec<World>,
    cases: Vec<Case>,
}

impl Book<'_> {
    fn world(&mut self, world: World) {
        self.worlds.push(world);
    }

    /// A chain of the newest world, leaf first.
    fn case(&mut self, name: &'static str, expected: Expected, chain: impl FnOnce(&World, &Keys) -> Vec<Vec<u8>>) {
        let world = self.worlds.last().unwrap();
        self.cases.push(Case { world: world.name, name, chain: chain(world, self.keys), expected });
    }

    /// One leaf right under the root.
    fn leaf(&mut self, name: &'static str, expected: Expected, edit: impl FnOnce(Draft) -> Draft) {
        self.case(name, expected, |world, keys| vec![edit(Draft::leaf(world.name, &keys.leaf)).signed(&world.key)]);
    }

    /// A good leaf under one odd intermediate.
    fn middle(&mut self, name: &'static str, expected: Expected, edit: impl FnOnce(Draft) -> Draft) {
        self.under(name, expected, edit, |leaf| leaf);
    }

    /// An odd leaf under an odd intermediate.
    fn under(
        &mut self,
        name: &'static str,
        expected: Expected,
        edit: impl FnOnce(Draft) -> Draft,
        leaf: impl FnOnce(Draft) -> Draft,
    ) {
        self.case(name, expected, |world, keys| {
            let middle = edit(Draft::authority(world.name, "middle", &keys.middle)).signed(&world.key);
            vec![leaf(Draft::leaf("middle", &keys.leaf)).signed(&keys.middle), middle]
        });
    }
}

fn paths_and_times(book: &mut Book<'_>) {
    book.world(World::new("plain"));
    book.leaf("good, right under the root", Holds, |leaf| leaf);
    book.middle("good, under an intermediate", Holds, |middle| middle);
    book.case("intermediates out of order, with strangers among them", Holds, |world, keys| {
        let first = Draft::authority(world.name, "first", &keys.middle).signed(&world.key);
        let second = Draft::authority("first", "second", &keys.second).signed(&keys.middle);
        let stranger = Draft::authority("nobody", "stranger", &keys.stranger).signed(&keys.stranger);
        vec![Draft::leaf("second", &keys.leaf).signed(&keys.second), stranger, first, second]
    });
    book.case("the root is sent too", Holds, |world, keys| {
        vec![Draft::leaf(world.name, &keys.leaf).signed(&world.key), world.root.signed(&world.key)]
    });
    for (name, intermediates, expected) in [
        ("six intermediates", 6, Holds),
        ("seven intermediates", 7, Refused("chain-too-long", Alert::BadCertificate)),
        ("nine certificates", 8, Refused("chain-too-long", Alert::BadCertificate)),
        ("fifty certificates", 49, Refused("chain-too-long", Alert::BadCertificate)),
    ] {
        book.case(name, expected, |world, keys| ladder(world, keys, intermediates));
    }
    book.case("a stranger's CA", Refused("unknown-issuer", Alert::UnknownCA), |_, keys| {
        vec![Draft::leaf("stranger", &keys.leaf).signed(&keys.stranger)]
    });
    book.case("a stranger's CA, sent along as root", Refused("unknown-issuer", Alert::UnknownCA), |_, keys| {
        let root = Draft::authority("stranger", "stranger", &keys.stranger).signed(&keys.stranger);
        vec![Draft::leaf("stranger", &keys.leaf).signed(&keys.stranger), root]
    });
    book.case("a stranger's CA under our CA's name", Refused("bad-signature", Alert::DecryptError), |world, keys| {
        vec![Draft::leaf(world.name, &keys.leaf).signed(&keys.stranger)]
    });
    book.case("self-signed", Refused("unknown-issuer", Alert::UnknownCA), |_, keys| {
        vec![Draft::leaf("sync", &keys.leaf).signed(&keys.leaf)]
    });
    book.case("the intermediate is missing", Refused("unknown-issuer", Alert::UnknownCA), |_, keys| {
        vec![Draft::leaf("middle", &keys.leaf).signed(&keys.middle)]
    });
    book.case("two intermediates that vouch for each other", Refused("unknown-issuer", Alert::UnknownCA), |_, keys| {
        let one = Draft::authority("second", "first", &keys.middle).signed(&keys.second);
        let other = Draft::authority("first", "second", &keys.second).signed(&keys.middle);
        vec![Draft::leaf("first", &keys.leaf).signed(&keys.middle), one, other]
    });
    book.case("such a loop, with a way out", Holds, |world, keys| {
        let one = Draft::authority("second", "first", &keys.middle).signed(&keys.second);
        let other = Draft::authority("first", "second", &keys.second).signed(&keys.middle);
        let way = Draft::authority(world.name, "second", &keys.second).signed(&world.key);
        vec![Draft::leaf("first", &keys.leaf).signed(&keys.middle), one, other, way]
    });
    book.case("one changed byte in the name", Refused("bad-signature", Alert::DecryptError), |world, keys| {
        let mut leaf = Draft::leaf(world.name, &keys.leaf).signed(&world.key);
        let at = leaf.windows(13).position(|bytes| bytes == b"urn:acme:sync").unwrap();
        leaf[at + 12] = b'k';
        vec![leaf]
    });
    book.middle("an issuer's name in another string type (valid)", Refused("unknown-issuer", Alert::UnknownCA), |middle| {
        middle.with(|middle| middle.subject = name_as(PRINTABLE, "middle"))
    });

    let expired = Refused("expired", Alert::CertificateExpired);
    let early = Refused("not-yet-valid", Alert::CertificateExpired);
    book.leaf("expired", expired, |leaf| leaf.with(|leaf| (leaf.from, leaf.until) = (-90, -1)));
    book.leaf("not valid yet", early, |leaf| leaf.with(|leaf| leaf.from = 1));
    book.middle("an expired intermediate", expired, |middle| middle.with(|middle| (middle.from, middle.until) = (-90, -1)));
    book.middle("an intermediate not valid yet", early, |middle| middle.with(|middle| middle.from = 1));
    book.leaf("ends before it begins", Refused("malformed", Alert::BadCertificate), |leaf| {
        leaf.with(|leaf| (leaf.from, leaf.until) = (1, -1))
    });
    book.leaf("lives for two years", Refused("lifetime-too-long", Alert::AccessDenied), |leaf| {
        leaf.with(|leaf| leaf.until = 730)
    });
}

fn issuers(book: &mut Book<'_>) {
    let unfit = Refused("issuer-without-key-cert-sign", Alert::UnsupportedCertificate);
    book.world(World::new("issuers"));
    book.middle("an intermediate without keyUsage", unfit, |middle| middle.without(&key_usage(0)));
    book.middle("an intermediate with only cRLSign", unfit, |middle| middle.set(key_usage(CRL_SIGN)));
    book.middle("an intermediate with only digitalSignature", unfit, |middle| middle.set(key_usage(DIGITAL_SIGNATURE)));
    book.middle("an intermediate without basicConstraints", unfit, |middle| middle.without(&basic(true, None)));
    book.middle("an intermediate that is no CA", unfit, |middle| middle.set(basic(false, None)));
    book.case("a client certificate that issues another", unfit, |world, keys| {
        let issuer = Draft::leaf(world.name, &keys.middle).with(|leaf| leaf.subject = name("middle"));
        vec![Draft::leaf("middle", &keys.leaf).signed(&keys.middle), issuer.signed(&world.key)]
    });
    book.case("a bad and a good intermediate of one name", Holds, |world, keys| {
        let bad = Draft::authority(world.name, "middle", &keys.middle).set(key_usage(CRL_SIGN)).signed(&world.key);
        let good = Draft::authority(world.name, "middle", &keys.middle).signed(&world.key);
        vec![Draft::leaf("middle", &keys.leaf).signed(&keys.middle), bad, good]
    });

    let long = Refused("chain-too-long", Alert::BadCertificate);
    let two = |length: &'static [u8]| {
        move |world: &World, keys: &Keys| {
            let first = Draft::authority(world.name, "first", &keys.middle).set(basic(true, Some(length)));
            let second = Draft::authority("first", "second", &keys.second);
            vec![Draft::leaf("second", &keys.leaf).signed(&keys.second), second.signed(&keys.middle), first.signed(&world.key)]
        }
    };
    book.case("pathLen 0 with an intermediate below", long, two(&[0]));
    book.case("pathLen 1 with an intermediate below", Holds, two(&[1]));
    book.case("pathLen below zero", Refused("malformed", Alert::BadCertificate), two(&[0xff]));
    book.case("pathLen over 255 (valid)", Refused("malformed", Alert::BadCertificate), two(&[1, 0]));
    book.middle(
        "an unknown critical extension in the intermediate",
        Refused("unknown-critical-extension", Alert::BadCertificate),
        |it| it.set(extension(&[1, 3, 6, 1, 4, 1, 99999, 1], true, &[5, 0])),
    );
    book.middle("an intermediate of X.509 version 1", Refused("malformed", Alert::BadCertificate), |middle| {
        middle.with(|middle| {
            middle.version = None;
            middle.extensions.clear();
        })
    });
    book.middle("an intermediate for servers only", Refused("no-client-auth-eku", Alert::UnsupportedCertificate), |middle| {
        middle.set(purposes(&[SERVER_AUTH]))
    });
    book.middle("an intermediate for clients", Holds, |middle| middle.set(purposes(&[CLIENT_AUTH])));
    book.middle("an intermediate for any purpose", Holds, |middle| middle.set(purposes(&[ANY_PURPOSE])));
    book.case("an Ed25519 intermediate", Holds, |world, keys| {
        let middle = Draft::authority(world.name, "edwards", &keys.edwards).signed(&world.key);
        let leaf = Draft::leaf("edwards", &keys.leaf);
        vec![leaf.with(|leaf| leaf.algorithms = [algorithm(ED25519), algorithm(ED25519)]).signed(&keys.edwards), middle]
    });
    let weak = Refused("weak-key", Alert::UnsupportedCertificate);
    book.middle("an intermediate with RSA of 1024 bits", weak, |middle| middle.with(|middle| middle.key = short_rsa_key()));
    book.under(
        "a leaf signed by RSA of 1024 bits",
        weak,
        |middle| middle.with(|middle| middle.key = short_rsa_key()),
        |leaf| {
            leaf.with(|leaf| {
                leaf.algorithms = [algorithm(&[1, 2, 840, 113_549, 1, 1, 11]), algorithm(&[1, 2, 840, 113_549, 1, 1, 11])]
            })
        },
    );

    book.world(World::new("short").root(|root| root.set(basic(true, Some(&[0])))));
    book.leaf("right under a root of pathLen 0", Holds, |leaf| leaf);
    book.middle("an intermediate under a root of pathLen 0", long, |middle| middle);
    book.case("the root's next key, issued by itself, under its pathLen 0", Holds, |world, keys| {
        let next = Draft::authority(world.name, world.name, &keys.middle).signed(&world.key);
        vec![Draft::leaf(world.name, &keys.leaf).signed(&keys.middle), next]
    });
    book.world(World::new("past").root(|root| root.with(|root| (root.from, root.until) = (-900, -1))));
    book.leaf("under an expired root", Refused("expired", Alert::CertificateExpired), |leaf| leaf);
}

fn leaves(book: &mut Book<'_>) {
    let purpose = Refused("no-client-auth-eku", Alert::UnsupportedCertificate);
    book.world(World::new("leaves"));
    book.leaf("no extended key usage", purpose, |leaf| leaf.without(&purposes(&[CLIENT_AUTH])));
    book.leaf("for servers only", purpose, |leaf| leaf.set(purposes(&[SERVER_AUTH])));
    book.leaf("for any purpose only", purpose, |leaf| leaf.set(purposes(&[ANY_PURPOSE])));
    book.leaf("an empty list of purposes", purpose, |leaf| leaf.set(purposes(&[])));
    book.leaf("for servers and clients", Holds, |leaf| leaf.set(purposes(&[SERVER_AUTH, CLIENT_AUTH])));
    book.leaf("without keyUsage", Holds, |leaf| leaf.without(&key_usage(0)));
    let usage = Refused("wrong-key-usage", Alert::UnsupportedCertificate);
    book.leaf("for key encipherment only", usage, |leaf| leaf.set(key_usage(KEY_ENCIPHERMENT)));
    book.leaf("for signing certificates only", usage, |leaf| leaf.set(key_usage(KEY_CERT_SIGN)));
    book.case("a CA's own certificate", Refused("ca-as-leaf", Alert::UnsupportedCertificate), |world, keys| {
        let ca =
            Draft::authority(world.name, "sync", &keys.leaf).set(names(&[uri("urn:acme:sync")])).set(purposes(&[CLIENT_AUTH]));
        vec![ca.signed(&world.key)]
    });
    book.leaf("a path length, but no CA", Holds, |leaf| leaf.set(basic(false, Some(&[3]))));
    let critical = Unreadable("unknown-critical-extension", Alert::BadCertificate);
    book.leaf("an unknown critical extension", critical, |leaf| {
        leaf.set(extension(&[1, 3, 6, 1, 4, 1, 99999, 1], true, &[5, 0]))
    });
    book.leaf("critical certificate policies (valid)", critical, |leaf| {
        leaf.set(extension(&[2, 5, 29, 32], true, &sequence(&[&sequence(&[&oid(&[2, 5, 29, 32, 0])])])))
    });
    book.leaf("an unknown extension", Holds, |leaf| leaf.set(extension(&[1, 3, 6, 1, 4, 1, 99999, 1], false, &[5, 0])));
    let unreadable = Unreadable("malformed", Alert::BadCertificate);
    book.leaf("one extension twice", unreadable, |leaf| leaf.with(|leaf| leaf.extensions.push(purposes(&[SERVER_AUTH]))));
    book.leaf("X.509 version 1", unreadable, |leaf| {
        leaf.with(|leaf| {
            leaf.version = None;
            leaf.extensions.clear();
        })
    });
    book.leaf("an issuerUniqueID (valid)", unreadable, |leaf| leaf.with(|leaf| leaf.oddity = tlv(0x81, &[0, 1])));
    book.case("a byte behind its end", unreadable, |world, keys| {
        let mut leaf = Draft::leaf(world.name, &keys.leaf).signed(&world.key);
        leaf.push(0);
        vec![leaf]
    });
    book.case("cut in the middle", unreadable, |world, keys| {
        let mut leaf = Draft::leaf(world.name, &keys.leaf).signed(&world.key);
        leaf.truncate(leaf.len() / 2);
        vec![leaf]
    });
    book.leaf("two algorithms that differ", Unreadable("bad-signature", Alert::DecryptError), |leaf| {
        leaf.with(|leaf| leaf.algorithms[0] = algorithm(ED25519))
    });
    book.leaf("a negative serial", Holds, |leaf| leaf.with(|leaf| leaf.serial = vec![0xff, 1]));
    book.leaf("a serial of 40 bytes", Holds, |leaf| leaf.with(|leaf| leaf.serial = vec![1; 40]));
    let weak = Refused("weak-key", Alert::UnsupportedCertificate);
    for (name, arcs) in [("signed with SHA-1", RSA_SHA1), ("signed with MD5", RSA_MD5)] {
        book.leaf(name, weak, |leaf| leaf.with(|leaf| leaf.algorithms = [algorithm(arcs), algorithm(arcs)]));
    }

    let malformed = Refused("malformed", Alert::BadCertificate);
    let nameless = Refused("no-identity-name", Alert::AccessDenied);
    let several = Refused("several-identity-names", Alert::AccessDenied);
    book.leaf("no name at all", nameless, |leaf| leaf.without(&names(&[])));
    book.leaf("a name of another kind", nameless, |leaf| leaf.set(names(&[dns("sync.acme.example")])));
    book.leaf("a blank name", nameless, |leaf| leaf.set(names(&[uri(" ")])));
    book.leaf("two names", several, |leaf| leaf.set(names(&[uri("urn:acme:sync"), uri("urn:acme:admin")])));
    book.leaf("one name twice", several, |leaf| leaf.set(names(&[uri("urn:acme:sync"), uri("urn:acme:sync")])));
    book.leaf("a name with a line break", malformed, |leaf| leaf.set(names(&[uri("urn:acme\r\nx: y")])));
    book.leaf("a name with a NUL", malformed, |leaf| leaf.set(names(&[uri("urn:acme:admin\0.evil")])));
    book.leaf("a name of 600 bytes", malformed, |leaf| leaf.set(names(&[uri(&"u".repeat(600))])));
    book.leaf("a name that is no text", malformed, |leaf| leaf.set(names(&[tlv(0x86, &[0xc3, 0x28])])));
    book.leaf("a name of no kind", malformed, |leaf| leaf.set(names(&[tlv(0x8f, b"x"), uri("urn:acme:sync")])));
    book.leaf("two thousand names beside the one", Holds, |leaf| {
        let many = (0..2000).map(|at| dns(&format!("h{at}.acme.example")));
        leaf.set(names(&many.chain([uri("urn:acme:sync")]).collect::<Vec<_>>()))
    });
    book.leaf("two thousand names of the kind", several, |leaf| {
        leaf.set(names(&(0..2000).map(|at| uri(&format!("urn:acme:{at}"))).collect::<Vec<_>>()))
    });
}

fn constrained(book: &mut Book<'_>) {
    let refused = Refused("name-constraint", Alert::AccessDenied);
    let with = |more: Vec<u8>| move |leaf: Draft| leaf.set(names(&[uri("urn:acme:sync"), more]));
    let only = |permitted: Vec<u8>| move |middle: Draft| middle.set(constraints(&[permitted], &[]));
    let never = |excluded: Vec<u8>| move |middle: Draft| middle.set(constraints(&[], &[excluded]));
    book.world(World::new("names"));
    book.under("a permitted host", Holds, only(dns("acme.example")), with(dns("sync.acme.example")));
    book.under("a host outside what is permitted", refused, only(dns("acme.example")), with(dns("acme.example.evil")));
    book.under("a host that only ends alike", refused, only(dns("acme.example")), with(dns("evilacme.example")));
    book.under("an excluded host", refused, never(dns("acme.example")), with(dns("sync.acme.example")));
    book.under("an excluded host behind a wildcard", refused, never(dns("sync.acme.example")), with(dns("*.acme.example")));
    let net = address(&[10, 0, 0, 0, 255, 0, 0, 0]);
    book.under("a permitted address", Holds, only(net.clone()), with(address(&[10, 1, 2, 3])));
    book.under("an address outside what is permitted", refused, only(net), with(address(&[11, 1, 2, 3])));
    let ragged = address(&[10, 0, 0, 0, 255, 0, 255, 0]);
    book.under("a net with a ragged mask", refused, only(ragged), with(address(&[10, 1, 2, 3])));
    book.under("constraints of URIs (valid)", refused, only(uri("acme.example")), |leaf| leaf);
    book.under("constraints of mail (valid)", refused, only(email("acme.example")), with(email("ann@acme.example")));
    book.under("constraints of directory names (valid)", refused, only(directory("sync")), |leaf| leaf);
    book.under("constraints of a kind that nobody has", Holds, only(email("acme.example")), |leaf| leaf);
    book.middle("constraints that are no list", Refused("malformed", Alert::BadCertificate), |middle| {
        middle.set(extension(&[2, 5, 29, 30], true, &sequence(&[&tlv(0xa0, &[0x30, 0x7f])])))
    });
    book.under(
        "a thousand names against four hundred constraints",
        Refused("chain-too-long", Alert::BadCertificate),
        |middle| {
            let bases: Vec<_> = (0..400).map(|at| dns(&format!("{at}.example"))).collect();
            middle.set(constraints(&[], &bases))
        },
        |leaf| {
            let many = (0..1000).map(|at| dns(&format!("h{at}.acme.test")));
            leaf.set(names(&many.chain([uri("urn:acme:sync")]).collect::<Vec<_>>()))
        },
    );
    book.world(World::new("bound").root(|root| root.set(constraints(&[dns("acme.example")], &[]))));
    book.leaf("a host outside what the root permits", refused, with(dns("evil.example")));
    book.leaf("a host that the root permits", Holds, with(dns("sync.acme.example")));

    book.world(World::new("hosts").lines("identity = \"san-dns\""));
    book.leaf("a host as identity", Holds, |leaf| leaf.set(names(&[dns("sync.acme.example")])));
    book.leaf("a URI where a host is wanted", Refused("no-identity-name", Alert::AccessDenied), |leaf| leaf);
    book.world(World::new("common").lines("identity = \"subject-cn\""));
    book.leaf("a common name as identity", Holds, |leaf| leaf.without(&names(&[])));
    book.leaf("two common names", Refused("several-identity-names", Alert::AccessDenied), |leaf| {
        leaf.with(|leaf| {
            let one = |common: &str| tlv(0x31, &sequence(&[&oid(&[2, 5, 4, 3]), &tlv(0x0c, common.as_bytes())]));
            leaf.subject = sequence(&[&one("sync"), &one("admin")]);
        })
    });
    book.leaf("an empty subject", Refused("no-identity-name", Alert::AccessDenied), |leaf| {
        leaf.with(|leaf| leaf.subject = sequence(&[]))
    });
}

fn revoked(book: &mut Book<'_>) {
    let gone = Refused("revoked", Alert::CertificateRevoked);
    let unknown = Refused("revocation-status-unknown", Alert::UnknownCA);
    let stale = Refused("crl-expired", Alert::UnknownCA);
    let keys = book.keys;
    let numbered = |serial: u8| move |it: Draft| it.with(|it| it.serial = vec![serial]);
    book.world(World::new("listed").lists(|world| {
        let middle = List::of("middle", &[67]).pem(&keys.middle);
        vec![List::of(world.name, &[66, 68]).pem(&world.key) + &middle, List::of("weird", &[]).pem(&keys.stranger)]
    }));
    book.leaf("on nobody's list", Holds, |leaf| leaf);
    book.leaf("revoked", gone, numbered(66));
    book.middle("under an intermediate with its own list", Holds, |middle| middle);
    book.under("revoked by its intermediate", gone, |middle| middle, numbered(67));
    book.under("revoked by its root's list alone", Holds, |middle| middle, numbered(66));
    book.middle("a revoked intermediate", gone, numbered(68));
    book.case("an intermediate without a list", unknown, |world, keys| {
        let second = Draft::authority(world.name, "second", &keys.second).signed(&world.key);
        vec![Draft::leaf("second", &keys.leaf).signed(&keys.second), second]
    });
    book.middle("an intermediate that may not sign its list", unknown, |middle| middle.set(key_usage(KEY_CERT_SIGN)));
    book.leaf("with a distribution point of its own", Holds, |leaf| leaf.set(distribution_point("http://crl.acme.example/a")));

    book.world(
        World::new("stale").lists(|world| {
            vec![List::of(world.name, &[66]).with(|list| (list.from, list.until) = (-9, Some(-1))).pem(&world.key)]
        }),
    );
    book.leaf("the list has expired", stale, |leaf| leaf);
    book.world(World::new("coming").lists(|world| vec![List::of(world.name, &[]).with(|list| list.from = 1).pem(&world.key)]));
    book.leaf("the list is not in force yet", unknown, |leaf| leaf);
    book.world(World::new("alien").lists(|_| vec![List::of("stranger", &[]).pem(&keys.stranger)]));
    book.leaf("the list is another CA's", unknown, |leaf| leaf);
    book.world(World::new("forged").lists(|world| vec![List::of(world.name, &[]).pem(&keys.stranger)]));
    book.leaf("the list is signed by another key", unknown, |leaf| leaf);
    book.world(
        World::new("mute")
            .root(|root| root.set(key_usage(KEY_CERT_SIGN)))
            .lists(|world| vec![List::of(world.name, &[]).pem(&world.key)]),
    );
    book.leaf("the root may not sign lists", unknown, |leaf| leaf);
    book.world(World::new("newest").lists(|world| {
        let old = List::of(world.name, &[]).with(|list| list.from = -5).pem(&world.key);
        let new = List::of(world.name, &[66]).with(|list| list.from = -2).pem(&world.key);
        let future = List::of(world.name, &[]).with(|list| list.from = 2).pem(&world.key);
        vec![old + &new + &future]
    }));
    book.leaf("revoked by the newest of three lists in a bundle", gone, numbered(66));
    book.leaf("not on the newest of three lists", Holds, |leaf| leaf);
    book.world(World::new("renewed").lists(|world| {
        let stale = List::of(world.name, &[]).with(|list| (list.from, list.until) = (-9, Some(-1))).pem(&world.key);
        vec![stale, List::of(world.name, &[66]).pem(&world.key)]
    }));
    book.leaf("an expired list beside its renewal", Holds, |leaf| leaf);
    book.leaf("revoked by the renewal", gone, numbered(66));

    // issuingDistributionPoint: [1] user certificates only, [2] CA certificates only, [3] some reasons, [0] where
    let located = |uri: &str| tlv(0xa0, &tlv(0xa0, &tlv(0x86, uri.as_bytes())));
    book.world(World::new("cas-only").lists(|world| {
        vec![
            List::of(world.name, &[])
                .extended(scope(&[&located("http://crl.acme.example/a")[..], &[0x82, 1, 0xff]].concat()))
                .pem(&world.key),
        ]
    }));
    book.leaf("the list speaks of CAs only", unknown, |leaf| leaf);
    book.world(World::new("split").lists(|world| {
        let users = List::of(world.name, &[66])
            .extended(scope(&[&located("http://crl.acme.example/a")[..], &[0x81, 1, 0xff]].concat()))
            .pem(&world.key);
        let cas = List::of(world.name, &[68])
            .extended(scope(&[&located("http://crl.acme.example/a")[..], &[0x82, 1, 0xff]].concat()))
            .pem(&world.key);
        vec![users + &cas, List::of("middle", &[]).pem(&keys.middle)]
    }));
    book.leaf("one list of users, one of CAs", Holds, |leaf| leaf);
    book.leaf("revoked on the list of users", gone, numbered(66));
    book.middle("revoked on the list of CAs", gone, numbered(68));
    book.leaf("a number that is revoked only for CAs", Holds, numbered(68));
    book.world(
        World::new("placed").lists(|world| {
            vec![List::of(world.name, &[]).extended(scope(&located("http://crl.acme.example/a"))).pem(&world.key)]
        }),
    );
    book.leaf("the list of its distribution point", Holds, |leaf| leaf.set(distribution_point("http://crl.acme.example/a")));
    book.leaf("the list of another distribution point", unknown, |leaf| {
        leaf.set(distribution_point("http://crl.acme.example/b"))
    });
    book.world(World::new("reason").lists(|world| {
        let superseded = extension(&[2, 5, 29, 21], false, &[0x0a, 1, 4]);
        vec![List::of(world.name, &[]).with(|list| list.revoked = vec![(66, superseded)]).pem(&world.key)]
    }));
    book.leaf("revoked with a reason", gone, numbered(66));
}

#[test]
fn every_client_certificate_has_its_exact_cause_and_alert() {
    let keys = Keys {
        leaf: KeyPair::generate().unwrap(),
        middle: KeyPair::generate().unwrap(),
        second: KeyPair::generate().unwrap(),
        stranger: KeyPair::generate().unwrap(),
        edwards: KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
    };
    let mut book = Book { keys: &keys, worlds: Vec::new(), cases: Vec::new() };
    paths_and_times(&mut book);
    issuers(&mut book);
    leaves(&mut book);
    constrained(&mut book);
    revoked(&mut book);
    let Book { worlds, cases, .. } = book;
    assert!(cases.len() >= 60, "only {} cases", cases.len());

    let base = BASE.to_owned();
    let mut stage = Stage::open(crate::support::NAMES, |certs, state, portal| {
        let worlds: String = worlds.iter().map(|world| world.write(certs)).collect();
        base.replace("{certs}", &certs.display().to_string())
            .replace("{state}", &state.display().to_string())
            .replace("{portal}", &portal.to_string())
            + &worlds
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let differing = run(async {
        let mut differing = Vec::new();
        for (at, case) in cases.iter().enumerate() {
            for (version, combination) in [(&rustls::version::TLS12, 0), (&rustls::version::TLS13, 1)] {
                for (prefix, required) in [("r", true), ("o", false)] {
                    let source = Ipv4Addr::new(127, 2 + combination, u8::from(required), u8::try_from(at).unwrap());
                    let host = format!("{prefix}-{}.tenants.localhost", case.world);
                    let seen = visit(&mut stage, source, &host, version, case, &keys.leaf, required).await;
                    let wanted = wanted(case.expected, required);
                    if seen != wanted {
                        differing.push(format!(
                            "{} / {} ({prefix}, {version:?}):\n  wanted {wanted}\n  saw    {seen}",
                            case.world, case.name
                        ));
                    }
                }
            }
        }
        differing
    });
    assert!(differing.is_empty(), "{} of {} differ\n{}", differing.len(), cases.len() * 4, differing.join("\n"));
}

fn wanted(expected: Expected, required: bool) -> String {
    match (expected, required) {
        (Holds, _) => "200".to_owned(),
        (Refused(cause, alert), true) | (Unreadable(cause, alert), _) => format!("{alert:?}, {cause} in the handshake"),
        (Refused("revoked", _), false) => "403 revoked, revoked".to_owned(),
        (Refused(cause, _), false) => format!("403 client-cert-refused, {cause}"),
    }
}

/// What one client saw, and the cause that the event of it names.
async fn visit(
    stage: &mut Stage,
    source: Ipv4Addr,
    host: &str,
    version: &'static SupportedProtocolVersion,
    case: &Case,
    key: &KeyPair,
    required: bool,
) -> String {
    let speak = !required || matches!(case.expected, Holds);
    let outcome = tokio::time::timeout(PATIENCE, talk(stage, source, host, version, case, key, speak)).await;
    let mut seen = match outcome {
        Err(_) => "nothing".to_owned(),
        Ok(Ok(answer)) => told(&answer),
        Ok(Err(error)) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => format!("{alert:?}"),
            _ => format!("{error:?}"),
        },
    };
    if matches!(case.expected, Holds) && seen == "200" {
        return seen;
    }
    match refusal(stage, source).await {
        None => seen.push_str(", no event"),
        Some(event) => {
            let place = if event["in_handshake"] == true { " in the handshake" } else { "" };
            let _ = write!(seen, ", {}{place}", event["cause"].as_str().unwrap_or("?"));
        }
    }
    seen
}

async fn talk(
    stage: &Stage,
    source: Ipv4Addr,
    host: &str,
    version: &'static SupportedProtocolVersion,
    case: &Case,
    key: &KeyPair,
    speak: bool,
) -> std::io::Result<String> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    let stream = socket.connect(stage.https()).await?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(stage.pki.folder.join("server-ca.pem")).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = doorward::tls::provider();
    let signer = provider.key_provider.load_private_key(PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
    let chain = case.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let shown = rustls::sign::CertifiedKey::new(chain, signer);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    if speak {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Mozilla/5.0\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// `403 client-cert-refused` out of a raw answer.
fn told(answer: &str) -> String {
    let status = answer.split(' ').nth(1).unwrap_or("an end");
    let reason = answer.split("urn:doorward:").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("");
    format!("{status} {reason}").trim().to_owned()
}

/// The event of this client's refused certificate.
async fn refusal(stage: &mut Stage, source: Ipv4Addr) -> Option<Value> {
    let source = source.to_string();
    loop {
        let line = tokio::time::timeout(PATIENCE, stage.events.recv()).await.ok()??;
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["event"] == "certificate.refused" && event["client"] == source.as_str() {
            return Some(event);
        }
    }
}

/// A leaf under so many intermediates.
fn ladder(world: &World, keys: &Keys, intermediates: usize) -> Vec<Vec<u8>> {
    let steps: Vec<KeyPair> = (0..intermediates).map(|_| KeyPair::generate().unwrap()).collect();
    let step = |at: usize| format!("step {at}");
    let mut chain = Vec::new();
    for (at, key) in steps.iter().enumerate() {
        let (issuer, by) = if at == 0 { (world.name.to_owned(), &world.key) } else { (step(at - 1), &steps[at - 1]) };
        chain.insert(0, Draft::authority(&issuer, &step(at), key).signed(by));
    }
    chain.insert(0, Draft::leaf(&step(intermediates - 1), &keys.leaf).signed(steps.last().unwrap()));
    chain
}

/// The public half of a made-up RSA key of 1024 bits: nothing here verifies it.
fn short_rsa_key() -> Vec<u8> {
    let modulus: Vec<u8> = [0].into_iter().chain([0xc5; 128]).collect();
    let key = sequence(&[&tlv(2, &modulus), &tlv(2, &[1, 0, 1])]);
    sequence(&[&algorithm(&[1, 2, 840, 113_549, 1, 1, 1]), &tlv(3, &[&[0][..], &key].concat())])
}

fn distribution_point(at: &str) -> Vec<u8> {
    let place = tlv(0xa0, &tlv(0xa0, &uri(at)));
    extension(&[2, 5, 29, 31], false, &sequence(&[&sequence(&[&place])]))
}

/// Lists that cannot be used, on a live gateway: each reload is refused with the file's name, and the old list stays in force.
#[test]
fn trap_hostile_crl_on_reload_leaves_the_old_one_in_force_and_says_so() {
    let site = OPEN_SITE.replace("hosts", "client_ca = \"acme\"\nhosts").replace("bots", "client_cert = \"required\"\n  bots");
    let mut stage = open(&format!("{BASE}{site}"));
    let path = crate::support::cert(&stage, "acme-ca.crl");
    let good = std::fs::read(&path).unwrap();
    let key = KeyPair::generate().unwrap();
    let list = |edit: fn(List) -> List| edit(List::of("Acme client CA", &[])).signed(&key);
    let text = |der: Vec<u8>| pem("X509 CRL", &der).into_bytes();
    let mut cut = good.clone();
    cut.truncate(good.len() / 2);
    let unknown = extension(&[1, 3, 6, 1, 4, 1, 99999, 1], true, &[5, 0]);
    let bad: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        ("an empty file", Vec::new()),
        ("no list at all", b"hello\n".to_vec()),
        ("a web page", b"<!doctype html><title>504</title>".to_vec()),
        ("cut in the middle", cut),
        ("a good list and half of the next", [&good[..], &good[..good.len() / 2]].concat()),
        ("a certificate", std::fs::read(crate::support::cert(&stage, "acme-ca.pem")).unwrap()),
        ("DER that ends early", b"\x30\x84\x7f\xff\xff\xff".to_vec()),
        ("DER of no definite length", text(b"\x30\x80\x00\x00".to_vec())),
        ("nothing but nesting", text([0x30, 0x82, 0x7f, 0xff].repeat(8192))),
        ("version 1", text(list(|list| list.with(|list| list.version = None)))),
        ("no nextUpdate", text(list(|list| list.with(|list| list.until = None)))),
        ("a delta list", text(list(|list| list.extended(extension(&[2, 5, 29, 27], true, &tlv(2, &[1])))))),
        ("an indirect list", text(list(|list| list.extended(scope(&[0x84, 1, 0xff]))))),
        ("some reasons only", text(list(|list| list.extended(scope(&[0x83, 2, 6, 0x40]))))),
        ("an unknown critical extension", {
            let signed = List::of("Acme client CA", &[]).extended(unknown.clone());
            text(signed.signed(&key))
        }),
        ("an unknown critical extension in an entry", {
            text(List::of("Acme client CA", &[]).with(|list| list.revoked = vec![(66, unknown)]).signed(&key))
        }),
    ]);
    run(async {
        for (what, bytes) in &bad {
            replace(&path, |file| std::io::Write::write_all(file, bytes).unwrap());
            refused_reload(&mut stage, what).await;
        }
        // A file of holes: nobody writes 65 MiB for a test.
        replace(&path, |file| file.set_len(65 << 20).unwrap());
        let told = refused_reload(&mut stage, "65 MiB").await;
        assert!(told.contains("larger than 64 MiB"), "{told}");
        std::fs::remove_file(&path).unwrap();
        refused_reload(&mut stage, "no file").await;

        // Large, but a list: 40,000 entries take over, and time is not lost.
        let serials: Vec<u64> = (1000..41_000).chain([10]).collect();
        let list = stage.pki.acme.crl(9, &serials, 30).unwrap();
        replace(&path, |file| std::io::Write::write_all(file, list.as_bytes()).unwrap());
        assert!(doorward(&stage, &["reload"]).status.success());
        let answer = Visitor::new(&stage, [9, 9]).with("good").get("/").await.unwrap();
        assert_eq!(answer.told(), "403 revoked", "the new list is in force");
    });
}

/// By rename, as renewal tools do.
fn replace(path: &std::path::Path, write: impl FnOnce(&mut std::fs::File)) {
    let next = path.with_extension("next");
    write(&mut std::fs::File::create(&next).unwrap());
    std::fs::rename(next, path).unwrap();
}

/// What the reload said, once the event told it and the old list is shown to hold.
async fn refused_reload(stage: &mut Stage, what: &str) -> String {
    let reloaded = doorward(stage, &["reload"]);
    assert_eq!(reloaded.status.code(), Some(78), "{what}");
    let told = String::from_utf8_lossy(&reloaded.stderr).into_owned();
    assert!(told.contains("acme-ca.crl"), "{what}: {told}");
    let event = event(stage, &["config.refused", "acme-ca.crl"]).await;
    assert!(event.contains("\"errors\""), "{what}: {event}");
    for (certificate, expected) in [("good", "200"), ("revoked", "403 revoked")] {
        let answer = Visitor::new(stage, [1, 1]).with(certificate).get("/").await.unwrap();
        assert_eq!(answer.told(), expected, "{what}: {certificate}");
    }
    told
}
