//! Prometheus handles, resolved once; bounded labels (route, class, reason), never an address, path or user.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::policy::login::LoginOutcome;
use crate::policy::{Name, Reason};

use super::telling::{Count, outcome_code};
use super::{ConnectionCause, GuessScope, RequestRecord};

/// All metrics of one process. Counting a request takes no lock but its route's histogram and formats nothing.
pub struct Metrics {
    registry: Registry,
    routes: ArcSwap<Routes>,
    requests: Family<Labels<2>, Counter>,
    durations: Family<Labels<1>, Histogram, fn() -> Histogram>,
    /// By `Reason as usize`.
    denials: [Counter; Reason::ALL.len()],
    bytes_in: Counter,
    bytes_out: Counter,
    /// By `ConnectionCause as usize`.
    refused: [Counter; ConnectionCause::ALL.len()],
    protocol_errors: Counter,
    accept_failures: Counter,
    handshake_failures: Counter,
    certificates_refused: Family<Labels<1>, Counter>,
    guesses: Family<Labels<1>, Counter>,
    /// By `GuessScope as usize`.
    guesses_refused: [Counter; GuessScope::ALL.len()],
    bans_made: Counter,
    bans_lifted: Counter,
    exchanges_ended: Family<Labels<1>, Counter>,
    bans_live: Gauge,
    tables: Family<Labels<1>, Gauge>,
    overflows: Family<Labels<1>, Counter>,
    shadowed: Family<Labels<1>, Counter>,
    upstreams: Family<Labels<2>, Gauge>,
    generation: Gauge,
    reload_failures: Counter,
    store_failures: Counter,
    certificates: Family<Labels<1>, Gauge>,
    crls: Family<Labels<1>, Gauge>,
    lines_dropped: Counter,
    write_errors: Counter,
}

