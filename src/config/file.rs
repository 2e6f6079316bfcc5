//! What the file says: every key once, with its description and its default.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::{Method, StatusCode};
use ipnet::IpNet;

use crate::policy::approval::Party;
use crate::policy::ban::BanAnswer;
use crate::policy::identity::{AccountKind, NameKind};
use crate::policy::limit::{LimitKey, LimitMode, Quota};
use crate::policy::login::{AccountSource, FieldSource};
use crate::policy::route::{BotRule, CertDemand};

use super::read::{Named, Tables, table};
use super::values::{HeaderLine, Int, OneOrMany, Pause, Period, RouteMatch, Size, UnixSocket, Workers};
use super::{Located, LogFormat, LogTarget, PlainHttp, ServerUrl, TlsVersion};

/// Largest `body`: beyond it a cap is no cap.
pub type BodySize = Size<1, { 1 << 40 }>;

table! {
    /// The configuration of Doorward, an authenticating reverse-proxy gateway.
    pub struct File {
        /// The directory of the embedded store; made 0700 when missing.
        state_dir: Located<PathBuf> = "state",
        /// Threads, each with its own runtime and listener; "auto" is one a core.
        workers: Located<Workers> = "auto",
        /// The written policy that this gateway enforces; it stands in `status` and on every approval.
        policy: PolicyTable = {},
        /// Where the gateway listens, and whom it believes about addresses.
        listen: ListenTable = {},
        /// What counts as one client, everywhere: guesses, bans, limits, caps.
        client: ClientTable = {},
        /// Bounds on what one connection, client or request may take.
        caps: CapsTable = {},
        /// How long the gateway waits for each step of a connection.
        deadlines: DeadlinesTable = {},
        /// Where the access log and the security events go.
        log: LogTable = {},
        /// TLS towards clients.
        tls: TlsTable = {},
        /// Sets of CAs that may vouch for clients, one per customer or group.
        client_ca: Named<ClientCaTable> = {},
        /// The applications behind the gateway.
        upstream: Named<UpstreamTable> = {},
        /// How logins look, whom they name and how their outcome looks.
        login: Named<LoginTable> = {},
        /// The exact guess budget: no more than this reaches the application in any window of that length.
        guesses: GuessesTable = {},
        /// How long and whom a spent guess budget bans.
        bans: BansTable = {},
        /// Rate limits that routes apply by name.
        limit: Named<LimitTable> = {},
        /// Hosts under one set of certificate rules and routes.
        site: Tables<SiteTable> = [],
        /// Who may approve automation, and with which keys.
        approvals: ApprovalsTable = {},
    }
}

table! {
    /// The written policy that this gateway enforces; it stands in `status` and on every approval.
    pub struct PolicyTable {
        /// The id of the written policy.
        id: String = "customer-security-policy",
        /// The version of the written policy.
        version: String = "2024-10-04",
        /// Whom to ask about the policy; absent, none is named.
        contact: String = absent,
    }
}

table! {
    /// Where the gateway listens, and whom it believes about addresses.
    pub struct ListenTable {
        /// Addresses of the TLS listener; [::] takes IPv4 too, and falls back to 0.0.0.0 on a host without IPv6.
        https: Located<Vec<Located<SocketAddr>>> = ["[::]:8443"],
        /// Addresses of the plain listener, which never forwards; absent, there is none.
        http: Vec<Located<SocketAddr>> = absent,
        /// What the plain listener answers: 403 tls-required, or a redirect of GET and HEAD.
        plain_http: PlainHttp = "refuse",
        /// The operators' socket; by default admin.sock in state_dir.
        admin: Located<UnixSocket> = absent,
        /// Address of /metrics, /livez and /readyz; absent, there are none.
        metrics: Located<SocketAddr> = absent,
        /// Nets whose X-Forwarded-For is believed; empty, nobody's is.
        trusted_proxies: Vec<Located<IpNet>> = [],
        /// Nets that must send a PROXY header; nobody else may.
        proxy_protocol: Vec<Located<IpNet>> = absent,
    }
}

table! {
    /// What counts as one client, everywhere: guesses, bans, limits, caps.
    pub struct ClientTable {
        /// Length of the IPv6 prefix that is one client; an IPv4 client is its address.
        ipv6_prefix: Located<Int<1, 128>> = 64,
    }
}

table! {
    /// Bounds on what one connection, client or request may take.
    pub struct CapsTable {
        /// Connections that are open at one time.
        connections: Located<Int<1, 10_000_000>> = 16384,
        /// Connections that one client may hold open.
        connections_per_client: Located<Int<1, 10_000_000>> = 512,
        /// Handshakes that one client may begin, counted before any expensive cryptography.
        handshakes_per_client: Quota = "50/s",
        /// HTTP/2 streams on one connection.
        streams: Int<1, 100_000> = 100,
        /// Header lines of one request.
        headers: Int<8, 10_000> = 100,
        /// Bytes of one request's head.
        head: Size<{ 8 << 10 }, { 1 << 20 }> = "32KiB",
        /// Bytes of one request's body, where a route does not say otherwise.
        body: BodySize = "64MiB",
    }
}

