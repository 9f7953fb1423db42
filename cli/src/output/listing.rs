//! Listings: Docker's tables with `--format`, `--quiet` and `--no-trunc`. Used by every `ls`-like command.
//!
//! A command gives rows as JSON objects whose fields are Docker's template names, and the columns of its default table.

use serde_json::Value;

use super::template::Template;
use crate::error::Failure;

/// A column of a table: heading and template field.
pub type Column = (&'static str, &'static str);

/// Space between columns.
const GAP: usize = 3;
/// Columns are at least this wide, as Go's tabwriter in Docker's client has it (20 with its gap).
const MINIMUM: usize = 10;

/// Prints rows in the asked form: none or "table" (the default columns), "table TEMPLATE", "json", or a template a row.
///
/// # Errors
/// When the template is malformed or names a field that rows don't have.
pub fn print(
    format: Option<&str>,
    columns: &[Column],
    headings: &[Column],
    rows: &[Value],
) -> Result<(), Failure> {
    let text = render(format, columns, headings, rows)?;
    write(&text);
    Ok(())
}

/// Writes text to stdout; a reader that went away ends the program quietly, as it does for any filter.
pub fn write(text: &str) {
    use std::io::Write;
    if std::io::stdout().write_all(text.as_bytes()).is_err() {
        std::process::exit(0);
    }
}

/// As [`print`], to a text.
///
/// # Errors
/// As [`print`].
pub fn render(
    format: Option<&str>,
    columns: &[Column],
    headings: &[Column],
    rows: &[Value],
) -> Result<String, Failure> {
    let format = format.map(unescape);
    match format.as_deref().map(str::trim) {
        None | Some("" | "table") => {
            let mut lines = vec![
                columns
                    .iter()
                    .map(|(heading, _)| (*heading).to_owned())
                    .collect::<Vec<_>>(),
            ];
            for row in rows {
                lines.push(
                    columns
                        .iter()
                        .map(|(_, field)| row[*field].as_str().unwrap_or_default().to_owned())
                        .collect(),
                );
            }
            Ok(align(&lines, MINIMUM))
        }
        Some("json") => {
            let mut text = String::new();
            for row in rows {
                text.push_str(&public(row).to_string());
                text.push('\n');
            }
            Ok(text)
        }
        Some(format) => match format.strip_prefix("table ") {
            Some(template) => {
                let template = Template::parse(template).map_err(Failure::new)?;
                let heading = headings
                    .iter()
                    .chain(columns)
                    .map(|(heading, field)| ((*field).to_owned(), Value::from(*heading)));
                let heading: serde_json::Map<_, _> = heading.collect();
                let mut lines = vec![cells(
                    &template.render(&Value::Object(heading)).map_err(Failure::new)?,
                )];
                for row in rows {
                    lines.push(cells(&template.render(row).map_err(Failure::new)?));
                }
                Ok(align(&lines, MINIMUM))
            }
            None => {
                let template = Template::parse(format).map_err(Failure::new)?;
                let mut text = String::new();
                for row in rows {
                    text.push_str(&template.render(row).map_err(Failure::new)?);
                    text.push('\n');
                }
                Ok(text)
            }
        },
    }
}

/// A row without the fields that only tables show: those whose names begin with `_`.
fn public(row: &Value) -> Value {
    let mut row = row.clone();
    if let Value::Object(fields) = &mut row {
        fields.retain(|name, _| !name.starts_with('_'));
    }
    row
}

fn unescape(format: &str) -> String {
    format.replace("\\t", "\t").replace("\\n", "\n")
}

fn cells(line: &str) -> Vec<String> {
    line.split('\t').map(str::to_owned).collect()
}

/// Columns as Go's tabwriter sets them: the gap behind the longest cell, and none narrower than `minimum`, which counts the gap.
pub fn align(lines: &[Vec<String>], minimum: usize) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        let cells = lines.iter().filter_map(|line| line.get(at));
        let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        (longest + GAP).max(minimum)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (at, cell) in line.iter().enumerate() {
            if at + 1 == line.len() {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{cell:<width$}", width = widths[at]));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn forms() {
        let columns: &[Column] = &[("ID", "ID"), ("NAME", "Name")];
        let rows = [
            json!({"ID": "1", "Name": "a", "Extra": "x"}),
            json!({"ID": "22222222222", "Name": "b", "Extra": "y"}),
        ];
        let form = |format| render(format, columns, &[("EXTRA", "Extra")], &rows);
        assert_eq!(
            form(None).unwrap(),
            "ID            NAME\n1             a\n22222222222   b\n"
        );
        assert_eq!(form(Some("{{.Name}}={{.Extra}}")).unwrap(), "a=x\nb=y\n");
        assert_eq!(
            form(Some(r"table {{.Name}}\t{{.Extra}}")).unwrap(),
            "NAME      EXTRA\na         x\nb         y\n"
        );
        assert_eq!(
            render(Some("json"), &[], &[], &[json!({"A": "1", "_B": "2"})]).unwrap(),
            "{\"A\":\"1\"}\n"
        );
        assert!(form(Some("{{.Nope}}")).is_err());
    }
}
