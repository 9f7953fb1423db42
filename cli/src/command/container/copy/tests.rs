//! The decisions of `cp`, case by case as moby's `archive/copy.go` documents them.

use super::paths::*;

#[test]
fn arguments() {
    assert_eq!(split_argument("web:/etc"), (Some("web"), "/etc"));
    assert_eq!(split_argument("web:"), (Some("web"), ""));
    for local in ["/a:b", "./a:b", "../x:y", "plain", "-"] {
        assert_eq!(split_argument(local), (None, local));
    }
}

#[test]
fn entries_and_ends() {
    let split = |path: &str| split_entry(path);
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(split("/a/b"), pair("/a", "b"));
    assert_eq!(split("/a/b/"), pair("/a", "b"));
    assert_eq!(split("/a/b/."), pair("/a/b", "."));
    assert_eq!(split("/"), pair("/", "/"));
    assert_eq!(split("rel"), pair(".", "rel"));
    assert_eq!(clean("/a/../../b/./c//"), "/b/c");
    assert_eq!(clean("../x"), "../x");
    assert_eq!(absolute("/a/./b/").unwrap(), "/a/b/");
    assert_eq!(absolute("/a/.").unwrap(), "/a/.");
    assert_eq!(link_target("/dir/link", "x/../y"), "/dir/y");
    assert_eq!(
        rebase_name("/a/link", "/b/file"),
        ("/b/file".to_owned(), Some("link".to_owned()))
    );
    assert_eq!(
        rebase_name("/a/link/", "/b/dir"),
        ("/b/dir/".to_owned(), Some("link".to_owned()))
    );
    assert_eq!(rebase_name("/a/file", "/b/file"), ("/b/file".to_owned(), None));
}

fn info(path: &str, exists: bool, is_dir: bool) -> Info {
    Info {
        path: path.to_owned(),
        exists,
        is_dir,
        rebase: None,
    }
}

#[test]
fn where_and_how_it_is_called() {
    let file = info("/src/f", true, false);
    let dir = info("/src/d", true, true);
    let go = |source: &Info, path: &str, exists, is_dir| {
        prepare(source, &info(path, exists, is_dir)).map_err(|failure| failure.message)
    };
    let ok = |folder: &str, name: Option<&str>| Ok((folder.to_owned(), name.map(str::to_owned)));
    let no = |text: &str| Err(text.to_owned());
    // A, B: a file to nothing; with a slash.
    assert_eq!(go(&file, "/to/new", false, false), ok("/to", Some("new")));
    assert_eq!(go(&file, "/to/new/", false, false), no("no such directory"));
    // C, D: onto a file, into a folder.
    assert_eq!(go(&file, "/to/old", true, false), ok("/to", Some("old")));
    assert_eq!(go(&file, "/to/dir", true, true), ok("/to/dir", None));
    // E to J: a folder.
    assert_eq!(go(&dir, "/to/new", false, false), ok("/to", Some("new")));
    assert_eq!(go(&dir, "/to/new/", false, false), ok("/to", Some("new")));
    assert_eq!(go(&dir, "/to/old", true, false), no("cannot copy directory"));
    assert_eq!(go(&dir, "/to/dir", true, true), ok("/to/dir", None));
}

#[test]
fn entries_get_their_new_name() {
    let rename = |old: &str, new: &str| Rename {
        old: old.to_owned(),
        new: new.to_owned(),
    };
    let apply = |rename: &Rename, name: &str| String::from_utf8(rename.apply(name.as_bytes())).unwrap();
    let dir = rename("d", "new");
    assert_eq!(apply(&dir, "d/"), "new/");
    assert_eq!(apply(&dir, "d/sub/d"), "new/sub/d");
    assert_eq!(apply(&dir, "dx/y"), "dx/y");
    let content = rename(".", "new");
    assert_eq!(apply(&content, "./f"), "new/f");
    assert_eq!(apply(&content, ".hidden"), ".hidden");
    let root = rename("/", "new");
    assert_eq!(apply(&root, "/bin/sh"), "new/bin/sh");
    assert_eq!(apply(&root, "bin/sh"), "new/bin/sh");
}
