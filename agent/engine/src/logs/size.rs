//! Numbers as Docker's log options write them (go-units, strconv), with their errors.

/// Bytes with a suffix, in powers of 1000 (go-units `FromHumanSize`): `10m`, `1.5GB`, `4096`.
pub(super) fn decimal(text: &str) -> Result<u64, String> {
    size(text, 1000.0)
}

/// Bytes with a suffix, in powers of 1024 (go-units `RAMInBytes`).
pub(super) fn binary(text: &str) -> Result<u64, String> {
    size(text, 1024.0)
}

fn size(text: &str, base: f64) -> Result<u64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let digits = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')
        .ok_or_else(invalid)?;
    let (number, suffix) = text.split_at(digits + 1);
    let number: f64 = number.trim_end_matches(' ').parse().map_err(|_| invalid())?;
    if number.is_sign_negative() || !number.is_finite() {
        return Err(invalid());
    }
    let lower = suffix.to_ascii_lowercase();
    let (letter, rest) = lower.split_at_checked(1).unwrap_or_default();
    let power = match letter {
        "" => 0,
        "b" if rest.is_empty() => 0,
        letter if matches!(rest, "" | "b" | "ib") => match "kmgtp".find(letter) {
            Some(place) => i32::try_from(place).unwrap_or(0) + 1,
            None => return Err(format!("invalid suffix: '{lower}'")),
        },
        _ => return Err(format!("invalid suffix: '{lower}'")),
    };
    // A cast of a float takes the nearest whole number that fits.
    Ok((number * base.powi(power)) as u64)
}

/// A whole number (strconv `Atoi`).
pub(super) fn integer(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| format!("strconv.Atoi: parsing {text:?}: invalid syntax"))
}

/// A truth value (strconv `ParseBool`).
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_go_units() {
        for (text, bytes) in [
            ("10m", 10_000_000),
            ("1.5GB", 1_500_000_000),
            ("4096", 4096),
            ("7 kib", 7000),
            ("3b", 3),
            ("0", 0),
        ] {
            assert_eq!(decimal(text), Ok(bytes), "{text}");
        }
        assert_eq!(binary("1m"), Ok(1 << 20));
        assert_eq!(decimal("x"), Err("invalid size: 'x'".to_owned()));
        assert_eq!(decimal("-1"), Err("invalid size: '-1'".to_owned()));
        assert_eq!(decimal("1x"), Err("invalid suffix: 'x'".to_owned()));
        assert_eq!(decimal("1mm"), Err("invalid suffix: 'mm'".to_owned()));
        assert!(boolean("yes").is_err() && integer("1x").is_err() && decimal("").is_err());
    }
}