table! {
    /// How long the gateway waits for each step of a connection.
    pub struct DeadlinesTable {
        /// For the whole PROXY header.
        proxy_header: Period = "2s",
        /// For the whole TLS handshake.
        handshake: Period = "10s",
        /// For the whole head of a request.
        head: Period = "10s",
        /// For progress in a body: of a request's, 256 bytes or its end.
        body: Period = "30s",
        /// Between the requests of a connection.
        idle: Period = "75s",
        /// For requests in flight once the gateway stops.
        drain: Period = "30s",
    }
}

table! {
    /// Where the access log and the security events go.
    pub struct LogTable {
        /// The access log: "-" for stdout, or a file, reopened on USR1.
        access: Located<LogTarget> = "-",
        /// The access log's format.
        format: LogFormat = "json",
        /// Security events as JSON lines: "-" for stdout, or a file, reopened on USR1.
        events: Located<LogTarget> = "-",
    }
}

table! {
    /// TLS towards clients.
    pub struct TlsTable {
        /// The oldest version that is spoken.
        min_version: TlsVersion = "1.2",
        /// Certificates, chosen by SNI from the names in them.
        certificate: Tables<CertificateTable> = [],
    }
}

table! {
    /// A certificate chain and its key.
    pub struct CertificateTable {
        /// PEM file of the chain, leaf first.
        chain: Located<PathBuf> = required,
        /// PEM file of the private key.
        key: Located<PathBuf> = required,
    }
}

table! {
    /// A set of CAs that may vouch for clients.
    pub struct ClientCaTable {
        /// PEM files of the CAs.
        roots: Located<Vec<Located<PathBuf>>> = required,
        /// CRL files; where named, a missing, expired or unsigned one fails closed, and so does a certificate of unknown status.
        crls: Vec<Located<PathBuf>> = absent,
        /// Longer-lived leaves are refused.
        max_lifetime: Period = "398d",
        /// The kind of name that identifies the holder; a certificate has exactly one of it, or does not hold.
        identity: NameKind = "san-uri",
        /// Whose customer the holders are.
        tenant: Located<String> = absent,
        /// What kind of account the holders are.
        kind: AccountKind = "service",
        /// Roles that the holders have.
        roles: Vec<Located<String>> = [],
    }
}

table! {
    /// An application behind the gateway.
    pub struct UpstreamTable {
        /// Its servers: http, h2c (HTTP/2 by prior knowledge) or https (h2 where offered).
        servers: Located<Vec<Located<ServerUrl>>> = required,
        /// PEM file of the CAs that vouch for the servers, in place of the public ones; https only.
        ca: Located<PathBuf> = absent,
        /// Client certificate towards the servers; https only.
        client_certificate: Located<CertificateTable> = absent,
        /// Active health checks; absent, health is judged by requests alone.
        health: HealthTable = absent,
        /// How long the gateway waits for the servers.
        timeouts: TimeoutsTable = {},
        /// Connections that one server is given at most, over all workers; health checks come on top.
        connections: Int<1, 1_000_000> = 256,
        /// How long a request waits for one of them when all are busy, before it is answered 503.
        queue: Period = "1s",
    }
}

table! {
    /// Active health checks.
    pub struct HealthTable {
        /// The path that is asked for; an answer below 400 is healthy.
        path: Located<String> = required,
        /// Time between two checks of one server.
        every: Period = "5s",
    }
}

table! {
    /// How long the gateway waits for the servers.
    pub struct TimeoutsTable {
        /// For a connection, TLS included.
        connect: Period = "2s",
        /// For the head of a response.
        response: Period = "30s",
        /// For progress in a response's body.
        idle: Period = "60s",
    }
}

table! {
    /// How a login looks, whom it names and how its outcome looks.
    pub struct LoginTable {
        /// The request that is an attempt.
        request: LoginRequestTable = required,
        /// Where the account's name stands: a field of a form, a place in JSON, or Basic authentication.
        account: Located<AccountSource> = required,
        /// Where the password stands; a guess that failed and is then sent again, all the same, is not counted again.
        secret: Located<FieldSource> = absent,
        /// Answers that mean a failure.
        failed: Tables<OutcomeTable> = [{ status = [401, 403] }],
        /// Answers that mean success, and alone clear failures; without it any other answer below 500 counts as success.
        ok: Tables<OutcomeTable> = [],
        /// Other sites whose pages may send it, such as "https://www.example.org"; "*" is any.
        origins: Vec<Located<String>> = [],
        /// Every answer but a success leaves only on a multiple of this since the attempt was sent on, so that its time does not tell which accounts exist; "0s" is off.
        pad: Pause = "250ms",
    }
}

table! {
    /// The request that is an attempt.
    pub struct LoginRequestTable {
        /// Its method.
        method: Located<Method> = "POST",
        /// Its path.
        path: Located<String> = required,
    }
}

