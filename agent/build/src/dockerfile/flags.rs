//! `--name=value` between an instruction's name and its arguments.

use std::collections::BTreeMap;

use crate::{Error, Result, suggest};

/// An instruction's flags, checked against those that it knows.
#[derive(Debug, Default)]
pub(super) struct Flags {
    values: BTreeMap<String, Vec<String>>,
}

impl Flags {
    /// `texts` take one value, `lists` several, `switches` none or true or false.
    pub(super) fn new(words: &[String], texts: &[&str], lists: &[&str], switches: &[&str]) -> Result<Self> {
        let mut flags = Self::default();
        for word in words {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (word.as_str(), None),
            };
            let name = flag.strip_prefix("--").unwrap_or(flag);
            let missing = || Error::new(format!("missing a value on flag: {flag}"));
            let value = if switches.contains(&name) {
                match value.map(str::to_ascii_lowercase).as_deref() {
                    None | Some("true") => "true",
                    Some("false") => "false",
                    Some("") => return Err(missing()),
                    Some(_) => {
                        let value = value.unwrap_or_default();
                        let text = format!("expecting boolean value for flag {flag}, not: {value}");
                        return Err(Error::new(text));
                    }
                }
            } else if texts.contains(&name) || lists.contains(&name) {
                value.ok_or_else(missing)?
            } else {
                let known = [texts, lists, switches].concat();
                return Err(suggest::with(format!("unknown flag: {flag}"), name, known).into());
            };
            let values = flags.values.entry(name.to_owned()).or_default();
            if !values.is_empty() && !lists.contains(&name) {
                return Err(Error::new(format!("duplicate flag specified: {flag}")));
            }
            values.push(value.to_owned());
        }
        Ok(flags)
    }

    /// A flag's only value.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.values.remove(name).and_then(|mut values| values.pop())
    }

    /// All values of a flag.
    pub(super) fn take_all(&mut self, name: &str) -> Vec<String> {
        self.values.remove(name).unwrap_or_default()
    }

    /// A switch; `None` when it was not given.
    pub(super) fn switch(&mut self, name: &str) -> Option<bool> {
        self.take(name).map(|value| value == "true")
    }
}
