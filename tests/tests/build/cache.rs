//! What the cache knows, how it is pruned, and how it comes from and goes to other builders.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::ensure;
use pontoon_tests::Host;

use crate::{build, built, cached, context, host, run};

#[test]
fn the_cache_knows_content_and_survives_the_daemon() {
    host(|host, _| {
        let dockerfile = "FROM busybox\nARG V=1\nRUN cat /proc/sys/kernel/random/uuid >/first\nCOPY in.txt /in.txt\nRUN cat /in.txt >/second; cat /proc/sys/kernel/random/uuid >>/second\nLABEL x=y\n";
        let dir = context(
            host,
            "cache",
            &[
                ("Dockerfile", dockerfile),
                ("in.txt", "1\n"),
                ("other.txt", "1\n"),
            ],
        )?;
        let first = built(
            host,
            &dir,
            "c:1",
            &["--iidfile", &dir.join("../id1").display().to_string()],
        )?;
        ensure!(cached(&first) == 0, "{first}");
        let id = fs::read_to_string(dir.join("../id1"))?;
        // Times and files that nothing takes don't count.
        fs::write(dir.join("other.txt"), "2\n")?;
        fs::write(dir.join("in.txt"), "1\n")?;
        let again = built(
            host,
            &dir,
            "c:2",
            &["--iidfile", &dir.join("../id2").display().to_string()],
        )?;
        ensure!(cached(&again) == 3, "{again}");
        ensure!(
            fs::read_to_string(dir.join("../id2"))? == id,
            "the same image again"
        );
        // The content of what is copied does; what is before stays.
        fs::write(dir.join("in.txt"), "2\n")?;
        let changed = built(host, &dir, "c:3", &[])?;
        ensure!(cached(&changed) == 1, "{changed}");
        fs::set_permissions(dir.join("in.txt"), fs::Permissions::from_mode(0o600))?;
        ensure!(cached(&built(host, &dir, "c:3", &[])?) == 1, "so does its mode");
        // An argument counts from where it is declared.
        ensure!(cached(&built(host, &dir, "c:4", &["--build-arg", "V=2"])?) == 0);
        ensure!(cached(&built(host, &dir, "c:5", &["--no-cache"])?) == 0);
        host.stop()?;
        host.start()?;
        let kept = built(host, &dir, "c:6", &[])?;
        ensure!(cached(&kept) == 3, "{kept}");
        let usage = host.ok(&["system", "df", "--format", "{{.Type}} {{.TotalCount}}"])?;
        ensure!(
            usage
                .lines()
                .any(|line| line.starts_with("Build Cache ") && !line.ends_with(" 0")),
            "{usage}"
        );
        let pruned = host.ok(&["builder", "prune", "--all", "--force"])?;
        ensure!(
            pruned.contains("Deleted build cache objects:") && pruned.contains("Total reclaimed space:"),
            "{pruned}"
        );
        ensure!(cached(&built(host, &dir, "c:7", &[])?) == 0);
        ensure!(
            run(host, "c:6", "cat /in.txt")? == "2",
            "images keep their layers"
        );
        Ok(())
    });
}

#[test]
fn builds_of_one_epoch_are_equal() {
    host(|host, _| {
        let dockerfile =
            "FROM busybox\nWORKDIR /w\nCOPY f f\nRUN mkdir d && echo x >d/y && hostname >h\nADD t.tar .\n";
        let mut ids = Vec::new();
        for name in ["epoch1", "epoch2"] {
            let dir = context(
                host,
                name,
                &[("Dockerfile", dockerfile), ("f", "f\n"), ("in/g", "g\n")],
            )?;
            pontoon_tests::process::tool(
                "tar",
                &[
                    "-cf",
                    &dir.join("t.tar").display().to_string(),
                    "--mtime=@0",
                    "-C",
                    &dir.join("in").display().to_string(),
                    "g",
                ],
            )?;
            let id = dir.join("../epoch-id");
            built(
                host,
                &dir,
                name,
                &[
                    "--no-cache",
                    "--build-arg",
                    "SOURCE_DATE_EPOCH=1700000000",
                    "--iidfile",
                    &id.display().to_string(),
                ],
            )?;
            ids.push(fs::read_to_string(id)?);
        }
        ensure!(ids[0] == ids[1], "{ids:?}");
        let created = host.ok(&["inspect", "-f", "{{.Created}}", "epoch1"])?;
        ensure!(created.starts_with("2023-11-14T22:13:20"), "{created}");
        Ok(())
    });
}

/// How many entries of a type there are.
fn entries(host: &Host) -> anyhow::Result<usize> {
    let usage = host.ok(&["system", "df", "--format", "{{.Type}}:{{.TotalCount}}"])?;
    let count = usage.lines().find_map(|line| line.strip_prefix("Build Cache:"));
    Ok(count.unwrap_or_default().parse()?)
}

