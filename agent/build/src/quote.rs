//! Go's `%q` and `time.Duration`, which image histories are written in: `CMD ["sh" "-c" "x"]`, `30s`.

/// A text in Go's quotes.
pub fn text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            c => push(&mut out, c),
        }
    }
    out.push('"');
    out
}

/// A character in Go's quotes, by its number.
pub fn rune(number: u32) -> String {
    let c = char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER);
    let mut out = String::from("'");
    match c {
        '\'' => out.push_str("\\'"),
        c => push(&mut out, c),
    }
    out.push('\'');
    out
}

/// `["a" "b"]`.
pub fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|t| text(t)).collect();
    format!("[{}]", texts.join(" "))
}

fn push(out: &mut String, c: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        '\r' => out.push_str("\\r"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\u{b}' => out.push_str("\\v"),
        c if u32::from(c) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => out.push(c),
    }
}

/// `1h0m30s`, `1.5s`, `300ms`, `0s`.
pub fn duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let n = nanoseconds.unsigned_abs();
    let fraction = |value: u64, unit: u64| {
        let rest = value % unit;
        let digits = unit.to_string().len() - 1;
        let text = format!("{rest:0digits$}");
        match text.trim_end_matches('0') {
            "" => (value / unit).to_string(),
            text => format!("{}.{text}", value / unit),
        }
    };
    match n {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(n, 1_000_000)),
        _ => {
            let seconds = n / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = fraction(n % 60_000_000_000, 1_000_000_000);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{rest}s"),
                (0, m) => format!("{sign}{m}m{rest}s"),
                (h, m) => format!("{sign}{h}h{m}m{rest}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_writes_them() {
        assert_eq!(text("a\"b\\\n\u{1}é"), r#""a\"b\\\n\x01é""#);
        assert_eq!(list(&["a".into(), "b c".into()]), r#"["a" "b c"]"#);
        assert_eq!(
            (rune(0), rune(3), rune(10)),
            ("'\\x00'".into(), "'\\x03'".into(), "'\\n'".into())
        );
        for (n, shown) in [
            (0, "0s"),
            (30_000_000_000, "30s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000_000, "1.5s"),
            (300_000_000, "300ms"),
            (1_500, "1.5µs"),
            (-5, "-5ns"),
        ] {
            assert_eq!(duration(n), shown);
        }
    }
}
