//! `[upstream.*]` and `[client_ca.*]`: who stands behind the gateway, and who may vouch for those before it.

use crate::config::diagnostic::Located;
use crate::config::file::{ClientCaTable, HealthTable, UpstreamTable};
use crate::config::read::{Named, is_name};
use crate::config::{ClientCa, HealthSpec, ServerScheme, UpstreamSpec, UpstreamTimeouts};

use super::Compiler;
use super::listen::certificate_files;

impl Compiler<'_> {
    /// In the file's order: an upstream's id is its place.
    pub(super) fn upstreams(&mut self, named: &Named<UpstreamTable>) -> Option<Vec<UpstreamSpec>> {
        if named.0.is_empty() {
            self.missing("upstream", "there is no upstream", "add [upstream.NAME] with servers = [\"http://127.0.0.1:9000\"]");
        }
        let upstreams: Vec<_> = named.0.iter().map(|entry| self.upstream(&entry.name.value, entry.table.as_ref()?)).collect();
        upstreams.into_iter().collect()
    }

    fn upstream(&mut self, name: &str, table: &UpstreamTable) -> Option<UpstreamSpec> {
        let health = table.health.as_ref().and_then(|health| self.health(name, health));
        let servers = table.servers.as_ref()?;
        let help = "such as [\"http://127.0.0.1:9000\"]";
        self.not_empty(&format!("upstream.{name}.servers"), servers, "nothing could answer", help);
        self.no_twins(&servers.value, |server| format!("the server {}:{}", server.host, server.port));
        let plain = servers.value.iter().find(|server| server.value.scheme != ServerScheme::Https);
        let tls_keys = [
            ("ca", table.ca.as_ref().map(|ca| &ca.span)),
            ("client_certificate", table.client_certificate.as_ref().map(|files| &files.span)),
        ];
        for (key, span) in tls_keys {
            if let (Some(plain), Some(span)) = (plain, span) {
                let message = format!("`upstream.{name}.{key}` is for https only, and {} is not", plain.value.host);
                self.error(message, span, format!("write https:// for every server, or leave `{key}` out"));
            }
        }
        let client_certificate = match &table.client_certificate {
            None => None,
            Some(files) => Some(certificate_files(&files.value)?),
        };
        Some(UpstreamSpec {
            name: name.into(),
            servers: servers.value.clone(),
            ca: table.ca.clone(),
            client_certificate,
            health,
            timeouts: UpstreamTimeouts {
                connect: table.timeouts.connect.0,
                response: table.timeouts.response.0,
                idle: table.timeouts.idle.0,
            },
            connections: usize::try_from(table.connections.0).unwrap_or(usize::MAX),
            queue: table.queue.0,
        })
    }

    fn health(&mut self, name: &str, table: &HealthTable) -> Option<HealthSpec> {
        let path = table.path.as_ref()?;
        let parsed = path.value.parse::<http::uri::PathAndQuery>();
        if !path.value.starts_with('/') || parsed.is_err() {
            let message = format!("`upstream.{name}.health.path`: \"{}\" is not a path", path.value);
            self.error(message, &path.span, "such as \"/healthz\"");
        }
        Some(HealthSpec { path: path.value.clone(), every: table.every.0 })
    }

    /// In the file's order: a site names a set by its place.
    pub(super) fn client_cas(&mut self, named: &Named<ClientCaTable>) -> Option<Vec<ClientCa>> {
        let sets: Vec<_> = named.0.iter().map(|entry| self.client_ca(&entry.name.value, entry.table.as_ref()?)).collect();
        sets.into_iter().collect()
    }

    /// Fails closed: a set without roots is refused, for it would vouch for nobody or, worse, be taken for none at all.
    fn client_ca(&mut self, name: &str, table: &ClientCaTable) -> Option<ClientCa> {
        for word in table.roles.iter().chain(&table.tenant) {
            self.is_word(name, word);
        }
        self.no_twins(&table.roles, |role| format!("the role `{role}`"));
        let crls = table.crls.clone().unwrap_or_default();
        self.no_twins(&crls, |crl| format!("the CRL {}", crl.display()));
        let roots = table.roots.as_ref()?;
        let help = "name the PEM files of its CAs, or take the set out";
        self.not_empty(&format!("client_ca.{name}.roots"), roots, "a set without a CA vouches for nobody", help);
        self.no_twins(&roots.value, |root| format!("the CA {}", root.display()));
        Some(ClientCa {
            name: name.into(),
            roots: roots.value.clone(),
            crls,
            max_lifetime: table.max_lifetime.0,
            identity: table.identity,
            tenant: table.tenant.as_ref().map(|tenant| tenant.value.as_str().into()),
            kind: table.kind,
            roles: table.roles.iter().map(|role| role.value.as_str().into()).collect(),
        })
    }

    fn is_word(&mut self, set: &str, word: &Located<String>) {
        if !is_name(&word.value) {
            let message = format!("`client_ca.{set}`: \"{}\" is not a name", word.value);
            self.error(message, &word.span, "a role or tenant is 1 to 64 of A-Z a-z 0-9 _ and -");
        }
    }
}
