//! `RUN --mount=type=…`: fields, defaults and refusals as BuildKit's. Values may hold variables, so a mount is read twice: for
//! mistakes that show at once, and with its variables put in.

use crate::{Error, Result, suggest};

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A folder that stays from build to build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret of the client.
    Secret,
    /// A socket to an SSH agent of the client.
    Ssh,
}

/// Who may use a cache folder at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// Each who finds it in use gets another one.
    Private,
    /// One after the other.
    Locked,
}

/// One `--mount`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// What it is.
    pub kind: MountKind,
    /// Stage, image or named context; empty: the context (bind), nothing (cache).
    pub from: String,
    /// Path in there; of secrets their id.
    pub source: String,
    /// Where.
    pub target: String,
    /// Not writable.
    pub read_only: bool,
    /// Bytes of a tmpfs; 0: no limit.
    pub size: u64,
    /// Id of a cache, secret or SSH agent; empty: by default.
    pub id: String,
    /// Of a cache.
    pub sharing: Sharing,
    /// It is an error when the client does not have it.
    pub required: bool,
    /// Of a secret: the variable that holds it.
    pub env: Option<String>,
    /// Mode of what is mounted.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

impl Mount {
    /// Looks for what is wrong before variables are known.
    pub(crate) fn check(text: &str) -> Result<Self> {
        let mut from = String::new();
        for field in fields(text)? {
            if let Some((key, value)) = field.split_once('=')
                && key.eq_ignore_ascii_case("from")
            {
                if value.find('$').is_some_and(|at| at + 1 != value.len()) {
                    let text = "'from' doesn't support variable expansion, define alias stage instead";
                    return Err(text.into());
                }
                value.clone_into(&mut from);
            }
        }
        if !text.contains('$') {
            return Self::parse(text, &mut |value| Ok(value.to_owned()));
        }
        Ok(Self {
            from,
            ..Self::default()
        })
    }

    /// Reads it; `expand` puts variables in.
    pub(crate) fn parse(text: &str, expand: &mut dyn FnMut(&str) -> Result<String>) -> Result<Self> {
        let mut mount = Self::default();
        let mut writable = None;
        let mut has_sharing = false;
        for field in fields(text)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_ascii_lowercase(), expand(value)?),
                None => {
                    let key = field.to_ascii_lowercase();
                    match key.as_str() {
                        "readonly" | "ro" => writable = Some(false),
                        "readwrite" | "rw" => writable = Some(true),
                        "required" => {
                            mount.need(&key, &[MountKind::Secret, MountKind::Ssh])?;
                            mount.required = true;
                        }
                        _ => {
                            return Err(Error::new(format!(
                                "invalid field '{field}' must be a key=value pair"
                            )));
                        }
                    }
                    continue;
                }
            };
            let boolean = || boolean(&key, &value);
            match key.as_str() {
                "type" => mount.kind = kind(&value)?,
                "from" => mount.from = value,
                "source" | "src" => mount.source = value,
                "target" | "dst" | "destination" => mount.target = value,
                "readonly" | "ro" => writable = Some(!boolean()?),
                "readwrite" | "rw" => writable = Some(boolean()?),
                "required" => {
                    mount.need(&key, &[MountKind::Secret, MountKind::Ssh])?;
                    mount.required = boolean()?;
                }
                "size" => {
                    mount.need(&key, &[MountKind::Tmpfs])?;
                    let invalid = || Error::new(format!("invalid value for size: {value}"));
                    mount.size = bytes(&value).ok_or_else(invalid)?;
                }
                "id" => mount.id = value,
                "sharing" => {
                    has_sharing = true;
                    mount.sharing = sharing(&value)?;
                }
                "mode" => mount.mode = Some(number(&value, 8, "mode")?),
                "uid" => mount.uid = Some(number(&value, 10, "uid")?),
                "gid" => mount.gid = Some(number(&value, 10, "gid")?),
                "env" => mount.env = Some(value),
                _ => {
                    let text = format!("unexpected key '{key}' in '{field}'");
                    return Err(suggest::with(text, &key, KEYS).into());
                }
            }
        }
        mount.read_only = match writable {
            Some(writable) => !writable,
            None => !matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs),
        };
        mount.judge(has_sharing)?;
        Ok(mount)
    }

    fn need(&self, key: &str, kinds: &[MountKind]) -> Result<()> {
        if kinds.contains(&self.kind) {
            return Ok(());
        }
        let text = format!("unexpected key '{key}' for mount type '{}'", name(self.kind));
        Err(Error::new(text))
    }

    fn judge(&self, has_sharing: bool) -> Result<()> {
        let kind = name(self.kind);
        if matches!(self.kind, MountKind::Bind | MountKind::Tmpfs) {
            for (key, given) in [
                ("mode", self.mode.is_some()),
                ("uid", self.uid.is_some()),
                ("gid", self.gid.is_some()),
            ] {
                if given {
                    return Err(Error::new(format!(
                        "{key} not allowed for \"{kind}\" type mounts"
                    )));
                }
            }
        }
        if self.kind == MountKind::Secret {
            if !self.from.is_empty() {
                return Err("secret mount should not have a from".into());
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return Err("invalid secret mount. one of source, target required".into());
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return Err("both source and id can't be set".into());
            }
        }
        if has_sharing && self.kind != MountKind::Cache {
            return Err(Error::new(format!("invalid cache sharing set for {kind} mount")));
        }
        Ok(())
    }
}

fn name(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "bind",
        MountKind::Cache => "cache",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Secret => "secret",
        MountKind::Ssh => "ssh",
    }
}

fn kind(text: &str) -> Result<MountKind> {
    let kinds = [
        MountKind::Bind,
        MountKind::Cache,
        MountKind::Tmpfs,
        MountKind::Secret,
        MountKind::Ssh,
    ];
    let lower = text.to_ascii_lowercase();
    let found = kinds.into_iter().find(|kind| name(*kind) == lower);
    found.ok_or_else(|| {
        let message = format!("unsupported mount type {}", crate::quote::text(text));
        suggest::with(message, text, kinds.map(name)).into()
    })
}

fn sharing(text: &str) -> Result<Sharing> {
    match text.to_ascii_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => {
            let message = format!("unsupported sharing value {}", crate::quote::text(text));
            Err(suggest::with(message, text, ["shared", "private", "locked"]).into())
        }
    }
}

fn boolean(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::new(format!("invalid value for {key}: {value}"))),
    }
}

fn number(value: &str, radix: u32, key: &str) -> Result<u32> {
    let invalid = |_| Error::new(format!("invalid value {value} for {key}"));
    u32::from_str_radix(value, radix).map_err(invalid)
}

/// `64m`, `1g`, `512` (docker/go-units' `RAMInBytes`).
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower
        .strip_suffix("ib")
        .or(lower.strip_suffix('b'))
        .unwrap_or(&lower);
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let value: f64 = digits.trim().parse().ok()?;
    let bytes = value * (1u64 << shift) as f64;
    (value >= 0.0 && bytes < 9e18).then_some(bytes as u64)
}

/// Comma-separated fields; one in quotation marks may hold commas.
fn fields(text: &str) -> Result<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        let last = fields.last_mut().expect("there is always a field");
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => last.push(c),
        }
    }
    if quoted {
        return Err("failed to parse csv mounts: a quotation mark is not closed".into());
    }
    Ok(fields)
}
