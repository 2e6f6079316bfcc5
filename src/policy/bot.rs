//! What counts as automation. A label never lets anybody in.

/// What a request's own words say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BotClass {
    /// Nothing says automation.
    Unmarked,
    /// The User-Agent is on the crawler list.
    Crawler,
    /// The User-Agent names a known HTTP library.
    HttpLibrary,
    /// There is no User-Agent, or an empty one.
    NoUserAgent,
}

/// The compiled crawler list and library names; build once per process.
pub struct BotClassifier {
    // the policy helper's to fill
}

impl BotClass {
    pub const fn is_automation(self) -> bool {
        !matches!(self, Self::Unmarked)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unmarked => "unmarked",
            Self::Crawler => "crawler",
            Self::HttpLibrary => "http-library",
            Self::NoUserAgent => "no-user-agent",
        }
    }
}

impl BotClassifier {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        todo!("policy")
    }

    /// Callers cache the verdict by User-Agent: the list has some 1,500 patterns.
    pub fn classify(&self, _user_agent: Option<&[u8]>) -> BotClass {
        todo!("policy")
    }
}
