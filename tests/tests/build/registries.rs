//! Builds and registries: base images that are pulled, results and caches that are pushed.

use anyhow::{Result, ensure};
use pontoon_tests::registry::{Registry, Settings};

use crate::{build, built, cached, context, host, run};

#[test]
fn base_images_are_pulled_and_results_pushed() {
    host(|host, _| {
        let registry = Registry::start(host, "registry", &Settings::default())?;
        let (base, tools, result) = (
            registry.name("base:1"),
            registry.name("tools"),
            registry.name("out:1"),
        );
        let publish = |from: &str, name: &str| -> Result<()> {
            host.ok(&["tag", from, name])?;
            host.ok(&["push", "--quiet", name])?;
            host.ok(&["rmi", name]).map(drop)
        };
        publish("busybox", &base)?;
        publish("web:1", &tools)?;
        let dockerfile = format!("FROM {base}\nCOPY --from={tools} /web /web\nRUN echo made >/made\n");
        let dir = context(host, "pulls", &[("Dockerfile", &dockerfile)])?;
        built(host, &dir, &result, &["--push"])?;
        // What was pulled stays, as with Docker; what was pushed can be had again.
        host.ok(&["rmi", &result])?;
        host.ok(&["pull", "--quiet", &result])?;
        ensure!(run(host, &result, "cat /made; test -x /web && echo web")? == "made\nweb");
        // Without --pull an image that is here is not asked for.
        let newer = context(
            host,
            "newer",
            &[("Dockerfile", "FROM busybox\nRUN echo new >/new\n")],
        )?;
        built(host, &newer, "newer", &[])?;
        publish("newer", &base)?;
        host.ok(&["tag", "busybox", &base])?;
        let said = built(host, &dir, "same", &[])?;
        ensure!(cached(&said) == 2, "{said}");
        built(host, &dir, "fresh", &["--pull"])?;
        ensure!(run(host, "fresh", "cat /new /made")? == "new\nmade");
        let gone = format!("FROM {}\n", registry.name("gone"));
        let gone = context(host, "gone", &[("Dockerfile", &gone)])?;
        build(host, &gone, &[])?.fails(1, &["failed to resolve source metadata", "Dockerfile:1"])?;
        Ok(())
    });
}

#[test]
fn caches_go_through_a_registry() {
    host(|host, _| {
        let registry = Registry::start(host, "registry", &Settings::default())?;
        let dockerfile = "FROM busybox AS one\nRUN mkdir /out && echo 1 >/out/one && touch /more\nFROM busybox\nCOPY --from=one /out /out\nRUN cat /out/one >/two\n";
        let dir = context(host, "cached", &[("Dockerfile", dockerfile)])?;
        let (cache, image) = (registry.name("app:cache"), registry.name("app:1"));
        let forget = || -> Result<()> {
            host.ok(&["builder", "prune", "--all", "--force"])?;
            // Nothing of the caches is left among the images.
            let images = host.ok(&[
                "images",
                "--digests",
                "--format",
                "{{.Repository}}:{{.Tag}}@{{.Digest}}",
            ])?;
            ensure!(
                !images.contains("app:cache") && !images.contains("<none>:"),
                "{images}"
            );
            Ok(())
        };
        let to = format!("type=registry,ref={cache},mode=max");
        built(host, &dir, "c:1", &["--cache-to", &to])?;
        host.ok(&["rmi", "c:1"])?;
        forget()?;
        let said = built(host, &dir, "c:2", &["--cache-from", &cache])?;
        ensure!(cached(&said) == 3, "all stages: {said}");
        ensure!(run(host, "c:2", "cat /two")? == "1");
        // The image itself as a cache: what its last stage is made of.
        built(host, &dir, &image, &["--cache-to", "type=inline", "--push"])?;
        host.ok(&["rmi", &image, "c:2"])?;
        forget()?;
        let said = built(host, &dir, "c:3", &["--cache-from", &image])?;
        ensure!(cached(&said) == 2, "the last stage: {said}");
        forget()?;
        build(host, &dir, &["-t", &cache, "--cache-to", &to])?
            .fails(1, &["is the name of the image itself"])?;
        Ok(())
    });
}