table! {
    /// An answer to a login; every part that is given must match.
    pub struct OutcomeTable {
        /// Status codes, any of which matches.
        status: OneOrMany<StatusCode> = absent,
        /// The target of a redirect; * matches any run of characters.
        redirect: Located<String> = absent,
        /// A response header, as "name: value".
        header: HeaderLine = absent,
    }
}

table! {
    /// The exact guess budget: no more than this reaches the application in any window of that length.
    pub struct GuessesTable {
        /// What one client has over all accounts; spending it bans the client.
        per_client: ClientBudgetTable = {},
        /// What all clients together have for one account; spending it bans nobody.
        per_account: AccountBudgetTable = {},
    }
}

table! {
    /// What one client has over all accounts; spending it bans the client.
    pub struct ClientBudgetTable {
        /// Failures.
        failures: Int<1, 1_000_000> = 5,
        /// Length of the window.
        within: Period = "10m",
    }
}

table! {
    /// What all clients together have for one account; spending it bans nobody.
    pub struct AccountBudgetTable {
        /// Failures.
        failures: Located<Int<1, 1_000_000>> = 50,
        /// Length of the window.
        within: Period = "1h",
    }
}

table! {
    /// How long and whom a spent guess budget bans.
    pub struct BansTable {
        /// The first ban.
        first: Located<Period> = "15m",
        /// How many times longer each further ban within `forget` is.
        factor: Int<1, 1000> = 4,
        /// The longest ban.
        max: Located<Period> = "7d",
        /// How long a ban is remembered for the length of the next.
        forget: Period = "30d",
        /// Nets that may not be banned; they still authenticate and keep their budget.
        never: Vec<Located<IpNet>> = [],
        /// Nets that are refused for good, whatever they prove.
        always: Vec<Located<IpNet>> = [],
        /// What the banned see: 403 banned with Retry-After, or a connection closed before TLS.
        answer: BanAnswer = "explain",
    }
}

table! {
    /// A rate limit.
    pub struct LimitTable {
        /// What has its own budget: one of these, or several together.
        key: OneOrMany<LimitKey> = required,
        /// The sustained rate, such as "120/min".
        rate: Located<Quota> = required,
        /// Requests that may come at once; by default the count in `rate`.
        burst: Int<1, 1_000_000> = absent,
        /// Whether it refuses, or counts and reports and lets pass.
        mode: LimitMode = "enforce",
    }
}

table! {
    /// Hosts under one set of certificate rules and routes.
    pub struct SiteTable {
        /// Its hosts; "*.example.com" takes exactly one more label.
        hosts: Located<Vec<Located<String>>> = required,
        /// The sets of CAs that may vouch here; absent, no certificate is asked for.
        client_ca: OneOrMany<String> = absent,
        /// Whether a certificate that does not hold is refused in the handshake, or the routes decide.
        client_cert: Located<CertDemand> = "optional",
        /// Its routes; the longest prefix of whole segments wins.
        route: Tables<RouteTable> = [],
    }
}

table! {
    /// What may pass to an application under a path.
    pub struct RouteTable {
        /// Its path: "/api/" also covers "/api", not "/apis".
        path: Located<String> = required,
        /// Whether the path is a prefix or one path.
        r#match: RouteMatch = "prefix",
        /// The application that answers.
        upstream: Located<String> = required,
        /// How logins look here; absent, no request is one.
        login: Located<String> = absent,
        /// Whether a certificate that holds is demanded; by default as the site says.
        client_cert: Located<CertDemand> = absent,
        /// Whether automation needs an approval, may pass, or may not, approved or not.
        bots: BotRule = "approved",
        /// Who may pass, any of "identity:SET:NAME", "kind:", "role:" and "tenant:"; absent, everyone whom the other checks let through.
        allow: Located<Vec<Located<String>>> = absent,
        /// The limits that apply.
        limits: Vec<Located<String>> = [],
        /// Bytes of a request's body; by default as in caps.
        body: BodySize = absent,
    }
}

table! {
    /// Who may approve automation, and with which keys.
    pub struct ApprovalsTable {
        /// The key that signs tokens, made 0600 on the first start; by default approvals.key in state_dir.
        key: Located<PathBuf> = absent,
        /// Who may sign approvals.
        signer: Named<SignerTable> = {},
        /// Whose signatures an approval needs.
        require: RequireTable = {},
    }
}

table! {
    /// Somebody who may sign approvals.
    pub struct SignerTable {
        /// PEM file of the Ed25519 public key (SPKI, as openssl makes it).
        public_key: Located<PathBuf> = required,
        /// For whom the signer signs.
        party: Located<Party> = required,
    }
}

table! {
    /// Whose signatures an approval needs.
    pub struct RequireTable {
        /// For a bot: one signature of each party listed.
        bot: Located<Vec<Located<Party>>> = ["provider"],
    }
}
