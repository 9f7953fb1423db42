//! config.md: version, root, hostname, domainname, annotations, and what a bundle must hold.

use serde_json::json;

use crate::case::{Case, code, prints, refused};

pub fn cases() -> Vec<Case> {
    vec![
        refused(
            "version_unsupported",
            "the runtime MUST generate an error for an ociVersion that it does not support",
            |s| s["ociVersion"] = json!("2.0.0"),
            "ociVersion",
        ),
        refused(
            "version_missing",
            "ociVersion is REQUIRED",
            |s| drop(s.as_object_mut().unwrap().remove("ociVersion")),
            "",
        ),
        prints(
            "unknown_property_ignored",
            "a runtime MUST ignore unknown properties",
            |s| s["com.example"] = json!({"a": 1}),
            "echo ok",
            "ok\n",
        ),
        refused(
            "root_missing",
            "root is REQUIRED on Linux",
            |s| drop(s.as_object_mut().unwrap().remove("root")),
            "root",
        ),
        refused(
            "root_path_missing",
            "a directory MUST exist at the path declared by root.path",
            |s| s["root"]["path"] = json!("nowhere"),
            "nowhere",
        ),
        refused(
            "root_path_file",
            "root.path is a directory",
            |s| s["root"]["path"] = json!("config.json"),
            "",
        ),
        code(
            "root_path_absolute",
            "root.path is an absolute path or a relative path to the bundle",
            |bed| {
                bed.spec["root"]["path"] = json!(bed.rootfs());
                assert_eq!(bed.run("cat /full/file").stdout, "content\n");
            },
        ),
        refused(
            "process_missing",
            "process is REQUIRED when start is called",
            |s| drop(s.as_object_mut().unwrap().remove("process")),
            "process",
        ),
        prints(
            "hostname",
            "hostname is the container's hostname",
            |s| s["hostname"] = json!("other"),
            "hostname",
            "other\n",
        ),
        code(
            "hostname_of_the_host_stays",
            "hostname is set in the container's uts namespace",
            |bed| {
                let before = rustix::system::uname().nodename().to_owned();
                bed.run("hostname changed");
                assert_eq!(rustix::system::uname().nodename(), before.as_c_str());
            },
        ),
        refused(
            "hostname_needs_uts",
            "hostname needs a uts namespace",
            |s| {
                s["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|n| n["type"] != "uts")
            },
            "",
        ),
        prints(
            "domainname",
            "domainname is the container's domain name",
            |s| s["domainname"] = json!("example.org"),
            "cat /proc/sys/kernel/domainname",
            "example.org\n",
        ),
        code("annotations_in_state", "annotations are in the state", |bed| {
            bed.spec["annotations"] = json!({"com.example.a": "1", "b": ""});
            bed.up();
            assert_eq!(bed.state()["annotations"], json!({"com.example.a": "1", "b": ""}));
        }),
        code(
            "bundle_missing",
            "config.json MUST reside in the root of the bundle directory",
            |bed| {
                let bundle = bed.directory("empty");
                let error = bed.must_fail(&["create", "--bundle", bundle.to_str().unwrap(), &bed.id]);
                assert!(error.contains("config.json"), "{error}");
            },
        ),
        code(
            "bundle_is_the_current_directory",
            "the bundle is the current directory unless given",
            |bed| {
                bed.sh("exit 3");
                bed.write_config();
                let mut command = bed.command(&["create", "--pid-file"]);
                command
                    .arg(bed.path("pid"))
                    .arg(&bed.id)
                    .current_dir(bed.path("bundle"));
                let file = std::fs::File::create(bed.path("stdout")).unwrap();
                command.stdout(file.try_clone().unwrap()).stderr(file);
                assert!(
                    crate::commands::wait_for(&mut command).success(),
                    "{}",
                    bed.error()
                );
                bed.start();
                assert_eq!(bed.wait(), 3);
            },
        ),
        code("config_is_json", "config.json is JSON", |bed| {
            let bundle = bed.directory("broken");
            std::fs::write(bundle.join("config.json"), "{").unwrap();
            bed.must_fail(&["create", "--bundle", bundle.to_str().unwrap(), &bed.id]);
        }),
    ]
}
