//! What single keys hold. Here the words that can be chosen; quantities, addresses and texts in files of their own.

mod address;
mod quantity;
mod text;

use crate::policy::approval::Party;
use crate::policy::ban::BanAnswer;
use crate::policy::identity::{AccountKind, NameKind};
use crate::policy::limit::{LimitKey, LimitMode};
use crate::policy::route::{BotRule, CertDemand};

pub use address::UnixSocket;
pub use quantity::{Int, Pause, Period, Size, Workers, show_size};
pub use text::{HeaderLine, OneOrMany};

use super::read::choice;
use super::{LogFormat, PlainHttp, TlsVersion};

choice!(PlainHttp { "refuse" => Self::Refuse, "redirect" => Self::Redirect, });
choice!(LogFormat { "json" => Self::Json, "combined" => Self::Combined, });
choice!(TlsVersion { "1.2" => Self::V1_2, "1.3" => Self::V1_3, });
choice!(NameKind {
    "san-uri" => Self::SanUri,
    "san-dns" => Self::SanDns,
    "san-email" => Self::SanEmail,
    "subject-cn" => Self::SubjectCn,
});
choice!(AccountKind { "service" => Self::Service, "human" => Self::Human, "bot" => Self::Bot, });
choice!(BanAnswer { "explain" => Self::Explain, "drop" => Self::Drop, });
choice!(LimitKey {
    "client" => Self::Client,
    "identity" => Self::Identity,
    "approval" => Self::Approval,
    "account" => Self::Account,
    "tenant" => Self::Tenant,
    "route" => Self::Route,
});
choice!(LimitMode { "enforce" => Self::Enforce, "shadow" => Self::Shadow, });
choice!(CertDemand { "optional" => Self::Optional, "required" => Self::Required, });
choice!(BotRule { "approved" => Self::Approved, "any" => Self::Any, "none" => Self::None, });
choice!(Party { "provider" => Self::Provider, "customer" => Self::Customer, });
choice!(RouteMatch { "prefix" => Self::Prefix, "exact" => Self::Exact, });

/// `match` of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteMatch {
    Prefix,
    Exact,
}
