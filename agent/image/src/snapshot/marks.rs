//! The extended attributes that overlayfs keeps its marks in. `trusted.` ones belong to the host's root; in a user namespace overlayfs
//! takes `user.` ones when it is mounted with `userxattr` (kernel documentation, filesystems/overlayfs.rst, "User xattr"). Docker's
//! overlay2 decides by the same question. Whiteouts are 0/0 devices either way, which need no privilege since Linux 5.8.

use std::{fs, path::Path, sync::OnceLock};

/// Names of overlayfs' attributes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// A directory hides what lower layers have in it.
    pub(crate) opaque: &'static str,
    /// What is in a directory lies elsewhere in the layers below.
    pub(crate) redirect: &'static str,
    /// A file's content lies in a layer below.
    pub(crate) metacopy: &'static str,
    /// Mounts need `userxattr`.
    pub(crate) userxattr: bool,
}

const TRUSTED: Marks = Marks {
    opaque: "trusted.overlay.opaque",
    redirect: "trusted.overlay.redirect",
    metacopy: "trusted.overlay.metacopy",
    userxattr: false,
};

const USER: Marks = Marks {
    opaque: "user.overlay.opaque",
    redirect: "user.overlay.redirect",
    metacopy: "user.overlay.metacopy",
    userxattr: true,
};

/// Those that this process can write and the kernel reads.
pub(crate) fn marks() -> &'static Marks {
    static INSIDE: OnceLock<bool> = OnceLock::new();
    let inside = *INSIDE.get_or_init(|| {
        // A kernel without the file has no user namespaces.
        fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| is_user_namespace(&map))
    });
    if inside { &USER } else { &TRUSTED }
}

/// A directory of an overlay's writable layer hides what lower layers have in it.
pub fn is_opaque(dir: &Path) -> bool {
    rustix::fs::lgetxattr(dir, marks().opaque, &mut [0; 1]).is_ok()
}

/// The host's own user namespace maps every id onto itself (user_namespaces(7)).
fn is_user_namespace(map: &str) -> bool {
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// An attribute is overlayfs' own, and no file's.
pub(crate) fn is_mark(name: &str) -> bool {
    name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_namespace_is_told_by_its_map() {
        assert!(!is_user_namespace("         0          0 4294967295\n"));
        assert!(is_user_namespace("         0          0          1\n"));
        assert!(is_user_namespace("0 1000 1\n1 100000 65536\n"));
        assert!(is_user_namespace(""));
        assert!(is_mark("trusted.overlay.opaque") && is_mark("user.overlay.origin"));
        assert!(!is_mark("user.overlayfs") && !is_mark("trusted.mine"));
    }
}
