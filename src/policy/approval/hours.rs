//! The hours at which an approval holds.

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

/// Spans of a day in one zone.
#[derive(Clone, Debug)]
pub(super) struct Hours {
    /// First minute of the day and the one after the last; a span that ends before it starts runs over midnight.
    spans: Vec<(u16, u16)>,
    zone: TimeZone,
}

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// Most spans of one approval.
const MAX_SPANS: usize = 16;

impl Hours {
    /// Reads `"22:00-05:00 Europe/Berlin"`: one or several spans separated by commas, then perhaps an IANA zone; without
    /// one UTC. A span holds from its first minute up to its last, exclusive; `24:00` is the end of the day.
    ///
    /// Zones come from the database in the binary, so that a signed text means the same on every machine.
    /// Fails closed: an empty span and an unknown zone are errors.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (spans, zone) = match text.rsplit_once(' ') {
            Some((spans, zone)) if !zone.starts_with(|c: char| c.is_ascii_digit()) => (spans, zone),
            _ => (text, "UTC"),
        };
        let zone = TimeZoneDatabase::bundled().get(zone).map_err(|_| format!("`{zone}` is not an IANA time zone"))?;
        let spans = spans.split(',').map(|span| read_span(span.trim())).collect::<Result<Vec<_>, _>>()?;
        if spans.len() > MAX_SPANS {
            return Err(format!("more than {MAX_SPANS} spans"));
        }
        Ok(Self { spans, zone })
    }

    /// Whether the hours cover an instant, by the clocks of their zone: an hour that summer time skips covers nothing, one
    /// that it repeats counts twice.
    pub(super) fn cover(&self, at: Timestamp) -> bool {
        let local = self.zone.to_datetime(at);
        let minute = u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap_or(DAY);
        self.spans
            .iter()
            .any(|(start, end)| if start < end { (*start..*end).contains(&minute) } else { minute >= *start || minute < *end })
    }
}

fn read_span(text: &str) -> Result<(u16, u16), String> {
    let malformed = || format!("`{text}` is not a span of hours; write \"22:00-05:00\"");
    let (start, end) = text.split_once('-').ok_or_else(malformed)?;
    let (start, end) = (read_minute(start).ok_or_else(malformed)?, read_minute(end).ok_or_else(malformed)?);
    match (start, end) {
        (start, end) if start == end => {
            Err(format!("`{text}` is either nothing or a whole day; write \"00:00-24:00\" for a day"))
        }
        (DAY, _) => Err(format!("`{text}`: 24:00 can only end a span")),
        span => Ok(span),
    }
}

/// `HH:MM`, up to and including `24:00`.
fn read_minute(text: &str) -> Option<u16> {
    let [h1, h2, b':', m1, m2] = *text.as_bytes() else { return None };
    let digits = [h1, h2, m1, m2];
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let [h1, h2, m1, m2] = digits.map(|digit| u16::from(digit - b'0'));
    let (hour, minute) = (h1 * 10 + h2, m1 * 10 + m2);
    (minute < 60 && hour * 60 + minute <= DAY).then_some(hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(hours: &str, at: &str) -> bool {
        Hours::parse(hours).unwrap_or_else(|fault| panic!("{hours}: {fault}")).cover(at.parse().unwrap())
    }

    #[test]
    fn a_span_holds_from_its_first_minute_up_to_its_last_exclusive() {
        for (at, expected) in [("08:59:59", false), ("09:00:00", true), ("16:59:59.999", true), ("17:00:00", false)] {
            assert_eq!(covered("09:00-17:00", &format!("2026-01-15T{at}Z")), expected, "{at}");
        }
        assert!(covered("00:00-24:00", "2026-01-15T23:59:59Z") && covered("00:00-24:00 UTC", "2026-01-15T00:00:00Z"));
    }

    #[test]
    fn a_span_may_run_over_midnight_and_there_may_be_several() {
        for (at, expected) in [
            ("21:59", false),
            ("22:00", true),
            ("23:59", true),
            ("00:00", true),
            ("04:59", true),
            ("05:00", false),
            ("12:00", false),
        ] {
            assert_eq!(covered("22:00-05:00", &format!("2026-01-15T{at}:00Z")), expected, "{at}");
        }
        assert!(covered("06:00-07:00, 12:00-13:00 Europe/Berlin", "2026-01-15T11:30:00Z"));
        assert!(!covered("06:00-07:00,12:00-13:00 Europe/Berlin", "2026-01-15T12:30:00Z"));
    }

    #[test]
    fn a_zone_follows_its_summer_time() {
        let night = "22:00-05:00 Europe/Berlin";
        assert!(!covered(night, "2026-01-15T20:30:00Z") && covered(night, "2026-01-15T21:30:00Z"));
        assert!(covered(night, "2026-07-15T20:30:00Z") && !covered(night, "2026-07-15T03:30:00Z"));
        // 2026-03-29: 02:00 to 03:00 does not exist in Berlin. 2026-10-25: it comes twice.
        for at in ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"] {
            assert!(!covered("02:00-03:00 Europe/Berlin", at), "{at}");
        }
        for at in ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"] {
            assert!(covered("02:00-03:00 Europe/Berlin", at), "{at}");
        }
    }

    #[test]
    fn what_is_not_a_span_is_refused() {
        for text in [
            "",
            "09:00",
            "9:00-17:00",
            "09:00-17",
            "09:00-25:00",
            "09:60-10:00",
            "24:01-01:00",
            "24:00-01:00",
            "09:00-09:00",
            "00:00-00:00",
            "09:00-17:00,",
            "09:00-17:00 Mars/Olympus",
            "09:00-17:00 +02:00",
            "09:00-17:00-18:00",
            "+9:00-17:00",
            "09:00–17:00",
            "Europe/Berlin",
        ] {
            assert!(Hours::parse(text).is_err(), "{text}");
        }
        let many = vec!["09:00-10:00"; MAX_SPANS + 1].join(",");
        assert!(Hours::parse(&many).is_err());
    }
}
