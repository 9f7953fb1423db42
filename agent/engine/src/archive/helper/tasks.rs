//! The helper's tasks, once it is told what to do.

use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::Mount;
use pontoon_image::Limits;
use pontoon_image::archive::{
    ExtractOptions, Extractor, IdMap, Node, Place, TarReader, TarWriter, Walk, plain,
};
use rustix::fs::StatVfsMountFlags;

use super::frames::{FRAME, Incoming, Kind, Outgoing, write};
use super::paths::{Root, Wanted};
use super::{Job, Outcome, Refusal, Stat, Task};

/// Bytes of all files of an archive: the disk is the bound.
const NO_BOUND: u64 = u64::MAX;

pub(super) fn run(job: &Job, input: &mut impl Read, output: &mut impl Write) -> Outcome {
    let root = Root(job.view.enter()?);
    match &job.task {
        Task::Stat { path } => {
            let wanted = Wanted::new(path)?;
            let node = root.node(&wanted)?;
            tell(output, &root.stat(&wanted, &node))
        }
        Task::CopyOut { path } => {
            let wanted = Wanted::new(path)?;
            let node = root.node(&wanted)?;
            tell(output, &root.stat(&wanted, &node))?;
            let name = wanted.name().as_bytes().to_vec();
            let ids = ids_at(job, &root.real_path(&node)?);
            archive(output, |tar| Walk::new(ids.clone()).tree(tar, &node, &name))
        }
        Task::Export => {
            let node = Node::new(root.0)?;
            archive(output, |tar| Walk::new(job.ids.clone()).content(tar, &node, b""))
        }
        Task::CopyIn {
            path,
            no_overwrite_dir_non_dir,
            owner,
        } => {
            let options = ExtractOptions {
                no_overwrite_dir_non_dir: *no_overwrite_dir_non_dir,
                chown: true,
                owner: *owner,
                ids: IdMap::default(),
            };
            extract(job, root, &Wanted::new(path)?, options, input)
        }
    }
}

/// How owners are shown at a path without links: by the mount that it lies in.
fn ids_at<'j>(job: &'j Job, path: &Path) -> &'j IdMap {
    let above = job.view.mounts.iter().map(Mount::destination);
    let above = above.filter(|mount| path.starts_with(mount));
    match above.max_by_key(|mount| mount.components().count()) {
        Some(mount) if job.host_mounts.contains(mount) => &job.host_ids,
        _ => &job.ids,
    }
}

fn tell(output: &mut impl Write, stat: &Stat) -> Outcome {
    let text = serde_json::to_vec(stat).map_err(|error| Refusal::failed(&error))?;
    Ok(write(output, Kind::Stat, &text)?)
}

type Tar<'o, W> = TarWriter<BufWriter<Outgoing<&'o mut W>>>;

fn archive<W: Write>(output: &mut W, content: impl FnOnce(&mut Tar<'_, W>) -> io::Result<()>) -> Outcome {
    let mut tar = TarWriter::new(BufWriter::with_capacity(FRAME, Outgoing(output)));
    content(&mut tar)?;
    tar.finish()?;
    Ok(())
}

fn extract(
    job: &Job,
    root: Root,
    wanted: &Wanted,
    mut options: ExtractOptions,
    input: &mut impl Read,
) -> Outcome {
    let folder = root.folder(wanted)?;
    let base = root.real_path(&folder)?;
    let flags = rustix::fs::fstatvfs(&folder.fd).map_err(io::Error::from)?.f_flag;
    if flags.contains(StatVfsMountFlags::RDONLY) {
        let in_volume = job
            .view
            .mounts
            .iter()
            .any(|mount| base.starts_with(mount.destination()));
        let what = if in_volume {
            "mounted volume"
        } else {
            "container rootfs"
        };
        return Err(Refusal::Invalid(format!("{what} is marked read-only")));
    }
    let limits = Limits {
        layer_bytes: NO_BOUND,
        archive_bytes: NO_BOUND,
        ..Limits::default()
    };
    // Compression is taken off here, by our own code, before anything enters the container's root.
    let mut reader = TarReader::new(plain(Incoming::new(input))?, &limits);
    ids_at(job, &base).clone_into(&mut options.ids);
    if let Some((uid, gid)) = options.ids.to_host(0, 0) {
        pontoon_runtime::act_as(uid, gid)?;
    }
    let mut extractor = Extractor::new(Place::in_root(root.0, Path::new(&base)), options);
    while let Some(entry) = reader.next_entry()? {
        extractor.entry(&entry, &mut reader)?;
    }
    extractor.finish()?;
    reader.drain()?;
    Ok(())
}
