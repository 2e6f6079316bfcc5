//! `allow` of a route: who may pass, and whether anybody ever could.

use crate::config::diagnostic::Located;
use crate::config::file::ClientCaTable;
use crate::config::suggest;
use crate::policy::AccountKind;
use crate::policy::route::{Allow, BotRule};

use super::Compiler;
use super::site::SiteRules;

const PREFIXES: [&str; 4] = ["identity:", "kind:", "role:", "tenant:"];
const KINDS: [AccountKind; 3] = [AccountKind::Service, AccountKind::Human, AccountKind::Bot];

impl Compiler<'_> {
    /// Fails closed: an entry that could never match refuses the config, for a slip there locks somebody out, and is then
    /// "repaired" by taking the list away.
    pub(super) fn allow(
        &mut self,
        key: &str,
        allow: &Located<Vec<Located<String>>>,
        bots: BotRule,
        site: &SiteRules<'_>,
    ) -> Option<Vec<Allow>> {
        let help = "name who may pass, or leave it out for everyone whom the other checks let through";
        self.not_empty(&format!("{key}.allow"), allow, "nobody could pass", help);
        self.no_twins(&allow.value, |entry| format!("\"{entry}\""));
        let entries: Vec<_> = allow.value.iter().map(|entry| self.allow_entry(entry, bots, site)).collect();
        entries.into_iter().collect()
    }

    fn allow_entry(&mut self, entry: &Located<String>, bots: BotRule, site: &SiteRules<'_>) -> Option<Allow> {
        let (prefix, name) = entry.value.split_once(':').unwrap_or((entry.value.as_str(), ""));
        let prefixed = format!("{prefix}:");
        if !PREFIXES.contains(&prefixed.as_str()) {
            let help = suggest::help(&prefixed, PREFIXES, "prefixes");
            self.error(format!("\"{}\" does not say what must match", entry.value), &entry.span, help);
            return None;
        }
        if name.is_empty() || name.trim() != name {
            self.error(format!("\"{}\" names nothing", entry.value), &entry.span, "such as \"role:integrator\"");
            return None;
        }
        let sets = || site.vouching.iter().flatten().map(|vouching| vouching.set);
        match prefix {
            "identity" => self.allowed_identity(entry, name, site),
            "kind" => {
                let Some(kind) = KINDS.into_iter().find(|kind| kind.as_str() == name) else {
                    let help = suggest::help(name, KINDS.map(AccountKind::as_str), "kinds");
                    self.error(format!("there is no kind `{name}`"), &entry.span, help);
                    return None;
                };
                // An approved bot is of this kind without any certificate.
                if kind != AccountKind::Bot || bots == BotRule::None {
                    self.some_set_gives(entry, site, Vec::new(), |set| set.kind == kind);
                }
                Some(Allow::Kind(kind))
            }
            "role" => {
                let roles = sets().flat_map(|set| set.roles.iter().map(|role| role.value.as_str())).collect();
                self.some_set_gives(entry, site, roles, |set| set.roles.iter().any(|role| role.value == name));
                Some(Allow::Role(name.into()))
            }
            _ => {
                let tenants = sets().filter_map(|set| set.tenant.as_ref().map(|tenant| tenant.value.as_str())).collect();
                self.some_set_gives(entry, site, tenants, |set| set.tenant.as_ref().is_some_and(|tenant| tenant.value == name));
                Some(Allow::Tenant(name.into()))
            }
        }
    }

    /// `identity:SET:NAME`, or `identity:NAME` where one set alone may vouch. Fails closed: with several sets a bare name is
    /// refused, for any of them could issue it.
    fn allowed_identity(&mut self, entry: &Located<String>, name: &str, site: &SiteRules<'_>) -> Option<Allow> {
        let Some(vouching) = &site.vouching else { return Some(Allow::Identity(name.into())) };
        let named = name.split_once(':').filter(|(_, rest)| !rest.is_empty()).map(|(set, _)| set);
        if vouching.iter().any(|vouching| Some(vouching.name) == named) {
            return Some(Allow::Identity(name.into()));
        }
        match &vouching[..] {
            [only] => Some(Allow::Identity(format!("{}:{name}", only.name).into())),
            [] => {
                self.some_set_gives(entry, site, Vec::new(), |_| false);
                None
            }
            [first, ..] => {
                let message = format!("\"{}\" does not say which set vouches for the name", entry.value);
                self.error(message, &entry.span, format!("such as \"identity:{}:{name}\"", first.name));
                None
            }
        }
    }

    fn some_set_gives(
        &mut self,
        entry: &Located<String>,
        site: &SiteRules<'_>,
        given: Vec<&str>,
        gives: impl Fn(&ClientCaTable) -> bool,
    ) {
        let Some(vouching) = &site.vouching else { return };
        if !site.asks {
            let message = format!("\"{}\" can never match: the site has no `client_ca`, so nobody can prove it", entry.value);
            self.error(message, &entry.span, "name the sets that may vouch in the site, or take the entry out");
        } else if !vouching.is_empty() && !vouching.iter().any(|vouching| gives(vouching.set)) {
            let message = format!("\"{}\" can never match: no CA set of this site gives it", entry.value);
            let (prefix, name) = entry.value.split_once(':').unwrap_or_default();
            let help = match suggest::closest(name, given) {
                Some(closest) => format!("did you mean \"{prefix}:{closest}\"?"),
                None => "give it to a set in `client_ca`, or take the entry out".to_owned(),
            };
            self.error(message, &entry.span, help);
        }
    }
}
