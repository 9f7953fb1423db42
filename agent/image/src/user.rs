//! Who a container's process runs as: `USER` of an image or `--user`, resolved with the passwd and group files of the
//! root filesystem as runc does (`GetExecUser`), without a mount and without any library of the image (CVE-2019-14271).

use std::path::Path;

use crate::{Error, Result, Rootfs, User, error::At, merged::Merged};

/// Bytes of a passwd or group file that we read.
const FILE_MAX: u64 = 4 << 20;

struct Passwd<'f> {
    name: &'f str,
    uid: u32,
    gid: u32,
    home: &'f str,
}

struct Group<'f> {
    name: &'f str,
    gid: u32,
    members: &'f str,
}

/// Resolves `""`, `user`, `uid`, `user:group` and so on.
pub(crate) fn resolve_user(rootfs: &Rootfs, spec: &str) -> Result<User> {
    let (user, group) = match spec.split_once(':') {
        Some((u, g)) => (u, Some(g).filter(|g| !g.is_empty())),
        None => (spec, None),
    };
    let passwd = read(rootfs, "etc/passwd")?;
    let groups = read(rootfs, "etc/group")?;
    let number = number(user)?;
    let wanted = |p: &Passwd| {
        if user.is_empty() {
            p.uid == 0
        } else {
            p.name == user
        }
    };
    let entry = passwds(&passwd).find(wanted);
    let entry = entry.or_else(|| number.and_then(|n| passwds(&passwd).find(|p| p.uid == n)));
    let mut found = match (&entry, number) {
        (Some(p), _) => User {
            uid: p.uid,
            gid: p.gid,
            home: p.home.to_owned(),
            ..User::default()
        },
        (None, Some(uid)) => User {
            uid,
            ..User::default()
        },
        (None, None) if user.is_empty() => User::default(),
        (None, None) => {
            return Err(Error::UnknownUser {
                kind: "user",
                name: user.into(),
                file: "passwd",
            });
        }
    };
    if found.home.is_empty() {
        found.home = "/".into();
    }
    match (group, entry) {
        (Some(group), _) => found.gid = group_id(&groups, group)?,
        (None, Some(p)) => {
            let member = |g: &Group| g.members.split(',').any(|m| m == p.name);
            found.additional_gids = groups_of(&groups).filter(member).map(|g| g.gid).collect();
        }
        (None, None) => {}
    }
    Ok(found)
}

/// Resolves one group, by name or number.
pub(crate) fn resolve_group(rootfs: &Rootfs, group: &str) -> Result<u32> {
    group_id(&read(rootfs, "etc/group")?, group)
}

fn group_id(file: &str, group: &str) -> Result<u32> {
    if let Some(g) = groups_of(file).find(|g| g.name == group) {
        return Ok(g.gid);
    }
    number(group)?.ok_or_else(|| Error::UnknownUser {
        kind: "group",
        name: group.into(),
        file: "group",
    })
}

/// A numeric id; ids above 2^31-1 are refused as in runc.
fn number(s: &str) -> Result<Option<u32>> {
    if s.is_empty()
        || !s
            .bytes()
            .enumerate()
            .all(|(i, b)| b.is_ascii_digit() || (i == 0 && b == b'-' && s.len() > 1))
    {
        return Ok(None);
    }
    match s.parse::<i64>() {
        Ok(n @ 0..=0x7fff_ffff) => Ok(Some(n as u32)),
        _ => Err(Error::InvalidArgument(format!(
            "uids and gids must be in range 0-{}, not {s}",
            i32::MAX
        ))),
    }
}

fn passwds(file: &str) -> impl Iterator<Item = Passwd<'_>> {
    file.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or_default();
        Some(Passwd {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home,
        })
        .filter(|p| !p.name.is_empty())
    })
}

fn groups_of(file: &str) -> impl Iterator<Item = Group<'_>> {
    file.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        let members = fields.next().unwrap_or_default();
        Some(Group {
            name,
            gid: gid.parse().ok()?,
            members,
        })
        .filter(|g| !g.name.is_empty())
    })
}

fn read(rootfs: &Rootfs, file: &str) -> Result<String> {
    // A whole tree has all that shows.
    let lower = if rootfs.is_tree {
        &[]
    } else {
        rootfs.lower.as_slice()
    };
    let dirs = std::iter::once(&rootfs.upper).chain(lower).map(|p| p.as_path());
    let view = Merged::open(dirs).at("cannot open layers of", &rootfs.upper)?;
    let data = view
        .read(Path::new(file), FILE_MAX)
        .at("cannot read from the container's root", file)?;
    Ok(String::from_utf8_lossy(&data.unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests;
