//! `[listen]` and `[tls]`: where clients come in, and whom the gateway believes about addresses.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ipnet::IpNet;

use crate::config::diagnostic::{Located, Span};
use crate::config::file::{BansTable, CertificateTable, ListenTable, TlsTable};
use crate::config::{CertificateFiles, Listen, Tls};
use crate::net::display_net;

use super::Compiler;

/// The longest path that fits a Unix socket's address, its final NUL included in the platform's 108.
const LONGEST_SOCKET_PATH: usize = 107;

impl Compiler<'_> {
    pub(super) fn listen(&mut self, table: &ListenTable, bans: &BansTable, state_dir: &Path) -> Listen {
        let consequence = "nothing would be served, for the plain listener never forwards";
        self.not_empty("listen.https", &table.https, consequence, "such as [\"[::]:8443\"]");
        let http = table.http.clone().unwrap_or_default();
        let https = table.https.value.iter().map(|at| ("listen.https", at));
        let metrics = table.metrics.iter().map(|at| ("listen.metrics", at));
        self.same_address_twice(https.chain(http.iter().map(|at| ("listen.http", at))).chain(metrics));
        if let Some(at) = table.metrics.iter().find(|at| !at.value.ip().to_canonical().is_loopback()) {
            let message = format!("`listen.metrics`: {} lets whoever reaches it read metrics, without authentication", at.value);
            self.warn(message, &at.span, "listen on 127.0.0.1 or [::1], or let a firewall admit the scraper alone");
        }
        let trusted_proxies = &table.trusted_proxies;
        let proxy_protocol = table.proxy_protocol.clone().unwrap_or_default();
        for net in trusted_proxies.iter().filter(|net| net.value.prefix_len() == 0) {
            let message =
                format!("`listen.trusted_proxies`: {} believes everybody: any client could choose its own address", net.value);
            self.error(message, &net.span, "name the proxies in front of the gateway, and nobody else");
        }
        for net in proxy_protocol.iter().filter(|net| net.value.prefix_len() == 0) {
            let message =
                format!("`listen.proxy_protocol`: {} lets whoever reaches the port choose the client address", net.value);
            self.warn(message, &net.span, "name the balancers in front of the gateway, unless nobody else can reach the port");
        }
        for (name, nets) in [("trusted_proxies", trusted_proxies), ("proxy_protocol", &proxy_protocol)] {
            for net in nets {
                if let Some(banned) = bans.always.iter().find(|banned| overlap(&banned.value, &net.value)) {
                    let message = format!(
                        "`listen.{name}`: {} lies under the ban of {} for good",
                        show_net(&net.value),
                        show_net(&banned.value)
                    );
                    self.error(message, &net.span, "proxies are never banned themselves: take the net out of `bans.always`");
                }
            }
        }
        Listen {
            https: table.https.value.clone(),
            http,
            plain_http: table.plain_http,
            admin: self.admin(table, state_dir),
            metrics: table.metrics.clone(),
            trusted_proxies: trusted_proxies.iter().map(|net| net.value).collect(),
            proxy_protocol: proxy_protocol.iter().map(|net| net.value).collect(),
        }
    }

    pub(super) fn tls(&mut self, table: &TlsTable) -> Option<Tls> {
        if table.certificate.is_empty() {
            self.missing("tls.certificate", "there is no certificate", "add [[tls.certificate]] with `chain` and `key`");
        }
        let certificates: Vec<CertificateFiles> =
            table.certificate.iter().filter_map(|slot| certificate_files(slot.value.as_ref()?)).collect();
        self.no_twins(certificates.iter().map(|files| &files.chain), |chain| format!("the certificate {}", chain.display()));
        (certificates.len() == table.certificate.len()).then_some(Tls { min_version: table.min_version, certificates })
    }

    fn admin(&mut self, table: &ListenTable, state_dir: &Path) -> std::path::PathBuf {
        let (path, span) = match &table.admin {
            Some(admin) => (admin.value.0.clone(), admin.span.clone()),
            None => {
                let path = state_dir.join("admin.sock");
                self.show_default("listen", "admin", format!("unix:{}", path.display()).into());
                (path, Span::default())
            }
        };
        let length = path.as_os_str().len();
        if length > LONGEST_SOCKET_PATH {
            let message =
                format!("the path of the admin socket is {length} bytes long: a socket's may have {LONGEST_SOCKET_PATH}");
            self.error(message, &span, "name a shorter one as `listen.admin`");
        }
        path
    }

    fn same_address_twice<'a>(&mut self, addresses: impl Iterator<Item = (&'static str, &'a Located<SocketAddr>)>) {
        let mut before: Vec<(&str, &Located<SocketAddr>)> = Vec::new();
        for (key, address) in addresses {
            if let Some((other_key, other)) = before.iter().find(|(_, other)| collide(other.value, address.value)) {
                let message = format!("`{key}`: {} is already taken by {} of `{other_key}`", address.value, other.value);
                // A default cannot be pointed at; the address that collides with it can.
                let span = if address.span.is_default() { &other.span } else { &address.span };
                self.error(message, span, "give each listener a port of its own; [::] takes IPv4 too");
            }
            before.push((key, address));
        }
    }
}

pub(super) fn certificate_files(table: &CertificateTable) -> Option<CertificateFiles> {
    Some(CertificateFiles { chain: table.chain.clone()?, key: table.key.clone()? })
}

/// Whether both cannot be bound: the same address, or both of them every address.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_host = a.ip().to_canonical() == b.ip().to_canonical() || (is_any(a.ip()) && is_any(b.ip()));
    a.port() != 0 && a.port() == b.port() && same_host
}

fn is_any(ip: IpAddr) -> bool {
    ip.to_canonical().is_unspecified()
}

pub(super) fn show_net(net: &IpNet) -> String {
    std::fmt::from_fn(|f| display_net(net, f)).to_string()
}

/// Nets nest or are disjoint.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