#[test]
fn pruning_takes_what_the_filters_say() {
    host(|host, _| {
        let dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/c head -c 100000 /dev/zero >/c/f && echo x >/x\nRUN echo y >/y\n";
        let dir = context(host, "prune", &[("Dockerfile", dockerfile)])?;
        built(host, &dir, "prune", &[])?;
        let all = entries(host)?;
        ensure!(all == 3, "two results and a mount: {all}");
        let prune = |flags: &[&str]| host.ok(&[&["builder", "prune", "--force"], flags].concat());
        prune(&["--all", "--filter", "until=24h"])?;
        prune(&["--all", "--keep-storage", "1g"])?;
        prune(&["--all", "--filter", "id=nothing"])?;
        ensure!(entries(host)? == all, "nothing was to go");
        // What an image has too costs nothing and stays without --all.
        let said = prune(&[])?;
        ensure!(entries(host)? == 2 && said.contains("100kB"), "{said}");
        built(host, &dir, "prune", &[])?;
        let again = entries(host)?;
        ensure!(again == 2, "results are still there: {again}");
        prune(&["--all", "--filter", "description=RUN echo y"])?;
        ensure!(entries(host)? == 1);
        host.ok(&["rmi", "prune"])?;
        let said = host.ok(&["system", "prune", "--force"])?;
        ensure!(said.contains("Deleted build cache objects:"), "{said}");
        ensure!(entries(host)? == 0);
        host.pontoon(&["builder", "prune", "--force", "--filter", "foo=bar"])?
            .fails(1, &["foo"])?;
        Ok(())
    });
}

#[test]
fn a_cache_goes_to_another_builder() {
    host(|host, _| {
        let dockerfile = "FROM busybox AS one\nRUN echo 1 >/one\nRUN mkdir /out && cp /one /out/\nFROM busybox\nWORKDIR /w\nCOPY --from=one /out /out\nCOPY f f\nRUN cat f /out/one >both\n";
        let dir = context(host, "exchange", &[("Dockerfile", dockerfile), ("f", "f\n")])?;
        let folder = host.folder().join("exported");
        let to = format!("type=local,dest={},mode=max", folder.display());
        let from = format!("type=local,src={}", folder.display());
        // The first build of all has nothing to take.
        let said = built(host, &dir, "e:1", &["--cache-to", &to, "--cache-from", &from])?;
        ensure!(cached(&said) == 0 && said.contains("not found"), "{said}");
        let forget = || host.ok(&["builder", "prune", "--all", "--force"]);
        forget()?;
        host.ok(&["rmi", "e:1"])?;
        let said = built(host, &dir, "e:2", &["--cache-from", &from])?;
        ensure!(cached(&said) == 6, "all stages: {said}");
        ensure!(run(host, "e:2", "cat both; ls /")?.starts_with("f\n1\n"));
        // Images hold what they are made of, if they were asked to.
        forget()?;
        let name = "localhost:1/e:3";
        built(host, &dir, name, &["--cache-to", "type=inline"])?;
        forget()?;
        let said = built(host, &dir, "e:4", &["--cache-from", name])?;
        ensure!(cached(&said) == 4, "the last stage: {said}");
        // An image without one is told of and does not matter.
        let said = built(host, &dir, "e:5", &["--cache-from", "busybox:latest"])?;
        ensure!(said.contains("importing cache manifest from"), "{said}");
        let images = host.ok(&["images", "--quiet", "--filter", "dangling=true"])?;
        ensure!(images.is_empty(), "{images}");
        build(host, &dir, &["--cache-to", "type=gha"])?
            .fails(1, &["--cache-to type=gha is not supported"])?;
        Ok(())
    });
}

#[test]
fn base_images_are_asked_for_again_with_pull() {
    host(|host, _| {
        host.ok(&["tag", "busybox", "localhost:1/base"])?;
        let dir = context(
            host,
            "pull",
            &[("Dockerfile", "FROM localhost:1/base\nRUN echo x >/x\n")],
        )?;
        built(host, &dir, "pulled", &[])?;
        build(host, &dir, &["--pull"])?
            .fails(1, &["localhost:1/base", "failed to resolve source metadata"])?;
        Ok(())
    });
}

/// A blob whose result is kept may be lost all the same, by a disk or by hand: then the step is made again, and all is whole.
#[test]
fn a_cached_result_without_its_blob_is_made_again() {
    host(|host, _| {
        let blobs = host.data_dir().join("image/blobs/sha256");
        let list = || -> anyhow::Result<Vec<std::path::PathBuf>> {
            let entries = fs::read_dir(&blobs)?.map(|entry| entry.map(|entry| entry.path()));
            Ok(entries.collect::<Result<_, _>>()?)
        };
        let dockerfile = "FROM busybox\nCOPY f /f\nRUN cat /f >/g\n";
        let dir = context(host, "lost", &[("Dockerfile", dockerfile), ("f", "content\n")])?;
        let before = list()?;
        built(host, &dir, "lost", &[])?;
        ensure!(cached(&built(host, &dir, "lost", &[])?) == 2);
        for path in list()?.into_iter().filter(|path| !before.contains(path)) {
            let is_layer = !fs::read(&path)?.starts_with(b"{");
            if is_layer {
                fs::remove_file(path)?;
            }
        }
        let said = built(host, &dir, "lost", &[])?;
        ensure!(cached(&said) == 0, "{said}");
        ensure!(run(host, "lost", "cat /f /g")? == "content\ncontent");
        // The image of the first build has lost its layers for good, and its name.
        host.ok(&["image", "prune", "--force"])?;
        let checked = host.ok(&["image", "check"])?;
        ensure!(checked.ends_with("0 problems, 0 repaired"), "{checked}");
        ensure!(cached(&built(host, &dir, "lost", &[])?) == 2);
        Ok(())
    });
}
