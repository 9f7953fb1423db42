//! "did you mean …?": the option that is nearest to what was written, if one is near.

/// The nearest of the options within two changes; `None` when nothing is near or the value is one of them.
pub(crate) fn nearest<'o>(value: &str, options: impl IntoIterator<Item = &'o str>) -> Option<String> {
    let wanted = value.to_lowercase();
    let mut best: Option<(usize, String)> = None;
    for option in options {
        let lower = option.to_lowercase();
        if lower == wanted {
            return None;
        }
        let distance = distance(&wanted, &lower);
        if distance < best.as_ref().map_or(3, |(d, _)| *d) {
            best = Some((distance, lower));
        }
    }
    best.map(|(_, found)| {
        if value == value.to_uppercase() && value != wanted {
            found.to_uppercase()
        } else {
            found
        }
    })
}

/// The message with a suggestion at its end, if there is one.
pub(crate) fn with<'o>(message: String, value: &str, options: impl IntoIterator<Item = &'o str>) -> String {
    match nearest(value, options) {
        Some(found) => format!("{message} (did you mean {found}?)"),
        None => message,
    }
}

/// Levenshtein's, given up as far for texts whose lengths alone tell that they differ.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names() {
        let options = ["RUN", "COPY", "FROM"];
        assert_eq!(nearest("RUNN", options).as_deref(), Some("RUN"));
        assert_eq!(nearest("copi", options).as_deref(), Some("copy"));
        assert_eq!(nearest("run", options), None);
        assert_eq!(nearest("SOMETHING", options), None);
    }
}
