//! What attackers try with mounts and volumes; none of it leads out of the container.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::{mounting, named, of_image, volume};
use crate::bed::{self, Bed, cases, command};

cases![mount_attacks,];

async fn mount_attacks() {
    let bed = Bed::new().await;
    let outside = bed.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    // A volume whose content would lead a mount target out of the root (CVE-2021-30465).
    bed.engine.create_volume(named("evil")).await.unwrap();
    let evil = bed.data("evil");
    symlink(&outside, evil.join("absolute")).unwrap();
    symlink(
        format!("../../../../../..{}", outside.display()),
        evil.join("relative"),
    )
    .unwrap();
    symlink("/proc", evil.join("proc")).unwrap();
    for link in ["absolute", "relative"] {
        let target = format!("/v/{link}/new");
        let script = format!("touch {target}/file {}/new/file", outside.display());
        let mounts = vec![volume("evil", "/v"), volume("inner", &target)];
        bed.output(mounting(&script, mounts)).await;
        assert!(bed.data("inner").join("file").exists());
        assert_eq!(
            std::fs::read_dir(&outside).unwrap().count(),
            0,
            "{link} led to the host"
        );
    }
    // procfs is not mounted over, by whatever name (CVE-2023-28642 and kin).
    for target in ["/v/proc/self", "/proc/sys", "/v/proc/../proc/1"] {
        let mounts = vec![volume("evil", "/v"), volume("inner", target)];
        let id = bed.create(mounting("true", mounts)).await;
        let error = bed.engine.start(&id).await.unwrap_err().chain();
        assert!(error.contains("/proc"), "{error}");
        bed.engine.remove(&id, true).await.unwrap();
    }
    // The image's content is looked for in the image, not on the host.
    std::fs::write(outside.join("secret"), "x").unwrap();
    let image = bed::image().symlink("/out", &outside.display().to_string());
    bed.load_image(image, "evil:latest").await;
    let copy = mounting("ls -A /out", vec![volume("copied", "/out")]);
    assert_eq!(bed.output(of_image("evil", copy)).await, "");
    assert_eq!(std::fs::read_dir(bed.data("copied")).unwrap().count(), 0);
    // One that races: the target's parent is swapped all the time.
    let race =
        "while :; do busybox ln -sfn / /v/a 2>/dev/null; rm -f /v/a; mkdir /v/a; busybox rmdir /v/a; done";
    let racer = bed.start(mounting(race, vec![volume("raced", "/v")])).await;
    for _ in 0..5 {
        let mounts = vec![volume("raced", "/v"), volume("inner", "/v/a/pwned")];
        let id = bed.create(mounting("true", mounts)).await;
        // Whether it starts depends on the moment; where it mounts does not.
        let _ = bed.engine.start(&id).await;
        bed.engine.remove(&id, true).await.unwrap();
        assert!(!Path::new("/pwned").exists());
    }
    bed.engine.remove(&racer, true).await.unwrap();
    assert_eq!(bed.output(command(&["ls", "/plain"])).await, "/plain\n");
    bed.finish().await;
}
