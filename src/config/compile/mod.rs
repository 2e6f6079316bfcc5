//! What the file means: names resolved, rules that contradict each other refused, every error at once.

mod allow;
mod listen;
mod login;
mod policy;
mod site;
mod upstream;

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::policy::route::Sites;
use crate::policy::{Policy, PolicyDocument};

use super::diagnostic::{Diagnostic, Located, Span};
use super::file::File;
use super::read::{Broken, Named, Reader, Shown, with_computed};
use super::{Caps, Config, Deadlines, Places, Source, suggest};

/// One compilation: gathers what is wrong.
pub struct Compiler<'s> {
    source: &'s Source,
    found: Vec<Diagnostic>,
    /// Defaults that only other keys give, each with its table.
    computed: Vec<(String, Shown)>,
    broken: Broken,
}

/// What became of a file.
pub struct Compiled {
    /// `None` where there is any error.
    pub config: Option<Config>,
    pub found: Vec<Diagnostic>,
    pub shown: Vec<Shown>,
}

/// Fails closed: any error, also one that the reader found, leaves no config.
pub fn compile(source: &Arc<Source>, file: File, reader: Reader) -> Compiled {
    let Reader { found, shown, broken, .. } = reader;
    let mut compiler = Compiler { source, found, computed: Vec::new(), broken };
    let config = compiler.config(source, file);
    let Compiler { mut found, computed, .. } = compiler;
    found.sort_by_key(|finding| finding.span.0.start);
    let refused = found.iter().any(|finding| finding.severity == super::Severity::Error);
    Compiled { config: config.filter(|_| !refused), found, shown: with_computed(shown, computed) }
}

