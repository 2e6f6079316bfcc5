//! Authorities, leaves, CRLs and configs for the tests, all as of one fixed moment.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::clock::Now;
use crate::config::{
    Caps, CertificateFiles, ClientCa, Config, Deadlines, Diagnostic, Listen, Located, Log, LogFormat, LogTarget, Places,
    PlainHttp, ServerScheme, ServerUrl, Source, Span, Tls, TlsVersion, UpstreamSpec, UpstreamTimeouts,
};
use crate::net::Nets;
use crate::policy::approval::ApprovalRules;
use crate::policy::ban::{BanAnswer, BanRules, GuessBudget, GuessBudgets};
use crate::policy::identity::NameKind;
use crate::policy::limit::Quota;
use crate::policy::route::{CertDemand, HostPattern, Sites};
use crate::policy::{AccountKind, Policy, PolicyDocument, Site, SiteId};
use crate::tls::TlsState;

/// Within every certificate that does not say otherwise.
pub fn now() -> Now {
    Now { instant: Duration::ZERO, wall: wall("2026-06-15T12:00:00Z") }
}

pub fn wall(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

/// A root or an intermediate.
pub struct Ca(pub CertifiedIssuer<'static, KeyPair>);

/// A certificate with its chain (leaf first) and key.
pub struct Leaf {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

impl Ca {
    pub fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub fn root_with(name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority(name);
        edit(&mut params);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Signed anew under the same name and key.
    pub fn renewed(&self, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority(name);
        edit(&mut params);
        let key = KeyPair::from_pem(&self.0.key().serialize_pem()).unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub fn intermediate(&self, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority(name);
        params.serial_number = Some(77_u64.into());
        edit(&mut params);
        Self(CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.0).unwrap())
    }

    /// A client certificate that holds unless `edit` spoils it: serial 1, `urn:acme:sync`, clientAuth, of this year.
    pub fn client(&self, edit: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("sync");
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 12, 31);
        params.serial_number = Some(1_u64.into());
        params.subject_alt_names = vec![SanType::URI("urn:acme:sync".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        edit(&mut params);
        self.leaf(params)
    }

    pub fn server(&self, names: &[&str]) -> Leaf {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 12, 31);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.leaf(params)
    }

    fn leaf(&self, params: CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        Leaf { chain: vec![params.signed_by(&key, &self.0).unwrap().der().clone()], key }
    }

    /// A list of 2026-06-01 that ends on 2026-07-01 unless `edit` says otherwise.
    pub fn crl(&self, revoked: &[u64], edit: impl FnOnce(&mut CertificateRevocationListParams)) -> String {
        let revoked = revoked.iter().map(|&serial| RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: date_time_ymd(2026, 5, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let mut params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 6, 1),
            next_update: date_time_ymd(2026, 7, 1),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        edit(&mut params);
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }
}

impl Leaf {
    /// Sends the intermediate too.
    pub fn through(mut self, ca: &Ca) -> Self {
        self.chain.push(ca.0.der().clone());
        self
    }

    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2036, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub fn common_name(name: &str) -> rcgen::DistinguishedName {
    let mut names = rcgen::DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64::engine::general_purpose::STANDARD.encode(der))
}

/// A config under construction, with its files in a folder of its own. Each file has a span of its own.
pub struct Setup {
    pub folder: tempfile::TempDir,
    pub server_ca: Ca,
    pub certificates: Vec<CertificateFiles>,
    pub sets: Vec<ClientCa>,
    pub sites: Vec<Site>,
    pub upstreams: Vec<UpstreamSpec>,
    pub min_version: TlsVersion,
    files: Cell<usize>,
}

impl Setup {
    /// One certificate for `*.example.com`, and no site yet.
    pub fn new() -> Self {
        let mut setup = Self {
            folder: tempfile::tempdir().unwrap(),
            server_ca: Ca::root("server CA"),
            certificates: Vec::new(),
            sets: Vec::new(),
            sites: Vec::new(),
            upstreams: Vec::new(),
            min_version: TlsVersion::V1_2,
            files: Cell::new(0),
        };
        setup.certificate(&["*.example.com"]);
        setup
    }

    /// One site `portal.example.com` on which one set `acme` may vouch.
    pub fn portal(roots: &[&Ca], crls: &[String], demand: CertDemand) -> Self {
        let mut setup = Self::new();
        setup.set("acme", roots, crls);
        setup.site("portal.example.com", &[0], demand);
        setup
    }

    pub fn certificate(&mut self, names: &[&str]) {
        let leaf = self.server_ca.server(names);
        let chain = self.file(&pem("CERTIFICATE", &leaf.chain[0]));
        let key = self.file(&leaf.key.serialize_pem());
        self.certificates.push(CertificateFiles { chain, key });
    }

    pub fn set(&mut self, name: &str, roots: &[&Ca], crls: &[String]) -> &mut ClientCa {
        let roots = roots.iter().map(|root| self.file(&root.pem())).collect();
        let crls = crls.iter().map(|crl| self.file(crl)).collect();
        self.sets.push(ClientCa {
            name: name.into(),
            roots,
            crls,
            max_lifetime: Duration::from_secs(398 * 86_400),
            identity: NameKind::SanUri,
            tenant: Some(name.into()),
            kind: AccountKind::Service,
            roles: vec!["integrator".into()],
        });
        self.sets.last_mut().unwrap()
    }

    pub fn site(&mut self, host: &str, sets: &[usize], demand: CertDemand) {
        let host = match host.strip_prefix("*.") {
            Some(rest) => HostPattern::Wildcard(rest.to_owned()),
            None => HostPattern::Exact(host.to_owned()),
        };
        self.sites.push(Site {
            id: SiteId(self.sites.len()),
            hosts: vec![host],
            client_ca: sets.to_vec(),
            client_cert: demand,
            routes: Vec::new().into(),
        });
    }

    pub fn upstream(&mut self, scheme: ServerScheme) -> &mut UpstreamSpec {
        let server = ServerUrl { scheme, host: "127.0.0.1".to_owned(), port: 9000 };
        self.upstreams.push(UpstreamSpec {
            name: format!("u{}", self.upstreams.len()).as_str().into(),
            servers: vec![Located { value: server, span: Span::default() }],
            ca: None,
            client_certificate: None,
            health: None,
            timeouts: UpstreamTimeouts { connect: SECOND, response: SECOND, idle: SECOND },
            connections: 256,
            queue: SECOND,
        });
        self.upstreams.last_mut().unwrap()
    }

    /// A file that only its owner can read.
    pub fn file(&self, text: &str) -> Located<PathBuf> {
        let number = self.files.get() + 1;
        self.files.set(number);
        let value = self.folder.path().join(format!("{number}.pem"));
        std::fs::write(&value, text).unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&value, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        Located { value, span: Span(number..number + 1) }
    }

    pub fn config(&self) -> Config {
        let sites = self.sites.iter().map(|site| Site {
            id: site.id,
            hosts: site.hosts.clone(),
            client_ca: site.client_ca.clone(),
            client_cert: site.client_cert,
            routes: Vec::new().into(),
        });
        let quota = Quota { requests: 50, per: SECOND, burst: 50 };
        let guesses = GuessBudget { failures: 5, within: SECOND };
        Config {
            source: Arc::new(Source { path: "doorward.toml".into(), text: String::new() }),
            policy: Arc::new(Policy {
                document: PolicyDocument { id: "p".to_owned(), version: "1".to_owned(), contact: None },
                sites: Sites::new(sites.collect()),
                limits: Vec::new(),
                guesses: GuessBudgets { per_client: guesses, per_account: guesses },
                bans: BanRules {
                    first: SECOND,
                    factor: 4,
                    max: SECOND,
                    forget: SECOND,
                    never: Nets::default(),
                    always: Nets::default(),
                    answer: BanAnswer::Explain,
                },
                approvals: ApprovalRules::default(),
            }),
            state_dir: "state".into(),
            workers: 1,
            listen: Listen {
                https: Vec::new(),
                http: Vec::new(),
                plain_http: PlainHttp::Refuse,
                admin: "admin.sock".into(),
                metrics: None,
                trusted_proxies: Nets::default(),
                proxy_protocol: Nets::default(),
            },
            ipv6_prefix: 64,
            caps: Caps {
                connections: 1,
                connections_per_client: 1,
                handshakes_per_client: quota,
                streams: 1,
                headers: 1,
                head: 1,
            },
            deadlines: Deadlines {
                proxy_header: SECOND,
                handshake: SECOND,
                head: SECOND,
                body: SECOND,
                idle: SECOND,
                drain: SECOND,
            },
            log: Log { access: LogTarget::Stdout, format: LogFormat::Json, events: LogTarget::Stdout },
            tls: Tls { min_version: self.min_version, certificates: self.certificates.clone() },
            client_cas: self.sets.clone(),
            upstreams: self.upstreams.clone(),
            approvals_key: Located { value: "approvals.key".into(), span: Span::default() },
            signer_keys: Vec::new(),
            places: Places::default(),
        }
    }

    pub fn prepare(&self, previous: Option<&TlsState>) -> Result<TlsState, Vec<Diagnostic>> {
        TlsState::prepare(&self.config(), previous)
    }

    pub fn state(&self) -> TlsState {
        self.prepare(None).unwrap_or_else(|diagnostics| panic!("{diagnostics:?}"))
    }
}

const SECOND: Duration = Duration::from_secs(1);
