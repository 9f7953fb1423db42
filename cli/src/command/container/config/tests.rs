//! The values of `run`'s flags, parsed one by one: volumes, restart policies, ports and the rest of [`super`]. What a whole command line becomes
//! is tested in `flags`.

use std::path::Path;

use super::mounts::volume;
use super::process::restart_policy;
use super::*;

fn bindings(text: &str) -> Vec<(String, u32, u32)> {
    let bindings = publish(text).unwrap();
    bindings
        .into_iter()
        .map(|binding| (binding.host_ip, binding.host_port, binding.container_port))
        .collect()
}

#[test]
fn published_ports() {
    let any = String::new;
    assert_eq!(bindings("80"), [(any(), 0, 80)]);
    assert_eq!(bindings("8080:80"), [(any(), 8080, 80)]);
    assert_eq!(
        bindings("127.0.0.1:8080:80/udp"),
        [("127.0.0.1".to_owned(), 8080, 80)]
    );
    assert_eq!(bindings("127.0.0.1::80"), [("127.0.0.1".to_owned(), 0, 80)]);
    assert_eq!(bindings("[::1]:8080:80"), [("::1".to_owned(), 8080, 80)]);
    assert_eq!(
        bindings("8000-8001:80-81"),
        [(any(), 8000, 80), (any(), 8001, 81)]
    );
    for bad in [
        "",
        "0",
        "70000",
        "80:x",
        "8000-8002:80-81",
        "8000-8001:80-82",
        "1.2.3:80:80",
        "80/icmp",
        "90-80",
    ] {
        assert!(publish(bad).is_err(), "{bad}");
    }
}

#[test]
fn mounts_and_limits() {
    let bind = mount("type=bind,source=/a,target=/b,readonly").unwrap();
    assert!(bind.read_only && bind.source == "/a" && bind.target == "/b");
    assert_eq!(
        mount("type=tmpfs,target=/t,tmpfs-size=1m").unwrap().tmpfs_size,
        1 << 20
    );
    for bad in ["source=a", "type=bind,source=/a", "type=bind,x=1"] {
        assert!(mount(bad).is_err(), "{bad}");
    }
    assert!(volume("/a:/b:ro,rshared").unwrap().read_only);
    assert_eq!(ulimit("nofile=10:20").unwrap().hard, 20);
    assert!(ulimit("nofile=30:20").is_err());
    assert_eq!(restart_policy("on-failure:3").unwrap().maximum_retry_count, 3);
    assert!(restart_policy("always:3").is_err());
    assert!(restart_policy("sometimes").is_err());
}

#[test]
fn environment_takes_names_from_the_client() {
    let none: [&Path; 0] = [];
    let path = std::env::var("PATH").unwrap();
    let environment = environment(
        &none,
        &[
            "A=1".to_owned(),
            "PATH".to_owned(),
            "SURELY_NOT_SET_XYZ".to_owned(),
        ],
    )
    .unwrap();
    assert_eq!(environment, ["A=1".to_owned(), format!("PATH={path}")]);
}

#[test]
fn environment_files_are_checked() {
    let file = std::env::temp_dir().join(format!("pontoon-environment-{}", std::process::id()));
    std::fs::write(&file, "# a comment\n\nX=a b\n").unwrap();
    let good = environment(&[&file], &[]);
    std::fs::write(&file, "A B=1\n").unwrap();
    let bad = environment(&[&file], &[]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(good.unwrap(), ["X=a b"]);
    assert!(
        bad.unwrap_err()
            .message
            .ends_with("variable 'A B' contains whitespaces")
    );
}
