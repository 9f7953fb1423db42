//! Texts are those of the Docker client 28.2 and of Docker's daemon.

use super::*;

fn refused(text: &str) -> String {
    let prefix = format!("invalid argument {text:?} for \"--mount\" flag: ");
    let message = mount(text).unwrap_err().message;
    message.strip_prefix(&prefix).unwrap_or(&message).to_owned()
}

#[test]
fn mistakes_in_mounts_read_as_dockers() {
    for (text, why) in [
        ("", "EOF"),
        ("foo", "invalid field 'foo' must be a key=value pair"),
        ("type=", "type is required"),
        ("source=a", "target is required"),
        ("target=", "target is required"),
        (
            "type=bind,target=/x,volume-nocopy",
            "cannot mix 'volume-*' options with mount type 'bind'",
        ),
        (
            "type=volume,target=/x,bind-propagation=shared",
            "cannot mix 'bind-*' options with mount type 'volume'",
        ),
        (
            "type=bind,src=/a,dst=/x,tmpfs-size=1",
            "cannot mix 'tmpfs-*' options with mount type 'bind'",
        ),
        (
            "type=tmpfs,target=/x,tmpfs-size=abc",
            "invalid value for tmpfs-size: abc",
        ),
        (
            "type=tmpfs,target=/x,tmpfs-mode=9",
            "invalid value for tmpfs-mode: 9",
        ),
        (
            "type=bind,src=/a,dst=/b,bind-recursive=x",
            "invalid value for bind-recursive: x (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")",
        ),
        (
            "type=bind,src=/a,dst=/b,bind-recursive=writable",
            "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction",
        ),
        (
            "type=bind,src=/a,dst=/b,ro,bind-recursive=readonly",
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction",
        ),
        (
            "type=bind,src=/a,dst=/b,bind-nonrecursive=x",
            "invalid value for bind-nonrecursive: x",
        ),
        (
            "type=volume,dst=/b,readonly=maybe",
            "invalid value for readonly: maybe",
        ),
        ("volume-nocopy=x,dst=/x", "invalid value for volume-nocopy: x"),
        (
            "type=volume,src=a,dst=/b,volume-subpath",
            "invalid field 'volume-subpath' must be a key=value pair",
        ),
        ("type=Bind,SRC=/a,dst=/b,foo=1", "unexpected key 'foo' in 'foo=1'"),
        ("type=volume, dst=/x", "unexpected key ' dst' in ' dst=/x'"),
        (
            "type=npipe,src=a,dst=/b",
            "Error response from daemon: invalid mount config for type \"npipe\": mount type unknown",
        ),
        (
            "type=cluster,src=a,dst=/b",
            "type=cluster is not supported: there are no CSI plugins",
        ),
    ] {
        assert_eq!(refused(text), why, "{text}");
    }
}

#[test]
fn mounts_in_full() {
    let made = mount(
        "src=data,dst=/d,ro=false,volume-driver=local,volume-label=a=b,volume-label=c,\"volume-opt=o=ro,bind\",\
         volume-opt=type=none,volume-nocopy,volume-subpath=sub/x,consistency=Cached",
    )
    .unwrap();
    let volume = made.volume.clone().unwrap();
    assert_eq!(
        (made.r#type(), made.source.as_str(), made.read_only),
        (MountType::Volume, "data", false)
    );
    assert_eq!(
        (volume.driver.as_str(), volume.subpath.as_str(), volume.no_copy),
        ("local", "sub/x", true)
    );
    assert_eq!(
        (volume.labels["a"].as_str(), volume.labels["c"].as_str()),
        ("b", "")
    );
    assert_eq!(
        (
            volume.driver_options["o"].as_str(),
            volume.driver_options["type"].as_str()
        ),
        ("ro,bind", "none")
    );
    assert_eq!(made.consistency, "cached");
    let bind = mount(
        "type=bind,source=./x,destination=/d,readonly,bind-propagation=rprivate,bind-recursive=readonly",
    );
    let bind = bind.unwrap();
    assert!(bind.source.ends_with("/x") && bind.source.starts_with('/'));
    assert!(bind.read_only && bind.read_only_force_recursive && !bind.create_source);
    let bind = mount("type=bind,src=/x,dst=/d,bind-recursive=disabled,bind-create-src=1").unwrap();
    assert!(bind.non_recursive && bind.create_source);
    let tmpfs = mount("type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770,tmpfs-options=exec").unwrap();
    assert_eq!((tmpfs.tmpfs_size, tmpfs.tmpfs_mode), (64 << 20, 0o1770));
    assert_eq!(tmpfs.tmpfs_options, ["exec"]);
    let image = mount("type=image,src=alpine,dst=/i,image-subpath=etc").unwrap();
    assert_eq!(
        (image.r#type(), image.image_subpath.as_str()),
        (MountType::Image, "etc")
    );
}

#[test]
fn volumes_in_full() {
    let made = volume("data:/d:ro,z,nocopy").unwrap();
    assert_eq!(
        (made.r#type(), made.read_only, made.mode.as_str()),
        (MountType::Volume, true, "ro,z,nocopy")
    );
    assert!(made.volume.unwrap().no_copy && !made.create_source);
    let made = volume("/host:/d:rshared,Z,cached").unwrap();
    assert_eq!(
        (made.r#type(), made.propagation.as_str()),
        (MountType::Bind, "rshared")
    );
    assert!(made.create_source);
    let made = volume("./here/../there:/d").unwrap();
    assert!(
        made.source.starts_with('/') && made.source.ends_with("/there"),
        "{}",
        made.source
    );
    let made = volume("/only").unwrap();
    assert_eq!(
        (made.r#type(), made.source.as_str(), made.target.as_str()),
        (MountType::Volume, "", "/only")
    );
    // The daemon refuses the name, as Docker's does.
    assert_eq!(volume("a/b:/d").unwrap().source, "a/b");
    for (text, why) in [
        ("", "invalid empty volume spec"),
        (":/y", "invalid spec: :/y: empty section between colons"),
        ("ab::c", "invalid spec: ab::c: empty section between colons"),
        ("/a:/b:ro:x", "invalid spec: /a:/b:ro:x: too many colons"),
        (
            "/x:ro",
            "Error response from daemon: invalid volume specification: '/x:ro'",
        ),
        ("/x:/y:zz", "Error response from daemon: invalid mode: zz"),
        ("/x:/y:ro,rw", "Error response from daemon: invalid mode: ro,rw"),
        (
            "/x:/y:nocopy",
            "Error response from daemon: invalid volume specification: '/x:/y:nocopy': field VolumeOptions must not be specified",
        ),
    ] {
        assert_eq!(volume(text).unwrap_err().message, why, "{text}");
    }
}

#[test]
fn tmpfs_options_are_the_kernels() {
    let made = tmpfs("/t:size=50%,mode=700,exec,ro").unwrap();
    assert_eq!(made.tmpfs_options, ["size=50%", "mode=700", "exec"]);
    assert!(made.read_only && made.mode == "size=50%,mode=700,exec,ro");
    assert_eq!(tmpfs("/t").unwrap().tmpfs_options.len(), 0);
}
