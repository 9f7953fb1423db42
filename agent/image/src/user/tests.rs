//! User resolution, with the files in different layers and behind links.

use std::{fs, os::unix::fs::symlink};

use super::{resolve_group, resolve_user};
use crate::{Error, Rootfs, User};

const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\nbroken\n42:x:7:8::/:/\n";
const GROUP: &str = "root:x:0:\nstaff:x:50:app,other\napp:x:1001:\nwheel:x:10:app\n";

fn rootfs(dir: &std::path::Path) -> Rootfs {
    for d in ["upper", "work", "top", "bottom/etc", "bottom/usr"] {
        fs::create_dir_all(dir.join(d)).unwrap();
    }
    Rootfs {
        is_tree: false,
        lower: vec![dir.join("top"), dir.join("bottom")],
        upper: dir.join("upper"),
        work: dir.join("work"),
    }
}

#[test]
fn resolves_as_runc_does() {
    let tmp = tempfile::tempdir().unwrap();
    let r = rootfs(tmp.path());
    fs::write(tmp.path().join("bottom/etc/passwd"), PASSWD).unwrap();
    fs::write(tmp.path().join("bottom/usr/group"), GROUP).unwrap();
    symlink("/../usr/./group", tmp.path().join("bottom/etc/group")).unwrap();
    let user = |uid, gid, additional_gids: &[u32], home: &str| User {
        uid,
        gid,
        additional_gids: additional_gids.to_vec(),
        home: home.into(),
    };
    assert_eq!(resolve_user(&r, "").unwrap(), user(0, 0, &[], "/root"));
    assert_eq!(
        resolve_user(&r, "app").unwrap(),
        user(1000, 1001, &[50, 10], "/home/app")
    );
    assert_eq!(
        resolve_user(&r, "1000").unwrap(),
        user(1000, 1001, &[50, 10], "/home/app")
    );
    assert_eq!(
        resolve_user(&r, "app:wheel").unwrap(),
        user(1000, 10, &[], "/home/app")
    );
    assert_eq!(resolve_user(&r, "2000:3000").unwrap(), user(2000, 3000, &[], "/"));
    assert_eq!(resolve_user(&r, "42").unwrap().uid, 7);
    assert_eq!(resolve_group(&r, "staff").unwrap(), 50);
    assert!(matches!(
        resolve_user(&r, "nobody"),
        Err(Error::UnknownUser { kind: "user", .. })
    ));
    assert!(matches!(
        resolve_user(&r, "app:none"),
        Err(Error::UnknownUser { kind: "group", .. })
    ));
    assert!(matches!(resolve_user(&r, "-1"), Err(Error::InvalidArgument(_))));
    assert!(matches!(
        resolve_user(&r, "4294967296"),
        Err(Error::InvalidArgument(_))
    ));
    // The container's own file hides the image's.
    fs::create_dir(tmp.path().join("upper/etc")).unwrap();
    fs::write(tmp.path().join("upper/etc/passwd"), "app:x:5:5::/:/\n").unwrap();
    assert_eq!(resolve_user(&r, "app").unwrap().uid, 5);
}

#[test]
fn links_never_leave_the_root() {
    let tmp = tempfile::tempdir().unwrap();
    let r = rootfs(tmp.path());
    fs::write(tmp.path().join("secret"), "app:x:66:66::/:/\n").unwrap();
    let out = format!("../../../../../..{}/secret", tmp.path().display());
    for target in [
        out.as_str(),
        "/etc/passwd",
        &format!("{}/secret", tmp.path().display()),
    ] {
        let _ = fs::remove_file(tmp.path().join("top/etc/passwd"));
        fs::create_dir_all(tmp.path().join("top/etc")).unwrap();
        symlink(target, tmp.path().join("top/etc/passwd")).unwrap();
        assert!(resolve_user(&r, "app").is_err(), "{target}");
    }
}
