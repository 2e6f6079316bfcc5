//! What a limit is; the arithmetic (GCRA) is governor's, the tables are `state::limits`.

use std::fmt;
use std::time::Duration;

use super::Name;

/// `limit.<name>`, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSpec {
    pub name: Name,
    /// All of these together are the key; never empty.
    pub key: Vec<LimitKey>,
    pub quota: Quota,
    pub mode: LimitMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitKey {
    Approval,
    Identity,
    Account,
    Client,
    Tenant,
    Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LimitMode {
    #[default]
    Enforce,
    /// Counts and reports, and lets pass.
    Shadow,
}

/// `rate` and `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Quota {
    /// Requests per `per`; at least 1.
    pub requests: u32,
    pub per: Duration,
    /// At least 1.
    pub burst: u32,
}

impl LimitSpec {
    /// Smaller is more private: charged first.
    pub fn privacy(&self) -> LimitKey {
        self.key.iter().copied().min().unwrap_or(LimitKey::Route)
    }
}

impl Quota {
    /// Fastest sustained rate: one request a microsecond. Beyond it the arithmetic of intervals loses its precision.
    const SHORTEST_INTERVAL: Duration = Duration::from_micros(1);

    /// Longest time that a full burst may take to come back: ten years, so that no sum of intervals overflows.
    const LONGEST_WINDOW: Duration = Duration::from_secs(10 * 366 * 86_400);

    /// `"120/min"`, `"50/s"`, `"3000/h"`, `"10/day"`; burst defaults to the request count.
    ///
    /// Fails closed: a rate of zero, without a unit or beyond what can be counted is an error, never a default.
    pub fn parse(text: &str) -> Result<Self, String> {
        let malformed = || format!("`{text}` is not a rate; write a count and a unit, as in \"120/min\" (s, min, h, day)");
        let (count, unit) = text.split_once('/').ok_or_else(malformed)?;
        let count = count.trim();
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        let requests: u32 = count.parse().map_err(|_| format!("the count of `{text}` is too large"))?;
        let seconds = match unit.trim() {
            "s" | "sec" | "second" => 1,
            "m" | "min" | "minute" => 60,
            "h" | "hour" => 3_600,
            "d" | "day" => 86_400,
            _ => return Err(malformed()),
        };
        let quota = Self { requests, per: Duration::from_secs(seconds), burst: requests };
        match quota.fault() {
            Some(fault) => Err(format!("`{text}`: {fault}")),
            None => Ok(quota),
        }
    }

    /// What makes the quota unusable, in one sentence; `None` when every sum over it stays in range.
    /// For quotas that were not parsed: one with its own burst, or one read back from an approval.
    pub fn fault(&self) -> Option<&'static str> {
        if self.requests == 0 {
            return Some("a rate of 0 lets nothing pass; it must be at least 1");
        }
        if self.burst == 0 {
            return Some("a burst of 0 lets nothing pass; it must be at least 1");
        }
        let interval = self.interval();
        if interval < Self::SHORTEST_INTERVAL {
            return Some("the rate is above 1,000,000 a second");
        }
        match interval.checked_mul(self.burst) {
            Some(window) if window <= Self::LONGEST_WINDOW => None,
            _ => Some("the burst would take more than ten years to come back at this rate"),
        }
    }

    /// Time between two requests at the sustained rate.
    pub fn interval(&self) -> Duration {
        self.per / self.requests.max(1)
    }
}

impl fmt::Display for Quota {
    /// The rate as the config writes it, without its burst; a period that has no name is written in seconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.per.as_secs(), self.per.subsec_nanos()) {
            (1, 0) => write!(f, "{}/s", self.requests),
            (60, 0) => write!(f, "{}/min", self.requests),
            (3_600, 0) => write!(f, "{}/h", self.requests),
            (86_400, 0) => write!(f, "{}/day", self.requests),
            _ => write!(f, "{}/{}s", self.requests, self.per.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_in_every_unit_and_written_back() {
        for (text, requests, seconds) in [("120/min", 120, 60), ("50/s", 50, 1), ("3000/h", 3000, 3600), ("10/day", 10, 86_400)] {
            let quota = Quota::parse(text).unwrap();
            assert_eq!(quota, Quota { requests, per: Duration::from_secs(seconds), burst: requests });
            assert_eq!(quota.to_string(), text);
        }
        assert_eq!(Quota::parse(" 5 / minute ").unwrap().to_string(), "5/min");
        assert_eq!(Quota::parse("120/min").unwrap().interval(), Duration::from_millis(500));
    }

    #[test]
    fn a_rate_that_cannot_be_counted_is_refused() {
        for text in
            ["", "120", "120/", "/min", "0/s", "-1/s", "+1/s", "1.5/s", "1/fortnight", "1/min/s", "5000000000/s", "1000001/s"]
        {
            assert!(Quota::parse(text).is_err(), "{text}");
        }
        assert!(Quota::parse("1000000/s").is_ok());
    }

    #[test]
    fn a_quota_built_by_hand_is_held_to_the_same_range() {
        let sane = Quota { requests: 1, per: Duration::from_secs(86_400), burst: 100 };
        assert_eq!(sane.fault(), None);
        assert!(Quota { requests: 0, ..sane }.fault().is_some());
        assert!(Quota { burst: 0, ..sane }.fault().is_some());
        assert!(Quota { per: Duration::ZERO, ..sane }.fault().is_some());
        assert!(Quota { burst: u32::MAX, ..sane }.fault().is_some());
        assert!(Quota { per: Duration::MAX, burst: 2, ..sane }.fault().is_some());
    }

    #[test]
    fn the_most_private_part_of_a_key_orders_the_limit() {
        let spec = LimitSpec {
            name: "x".into(),
            key: vec![LimitKey::Route, LimitKey::Identity],
            quota: Quota::parse("1/s").unwrap(),
            mode: LimitMode::Enforce,
        };
        assert_eq!(spec.privacy(), LimitKey::Identity);
        assert!(LimitKey::Approval < LimitKey::Identity && LimitKey::Client < LimitKey::Route);
    }
}
