//! Why a request was refused: one public reason, one private cause.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

/// A refusal. The reason is public; the cause goes to the event and the record only.
#[derive(Clone, Debug)]
pub struct Denial {
    pub reason: Reason,
    /// Private: for the event, never for the client.
    pub cause: Cow<'static, str>,
    /// Set where waiting helps.
    pub retry_after: Option<Duration>,
    /// Set on `rate-limited`: what the `RateLimit` fields say.
    pub limit: Option<LimitState>,
}

/// What the `RateLimit` and `RateLimit-Policy` fields of one limit say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// The limit's name in the config.
    pub name: super::Name,
    /// `q`: the burst, in requests.
    pub quota: u32,
    /// `w`: burst / rate, in whole seconds, rounded up.
    pub window: u32,
    /// `r`: requests left now.
    pub remaining: u32,
    /// `t`: seconds until one more is allowed, rounded up.
    pub reset: u32,
}

/// The public reasons of `interface.md`; `code()` is the last part of the problem's `type` URN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    TlsRequired,
    Misdirected,
    BadRequest,
    BodyTooLarge,
    HeadTooLarge,
    NotFound,
    ClientCertRequired,
    ClientCertRefused,
    Revoked,
    NotPermitted,
    TooManyAttempts,
    Banned,
    RateLimited,
    BotApprovalRequired,
    BotScope,
    BotHours,
    ApprovalRevoked,
    ApprovalBinding,
    UpstreamUnavailable,
    UpstreamBadGateway,
    UpstreamTimeout,
}

impl Denial {
    /// A refusal with its private cause.
    pub fn new(reason: Reason, cause: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, cause: cause.into(), retry_after: None, limit: None }
    }

    /// Adds `Retry-After`.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl Reason {
    /// Every reason, for resolving metric handles at load.
    pub const ALL: [Self; 21] = [
        Self::TlsRequired,
        Self::Misdirected,
        Self::BadRequest,
        Self::BodyTooLarge,
        Self::HeadTooLarge,
        Self::NotFound,
        Self::ClientCertRequired,
        Self::ClientCertRefused,
        Self::Revoked,
        Self::NotPermitted,
        Self::TooManyAttempts,
        Self::Banned,
        Self::RateLimited,
        Self::BotApprovalRequired,
        Self::BotScope,
        Self::BotHours,
        Self::ApprovalRevoked,
        Self::ApprovalBinding,
        Self::UpstreamUnavailable,
        Self::UpstreamBadGateway,
        Self::UpstreamTimeout,
    ];

    /// The reason's name on the wire, in logs and in metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::TlsRequired => "tls-required",
            Self::Misdirected => "misdirected",
            Self::BadRequest => "bad-request",
            Self::BodyTooLarge | Self::HeadTooLarge => "too-large",
            Self::NotFound => "not-found",
            Self::ClientCertRequired => "client-cert-required",
            Self::ClientCertRefused => "client-cert-refused",
            Self::Revoked => "revoked",
            Self::NotPermitted => "not-permitted",
            Self::TooManyAttempts => "too-many-attempts",
            Self::Banned => "banned",
            Self::RateLimited => "rate-limited",
            Self::BotApprovalRequired => "bot-approval-required",
            Self::BotScope => "bot-scope",
            Self::BotHours => "bot-hours",
            Self::ApprovalRevoked => "approval-revoked",
            Self::ApprovalBinding => "approval-binding",
            Self::UpstreamUnavailable | Self::UpstreamBadGateway => "upstream-unavailable",
            Self::UpstreamTimeout => "upstream-timeout",
        }
    }

    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::TooManyAttempts | Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamBadGateway => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::FORBIDDEN,
        }
    }

    /// One plain sentence for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::TlsRequired => "This address is served over HTTPS only.",
            Self::Misdirected => "This connection is not for that host.",
            Self::BadRequest => "The request cannot be accepted as it was sent.",
            Self::BodyTooLarge => "The request body is larger than allowed.",
            Self::HeadTooLarge => "The request head is larger than allowed.",
            Self::NotFound => "There is nothing at this address.",
            Self::ClientCertRequired => "A client certificate is required here.",
            Self::ClientCertRefused => "The client certificate is not accepted.",
            Self::Revoked => "The client certificate has been revoked.",
            Self::NotPermitted => "You are not permitted to do this.",
            Self::TooManyAttempts => "Too many sign-in attempts.",
            Self::Banned => "Requests from you are refused for now.",
            Self::RateLimited => "Too many requests.",
            Self::BotApprovalRequired => "Automated access needs an approval.",
            Self::BotScope => "The approval does not cover this request.",
            Self::BotHours => "The approval does not hold at this hour.",
            Self::ApprovalRevoked => "The approval is no longer in force.",
            Self::ApprovalBinding => "The approval belongs to another caller.",
            Self::UpstreamUnavailable | Self::UpstreamBadGateway => "The application cannot be reached.",
            Self::UpstreamTimeout => "The application did not answer in time.",
        }
    }

    /// The clauses (see THREATS.md and the policy documents) that this refusal bears on.
    pub const fn clauses(self) -> &'static [&'static str] {
        match self {
            Self::TlsRequired => &["C2"],
            Self::Misdirected => &["C2", "O15"],
            Self::BadRequest | Self::BodyTooLarge | Self::HeadTooLarge => &["C9", "O5"],
            Self::NotFound => &["O4"],
            Self::ClientCertRequired | Self::ClientCertRefused => &["C3ii"],
            Self::Revoked => &["C7"],
            Self::NotPermitted => &["C8", "O4"],
            Self::TooManyAttempts | Self::Banned => &["O11"],
            Self::RateLimited => &["O1"],
            Self::BotApprovalRequired | Self::BotScope | Self::BotHours | Self::ApprovalBinding => &["C13"],
            Self::ApprovalRevoked => &["C13", "C7"],
            Self::UpstreamUnavailable | Self::UpstreamBadGateway | Self::UpstreamTimeout => &[],
        }
    }
}
