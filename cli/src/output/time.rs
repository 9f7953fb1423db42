//! Points in time as `--since` and `--until` take them (moby `api/types/time`): RFC 3339 and its shorter forms, Unix seconds,
//! or a Go duration before now.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use super::human;

/// Reads a point in time, in nanoseconds since the Unix epoch. What has no zone is local.
///
/// # Errors
/// A message that quotes the text.
pub fn parse(text: &str) -> Result<i64, String> {
    parse_in(text, &TimeZone::system(), nanoseconds(Timestamp::now()))
}

fn nanoseconds(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

fn parse_in(text: &str, zone: &TimeZone, now: i64) -> Result<i64, String> {
    // "0" is a duration too, but who writes it means the beginning.
    if text != "0" {
        let (sign, span) = match text.strip_prefix('-') {
            Some(span) => (-1, span),
            None => (1, text),
        };
        if let Ok(ago) = human::parse_duration(span) {
            return Ok(now.saturating_sub(sign * ago));
        }
    }
    unix(text)
        .or_else(|| date(text, zone).map(nanoseconds))
        .ok_or_else(|| format!("failed to parse value as time or duration: {text:?}"))
}

/// `seconds[.fraction]`, to the nanosecond.
fn unix(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(seconds) || !is_number(fraction) {
        return None;
    }
    let nanoseconds: i64 = format!("{fraction:0<9}")[..9].parse().ok()?;
    seconds
        .parse::<i64>()
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(nanoseconds)
}

/// `2006-01-02[T15[:04[:05[.999]]]][Z|+07:00]`
fn date(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    // Behind the date a minus can only begin a zone.
    let zone_at = text
        .char_indices()
        .find(|(place, c)| *place >= 10 && matches!(c, 'Z' | 'z' | '+' | '-'))
        .map(|(place, _)| place);
    let (local, suffix) = text.split_at(zone_at.unwrap_or(text.len()));
    let missing = match local.split_once('T') {
        None if local.len() == 10 => "T00:00:00",
        None => return None,
        Some((_, clock)) => match clock.matches(':').count() {
            0 => ":00:00",
            1 => ":00",
            _ => "",
        },
    };
    let at: DateTime = format!("{local}{missing}").parse().ok()?;
    let zone = match suffix {
        "" => zone.clone(),
        "Z" | "z" => TimeZone::UTC,
        offset => {
            let (hours, minutes) = offset[1..].split_once(':')?;
            let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
            let sign = if offset.starts_with('-') { -1 } else { 1 };
            TimeZone::fixed(Offset::from_seconds(sign * seconds).ok()?)
        }
    };
    Some(at.to_zoned(zone).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_dockers_forms_are_read() {
        const NOW: i64 = 1_700_000_000_000_000_000;
        let zone = TimeZone::fixed(Offset::constant(2));
        let of = |text: &str| parse_in(text, &zone, NOW);
        let at = |text: &str| Ok(nanoseconds(text.parse().unwrap()));
        for (text, expected) in [
            ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20Z"),
            ("2023-11-14T22:13:20.5+01:00", "2023-11-14T21:13:20.5Z"),
            ("2023-11-14T22:13-03:30", "2023-11-15T01:43:00Z"),
            ("2023-11-14T22Z", "2023-11-14T22:00:00Z"),
            ("2023-11-14Z", "2023-11-14T00:00:00Z"),
            ("2023-11-14T22:13:20.000000001", "2023-11-14T20:13:20.000000001Z"),
            ("2023-11-14T22:13", "2023-11-14T20:13:00Z"),
            ("2023-11-14T22", "2023-11-14T20:00:00Z"),
            ("2023-11-14", "2023-11-13T22:00:00Z"),
            ("1136073600.000000001", "2006-01-01T00:00:00.000000001Z"),
            ("1136073600", "2006-01-01T00:00:00Z"),
            ("0", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(of(text), at(expected), "{text}");
        }
        assert_eq!(of("1h30m"), Ok(NOW - 5_400_000_000_000));
        assert_eq!(of("-10s"), Ok(NOW + 10_000_000_000));
        for bad in [
            "",
            "x",
            "2023",
            "2023-13-14",
            "2023-11-14T25",
            "10",
            "1.2.3",
            "2023-11-14T10+x",
            "é023-11-14",
        ] {
            let expected = bad.bytes().all(|b| b.is_ascii_digit()) && !bad.is_empty();
            assert_eq!(of(bad).is_ok(), expected, "{bad}");
        }
        assert_eq!(
            of("x"),
            Err("failed to parse value as time or duration: \"x\"".to_owned())
        );
    }
}
