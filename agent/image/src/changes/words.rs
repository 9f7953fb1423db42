//! The lexer of instructions: words with quotes and backslashes, `$VAR`, `${VAR:-default}`, `${VAR:+alternative}`, and
//! Go's durations.

use std::{iter::Peekable, str::Chars};

/// Expands a whole line as one word.
pub(super) fn expand(text: &str, env: &[String]) -> Result<String, String> {
    let mut lexer = Lexer {
        chars: text.chars().peekable(),
        env,
    };
    let mut out = String::new();
    lexer.word(&mut out, |_| false)?;
    Ok(out)
}

/// Splits at white space outside quotes, each word expanded.
pub(super) fn words(text: &str, env: &[String]) -> Result<Vec<String>, String> {
    let mut lexer = Lexer {
        chars: text.chars().peekable(),
        env,
    };
    let mut out = Vec::new();
    loop {
        while lexer.chars.next_if(|c| c.is_whitespace()).is_some() {}
        if lexer.chars.peek().is_none() {
            return Ok(out);
        }
        let mut word = String::new();
        lexer.word(&mut word, char::is_whitespace)?;
        out.push(word);
    }
}

/// `key=value …`, or the old form `key the rest of the line`.
pub(super) fn key_values(text: &str, env: &[String]) -> Result<Vec<(String, String)>, String> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or("must have two arguments")?;
        return Ok(vec![(expand(key, env)?, expand(value.trim(), env)?)]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some(("", _)) => Err("names can not be blank".to_owned()),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(format!(
            "can't find = in {word:?}. Must be of the form: name=value"
        )),
    };
    words(text, env)?.into_iter().map(pair).collect()
}

struct Lexer<'t> {
    chars: Peekable<Chars<'t>>,
    env: &'t [String],
}

impl Lexer<'_> {
    fn word(&mut self, out: &mut String, end: fn(char) -> bool) -> Result<(), String> {
        while let Some(c) = self.chars.next_if(|c| !end(*c)) {
            match c {
                '\'' => self.single_quoted(out)?,
                '"' => self.double_quoted(out)?,
                '\\' => out.extend(self.chars.next()),
                '$' => self.variable(out)?,
                c => out.push(c),
            }
        }
        Ok(())
    }

    fn single_quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.chars.next() {
                Some('\'') => return Ok(()),
                Some(c) => out.push(c),
                None => {
                    return Err("unexpected end of statement while looking for matching single-quote".into());
                }
            }
        }
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.chars.next() {
                Some('"') => return Ok(()),
                Some('$') => self.variable(out)?,
                Some('\\') => match self.chars.next() {
                    Some(c @ ('"' | '$' | '\\')) => out.push(c),
                    Some(c) => out.extend(['\\', c]),
                    None => out.push('\\'),
                },
                Some(c) => out.push(c),
                None => {
                    return Err("unexpected end of statement while looking for matching double-quote".into());
                }
            }
        }
    }

    fn variable(&mut self, out: &mut String) -> Result<(), String> {
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                out.push('$');
            } else {
                out.push_str(self.lookup(&name).unwrap_or_default());
            }
            return Ok(());
        }
        let name = self.name();
        let mut rest = String::new();
        loop {
            match self.chars.next() {
                Some('}') => break,
                Some(c) => rest.push(c),
                None => return Err("syntax error: missing '}'".into()),
            }
        }
        let value = self.lookup(&name).filter(|v| !v.is_empty());
        match rest.split_at_checked(2) {
            _ if rest.is_empty() => out.push_str(self.lookup(&name).unwrap_or_default()),
            Some((":-", default)) => out.push_str(value.unwrap_or(default)),
            Some((":+", alternative)) => out.push_str(value.map_or("", |_| alternative)),
            _ => return Err(format!("unsupported modifier ({rest}) in substitution")),
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
        }
        name
    }

    fn lookup(&self, name: &str) -> Option<&str> {
        self.env
            .iter()
            .find_map(|e| e.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Go's `time.ParseDuration` for durations that are not negative, in nanoseconds: `300ms`, `1.5h`, `2h45m`, `0`.
///
/// # Errors
/// The text is none; says so.
pub fn duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid duration {text:?}");
    if text == "0" {
        return Ok(0);
    }
    let mut total = 0f64;
    let mut rest = text;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let (number, after) = rest.split_at(digits);
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let scale = match unit {
            "ns" => 1e0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return Err(invalid()),
        };
        total += number.parse::<f64>().map_err(|_| invalid())? * scale;
        rest = after;
    }
    // Ten years, far below where a float loses nanoseconds of what users write.
    if total > 3.2e17 {
        return Err(invalid());
    }
    Ok(total.round() as i64)
}