type Labels<const N: usize> = [(&'static str, String); N];

/// The routes of one generation, by `RouteId`.
struct Routes {
    generation: u64,
    by_id: Vec<Arc<RouteHandles>>,
    by_label: HashMap<Name, Arc<RouteHandles>>,
    /// For what no route of this generation answered.
    none: Arc<RouteHandles>,
}

struct RouteHandles {
    /// By status class; the first is for a client that left before its answer.
    classes: [Counter; CLASSES.len()],
    duration: Histogram,
}

const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
const NO_ROUTE: &str = "-";
/// Seconds; from a cached page to the longest patience of a browser.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("doorward");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that runs", build);

        let requests = Family::<Labels<2>, Counter>::default();
        let durations = Family::<Labels<1>, Histogram, fn() -> Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let denials = family(&mut registry, "denials", "Requests refused, or ended under way, by public reason", "reason");
        let refused = family(&mut registry, "connections_refused", "Connections ended before there was a request", "cause");
        let guesses_refused =
            family(&mut registry, "guesses_refused", "Login attempts refused before they were forwarded", "scope");
        registry.register("requests", "Requests answered, by route and status class", requests.clone());
        registry.register(
            "request_duration_seconds",
            "From the request's head to the last byte of its answer",
            durations.clone(),
        );

        let metrics = Self {
            routes: ArcSwap::from_pointee(Routes::new(0, &[], &requests, &durations)),
            requests,
            durations,
            denials: Reason::ALL.map(|reason| denials(reason.code())),
            bytes_in: counter(&mut registry, "bytes_in", "Bytes of request bodies"),
            bytes_out: counter(&mut registry, "bytes_out", "Bytes of answers' bodies"),
            refused: ConnectionCause::ALL.map(|cause| refused(cause.as_str())),
            protocol_errors: counter(&mut registry, "protocol_errors", "Connections that did not speak HTTP"),
            accept_failures: counter(&mut registry, "accept_failures", "Pauses of a listener that could not accept"),
            handshake_failures: counter(&mut registry, "handshake_failures", "TLS handshakes that failed"),
            certificates_refused: registered(&mut registry, "certificates_refused", "Client certificates that do not hold"),
            guesses: registered(&mut registry, "guesses", "Login attempts forwarded, by outcome"),
            guesses_refused: GuessScope::ALL.map(|scope| guesses_refused(scope.as_str())),
            bans_made: counter(&mut registry, "bans_made", "Bans made"),
            bans_lifted: counter(&mut registry, "bans_lifted", "Bans lifted by operators"),
            exchanges_ended: registered(&mut registry, "exchanges_ended", "Exchanges ended under way, by public reason"),
            bans_live: gauge(&mut registry, "bans_live", "Bans in force"),
            tables: registered(&mut registry, "table_entries", "Entries of a bounded table"),
            overflows: registered(&mut registry, "table_overflow", "Keys that a full table folded or refused"),
            shadowed: registered(&mut registry, "limit_shadowed", "Requests that a limit in shadow would have refused"),
            upstreams: registered(&mut registry, "upstream_up", "1 while the server takes requests"),
            generation: gauge(&mut registry, "config_generation", "The live configuration's number"),
            reload_failures: counter(&mut registry, "reload_failures", "Configurations and files refused; the old ones live on"),
            store_failures: counter(&mut registry, "store_failures", "Writes that did not reach the store"),
            certificates: registered(&mut registry, "certificate_expiry_timestamp_seconds", "When a certificate file ends"),
            crls: registered(&mut registry, "crl_expiry_timestamp_seconds", "When a revocation list ends"),
            lines_dropped: counter(
                &mut registry,
                "log_lines_dropped",
                "Log lines dropped because the writer was behind or its target took no more",
            ),
            write_errors: counter(&mut registry, "log_write_errors", "Logs that could not be written or opened"),
            registry,
        };
        for outcome in [LoginOutcome::Ok, LoginOutcome::Failed, LoginOutcome::Fault, LoginOutcome::Unsent] {
            drop(metrics.guesses.get_or_create(&label("outcome", outcome_code(outcome))));
        }
        metrics
    }

    /// Registers the routes of a new snapshot, so that `Request` events find their handles by `RouteId`. A route that stays
    /// keeps its counts; the series of one that is gone go with it.
    pub fn routes(&self, generation: u64, labels: &[Name]) {
        let old = self.routes.load_full();
        let new = Routes::new(generation, labels, &self.requests, &self.durations);
        for gone in old.by_label.keys().filter(|label| !new.by_label.contains_key(*label)) {
            for class in CLASSES {
                self.requests.remove(&route_class(gone, class));
            }
            self.durations.remove(&label("route", gone));
        }
        self.routes.store(Arc::new(new));
    }

    /// Sets a gauge family: `kind` is `certificate` or `crl`, label is the file's path, value its expiry (unix seconds).
    pub fn expiry(&self, kind: &'static str, file: &str, unix_seconds: i64) {
        let family = if kind == "crl" { &self.crls } else { &self.certificates };
        family.get_or_create(&label("file", file)).set(unix_seconds);
    }

    /// Forgets every file, before a new snapshot names its own.
    pub fn forget_files(&self) {
        self.certificates.clear();
        self.crls.clear();
    }

    /// Sets the size of a bounded table (`bans`, `guesses`, `limits`, `connections`).
    pub fn table(&self, name: &'static str, size: usize) {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        if name == "bans" {
            self.bans_live.set(size);
        }
        self.tables.get_or_create(&label("table", name)).set(size);
    }

    /// Whether a server takes requests now; later changes are told by events.
    pub fn server_up(&self, upstream: &str, server: &str, up: bool) {
        self.upstreams.get_or_create(&server_labels(upstream, server)).set(i64::from(up));
    }

    /// Forgets a server that no snapshot names any more.
    pub fn forget_server(&self, upstream: &str, server: &str) {
        self.upstreams.remove(&server_labels(upstream, server));
    }

    /// Prometheus text format (OpenMetrics as prometheus-client writes it).
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a `String` cannot fail; a partial page would end without its `# EOF` and be rejected by the scraper.
        let _ = text::encode(&mut text, &self.registry);
        text
    }

    pub(super) fn request(&self, record: &RequestRecord) {
        let routes = self.routes.load();
        let handles = routes.of(record);
        if let Some(counter) = handles.classes.get(usize::from(record.status / 100)).or(handles.classes.first()) {
            counter.inc();
        }
        handles.duration.observe(record.took.as_secs_f64());
        self.bytes_in.inc_by(record.bytes_in);
        self.bytes_out.inc_by(record.bytes_out);
        if let Some(denials) = record.reason.and_then(|reason| self.denials.get(reason as usize)) {
            denials.inc();
        }
    }

    pub(super) fn count(&self, count: &Count<'_>) {
        match *count {
            Count::Nothing => {}
            Count::ConnectionRefused(cause) => bump(self.refused.get(cause as usize)),
            Count::ProtocolError => bump(Some(&self.protocol_errors)),
            Count::AcceptFailed => bump(Some(&self.accept_failures)),
            Count::HandshakeFailed => bump(Some(&self.handshake_failures)),
            Count::CertificateRefused(cause) => {
                bump(Some(&*self.certificates_refused.get_or_create(&label("cause", cause.as_str()))))
            }
            Count::Guess(outcome) => bump(Some(&*self.guesses.get_or_create(&label("outcome", outcome_code(outcome))))),
            Count::GuessRefused(scope) => bump(self.guesses_refused.get(scope as usize)),
            Count::BanMade => bump(Some(&self.bans_made)),
            Count::BanLifted => bump(Some(&self.bans_lifted)),
            Count::ExchangeEnded(reason) => bump(Some(&*self.exchanges_ended.get_or_create(&label("reason", reason.code())))),
            Count::LimitShadowed(limit) => bump(Some(&*self.shadowed.get_or_create(&label("limit", limit)))),
            Count::TableOverflow { table, keys } => {
                self.overflows.get_or_create(&label("table", table)).inc_by(keys);
            }
            Count::ReloadFailed => bump(Some(&self.reload_failures)),
            Count::Generation(generation) => {
                self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
            }
            Count::UpstreamUp { upstream, server, up } => {
                self.server_up(upstream, server, up);
            }
            Count::StoreFailed => bump(Some(&self.store_failures)),
        }
    }

    pub(super) fn line_dropped(&self) {
        self.lines_dropped.inc();
    }

    pub(super) fn lines_dropped(&self, lines: usize) {
        self.lines_dropped.inc_by(lines.try_into().unwrap_or(u64::MAX));
    }

    pub(super) fn dropped_so_far(&self) -> u64 {
        self.lines_dropped.get()
    }

    pub(super) fn write_error(&self) {
        self.write_errors.inc();
    }
}

