//! How people write lengths and dates: `"2h"`, `"7d"`; `2027-06-30` (that day included) or an RFC 3339 time.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, ToSpan};

use crate::state::bans;

/// `"90s"`, `"15m"`, `"2h"`, `"7d"`, `"1h 30m"`; longer than nothing. A day is 24 hours.
pub fn length(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a length of time: write it as \"90s\", \"15m\", \"2h\" or \"7d\"");
    let span: Span = text.trim().parse().map_err(|_| wrong())?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    match Duration::try_from(signed) {
        Ok(length) if !length.is_zero() => Ok(length),
        _ => Err(format!("{text:?} is not a length of time: it must be longer than nothing")),
    }
}

/// The length of a ban from now on. One that ends later than a ban's end can be kept is refused: it would be for good.
pub fn ban_length(text: &str, now: Timestamp) -> Result<Duration, String> {
    let (length, longest) = (length(text)?, bans::longest(now));
    if length <= longest {
        return Ok(length);
    }
    let days = longest.as_secs() / 86_400;
    Err(format!("{text:?} is too long: the longest that fits is {days}d; leave the length out for a ban until it is lifted"))
}

/// The exclusive end that `--until` means. A date includes that day, in UTC and in the zone of `hours` where they have one;
/// an RFC 3339 time is taken as it stands.
pub fn until(text: &str, hours: Option<&str>) -> Result<Timestamp, String> {
    let Some(date) = date(text)? else { return instant(text) };
    let next = date.checked_add(1.day()).map_err(|_| format!("{text} is too far away"))?;
    let mut end = midnight(next, TimeZone::UTC)?;
    if let Some(zone) = hours.and_then(zone_of) {
        end = end.max(midnight(next, zone)?);
    }
    Ok(end)
}

/// The first moment that `--not-before` means: of a date its midnight in UTC.
pub fn not_before(text: &str) -> Result<Timestamp, String> {
    match date(text)? {
        Some(date) => midnight(date, TimeZone::UTC),
        None => instant(text),
    }
}

/// Whether the text is a date or an RFC 3339 time, for the command line to refuse it early.
pub fn check(text: &str) -> Result<String, String> {
    not_before(text).map(|_| text.to_owned())
}

/// `1d 2h`, `3m 5s`, `12s`: the two largest units, for people.
pub fn human(length: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = length.as_secs();
    let mut parts = Vec::new();
    for (seconds, unit) in UNITS {
        if rest >= seconds && parts.len() < 2 {
            parts.push(format!("{}{unit}", rest / seconds));
            rest %= seconds;
        } else if !parts.is_empty() {
            break;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// `2026-11-21T08:00:00Z`: RFC 3339 in UTC, to the second.
pub fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `in 2h 5m` or `3d ago`.
pub fn relative(at: Timestamp, now: Timestamp) -> String {
    let distance: SignedDuration = at.duration_since(now);
    // To the nearest second: what was given two hours just now still has two hours.
    let length = human(distance.unsigned_abs().saturating_add(Duration::from_millis(500)));
    if distance.is_positive() { format!("in {length}") } else { format!("{length} ago") }
}

/// `Some` where the text has the form of a date; a date that no calendar has is an error.
fn date(text: &str) -> Result<Option<Date>, String> {
    let bytes = text.as_bytes();
    let shaped = bytes.len() == 10
        && bytes.iter().enumerate().all(|(at, b)| if at == 4 || at == 7 { *b == b'-' } else { b.is_ascii_digit() });
    if !shaped {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| format!("{text} is not a day of the calendar"))
}

fn instant(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("{text:?} is neither a date (2027-06-30) nor an RFC 3339 time (2027-06-30T18:00:00Z)"))
}

fn midnight(date: Date, zone: TimeZone) -> Result<Timestamp, String> {
    date.to_zoned(zone).map(|zoned| zoned.timestamp()).map_err(|_| format!("{date} is too far away"))
}

/// The zone at the end of `"22:00-05:00 Europe/Berlin"`; hours that cannot be read are the terms' own fault to name.
fn zone_of(hours: &str) -> Option<TimeZone> {
    TimeZone::get(hours.split_whitespace().nth(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn lengths_are_read_as_people_write_them() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800), ("1h 30m", 5400), ("2w", 1_209_600)] {
            assert_eq!(length(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "2", "h", "-2h", "0s", "1 month", "two hours", "2h ago"] {
            assert!(length(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_ban_that_would_silently_be_for_good_is_refused_with_the_longest_that_fits() {
        let now = at("2026-11-21T12:00:00Z");
        let told = ban_length("99999d", now).unwrap_err();
        assert!(told.contains("28931d"), "{told}");
        assert_eq!(ban_length("28931d", now), Ok(Duration::from_secs(28_931 * 86_400)));
        assert!(ban_length("28932d", now).is_err());
    }

    #[test]
    fn a_date_includes_its_day() {
        assert_eq!(until("2027-06-30", None), Ok(at("2027-07-01T00:00:00Z")));
        assert_eq!(until("2028-02-29", None), Ok(at("2028-03-01T00:00:00Z")));
        assert_eq!(not_before("2027-06-30"), Ok(at("2027-06-30T00:00:00Z")));
    }

    #[test]
    fn a_date_includes_its_day_in_the_zone_of_the_hours_too() {
        assert_eq!(until("2027-06-30", Some("22:00-05:00 Europe/Berlin")), Ok(at("2027-07-01T00:00:00Z")));
        assert_eq!(until("2027-06-30", Some("22:00-05:00 America/New_York")), Ok(at("2027-07-01T04:00:00Z")));
        assert_eq!(until("2027-06-30", Some("nonsense")), Ok(at("2027-07-01T00:00:00Z")));
    }

    #[test]
    fn rfc_3339_times_are_taken_as_they_stand() {
        assert_eq!(until("2027-06-30T18:00:00+02:00", None), Ok(at("2027-06-30T16:00:00Z")));
        for text in ["2027-02-30", "2027-13-01", "30.06.2027", "tomorrow", "2027-06-30T18:00", ""] {
            assert!(until(text, None).is_err(), "{text}");
            assert!(check(text).is_err(), "{text}");
        }
    }

    #[test]
    fn people_see_the_two_largest_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3600, "1h"), (3605, "1h"), (90_000, "1d 1h"), (86_460, "1d")]
        {
            assert_eq!(human(Duration::from_secs(seconds)), text);
        }
        assert_eq!(relative(at("2026-01-01T00:00:10Z"), at("2026-01-01T00:00:00Z")), "in 10s");
        assert_eq!(relative(at("2026-01-01T00:00:00Z"), at("2026-01-03T00:00:00Z")), "2d ago");
        assert_eq!(relative(at("2026-01-01T02:00:00Z"), at("2026-01-01T00:00:00.02Z")), "in 2h");
    }
}
