//! How single values of flags are read, with the messages of Docker's client (which are those of Go's `strconv` for numbers). Called by
//! clap for the flags of `run` and `create`, and by service commands for the kinds that they share.

use pontoon_proto::v1;

use crate::output::human;

/// What Go's `strconv` says about a number that is none, or too large.
fn strconv(function: &str, text: &str, error: &std::num::ParseIntError) -> String {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let why = match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{function}: parsing {text:?}: {why}")
}

/// A signed number, decimal or `0x…`.
///
/// # Errors
/// A message that quotes the text.
pub fn integer(text: &str) -> Result<i64, String> {
    match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .map_err(|error| strconv("ParseInt", text, &error))
}

/// A number that is not negative.
///
/// # Errors
/// A message that quotes the text.
pub fn unsigned(text: &str) -> Result<u64, String> {
    text.parse().map_err(|error| strconv("ParseUint", text, &error))
}

/// A number of up to 65535.
///
/// # Errors
/// A message that quotes the text.
pub fn unsigned16(text: &str) -> Result<u16, String> {
    text.parse().map_err(|error| strconv("ParseUint", text, &error))
}

/// A span of time; a sign is let through, as what it means for a flag is said by name.
///
/// # Errors
/// A message that quotes the text.
pub fn duration(text: &str) -> Result<i64, String> {
    match text.strip_prefix('-') {
        Some(rest) => human::parse_duration(rest).map(|span| -span),
        None => human::parse_duration(text),
    }
}

/// A number of CPUs as billionths of one. Docker reads rational numbers, so `1/2` is half a CPU.
///
/// # Errors
/// No such number, or more than nine digits behind the point.
pub fn cpus(text: &str) -> Result<i64, String> {
    let bad = || format!("failed to parse {text} as a rational number");
    if let Some((over, under)) = text.split_once('/') {
        let (over, under): (i64, i64) = (
            over.parse().map_err(|_| bad())?,
            under.parse().map_err(|_| bad())?,
        );
        let nano = over
            .checked_mul(1_000_000_000)
            .filter(|_| under > 0)
            .ok_or_else(bad)?;
        return if nano % under == 0 {
            Ok(nano / under)
        } else {
            Err("value is too precise".to_owned())
        };
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(bad());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let nano: i64 = format!("0{whole}{fraction:0<9}").parse().map_err(|_| bad())?;
    Ok(if negative { -nano } else { nano })
}

/// A size, or -1 for no limit.
///
/// # Errors
/// A message that quotes the text.
pub fn memory_swap(text: &str) -> Result<i64, String> {
    if text == "-1" {
        Ok(-1)
    } else {
        human::parse_size(text)
    }
}

/// One of the standard streams, for `--attach`.
///
/// # Errors
/// It is none.
pub fn stream(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    if matches!(lower.as_str(), "stdin" | "stdout" | "stderr") {
        Ok(lower)
    } else {
        Err("valid streams are STDIN, STDOUT and STDERR".to_owned())
    }
}

/// An environment variable, `NAME` or `NAME=VALUE`.
///
/// # Errors
/// It has no name.
pub fn variable(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('=') {
        return Err(format!("invalid environment variable: {text}"));
    }
    Ok(text.to_owned())
}

/// A label, `KEY` or `KEY=VALUE`.
///
/// # Errors
/// It has no key, or white space in it.
pub fn label(text: &str) -> Result<String, String> {
    let key = text
        .split('=')
        .next()
        .unwrap_or_default()
        .trim_start_matches([' ', '\t']);
    if key.is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    if key.contains([' ', '\t']) {
        return Err(format!("label '{key}' contains whitespaces"));
    }
    Ok(text.to_owned())
}

/// A kernel parameter, `NAME=VALUE`, that belongs to a namespace, so that a container can have its own.
///
/// # Errors
/// It has no value, or is the host's.
pub fn sysctl(text: &str) -> Result<String, String> {
    let known = |name: &str| name.starts_with("net.") || pontoon_runtime::is_ipc_sysctl(name);
    match text.split_once('=') {
        Some((name, _)) if known(name) => Ok(text.to_owned()),
        _ => Err(format!("sysctl '{text}' is not allowed")),
    }
}

/// Limits that processes inherit, without RLIMIT_ (setrlimit(2)). `as` is missing as in Docker: it would limit what starts the container.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `NAME=SOFT[:HARD]`; -1 is no limit.
///
/// # Errors
/// An unknown name, no number, or a soft limit above the hard one.
pub fn ulimit(text: &str) -> Result<v1::Ulimit, String> {
    let (name, limits) = text
        .split_once('=')
        .ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let numbers: Vec<&str> = limits.split(':').collect();
    let (soft, hard) = match numbers.as_slice() {
        [both] => (integer(both)?, integer(both)?),
        [soft, hard] => {
            let hard = integer(hard)?;
            (integer(soft)?, hard)
        }
        _ => {
            return Err(format!(
                "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
            ));
        }
    };
    if hard != -1 && soft == -1 {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
        ));
    }
    if hard != -1 && soft > hard {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        ));
    }
    Ok(v1::Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// A rule for devices as cgroup v1 writes it: `c 1:3 rwm`.
///
/// # Errors
/// It is none.
pub fn device_rule(text: &str) -> Result<String, String> {
    let is_number =
        |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let fits = || {
        let mut parts = text.split(' ');
        let (kind, numbers, access) = (parts.next()?, parts.next()?, parts.next()?);
        let (major, minor) = numbers.split_once(':')?;
        let known_access = (1..=3).contains(&access.len()) && access.bytes().all(|b| b"rwm".contains(&b));
        let known_kind = matches!(kind, "a" | "c" | "b");
        (known_kind && is_number(major) && is_number(minor) && known_access && parts.next().is_none())
            .then_some(())
    };
    fits()
        .map(|()| text.to_owned())
        .ok_or_else(|| format!("invalid device cgroup format '{text}'"))
}

/// Splits `/dev/NAME:VALUE`.
fn block_device(text: &str) -> Result<(&str, &str), String> {
    match text.split_once(':') {
        None | Some(("", _)) => Err(format!("bad format: {text}")),
        Some((path, _)) if !path.starts_with("/dev/") => Err(format!("bad format for device path: {text}")),
        Some(pair) => Ok(pair),
    }
}

fn limit(path: &str, value: u64) -> v1::BlockDeviceLimit {
    v1::BlockDeviceLimit {
        path: path.to_owned(),
        value,
    }
}

/// A block device and its weight, 10 to 1000, or 0 for none.
///
/// # Errors
/// A message that quotes the text.
pub fn block_weight(text: &str) -> Result<v1::BlockDeviceLimit, String> {
    let (path, weight) = block_device(text)?;
    match weight.parse() {
        Ok(weight) if weight == 0 || (10..=1000).contains(&weight) => Ok(limit(path, weight)),
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

/// A block device and bytes a second.
///
/// # Errors
/// A message that quotes the text.
pub fn block_rate(text: &str) -> Result<v1::BlockDeviceLimit, String> {
    let (path, rate) = block_device(text)?;
    human::parse_size(rate)
        .ok()
        .and_then(|rate| u64::try_from(rate).ok())
        .map(|rate| limit(path, rate))
        .ok_or_else(|| {
            format!(
                "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. \
                 Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
            )
        })
}

/// A block device and operations a second.
///
/// # Errors
/// A message that quotes the text.
pub fn block_operations(text: &str) -> Result<v1::BlockDeviceLimit, String> {
    let (path, rate) = block_device(text)?;
    rate.parse().map(|rate| limit(path, rate)).map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive integer"
        )
    })
}
