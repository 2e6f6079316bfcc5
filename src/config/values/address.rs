//! Addresses, nets, sockets and servers.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::{Schema, json_schema};
use toml::Spanned;
use toml::de::DeValue;

use crate::config::read::{Reader, Value};
use crate::config::{ServerScheme, ServerUrl};

impl Value for SocketAddr {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "an address with a port such as \"[::]:8443\"")?;
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let help = if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
            format!("did you mean \"[::]:{port}\"? it takes IPv4 too")
        } else if text.parse::<IpAddr>().is_ok() {
            "the port is missing; an IPv6 address stands in brackets: \"[::1]:8443\"".to_owned()
        } else {
            "an IP address and a port, no name: \"127.0.0.1:8443\" or \"[::]:8443\"".to_owned()
        };
        reader.bad_value(item, &format!("\"{text}\" is not an address with a port"), help);
        None
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": ":[0-9]+$" })
    }
}

/// A net, or a single address.
impl Value for IpNet {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a net such as \"10.0.0.0/8\"")?;
        let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match parsed {
            Ok(net) if net.trunc() == net => Some(net),
            Ok(net) => {
                let message = format!("\"{text}\" has bits set beyond its prefix");
                reader.bad_value(item, &message, format!("did you mean \"{}\" or \"{}\"?", net.trunc(), net.addr()));
                None
            }
            Err(_) => {
                let help = "a net is written \"10.0.0.0/8\" or \"2001:db8::/32\"; a single address needs no prefix";
                reader.bad_value(item, &format!("\"{text}\" is not a net"), help);
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// `unix:PATH`.
#[derive(Clone, Debug)]
pub struct UnixSocket(pub PathBuf);

impl Value for UnixSocket {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a socket such as \"unix:state/admin.sock\"")?;
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() && !path.contains('\0') => Some(Self(path.into())),
            _ => {
                reader.bad_value(
                    item,
                    &format!("\"{text}\" is not a Unix socket"),
                    "\"unix:PATH\"; the operators' door is never on TCP",
                );
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^unix:." })
    }
}

/// `http://`, `h2c://` or `https://`, a host and a port.
impl Value for ServerUrl {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a server such as \"http://127.0.0.1:9000\"")?;
        match parse_server(text) {
            Ok(server) => Some(server),
            Err(fault) => {
                let help = "SCHEME://HOST:PORT with http, h2c or https, such as \"http://127.0.0.1:9000\"";
                reader.bad_value(item, &format!("\"{text}\" is not a server: {fault}"), help);
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(http|h2c|https)://" })
    }
}

fn parse_server(text: &str) -> Result<ServerUrl, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
    let (scheme, default_port) = match scheme {
        "http" => (ServerScheme::Http, 80),
        "h2c" => (ServerScheme::H2c, 80),
        "https" => (ServerScheme::Https, 443),
        _ => return Err("its scheme is none of http, h2c and https"),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err("it has a path; requests keep their own");
    }
    if authority.contains('@') {
        return Err("it carries credentials");
    }
    let authority: http::uri::Authority = authority.parse().map_err(|_| "its host cannot be read")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let bracketed = authority.host().starts_with('[');
    let well_formed = if bracketed {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    if !well_formed {
        return Err("its host cannot be read");
    }
    let after_host = authority.as_str().get(authority.host().len()..).unwrap_or_default();
    let port = match after_host.strip_prefix(':') {
        None => default_port,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("its port cannot be read")?,
    };
    Ok(ServerUrl { scheme, host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        let server = |scheme, host: &str, port| Ok(ServerUrl { scheme, host: host.to_owned(), port });
        for (text, expected) in [
            ("http://127.0.0.1:9000", server(ServerScheme::Http, "127.0.0.1", 9000)),
            ("h2c://App.internal", server(ServerScheme::H2c, "app.internal", 80)),
            ("https://[::1]:9443/", server(ServerScheme::Https, "::1", 9443)),
            ("https://[::1]", server(ServerScheme::Https, "::1", 443)),
            ("127.0.0.1:9000", Err("it has no scheme")),
            ("ftp://x", Err("its scheme is none of http, h2c and https")),
            ("http://x/app", Err("it has a path; requests keep their own")),
            ("http://u:p@x", Err("it carries credentials")),
            ("http://x:0", Err("its port cannot be read")),
            ("http://x:99999", Err("its port cannot be read")),
            ("http://x:", Err("its port cannot be read")),
            ("http://", Err("its host cannot be read")),
            ("http://[x]", Err("its host cannot be read")),
        ] {
            assert_eq!(parse_server(text), expected, "{text}");
        }
    }
}
