//! Whether a bind can have the propagation that it asks for, by the host's table of mounts. Called at each start.

use std::path::PathBuf;

use pontoon_proto::v1::{Mount, MountType};

use crate::{Error, Result};

/// Whether a bind can have its propagation: what it is mounted from must have peers (proc_pid_mountinfo(5)).
pub(super) fn check(mount: &Mount, mountinfo: &str) -> Result<()> {
    let wanted = mount.propagation.trim_start_matches('r');
    if mount.r#type() != MountType::Bind || !matches!(wanted, "shared" | "slave") {
        return Ok(());
    }
    let source = std::fs::canonicalize(&mount.source).unwrap_or_else(|_| PathBuf::from(&mount.source));
    let mut best: Option<(PathBuf, bool, bool)> = None;
    for line in mountinfo.lines() {
        let mut fields = line.split(' ');
        let Some(point) = fields.nth(4).map(unescape) else {
            continue;
        };
        let optional: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
        let has = |tag: &str| optional.iter().any(|field| field.starts_with(tag));
        // Later lines cover earlier ones.
        let deeper = best
            .as_ref()
            .is_none_or(|(known, ..)| point.components().count() >= known.components().count());
        if source.starts_with(&point) && deeper {
            best = Some((point, has("shared:"), has("master:")));
        }
    }
    let (point, shared, slave) = best.unwrap_or((PathBuf::from("/"), false, false));
    let (fits, what) = match wanted {
        "shared" => (shared, "shared"),
        _ => (shared || slave, "shared or slave"),
    };
    if fits {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "path {} is mounted on {} but it is not a {what} mount",
        mount.source,
        point.display()
    )))
}

/// mountinfo writes spaces and the like in octal.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut plain = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(byte) if bytes[at] == b'\\' => {
                plain.push(byte);
                at += 4;
            }
            _ => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn propagation_needs_a_shared_mount() {
        let table = "21 1 0:1 / / rw shared:1 - ext4 /dev/a rw\n\
                     30 21 0:2 / /mnt/a\\040b rw - tmpfs t rw\n\
                     31 21 0:3 / /slave rw master:1 - tmpfs t rw\n";
        let ask = |source: &str, mode: &str| {
            let mount = Mount {
                propagation: mode.into(),
                r#type: MountType::Bind.into(),
                source: source.to_owned(),
                ..Mount::default()
            };
            check(&mount, table).map_or_else(|error| error.to_string(), |()| String::new())
        };
        assert_eq!(ask("/other", "rshared"), "");
        assert_eq!(ask("/slave/x", "rslave"), "");
        assert_eq!(
            ask("/slave/x", "shared"),
            "path /slave/x is mounted on /slave but it is not a shared mount"
        );
        assert_eq!(
            ask("/mnt/a b/c", "slave"),
            "path /mnt/a b/c is mounted on /mnt/a b but it is not a shared or slave mount"
        );
        assert_eq!(ask("/mnt/a b/c", "rprivate"), "");
    }
}
