//! Whether terms can be judged at all.

use crate::policy::CanonicalPath;
use crate::policy::route::canonical_host;

use super::hours::Hours;
use super::live::Template;
use super::{Binding, Terms};

/// Longest texts, in bytes, and longest lists. The register holds what strangers ask for before anybody approved it.
const MAX_NAME: usize = 64;
const MAX_TEXT: usize = 256;
const MAX_PURPOSE: usize = 1024;
const MAX_PATH: usize = 1024;
const MAX_IDENTITY: usize = 1024;
const MAX_LIST: usize = 256;

impl Terms {
    /// Everything wrong with the terms, each as one sentence naming the field; empty when they can be judged.
    ///
    /// Fails closed: what could be understood in two ways is a fault.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !is_name(&self.name) {
            faults
                .push(format!("name: write 1 to {MAX_NAME} letters, digits, `.`, `_` or `-`, beginning with a letter or digit"));
        }
        for (field, text, most) in [
            ("owner", &self.owner, MAX_TEXT),
            ("contact", &self.contact, MAX_TEXT),
            ("purpose", &self.purpose, MAX_PURPOSE),
            ("policy_id", &self.policy_id, MAX_TEXT),
            ("policy_version", &self.policy_version, MAX_TEXT),
        ] {
            if text.trim().is_empty() || text.len() > most || text.chars().any(char::is_control) {
                faults.push(format!("{field}: write 1 to {most} bytes of plain text"));
            }
        }
        self.scope_faults(&mut faults);
        if let Some(fault) = self.rate.and_then(|rate| rate.fault()) {
            faults.push(format!("rate: {fault}"));
        }
        if let Some(Err(fault)) = self.hours.as_deref().map(Hours::parse) {
            faults.push(format!("hours: {fault}"));
        }
        if self.until <= self.requested_at {
            faults.push("until: lies before the request".to_owned());
        }
        if self.not_before.is_some_and(|start| self.until <= start) {
            faults.push("until: lies before not_before".to_owned());
        }
        if self.from.len() > MAX_LIST {
            faults.push(format!("from: more than {MAX_LIST} nets"));
        }
        if let Some(fault) = self.binding.as_ref().and_then(binding_fault) {
            faults.push(format!("binding: {fault}"));
        }
        faults
    }

    fn scope_faults(&self, faults: &mut Vec<String>) {
        for (field, length) in [("sites", self.sites.len()), ("methods", self.methods.len()), ("paths", self.paths.len())] {
            if length == 0 {
                faults.push(format!("{field}: name at least one"));
            } else if length > MAX_LIST {
                faults.push(format!("{field}: more than {MAX_LIST}"));
            }
        }
        for site in self.sites.iter().take(MAX_LIST) {
            if canonical_host(site).as_ref() != Some(site) {
                faults.push(format!("sites: `{}` is not a host in lower case, without port", shown(site)));
            }
        }
        for method in self.methods.iter().take(MAX_LIST) {
            let plain = (1..=32).contains(&method.len()) && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
            if !plain {
                faults.push(format!("methods: `{}` is not a method in upper case", shown(method)));
            }
        }
        for path in self.paths.iter().take(MAX_LIST) {
            if path.len() > MAX_PATH {
                faults.push(format!("paths: `{}…` is longer than {MAX_PATH} bytes", shown(path)));
            } else if let Err(fault) = Template::parse(path) {
                faults.push(format!("paths: `{path}`: {fault}"));
            }
        }
    }
}

impl Template {
    /// Reads a path template. Its plain text must be canonical, else it could never match.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let canonical = CanonicalPath::parse(text).map_err(|fault| fault.to_string())?;
        if canonical.query().is_some() {
            return Err("a template has no query".to_owned());
        }
        if canonical.as_str() != text {
            return Err(format!("write it as `{canonical}`"));
        }
        let mut segments: Vec<&str> = text.split('/').skip(1).collect();
        let rest = segments.last() == Some(&"**");
        if rest {
            segments.pop();
        }
        if segments.contains(&"**") {
            return Err("`**` stands for the rest and can only come last".to_owned());
        }
        if segments.iter().any(|segment| *segment != "*" && segment.contains('*')) {
            return Err("`*` stands for a whole segment".to_owned());
        }
        Ok(Self { segments: segments.into_iter().map(|segment| (segment != "*").then(|| segment.into())).collect(), rest })
    }
}

fn binding_fault(binding: &Binding) -> Option<String> {
    match binding {
        Binding::CertSha256(hex) => {
            let plain = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
            (!plain).then(|| "a certificate is named by 64 hex digits in lower case, its SHA-256".to_owned())
        }
        Binding::Identity(name) => {
            let plain = (1..=MAX_IDENTITY).contains(&name.len()) && !name.chars().any(char::is_control);
            (!plain).then(|| format!("an identity is 1 to {MAX_IDENTITY} bytes of plain text, `set:name` or a name"))
        }
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// The beginning of a text, for a message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}