impl Routes {
    fn new(
        generation: u64,
        labels: &[Name],
        requests: &Family<Labels<2>, Counter>,
        durations: &Family<Labels<1>, Histogram, fn() -> Histogram>,
    ) -> Self {
        let handles = |route: &str| {
            Arc::new(RouteHandles {
                classes: CLASSES.map(|class| requests.get_or_create_owned(&route_class(route, class))),
                duration: durations.get_or_create_owned(&label("route", route)),
            })
        };
        let mut by_label = HashMap::with_capacity(labels.len());
        let by_id =
            labels.iter().map(|name| Arc::clone(by_label.entry(Name::clone(name)).or_insert_with(|| handles(name)))).collect();
        Self { generation, by_id, by_label, none: handles(NO_ROUTE) }
    }

    /// A record of an older generation is found by its label, since ids are only valid within one.
    fn of(&self, record: &RequestRecord) -> &RouteHandles {
        let found = match &record.route {
            None => None,
            Some((id, _)) if record.generation == self.generation => self.by_id.get(id.0),
            Some((_, label)) => self.by_label.get(label),
        };
        found.unwrap_or(&self.none)
    }
}

fn bump(counter: Option<&Counter>) {
    if let Some(counter) = counter {
        counter.inc();
    }
}

fn label(key: &'static str, value: &str) -> Labels<1> {
    [(key, value.to_owned())]
}

fn route_class(route: &str, class: &str) -> Labels<2> {
    [("route", route.to_owned()), ("class", class.to_owned())]
}

fn server_labels(upstream: &str, server: &str) -> Labels<2> {
    [("upstream", upstream.to_owned()), ("server", server.to_owned())]
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

/// A family of counters under one label; gives each value's own handle.
fn family(registry: &mut Registry, name: &str, help: &str, key: &'static str) -> impl Fn(&str) -> Counter + use<> {
    let family: Family<Labels<1>, Counter> = registered(registry, name, help);
    move |value| family.get_or_create_owned(&label(key, value))
}

fn registered<const N: usize, M>(registry: &mut Registry, name: &str, help: &str) -> Family<Labels<N>, M>
where
    M: Default + Clone + std::fmt::Debug + Send + Sync + 'static,
    Family<Labels<N>, M>: prometheus_client::registry::Metric,
{
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}
