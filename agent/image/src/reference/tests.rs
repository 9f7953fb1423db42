//! Tables from distribution's own tests, and the round trips as properties.

use proptest::prelude::*;

use super::Reference;

#[test]
fn normalises_as_docker() {
    let dgst = format!("sha256:{}", "ab".repeat(32));
    for (input, canonical, familiar) in [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        (
            "index.docker.io/library/busybox",
            "docker.io/library/busybox",
            "busybox",
        ),
        ("user/app", "docker.io/user/app", "user/app"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("LOCALHOST/app", "LOCALHOST/app", "LOCALHOST/app"),
        (
            "registry:5000/a/b:x",
            "registry:5000/a/b:x",
            "registry:5000/a/b:x",
        ),
        ("[fc00::1]:5000/a", "[fc00::1]:5000/a", "[fc00::1]:5000/a"),
        (
            "test.com/a__b-c--d.e",
            "test.com/a__b-c--d.e",
            "test.com/a__b-c--d.e",
        ),
        (
            "docker.io/foo.bar/baz",
            "docker.io/foo.bar/baz",
            "docker.io/foo.bar/baz",
        ),
    ] {
        let r = Reference::parse(input).unwrap();
        assert_eq!(r.to_string(), canonical);
        assert_eq!(r.familiar(), familiar);
    }
    let r = Reference::parse(&format!("busybox@{dgst}"))
        .unwrap()
        .with_default_tag();
    assert_eq!(r.familiar(), format!("busybox@{dgst}"));
    let r = Reference::parse(&format!("a/b:t@{dgst}")).unwrap();
    assert_eq!((r.tag(), r.digest().unwrap().to_string()), (Some("t"), dgst));
    assert_eq!(
        Reference::parse("a").unwrap().with_default_tag().familiar(),
        "a:latest"
    );
}

#[test]
fn refuses_what_docker_refuses() {
    let long = format!("a/{}", "a/".repeat(126) + "aaaaa");
    for (input, text) in [
        ("", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("/a", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a___b", "invalid reference format"),
        ("a..b/c/..", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("a:-x", "invalid reference format"),
        (
            "a@sha256:abc",
            "invalid reference format: invalid checksum digest format",
        ),
        ("a@b", "invalid reference format"),
        ("../etc", "invalid reference format"),
        (
            "Busybox",
            "invalid reference format: repository name (library/Busybox) must be lowercase",
        ),
        (
            "a/B",
            "invalid reference format: repository name (a/B) must be lowercase",
        ),
        (
            &long,
            "invalid reference format: repository name must not be more than 255 characters",
        ),
    ] {
        assert_eq!(
            Reference::parse(input).unwrap_err().to_string(),
            text,
            "{input:?}"
        );
    }
    let hex = "0123456789abcdef".repeat(4);
    assert!(
        Reference::parse(&hex)
            .unwrap_err()
            .to_string()
            .contains("64-byte hexadecimal")
    );
    let tag = "t".repeat(129);
    assert!(Reference::parse(&format!("a:{tag}")).is_err());
}

proptest! {
    #[test]
    fn familiar_and_canonical_read_back(
        domain in prop::option::of("(localhost|[a-z0-9]{1,5}(\\.[a-z0-9]{1,5}){1,2}|[a-zA-Z]{1,4}:[0-9]{1,5}|docker\\.io)"),
        path in prop::collection::vec("[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", 1..4),
        tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
        digest in prop::option::of(any::<[u8; 8]>()),
    ) {
        let mut text = domain.unwrap_or("user".into()) + "/" + &path.join("/");
        if let Some(t) = tag { text = format!("{text}:{t}"); }
        if let Some(d) = digest { text = format!("{text}@{}", crate::Digest::of(&d)); }
        let r = Reference::parse(&text).unwrap();
        prop_assert_eq!(&Reference::parse(&r.to_string()).unwrap(), &r);
        prop_assert_eq!(&Reference::parse(&r.familiar()).unwrap(), &r);
    }

    #[test]
    fn never_panics_and_accepts_only_what_reads_back(text in "\\PC{0,40}") {
        if let Ok(r) = Reference::parse(&text) {
            prop_assert_eq!(&Reference::parse(&r.to_string()).unwrap(), &r);
            prop_assert_eq!(&Reference::parse(&r.familiar()).unwrap(), &r);
        }
    }
}
