//! One line of comma separated values, as Go's encoding/csv reads it: `type=volume,"volume-opt=o=a,b"`.

/// The fields.
///
/// # Errors
/// Go's texts, with the column from 1.
pub(super) fn fields(line: &str) -> Result<Vec<String>, String> {
    if line.is_empty() {
        return Err("EOF".to_owned());
    }
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(line, quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let field = &rest[..end];
                if let Some(quote) = field.find('"') {
                    let column = line.len() - rest.len() + quote + 1;
                    return Err(format!(
                        "parse error on line 1, column {column}: bare \" in non-quoted-field"
                    ));
                }
                (field.to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

/// A field after its opening quote, and what follows its closing one.
fn quoted_field<'a>(line: &str, mut rest: &'a str) -> Result<(String, &'a str), String> {
    let mut field = String::new();
    loop {
        let wrong = |at: usize| {
            format!("parse error on line 1, column {at}: extraneous or missing \" in quoted-field")
        };
        let Some(quote) = rest.find('"') else {
            return Err(wrong(line.len() + 1));
        };
        field.push_str(&rest[..quote]);
        rest = &rest[quote + 1..];
        if let Some(more) = rest.strip_prefix('"') {
            field.push('"');
            rest = more;
        } else if rest.is_empty() || rest.starts_with(',') {
            return Ok((field, rest));
        } else {
            return Err(wrong(line.len() - rest.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fields;

    #[test]
    fn quotes_hold_commas() {
        assert_eq!(fields("a=b,c").unwrap(), ["a=b", "c"]);
        assert_eq!(fields("a,\"b=c,d\",\"e\"\"f\"").unwrap(), ["a", "b=c,d", "e\"f"]);
        assert_eq!(fields("a,").unwrap(), ["a", ""]);
        assert_eq!(fields("").unwrap_err(), "EOF");
        assert_eq!(
            fields("\"a").unwrap_err(),
            "parse error on line 1, column 3: extraneous or missing \" in quoted-field"
        );
        assert!(
            fields("a\"b")
                .unwrap_err()
                .contains("bare \" in non-quoted-field")
        );
    }
}
