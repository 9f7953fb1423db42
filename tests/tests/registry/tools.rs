//! Other tools' images, both ways, with the same digests: skopeo, buildah, umoci of Debian.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use pontoon_tests::process::tool;
use pontoon_tests::registry::{Registry, User};
use pontoon_tests::{Host, wire};
use serde_json::json;

use crate::{bed, digest};

/// The tools, with their state in a folder of the host.
struct Tools<'h> {
    host: &'h Host,
    folder: PathBuf,
}

/// A bed with tools; says why it skips when one is missing.
fn workshop(test: impl FnOnce(&Tools<'_>, &Registry, &User<'_>) -> Result<()>) {
    let missing: Vec<&str> = ["skopeo", "buildah", "umoci"]
        .into_iter()
        .filter(|program| !Path::new("/usr/bin").join(program).exists())
        .collect();
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "missing: {missing:?}");
        eprintln!("skipped: {missing:?} are not installed (deploy/install-deps.sh test)");
        return;
    }
    bed(|host, registry, user| {
        let folder = host.folder().join("tools");
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join("policy.json"),
            "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}",
        )?;
        fs::write(folder.join("content"), "made elsewhere\n")?;
        test(&Tools { host, folder }, registry, user)
    });
}

impl Tools<'_> {
    /// A path in the tools' folder.
    fn at(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn skopeo(&self, args: &[&str]) -> Result<String> {
        let general = ["skopeo", "--policy", &self.at("policy.json")];
        self.host.exec(&[&general[..], args].concat())?.ok()
    }

    /// Copies an image as it is, or with more options changed.
    fn copy(&self, options: &[&str], from: &str, to: &str) -> Result<()> {
        let mut args = vec!["copy"];
        // Each kind of place takes its own options only.
        args.extend(from.starts_with("docker:").then_some("--src-tls-verify=false"));
        args.extend(to.starts_with("docker:").then_some("--dest-tls-verify=false"));
        args.extend(options);
        args.extend([from, to]);
        self.skopeo(&args).map(drop)
    }

    /// Digest of what a name stands for, as skopeo sees it.
    fn digest(&self, name: &str) -> Result<String> {
        let name = format!("docker://{name}");
        self.skopeo(&["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &name])
    }

    /// The manifest's bytes.
    fn raw(&self, name: &str) -> Result<String> {
        let (policy, name) = (self.at("policy.json"), format!("docker://{name}"));
        let args = [
            "skopeo",
            "--policy",
            &policy,
            "inspect",
            "--tls-verify=false",
            "--raw",
            &name,
        ];
        let output = self.host.exec(&args)?;
        ensure!(output.code == 0, "{output}");
        Ok(output.stdout)
    }

    fn buildah(&self, args: &[&str]) -> Result<String> {
        let (storage, run) = (self.at("storage"), self.at("run"));
        let general = [
            "buildah",
            "--root",
            &storage,
            "--runroot",
            &run,
            "--storage-driver",
            "vfs",
        ];
        self.host.exec(&[&general[..], args].concat())?.ok()
    }

    /// An image made by umoci in an OCI layout, for an architecture: `oci:…`.
    fn umoci(&self, tag: &str, architecture: &str) -> Result<String> {
        let layout = self.at("layout");
        if !Path::new(&layout).exists() {
            tool("umoci", &["init", "--layout", &layout])?;
        }
        let image = format!("{layout}:{tag}");
        tool("umoci", &["new", "--image", &image])?;
        tool(
            "umoci",
            &["config", "--image", &image, "--architecture", architecture],
        )?;
        let content = self.at("content");
        tool("umoci", &["insert", "--image", &image, &content, "/content"])?;
        Ok(format!("oci:{image}"))
    }
}

/// Pulls a name and pushes it under another one: the digest is `sum` both times.
fn round_trip(user: &User<'_>, registry: &Registry, (name, sum): (&str, &str), other: &str) -> Result<()> {
    let pulled = digest(&user.ok(&["pull", name])?)?;
    ensure!(pulled == sum, "pulled {name} as {pulled}, not {sum}");
    let other = registry.name(other);
    user.ok(&["tag", name, &other])?;
    let pushed = digest(&user.ok(&["push", &other])?)?;
    ensure!(pushed == sum, "pushed {other} as {pushed}, not {sum}");
    Ok(())
}

#[test]
fn skopeo_reads_and_copies() {
    workshop(|tools, registry, user| {
        let name = registry.name("ours:1");
        user.ok(&["tag", "busybox", &name])?;
        let ours = digest(&user.ok(&["push", &name])?)?;
        ensure!(tools.digest(&name)? == ours);
        let copy = registry.name("copied:1");
        let (from, to) = (format!("docker://{name}"), format!("docker://{copy}"));
        tools.copy(&["--preserve-digests"], &from, &to)?;
        ensure!(digest(&user.ok(&["pull", &copy])?)? == ours);
        // In Docker's own kind of manifest.
        let docker = registry.name("docker:1");
        tools.copy(&["--format", "v2s2"], &from, &format!("docker://{docker}"))?;
        let sum = tools.digest(&docker)?;
        ensure!(sum != ours);
        round_trip(user, registry, (&docker, &sum), "docker-again:1")?;
        // With plain layers, by way of a folder of blobs.
        let (plain, place) = (registry.name("plain:1"), format!("dir:{}", tools.at("plain")));
        tools.copy(&["--dest-decompress"], &from, &place)?;
        tools.copy(&["--dest-compress=false"], &place, &format!("docker://{plain}"))?;
        let sum = tools.digest(&plain)?;
        round_trip(user, registry, (&plain, &sum), "plain-again:1")?;
        ensure!(user.ok(&["run", "--rm", &plain, "echo", "hi"])? == "hi");
        Ok(())
    });
}

#[test]
fn buildah_pushes_and_pulls() {
    workshop(|tools, registry, user| {
        let policy = ["--signature-policy", &tools.at("policy.json")];
        let container = tools.buildah(&[&["from"], &policy[..], &["scratch"]].concat())?;
        tools.buildah(&["copy", &container, &tools.at("content"), "/content"])?;
        tools.buildah(&[&["commit"], &policy[..], &[&container, "theirs:1"]].concat())?;
        let (theirs, sums) = (registry.name("buildah:1"), tools.at("digest"));
        let to = format!("docker://{theirs}");
        for format in ["oci", "v2s2"] {
            let options = ["--tls-verify=false", "--format", format, "--digestfile", &sums];
            tools.buildah(&[&["push"], &policy[..], &options, &["theirs:1", &to]].concat())?;
            let sum = fs::read_to_string(&sums)?.trim().to_owned();
            round_trip(user, registry, (&theirs, &sum), &format!("again-{format}:1"))?;
        }
        // What went through us comes back whole.
        let again = registry.name("again-oci:1");
        tools.buildah(&[&["pull"], &policy[..], &["--tls-verify=false", &again]].concat())?;
        let back = tools.buildah(&[&["from"], &policy[..], &["--pull-never", &again]].concat())?;
        let root = tools.buildah(&["mount", &back])?;
        ensure!(fs::read_to_string(Path::new(&root).join("content"))? == "made elsewhere\n");
        Ok(())
    });
}

#[test]
fn umoci_packs_and_unpacks() {
    workshop(|tools, registry, user| {
        let from = tools.umoci("t", "amd64")?;
        // skopeo compresses only what is plain, and takes what a registry has already unless the digests are to stay.
        let (plain, packed) = (
            format!("dir:{}", tools.at("plain")),
            format!("dir:{}", tools.at("packed")),
        );
        tools.copy(&["--dest-decompress"], &from, &plain)?;
        tools.copy(
            &["--dest-compress-format", "zstd", "--dest-compress"],
            &plain,
            &packed,
        )?;
        for (tag, from) in [("gzip", &from), ("zstd", &packed)] {
            let theirs = registry.name(&format!("umoci:{tag}"));
            tools.copy(&["--preserve-digests"], from, &format!("docker://{theirs}"))?;
            let sum = tools.digest(&theirs)?;
            let manifest = user.ok(&["manifest", "inspect", &theirs])?;
            ensure!(manifest.contains(&format!("tar+{tag}\"")), "{manifest}");
            round_trip(user, registry, (&theirs, &sum), &format!("umoci-again:{tag}"))?;
            // The file is in the image that we have now.
            let id = user.ok(&["create", &theirs, "none"])?;
            let copied = tools.at(tag);
            user.ok(&["cp", &format!("{id}:/content"), &copied])?;
            ensure!(fs::read_to_string(&copied)? == "made elsewhere\n");
            user.ok(&["rm", &id])?;
        }
        // Ours, unpacked by umoci.
        let name = registry.name("ours:1");
        user.ok(&["tag", "busybox", &name])?;
        user.ok(&["push", "-q", &name])?;
        let layout = format!("oci:{}:ours", tools.at("layout"));
        tools.copy(&[], &format!("docker://{name}"), &layout)?;
        let (image, bundle) = (format!("{}:ours", tools.at("layout")), tools.at("bundle"));
        tool("umoci", &["unpack", "--image", &image, &bundle])?;
        let ours = fs::read(Path::new(&bundle).join("rootfs/bin/busybox"))?;
        ensure!(ours == fs::read("/bin/busybox")?);
        Ok(())
    });
}

#[test]
fn an_index_of_two_platforms() {
    workshop(|tools, registry, user| {
        let mut entries = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let from = tools.umoci(architecture, architecture)?;
            let name = registry.name(&format!("many:{architecture}"));
            tools.copy(&[], &from, &format!("docker://{name}"))?;
            let raw = tools.raw(&name)?;
            entries.push(json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": tools.digest(&name)?, "size": raw.len(),
                "platform": { "os": "linux", "architecture": architecture },
            }));
        }
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": entries }).to_string();
        put(tools.host, "/v2/many/manifests/1", kind, &index)?;
        let name = registry.name("many:1");
        let sum = tools.digest(&name)?;
        let architecture = |name: &str| user.ok(&["image", "inspect", "--format", "{{.Architecture}}", name]);

        ensure!(digest(&user.ok(&["pull", &name])?)? == sum);
        ensure!(architecture(&name)? == "amd64");
        user.ok(&["rmi", &name])?;
        ensure!(digest(&user.ok(&["pull", "--platform", "linux/arm64", &name])?)? == sum);
        ensure!(architecture(&name)? == "arm64");
        user.pontoon(&["pull", "--platform", "linux/s390x", &name])?
            .fails(
                1,
                &[
                    "no matching manifest for linux/s390x",
                    "linux/amd64",
                    "linux/arm64",
                ],
            )?;
        // The failed one changed nothing.
        ensure!(architecture(&name)? == "arm64");
        let verbose = user.ok(&["manifest", "inspect", "-v", &name])?;
        let verbose: serde_json::Value = serde_json::from_str(&verbose)?;
        ensure!(
            verbose[1]["Descriptor"]["platform"]["architecture"] == "arm64",
            "{verbose}"
        );
        Ok(())
    });
}

/// Puts a document into the registry on the host's loopback.
fn put(host: &Host, path: &str, kind: &str, document: &str) -> Result<()> {
    let mut stream = wire::within(&host.netns(), || Ok(TcpStream::connect("127.0.0.1:5000")?))?;
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: localhost:5000\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{document}",
        document.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    Ok(())
}
