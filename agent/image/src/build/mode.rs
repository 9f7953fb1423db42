//! `--chmod` of COPY and ADD: octal, or symbolic as chmod(1) has it (`u=rwX,go=rX`).

/// A mode to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// These bits.
    Bits(u32),
    /// Changes, in order.
    Changes(Vec<Change>),
}

/// One clause of a symbolic mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Bits of those it is for: 0o700 for `u` and so on.
    who: u32,
    /// `+`, `-` or `=`.
    operation: char,
    /// Permissions, in all three places.
    bits: u32,
    /// `X`: execution of folders and of what can be executed by somebody.
    conditional: bool,
    set_id: bool,
    sticky: bool,
}

impl Mode {
    /// Reads a mode; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        if !text.is_empty() && text.chars().all(|c| c.is_digit(8)) {
            let bits = u32::from_str_radix(text, 8).ok()?;
            return (bits <= 0o7777).then_some(Self::Bits(bits));
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let at = clause.find(['+', '-', '='])?;
            let mut who = 0;
            for c in clause[..at].chars() {
                who |= match c {
                    'u' => 0o700,
                    'g' => 0o070,
                    'o' => 0o007,
                    'a' => 0o777,
                    _ => return None,
                };
            }
            // An operation may follow another: `u+x-w`.
            let mut chars = clause[at..].chars().peekable();
            while let Some(operation) = chars.next() {
                let mut change = Change {
                    who: if who == 0 { 0o777 } else { who },
                    operation,
                    bits: 0,
                    conditional: false,
                    set_id: false,
                    sticky: false,
                };
                while let Some(c) = chars.next_if(|c| !matches!(c, '+' | '-' | '=')) {
                    match c {
                        'r' => change.bits |= 0o444,
                        'w' => change.bits |= 0o222,
                        'x' => change.bits |= 0o111,
                        'X' => change.conditional = true,
                        's' => change.set_id = true,
                        't' => change.sticky = true,
                        _ => return None,
                    }
                }
                changes.push(change);
            }
        }
        Some(Self::Changes(changes))
    }

    /// The mode of an object that has `mode` now.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Bits(bits) => *bits,
            Self::Changes(changes) => changes
                .iter()
                .fold(mode & 0o7777, |mode, c| c.apply(mode, is_dir)),
        }
    }
}

impl Change {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let mut bits = self.bits;
        if self.conditional && (is_dir || mode & 0o111 != 0) {
            bits |= 0o111;
        }
        bits &= self.who;
        let special = |on: bool, bit: u32| if on { bit } else { 0 };
        bits |= special(self.set_id && self.who & 0o700 != 0, 0o4000);
        bits |= special(self.set_id && self.who & 0o070 != 0, 0o2000);
        bits |= special(self.sticky, 0o1000);
        match self.operation {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => mode & !self.who | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Mode;

    #[test]
    fn modes_as_chmod_has_them() {
        for (text, mode, is_dir, result) in [
            ("755", 0o600, false, 0o755),
            ("4755", 0o600, false, 0o4755),
            ("u=rwX,go=rX", 0o640, false, 0o644),
            ("u=rwX,go=rX", 0o640, true, 0o755),
            ("u=rwX,go=rX", 0o100, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-rwx", 0o777, true, 0o700),
            ("u+s", 0o755, false, 0o4755),
            ("a=r", 0o777, false, 0o444),
            ("u+x-w", 0o600, false, 0o500),
            ("+t", 0o777, true, 0o1777),
        ] {
            assert_eq!(Mode::parse(text).unwrap().apply(mode, is_dir), result, "{text}");
        }
        for wrong in ["", "9", "77777", "z+x", "u", "u+q"] {
            assert_eq!(Mode::parse(wrong), None, "{wrong}");
        }
    }
}
