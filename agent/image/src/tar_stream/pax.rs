//! PAX records: `<length> <key>=<value>\n` (POSIX pax, "pax Extended Header").

/// One record.
pub(super) struct Record<'d> {
    pub(super) length: usize,
    pub(super) key: &'d str,
    pub(super) value: &'d [u8],
}

/// The first record of the data; `None` when it is malformed.
pub(super) fn pax_record(data: &[u8]) -> Option<Record<'_>> {
    let space = data.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    let body = data.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    let key = std::str::from_utf8(&body[..equals])
        .ok()
        .filter(|k| !k.is_empty())?;
    Some(Record {
        length,
        key,
        value: &body[equals + 1..],
    })
}

pub(super) fn decimal(v: &[u8]) -> Option<u64> {
    if v.is_empty() || !v.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(v).ok()?.parse().ok()
}

/// A PAX time: seconds, possibly negative, with a fraction of any length.
pub(super) fn pax_time(v: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(v).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    Some(match (negative, nanos) {
        (_, 0) | (false, _) => (seconds, nanos),
        (true, _) => (seconds.checked_sub(1)?, 1_000_000_000 - nanos),
    })
}