impl Compiler<'_> {
    fn config(&mut self, source: &Arc<Source>, file: File) -> Option<Config> {
        let listen = self.listen(&file.listen, &file.bans, &file.state_dir.value);
        let tls = self.tls(&file.tls);
        let client_cas = self.client_cas(&file.client_ca);
        let upstreams = self.upstreams(&file.upstream);
        let logins = self.logins(&file.login);
        let limits = self.limits(&file.limit);
        let guesses = self.guesses(&file.guesses);
        let bans = self.bans(&file.bans, &listen);
        let approvals = self.approvals(&file.approvals);
        let sites = self.sites(&file, &logins);
        let caps = self.caps(&file);
        let ipv6_prefix = self.ipv6_prefix(&file);
        let approvals_key = self.approvals_key(&file);
        let deadlines = Deadlines {
            proxy_header: file.deadlines.proxy_header.0,
            handshake: file.deadlines.handshake.0,
            head: file.deadlines.head.0,
            body: file.deadlines.body.0,
            idle: file.deadlines.idle.0,
            drain: file.deadlines.drain.0,
        };
        let places = Places {
            state_dir: file.state_dir.span,
            workers: file.workers.span,
            admin: file.listen.admin.map_or_else(Span::default, |admin| admin.span),
            log_access: file.log.access.span,
            log_events: file.log.events.span,
        };
        let signer_keys = file.approvals.signer.0.into_iter().filter_map(|entry| Some(entry.table?.public_key?.value)).collect();
        let document = PolicyDocument { id: file.policy.id, version: file.policy.version, contact: file.policy.contact };
        if self.found.iter().any(|finding| finding.severity == super::Severity::Error) {
            return None;
        }
        let policy = Policy { document, sites: Sites::new(sites?), limits: limits?, guesses, bans, approvals: approvals? };
        Some(Config {
            source: Arc::clone(source),
            policy: Arc::new(policy),
            state_dir: file.state_dir.value,
            workers: file.workers.value.0.unwrap_or_else(one_a_core),
            listen,
            ipv6_prefix,
            caps,
            deadlines,
            log: super::Log { access: file.log.access.value, format: file.log.format, events: file.log.events.value },
            tls: tls?,
            client_cas: client_cas?,
            upstreams: upstreams?,
            approvals_key,
            signer_keys,
            places,
        })
    }

    fn caps(&mut self, file: &File) -> Caps {
        let caps = &file.caps;
        if caps.connections_per_client.value.0 > caps.connections.value.0 {
            let message = "`caps.connections_per_client` is above `caps.connections`: one client could hold every connection";
            let own = &caps.connections_per_client.span;
            let span = if own.is_default() { &caps.connections.span } else { own };
            self.warn(message, span, "give one client a small share of them");
        }
        Caps {
            connections: caps.connections.value.usize(),
            connections_per_client: caps.connections_per_client.value.usize(),
            handshakes_per_client: caps.handshakes_per_client,
            streams: caps.streams.u32(),
            headers: caps.headers.usize(),
            head: usize::try_from(caps.head.0).unwrap_or(usize::MAX),
        }
    }

    fn ipv6_prefix(&mut self, file: &File) -> u8 {
        let Located { value: prefix, span } = &file.client.ipv6_prefix;
        if prefix.0 < 32 {
            let message = format!("`client.ipv6_prefix` = {} makes whole networks one client", prefix.0);
            self.warn(message, span, "64 is what one household or server is given; 48 or 56 what a larger one is");
        }
        u8::try_from(prefix.0).unwrap_or(128)
    }

    fn approvals_key(&mut self, file: &File) -> Located<std::path::PathBuf> {
        file.approvals.key.clone().unwrap_or_else(|| {
            let path = file.state_dir.value.join("approvals.key");
            self.show_default("approvals", "key", path.display().to_string().into());
            Located { value: path, span: Span::default() }
        })
    }

    fn error(&mut self, message: impl Into<String>, span: &Span, help: impl Into<String>) {
        self.found.push(Diagnostic::error(message, span).help(help));
    }

    fn warn(&mut self, message: impl Into<String>, span: &Span, help: impl Into<String>) {
        self.found.push(Diagnostic::warning(message, span).help(help));
    }

    fn show_default(&mut self, table: &str, key: &str, value: serde_json::Value) {
        let line = Shown { key: format!("{table}.{key}"), value, span: None };
        self.computed.push((table.to_owned(), line));
    }

    /// What the file lacks altogether; it is missed where the file ends.
    fn missing(&mut self, key: &str, message: &str, help: &str) {
        if self.broken.around(key) {
            return;
        }
        let end = self.source.text.trim_end().len();
        let start = self.source.text[..end].char_indices().next_back().map_or(0, |(at, _)| at);
        self.error(message, &Span(start..end), help);
    }

    /// A list that the file leaves empty where that would mean nothing, or the opposite of what it seems.
    fn not_empty<T>(&mut self, key: &str, list: &Located<Vec<T>>, consequence: &str, help: &str) {
        if list.value.is_empty() && !self.broken.within(key) {
            self.error(format!("`{key}` is empty: {consequence}"), &list.span, help);
        }
    }

    /// The index of what a key names, or an error that says what there is.
    fn resolve<T>(&mut self, what: &str, table: &str, name: &Located<String>, named: &Named<T>) -> Option<usize> {
        let found = named.position(&name.value);
        if found.is_none() && !(named.0.is_empty() && self.broken.within(table)) {
            let help = match suggest::closest(&name.value, named.names()) {
                Some(closest) => format!("did you mean `{closest}`?"),
                None if named.0.is_empty() => format!("write a table `[{table}.{}]`", name.value),
                None => {
                    let known: Vec<String> = named.names().map(|name| format!("`{name}`")).collect();
                    format!("there is {}; or write a table `[{table}.{}]`", known.join(", "), name.value)
                }
            };
            self.error(format!("there is no {what} `{}`", name.value), &name.span, help);
        }
        found
    }

    /// Reports every value that stands twice.
    fn no_twins<'v, T: Hash + Eq + 'v>(&mut self, values: impl IntoIterator<Item = &'v Located<T>>, show: impl Fn(&T) -> String) {
        let mut seen = HashSet::new();
        for value in values {
            if !seen.insert(&value.value) {
                self.error(format!("{} stands here twice", show(&value.value)), &value.span, "take one of them out");
            }
        }
    }
}

fn one_a_core() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests;
