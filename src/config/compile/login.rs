//! `[login.*]` and `[guesses]`: what counts as an attempt, and how many there may be.

use std::sync::Arc;

use http::{Method, StatusCode, Uri};

use crate::config::diagnostic::{Located, Span};
use crate::config::file::{GuessesTable, LoginTable, OutcomeTable};
use crate::config::read::{Named, Tables};
use crate::policy::CanonicalPath;
use crate::policy::ban::{GuessBudget, GuessBudgets};
use crate::policy::login::{AccountSource, FieldSource, LoginRule, OutcomeRule};
use crate::policy::route::canonical_host;

use super::Compiler;

impl Compiler<'_> {
    /// In the file's order; a login that cannot be compiled keeps its slot.
    pub(super) fn logins(&mut self, named: &Named<LoginTable>) -> Vec<Option<Arc<LoginRule>>> {
        let rules = named.0.iter();
        rules.map(|entry| self.login(&entry.name, entry.table.as_ref()?).map(Arc::new)).collect()
    }

    pub(super) fn guesses(&mut self, table: &GuessesTable) -> GuessBudgets {
        let (client, account) = (&table.per_client, &table.per_account);
        if account.failures.value.0 < client.failures.0 {
            let message =
                "`guesses.per_account.failures` is below `per_client`: one client alone could shut an account to newcomers";
            self.warn(message, &account.failures.span, "several times the budget of one client is usual");
        }
        GuessBudgets {
            per_client: GuessBudget { failures: client.failures.u32(), within: client.within.0 },
            per_account: GuessBudget { failures: account.failures.value.u32(), within: account.within.0 },
        }
    }

    /// The canonical path that a key gives without a query, or an error.
    pub(super) fn canonical_path(&mut self, what: &str, path: &Located<String>) -> Option<String> {
        if path.value.contains(['?', '#']) {
            self.error(
                format!("{what}: \"{}\" is not a path alone", path.value),
                &path.span,
                "leave out the query and the fragment",
            );
            return None;
        }
        match CanonicalPath::parse(&path.value) {
            Ok(canonical) if canonical.as_str() == path.value => Some(path.value.clone()),
            Ok(canonical) => {
                let message = format!("{what}: \"{}\" is not the canonical form of its path", path.value);
                self.error(message, &path.span, format!("did you mean \"{}\"?", canonical.as_str()));
                None
            }
            Err(fault) => {
                let message = format!("{what}: no request can have the path \"{}\": {fault}", path.value);
                self.error(message, &path.span, "an absolute path such as \"/api/\", in the form in which requests are judged");
                None
            }
        }
    }

    fn login(&mut self, name: &Located<String>, table: &LoginTable) -> Option<LoginRule> {
        let label = &name.value;
        let failed = self.outcomes(label, "failed", &table.failed);
        let ok = self.outcomes(label, "ok", &table.ok);
        self.success_is_told(name, table, &ok);
        for rule in ok.iter().filter(|rule| failed.iter().any(|failed| same(failed, rule))) {
            let span = table.ok.iter().zip(&ok).find(|(_, other)| same(other, rule)).map_or(&name.span, |(slot, _)| &slot.span);
            self.error(format!("`login.{label}`: the same answer is both `ok` and `failed`"), span, "tell the two apart");
        }
        let request = table.request.as_ref();
        let method = request.map(|request| &request.method);
        if let (Some(method), Some(account)) = (method, &table.account) {
            self.source_fits(label, method, account, table.secret.as_ref());
        }
        let path = request.and_then(|request| request.path.as_ref());
        let path = path.and_then(|path| self.canonical_path(&format!("`login.{label}.request.path`"), path));
        Some(LoginRule {
            name: label.as_str().into(),
            method: method?.value.clone(),
            path: path?,
            account: table.account.as_ref()?.value.clone(),
            secret: table.secret.as_ref().map(|secret| secret.value.clone()),
            failed,
            ok,
            origins: table.origins.iter().filter_map(|origin| self.origin(label, origin)).collect(),
            pad: table.pad.0,
        })
    }

    /// As browsers write it (RFC 6454 section 6.2), or `*`.
    fn origin(&mut self, label: &str, origin: &Located<String>) -> Option<String> {
        let uri = origin.value.parse::<Uri>().ok();
        let plain = |uri: &Uri| {
            let host = canonical_host(uri.authority()?.as_str())?;
            let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?;
            let port = uri.port_u16().map_or_else(String::new, |port| format!(":{port}"));
            Some(format!("{scheme}://{host}{port}"))
        };
        match uri.as_ref().and_then(plain) {
            _ if origin.value == "*" => Some(origin.value.clone()),
            Some(plain) if plain == origin.value => Some(plain),
            plain => {
                let message = format!("`login.{label}.origins`: \"{}\" is not an origin", origin.value);
                let help = plain.map_or("such as \"https://www.example.org\", without a path".to_owned(), |plain| {
                    format!("did you mean \"{plain}\"?")
                });
                self.error(message, &origin.span, help);
                None
            }
        }
    }

    fn success_is_told(&mut self, name: &Located<String>, table: &LoginTable, ok: &[OutcomeRule]) {
        let label = &name.value;
        let basic = table.account.as_ref().is_some_and(|account| account.value == AccountSource::Basic);
        if table.ok.is_empty() {
            let message = format!(
                "`login.{label}` has no `ok`: any answer below 500 that is not `failed` counts as success, and clears the failures"
            );
            let such = if basic { "status = [200, 304]" } else { "redirect = \"/home\"" };
            return self.warn(message, &name.span, format!("say how success looks, such as ok = [{{ {such} }}]"));
        }
        let is_read = table.request.as_ref().is_some_and(|request| [Method::GET, Method::HEAD].contains(&request.method.value));
        if basic && is_read && !ok.iter().any(|rule| rule.status.is_empty() || rule.status.contains(&StatusCode::NOT_MODIFIED)) {
            let message = format!("`login.{label}`: a right password for a page that did not change (304) counts as a failure");
            self.warn(message, &name.span, "put into `ok` every status that a right password may bring");
        }
    }

    fn source_fits(
        &mut self,
        label: &str,
        method: &Located<Method>,
        account: &Located<AccountSource>,
        secret: Option<&Located<FieldSource>>,
    ) {
        let bodiless = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::CONNECT].contains(&method.value);
        match (&account.value, secret.map(|secret| (&secret.value, &secret.span))) {
            (AccountSource::Field(_), _) if bodiless => {
                let message = format!("`login.{label}`: {} has no body that could name the account", method.value);
                self.error(message, &account.span, "take \"basic\", or a method with a body");
            }
            (AccountSource::Basic, Some((_, span))) => {
                let message = format!("`login.{label}.secret` is never read: Basic authentication carries its own");
                self.error(message, span, "leave it out");
            }
            (AccountSource::Field(FieldSource::Form(_)), Some((FieldSource::Json(_), span)))
            | (AccountSource::Field(FieldSource::Json(_)), Some((FieldSource::Form(_), span))) => {
                let message = format!("`login.{label}.secret`: one body is not both a form and JSON");
                self.error(message, span, "take the kind that `account` has");
            }
            (AccountSource::Field(field), Some((secret, span))) if field == secret => {
                let message = format!("`login.{label}.secret` names the same field as `account`");
                self.error(message, span, "name the password's field");
            }
            _ => {}
        }
    }

    fn outcomes(&mut self, label: &str, key: &str, tables: &Tables<OutcomeTable>) -> Vec<OutcomeRule> {
        let readable = tables.iter().enumerate().filter_map(|(at, slot)| Some((at, &slot.span, slot.value.as_ref()?)));
        readable.map(|(at, span, table)| self.outcome(&format!("login.{label}.{key}[{at}]"), span, table)).collect()
    }

    fn outcome(&mut self, key: &str, span: &Span, table: &OutcomeTable) -> OutcomeRule {
        let status = table.status.as_ref().map_or(&[][..], |status| &status.value);
        if status.is_empty() && table.redirect.is_none() && table.header.is_none() && !self.broken.within(key) {
            self.error(format!("`{key}`: this would match every answer"), span, "give it `status`, `redirect` or `header`");
        }
        for code in status.iter().filter(|code| code.value.is_server_error()) {
            let message =
                format!("`{key}`: {} never matches, for a 5xx is the application's fault and no outcome", code.value.as_u16());
            self.error(message, &code.span, "leave it out");
        }
        if let Some(redirect) = &table.redirect
            && !status.is_empty()
            && !status.iter().any(|code| code.value.is_redirection())
        {
            let message = format!("`{key}`: no answer is both one of these statuses and a redirect");
            self.error(message, &redirect.span, "leave `status` out, or give the redirect's");
        }
        OutcomeRule {
            status: status.iter().map(|code| code.value).collect::<Vec<StatusCode>>(),
            redirect: table.redirect.as_ref().map(|redirect| redirect.value.clone()),
            header: table.header.as_ref().map(|header| (header.0.clone(), header.1.clone())),
        }
    }
}

fn same(a: &OutcomeRule, b: &OutcomeRule) -> bool {
    let says_something = !a.status.is_empty() || a.redirect.is_some() || a.header.is_some();
    says_something && a.status == b.status && a.redirect == b.redirect && a.header == b.header
}
