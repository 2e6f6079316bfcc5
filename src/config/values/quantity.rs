//! Numbers, durations, sizes and rates, each with its bounds.

use std::time::Duration;

use schemars::{Schema, json_schema};
use toml::Spanned;
use toml::de::DeValue;

use crate::config::read::{Reader, Value};
use crate::policy::limit::Quota;

/// A whole number between two bounds, both included.
#[derive(Clone, Copy, Debug)]
pub struct Int<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Value for Int<MIN, MAX> {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let Some(integer) = item.get_ref().as_integer() else {
            reader.wrong_type(item, "a whole number");
            return None;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(value) if (MIN..=MAX).contains(&value) => Some(Self(value)),
            _ => {
                reader.bad_value(item, &format!("{integer} is out of range"), format!("a whole number from {MIN} to {MAX}"));
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

impl<const MIN: u64, const MAX: u64> Int<MIN, MAX> {
    pub fn usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    pub fn u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

/// Threads: `None` is "auto".
#[derive(Clone, Copy, Debug)]
pub struct Workers(pub Option<usize>);

type WorkerCount = Int<1, 1024>;

impl Value for Workers {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        match item.get_ref() {
            DeValue::String(text) if text.as_ref() == "auto" => Some(Self(None)),
            DeValue::Integer(_) => WorkerCount::read(item, reader).map(|count| Self(Some(count.usize()))),
            DeValue::String(text) => {
                let message = format!("`{text}` is neither a whole number nor \"auto\"");
                reader.bad_value(item, &message, "\"auto\" is one thread a core");
                None
            }
            _ => {
                reader.wrong_type(item, "a whole number or \"auto\"");
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "auto" }, WorkerCount::schema()] })
    }
}

/// A duration longer than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// Longer spans would overflow deadlines counted from now on some platforms, and nobody means them.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

impl Value for Period {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a duration such as \"90s\"")?;
        let help = "a duration is written \"500ms\", \"90s\", \"15m\", \"24h\", \"398d\" or \"1h30m\"";
        let message = match parse_duration(text) {
            Some(duration) if duration.is_zero() => format!("\"{text}\" is no time at all"),
            Some(duration) if duration > LONGEST => format!("\"{text}\" is longer than a century"),
            Some(duration) => return Some(Self(duration)),
            None => format!("\"{text}\" is not a duration"),
        };
        reader.bad_value(item, &message, help);
        None
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w))+$" })
    }
}

/// A duration for which something is held back, zero included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause(pub Duration);

/// Beyond it clients give up, and what is held takes more places than it hides.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Value for Pause {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a duration such as \"250ms\"")?;
        let message = match parse_duration(text) {
            Some(duration) if duration > LONGEST_PAUSE => format!("\"{text}\" is longer than 10s"),
            Some(duration) => return Some(Self(duration)),
            None => format!("\"{text}\" is not a duration"),
        };
        reader.bad_value(item, &message, "a duration from \"0s\", which is off, to \"10s\", such as \"250ms\"");
        None
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w))+$" })
    }
}

/// `90s`, `1h30m`; `None` where it cannot be read or does not fit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (count, after) = leading_number(rest)?;
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let part = match unit {
            "ms" => Duration::from_millis(count),
            "s" => Duration::from_secs(count),
            "m" => Duration::from_secs(count.checked_mul(60)?),
            "h" => Duration::from_secs(count.checked_mul(3600)?),
            "d" => Duration::from_secs(count.checked_mul(86_400)?),
            "w" => Duration::from_secs(count.checked_mul(604_800)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// A number of bytes between two bounds, both included.
#[derive(Clone, Copy, Debug)]
pub struct Size<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Value for Size<MIN, MAX> {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a size such as \"16KiB\"")?;
        let range = format!("a size from {} to {}", show_size(MIN), show_size(MAX));
        match parse_size(text) {
            Some(size) if (MIN..=MAX).contains(&size) => Some(Self(size)),
            Some(_) => {
                reader.bad_value(item, &format!("\"{text}\" is out of range"), range);
                None
            }
            None => {
                let help = "a size is written \"512B\", \"16KiB\", \"64MiB\" or \"1GiB\"";
                reader.bad_value(item, &format!("\"{text}\" is not a size"), help);
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)$" })
    }
}

const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// `16KiB`; `None` where it cannot be read or does not fit.
pub fn parse_size(text: &str) -> Option<u64> {
    let (count, unit) = leading_number(text)?;
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    count.checked_mul(*factor)
}

pub fn show_size(bytes: u64) -> String {
    let (unit, factor) =
        UNITS.into_iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor)).unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

/// `rate`; the burst is the count of requests until `burst` says otherwise.
impl Value for Quota {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a rate such as \"120/min\"")?;
        match Quota::parse(text) {
            Ok(quota) => Some(quota),
            Err(message) => {
                reader.bad_value(item, &message, "a rate is written \"50/s\", \"120/min\", \"3000/h\" or \"10/day\"");
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+/[a-z]+$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (text, expected) in [
            ("90s", seconds(90)),
            ("15m", seconds(900)),
            ("24h", seconds(86_400)),
            ("398d", seconds(398 * 86_400)),
            ("2w", seconds(1_209_600)),
            ("1h30m", seconds(5400)),
            ("500ms", Some(Duration::from_millis(500))),
            ("0s", Some(Duration::ZERO)),
            ("", None),
            ("90", None),
            ("s", None),
            ("-5s", None),
            ("1.5h", None),
            ("90 s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615w", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("512B", Some(512)),
            ("16KiB", Some(16_384)),
            ("64MiB", Some(64 << 20)),
            ("1GiB", Some(1 << 30)),
            ("16", None),
            ("16KB", None),
            ("16 KiB", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
        assert_eq!((show_size(1), show_size(8192), show_size(1 << 40)), ("1B".into(), "8KiB".into(), "1TiB".into()));
    }
}
