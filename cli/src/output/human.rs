//! Values as Docker shows them to people: ages, sizes, short ids, durations; and back from what people type.

use jiff::{Timestamp, tz::TimeZone};

const SECOND: i64 = 1_000_000_000;

/// Nanoseconds since the Unix epoch, now.
pub fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// A span of nanoseconds in Docker's words: "Less than a second", "About a minute", "3 hours".
pub fn duration(nanoseconds: i64) -> String {
    let seconds = nanoseconds / SECOND;
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago a time was: "3 hours ago".
pub fn ago(at: i64) -> String {
    format!("{} ago", duration(now().saturating_sub(at)))
}

/// A size in decimal units with three or four significant digits: "1.24MB", as `docker images`.
pub fn size(bytes: i64) -> String {
    scaled(bytes as f64, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"], 4)
}

/// As [`size`] with three digits: "1.98MB", as `docker ps --size`.
pub fn short_size(bytes: i64) -> String {
    scaled(bytes as f64, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"], 3)
}

/// A size in binary units: "7.5GiB", as `docker info`.
pub fn binary_size(bytes: i64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"], 4)
}

fn scaled(mut value: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), units[unit])
}

/// Like C's `%.{digits}g` for values of at least one.
fn significant(value: f64, digits: usize) -> String {
    let whole = if value >= 1.0 {
        value.log10() as usize + 1
    } else {
        1
    };
    let text = format!("{:.*}", digits.saturating_sub(whole), value);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// The twelve digits of an id that people use, without `sha256:`.
pub fn short_id(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}

/// A time in RFC 3339 with nanoseconds, UTC; zero as Go's zero time.
pub fn rfc3339(at: i64) -> String {
    if at == 0 {
        return "0001-01-01T00:00:00Z".to_owned();
    }
    Timestamp::from_nanosecond(i128::from(at))
        .map(|at| format!("{at:.9}"))
        .unwrap_or_default()
}

/// As [`rfc3339`] in whole seconds.
pub fn rfc3339_seconds(at: i64) -> String {
    Timestamp::from_nanosecond(i128::from(at))
        .map(|at| format!("{at:.0}"))
        .unwrap_or_default()
}

/// As [`rfc3339`] in the local time zone, as `docker events` shows times.
pub fn local_rfc3339(at: i64) -> String {
    Timestamp::from_nanosecond(i128::from(at))
        .map(|at| {
            let text = at
                .to_zoned(TimeZone::system())
                .strftime("%Y-%m-%dT%H:%M:%S.%9f%:z")
                .to_string();
            match text.strip_suffix("+00:00") {
                Some(utc) => format!("{utc}Z"),
                None => text,
            }
        })
        .unwrap_or_default()
}

/// A time as `docker ps --format '{{.CreatedAt}}'`: "2026-11-22 12:00:00 +0000 UTC".
pub fn local_time(at: i64) -> String {
    Timestamp::from_nanosecond(i128::from(at))
        .map(|at| {
            at.to_zoned(TimeZone::UTC)
                .strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
                .to_string()
        })
        .unwrap_or_default()
}

/// Reads Go's durations ("1m30s", "250ms") to nanoseconds.
///
/// # Errors
/// A message that quotes the text.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let bad =
        || format!("invalid duration {text:?}: use a number with a unit, such as 500ms, 10s, 1m30s or 2h");
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let value: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let scale = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(bad()),
        };
        total += value * scale;
        rest = &rest[end..];
    }
    if total > i64::MAX as f64 {
        Err(bad())
    } else {
        Ok(total as i64)
    }
}

/// Reads sizes as Docker does: "64m", "1.5g", "512", "10MB", "1GiB"; units are powers of 1024.
///
/// # Errors
/// A message that quotes the text.
pub fn parse_size(text: &str) -> Result<i64, String> {
    let bad = || format!("invalid size: '{text}' (use a number with b, k, m or g, such as 512m)");
    let lower = text.trim().to_ascii_lowercase();
    let end = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let value: f64 = lower[..end].parse().map_err(|_| bad())?;
    let shift = match lower[end..].trim().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(bad()),
    };
    let bytes = value * (1u64 << shift) as f64;
    if bytes > i64::MAX as f64 {
        Err(bad())
    } else {
        Ok(bytes as i64)
    }
}

/// Reads CPUs ("1.5") to billionths of a CPU.
///
/// # Errors
/// A message that quotes the text.
pub fn parse_cpus(text: &str) -> Result<i64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if (0.0..1e6).contains(&cpus) => Ok((cpus * 1e9).round() as i64),
        _ => Err(format!(
            "invalid number of CPUs {text:?}: use a number such as 0.5 or 2"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_docker_says_them() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (3 * 3600, "3 hours"),
            (3 * 86400, "3 days"),
            (20 * 86400, "2 weeks"),
            (90 * 86400, "3 months"),
            (800 * 86400, "2 years"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds * SECOND), text);
        }
    }

    #[test]
    fn sizes_and_times_parse() {
        assert_eq!(size(1_240_000), "1.24MB");
        assert_eq!(size(0), "0B");
        assert_eq!(
            (size(1_982_345), short_size(1_982_345)),
            ("1.982MB".into(), "1.98MB".into())
        );
        assert_eq!(binary_size(8 << 30), "8GiB");
        assert_eq!(parse_size("64m"), Ok(64 << 20));
        assert_eq!(parse_size("1.5g"), Ok(3 << 29));
        assert_eq!(parse_size("10MB"), Ok(10 << 20));
        assert!(parse_size("ten").is_err());
        assert_eq!(parse_duration("1m30s"), Ok(90 * SECOND));
        assert_eq!(parse_duration("1.5ms"), Ok(1_500_000));
        assert!(parse_duration("5").is_err());
        assert!(parse_duration("").is_err());
        assert_eq!(parse_cpus("0.5"), Ok(500_000_000));
        assert!(parse_cpus("-1").is_err());
        assert_eq!(
            rfc3339(1_700_000_000 * SECOND + 5),
            "2023-11-14T22:13:20.000000005Z"
        );
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
