//! Flags as runc's callers write them: `--flag value`, `--flag=value`, `-flag`, `-f value`.

use std::ffi::{OsStr, OsString};

use crate::Error;

/// One flag that a command knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag {
    name: &'static str,
    short: Option<char>,
    has_value: bool,
}

impl Flag {
    pub(super) const fn value(name: &'static str, short: Option<char>) -> Self {
        Self {
            name,
            short,
            has_value: true,
        }
    }

    pub(super) const fn switch(name: &'static str, short: Option<char>) -> Self {
        Self {
            name,
            short,
            has_value: false,
        }
    }

    fn is(&self, word: &str) -> bool {
        self.name == word || self.short.is_some_and(|c| word.chars().eq([c]))
    }
}

/// A command line, taken apart.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    flags: Vec<(&'static str, String)>,
    /// What is no flag.
    pub(super) rest: Vec<OsString>,
}

impl Arguments {
    /// Reads `words`; `first_ends` leaves everything from the first word on that is no flag untouched.
    pub(super) fn parse(words: &[OsString], known: &[Flag], first_ends: bool) -> Result<Self, Error> {
        let mut result = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let text = word.to_string_lossy();
            if text == "--" {
                break;
            }
            let Some(name) = text.strip_prefix('-').filter(|n| !n.is_empty()) else {
                result.rest.push(word.clone());
                if first_ends {
                    break;
                }
                continue;
            };
            let name = name.strip_prefix('-').unwrap_or(name);
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let flag = known
                .iter()
                .find(|f| f.is(name))
                .ok_or_else(|| Error::InvalidSpec(format!("flag provided but not defined: -{name}")))?;
            let value = match (flag.has_value, value) {
                (true, Some(value)) => value,
                (true, None) => words
                    .next()
                    .map(|w| w.to_string_lossy().into_owned())
                    .ok_or_else(|| Error::InvalidSpec(format!("flag needs an argument: -{name}")))?,
                (false, None) => "true".to_owned(),
                (false, Some(value)) if value == "true" || value == "false" => value,
                (false, Some(value)) => {
                    return Err(Error::InvalidSpec(format!(
                        "-{name} is true or false, not {value}"
                    )));
                }
            };
            result.flags.push((flag.name, value));
        }
        result.rest.extend(words.cloned());
        Ok(result)
    }

    /// Whether a switch is on.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    /// The value given last.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).last()
    }

    /// Every value given.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.flags
            .iter()
            .filter(move |(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
    }

    /// A number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u32>, Error> {
        self.value(name)
            .map(|v| {
                v.parse()
                    .map_err(|_| Error::InvalidSpec(format!("--{name} {v} is not a number")))
            })
            .transpose()
    }

    /// The container's id, and what follows it.
    pub(super) fn id(&self) -> Result<(&str, &[OsString]), Error> {
        match self.rest.split_first() {
            Some((id, rest)) => Ok((text(id)?, rest)),
            None => Err(Error::InvalidSpec("container id cannot be empty".to_owned())),
        }
    }

    /// The container's id, and nothing else.
    pub(super) fn only_id(&self) -> Result<&str, Error> {
        match self.id()? {
            (id, []) => Ok(id),
            _ => Err(Error::InvalidSpec(
                "the command takes one container id".to_owned(),
            )),
        }
    }
}

/// An argument that must be text.
pub(super) fn text(word: &OsStr) -> Result<&str, Error> {
    word.to_str()
        .ok_or_else(|| Error::InvalidSpec(format!("{} is not text", word.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Flag] = &[Flag::value("bundle", Some('b')), Flag::switch("all", Some('a'))];

    fn parse(words: &[&str], first_ends: bool) -> Result<Arguments, Error> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        Arguments::parse(&words, KNOWN, first_ends)
    }

    #[test]
    fn flags_are_read_in_every_spelling() {
        for words in [["--bundle", "/x"], ["-b", "/x"], ["-bundle", "/x"]] {
            assert_eq!(parse(&words, true).unwrap().value("bundle"), Some("/x"));
        }
        let parsed = parse(&["--bundle=/x", "id", "-a", "KILL"], false).unwrap();
        assert_eq!((parsed.value("bundle"), parsed.has("all")), (Some("/x"), true));
        assert_eq!(parsed.id().unwrap().0, "id");
        assert_eq!(parsed.rest.len(), 2);
        let parsed = parse(&["id", "ls", "-a"], true).unwrap();
        assert!(!parsed.has("all"));
        assert_eq!(parsed.rest.len(), 3);
        assert!(parse(&["--nope"], true).is_err());
        assert!(parse(&["--bundle"], true).is_err());
        assert!(parse(&["--all=x"], true).is_err());
        assert!(!parse(&["--all=false"], true).unwrap().has("all"));
    }
}
