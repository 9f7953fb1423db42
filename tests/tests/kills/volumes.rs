//! Walks through volumes, alone and with their containers, and through the copy of an image's content into them.

use anyhow::{Result, ensure};
use pontoon_tests::Host;

use crate::{RM, operation};

const UNVOLUME: &[&str] = &[RM, "volume rm volbox", "volume prune --force --all"];

#[test]
fn create() {
    operation("volume create volbox").lasting().clean(UNVOLUME).walk();
}

#[test]
fn remove() {
    operation("volume rm volbox")
        .before(&[
            "volume create volbox",
            "run --rm --volume volbox:/data busybox touch /data/file",
        ])
        .lasting()
        .clean(UNVOLUME)
        .walk();
}

/// Volumes with and without names come and go with their container.
#[test]
fn create_with_a_container() {
    operation("create --name box --volume volbox:/data --volume /www busybox sleep 1000")
        .leaves(&["created", "gone"])
        .again(&["start box"])
        .lasting()
        .clean(UNVOLUME)
        .walk();
}

#[test]
fn start_with_a_container() {
    operation("start box")
        .before(&["create --name box --volume volbox:/bin --volume /www --network none busybox sleep 1000"])
        .leaves(&["created", "exited", "running"])
        .again(&["start box", "exec box /bin/busybox ls /bin/sh"])
        .lasting()
        .clean(UNVOLUME)
        .walk();
}

#[test]
fn remove_with_a_container() {
    operation("rm --force --volumes box")
        .before(&["create --name box --volume /www --network none busybox sleep 1000"])
        .leaves(&["created", "gone"])
        .again(&["start box"])
        .lasting()
        .clean(&[RM, "volume prune --force --all"])
        .walk();
}

/// Makes the image `content:1`, with every kind of thing that is copied.
fn image_with_content(host: &Host) -> Result<()> {
    let script = "mkdir -p /content/deep/er && cd /content && cp /bin/busybox big && ln big deep/same && ln -s ../big deep/link && \
                  mkfifo deep/er/pipe && echo text >deep/er/text && chown 33:50 deep/er/text && chmod 4751 deep/er/text && \
                  chmod 2770 deep/er && touch -d '2001-02-03 04:05:06' deep/er/text deep/er deep big";
    host.ok(&[
        "run",
        "--name",
        "maker",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        script,
    ])?;
    host.line("commit maker content:1")?;
    host.line("rm maker")?;
    Ok(())
}

/// Prints names, kinds, modes, owners, times and content of everything in the folder.
const LIST: &str = "cd /content && find . | sort | xargs stat -c '%n %F %a %u:%g %Y' && find . -type f | sort | xargs md5sum";

/// The volume has all of the image's content for the next container that uses it.
fn content_is_whole(host: &Host) -> Result<()> {
    let list = |volume: &[&str]| {
        let run = ["run", "--rm", "--network", "none"];
        host.ok(&[&run, volume, &["content:1", "sh", "-c", LIST]].concat())
    };
    let (copied, content) = (list(&["--volume", "volbox:/content"])?, list(&[])?);
    ensure!(
        copied == content,
        "the volume has\n{copied}\nand the image\n{content}"
    );
    Ok(())
}

#[test]
fn copy_of_an_images_content() {
    operation("create --name box --network none --volume volbox:/content content:1 sleep 1000")
        .setup(image_with_content)
        .leaves(&["created", "gone"])
        .again(&["start box"])
        .check(content_is_whole)
        .lasting()
        .clean(UNVOLUME)
        .walk();
}
