//! Steps that make files without running anything: COPY, ADD, WORKDIR, a context as a layer, the first content of a cache mount.

use std::path::Path;
use std::sync::Arc;

use pontoon_build::ignore::Patterns;
use pontoon_build::plan::{self, SourceOf};
use pontoon_image::build::{Mode, Tree as Files};
use pontoon_image::{ImageStore, Stack};

use super::contexts::Context;
use super::copy::{Options, Selection, Taken};
use super::progress::Begun;
use super::solve::{Keeping, Tree};
use super::{Build, Outcome, contexts};
use crate::engine::blocking;
use crate::error::IoContext;
use crate::{Error, Result, id};

impl Build {
    /// WORKDIR: a folder and those above it.
    pub(super) async fn make_folder(&self, path: &str, user: &str, base: &Stack) -> Outcome<Stack> {
        let (images, below) = (self.engine.images.clone(), base.clone());
        let (path, user, latest) = (path.to_owned(), user.to_owned(), self.epoch());
        Ok(blocking(move || {
            let tree = images.tree(&below).map_err(Error::Image)?;
            let owner = owner(&tree, &user)?;
            let nothing = Patterns::default();
            let mut selection = Selection::new(
                &tree,
                Options {
                    destination: "/",
                    owner,
                    mode: None,
                    excludes: &nothing,
                    now: seconds(),
                    latest,
                },
            );
            selection.folder(&path)?;
            layer(&images, &below, &selection)
        })
        .await?)
    }

    /// COPY and ADD: from the cache, or made and kept. True: nothing had to be made.
    pub(super) async fn copy_step(
        self: &Arc<Self>,
        step: &plan::Step,
        copy: &plan::Copy,
        base: &Stack,
        begun: &Begun,
    ) -> Outcome<(Tree, Option<Keeping>, bool)> {
        let mut sources = Vec::new();
        for (number, source) in copy.sources.iter().enumerate() {
            sources.push(self.source(source, number, begun).await?);
        }
        let below = if copy.is_link {
            Stack::empty()
        } else {
            base.clone()
        };
        let (images, on, copied, latest) = (
            self.engine.images.clone(),
            below.clone(),
            copy.clone(),
            self.epoch(),
        );
        let names = base.clone();
        let prepared = blocking(move || {
            let tree = Arc::new(images.tree(&on).map_err(Error::Image)?);
            let people = images.tree(&names).map_err(Error::Image)?;
            let owner = owner(&people, &copied.chown)?;
            let job = CopyJob {
                images,
                below: on,
                tree,
                owner,
                copy: copied,
                sources,
                latest,
            };
            let digest = job.with(|selection| selection.digest())?;
            Ok((job, digest))
        });
        let (job, digest) = prepared.await?;
        let key = self.key(&format!("copy.v1\0{:?}\0{digest}", below.chain()));
        let found = self.find(step, &key, below.layers().len()).await?;
        if let (Some(found), false) = (&found, copy.is_link) {
            return Ok((found.clone(), None, true));
        }
        let mut was_cached = found.is_some();
        let (tree, mut keeping) = match found {
            Some(found) => (found, None),
            None => {
                let stack =
                    blocking(move || job.with(|selection| layer(&job.images, &job.below, selection))).await?;
                let (tree, keeping) = self.keep(step, key, stack, below.layers().len());
                (tree, Some(keeping))
            }
        };
        let stack = match &tree {
            Tree::Stack(stack, _) if copy.is_link => stack.clone(),
            _ => return Ok((tree, keeping, false)),
        };
        let key = self.key(&format!("link.v1\0{:?}\0{:?}", base.chain(), stack.chain()));
        if let Some(found) = self.find(step, &key, base.layers().len()).await? {
            return Ok((found, keeping, was_cached));
        }
        was_cached = false;
        let (images, on) = (self.engine.images.clone(), base.clone());
        let linked = blocking(move || relink(&images, &on, &stack)).await?;
        if let Some(earlier) = keeping.take() {
            earlier.await.unwrap_or_else(|_| Ok(()))?;
        }
        let (tree, keeping) = self.keep(step, key, linked, base.layers().len());
        Ok((tree, Some(keeping), was_cached))
    }

    /// A source of COPY, ready to be looked at.
    async fn source(self: &Arc<Self>, source: &plan::Source, number: usize, begun: &Begun) -> Outcome<Found> {
        match &source.what {
            SourceOf::Inline { name, data } => Ok(Found::of(vec![Taken::File {
                name: name.clone(),
                data: data.clone().into_bytes(),
                mode: 0o644,
            }])),
            SourceOf::Tree {
                tree, path, below, ..
            } => {
                let tree = self.look(&self.made(*tree).await?).await?;
                if !source.unpack {
                    let (path, below) = (path.clone(), below.clone());
                    return Ok(Found::of(vec![Taken::Tree { tree, path, below }]));
                }
                let (dir, path) = (self.dir.clone(), path.clone());
                let name = format!("add-{}-{number}", begun.number);
                let taken = blocking(move || super::fetch::unpacked(tree, &path, &dir, &name));
                Ok(Found::of(taken.await?))
            }
            SourceOf::Url { url, name, checksum } => {
                let place = self.dir.join(format!("url-{}-{number}", begun.number));
                let tree = self.download((url, name), checksum, place, begun).await?;
                let path = format!("/{}", super::fetch::escape(name));
                if !source.unpack {
                    return Ok(Found::of(vec![Taken::Tree {
                        tree,
                        path,
                        below: None,
                    }]));
                }
                let (dir, name) = (self.dir.clone(), format!("add-{}-{number}", begun.number));
                let taken = blocking(move || super::fetch::unpacked(tree, &path, &dir, &name));
                Ok(Found::of(taken.await?))
            }
            SourceOf::Git {
                url,
                keep_git_dir,
                checksum,
            } => {
                let dir = self.dir.join(format!("git-{}-{number}", begun.number));
                let (tree, commit) = self
                    .clone_repository(url, *keep_git_dir, checksum, dir, begun)
                    .await?;
                Ok(Found {
                    commit: keep_git_dir.then_some(commit),
                    taken: vec![whole(tree)],
                })
            }
        }
    }

    /// A context as the only layer of a tree.
    pub(super) async fn layer_of_folder(&self, context: &Arc<Context>) -> Outcome<Stack> {
        let (images, context, latest) = (self.engine.images.clone(), context.clone(), self.epoch());
        Ok(blocking(move || {
            let base = Files::empty();
            let nothing = Patterns::default();
            let options = Options {
                latest,
                ..Options::to_root(&nothing, seconds())
            };
            let mut selection = Selection::new(&base, options);
            let files = Files::folder(context.path()).map_err(Error::Image)?;
            selection.add(whole(Arc::new(files)))?;
            layer(&images, &Stack::empty(), &selection)
        })
        .await?)
    }

    /// Copies files of a tree into a folder: what a cache mount begins with.
    pub(super) async fn copy_out(&self, made: &Tree, source: &str, dir: &Path) -> Outcome<()> {
        let (tree, source, dir) = (self.look(made).await?, source.to_owned(), dir.to_owned());
        Ok(blocking(move || copy_tree(tree, &source, &dir)).await?)
    }
}

/// Copies what is at a path of a tree into a folder of this host.
pub(super) fn copy_tree(tree: Arc<Files>, source: &str, dir: &Path) -> Result<()> {
    let base = Files::empty();
    let nothing = Patterns::default();
    let mut selection = Selection::new(&base, Options::to_root(&nothing, seconds()));
    selection.add(Taken::Tree {
        tree,
        path: super::fetch::escape(source),
        below: None,
    })?;
    let mut archive = tempfile_in(dir)?;
    selection
        .write(&mut archive)
        .context(|| "write a cache mount's first files")?;
    std::io::Seek::rewind(&mut archive).context(|| "read a cache mount's first files")?;
    contexts::extract_as(archive, dir, None).map(drop)
}

/// A file without a name in a folder's file system.
fn tempfile_in(dir: &Path) -> Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags};
    let file = rustix::fs::open(
        dir,
        OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    );
    Ok(file
        .context(|| format!("make a file in {}", dir.display()))?
        .into())
}

/// What a source has turned out to be.
struct Found {
    taken: Vec<Taken>,
    /// The commit of a repository that is copied with its `.git`: git never writes that folder the same again.
    commit: Option<String>,
}

impl Found {
    fn of(taken: Vec<Taken>) -> Self {
        Self { taken, commit: None }
    }
}

/// All of a tree.
fn whole(tree: Arc<Files>) -> Taken {
    Taken::Tree {
        tree,
        path: "/".into(),
        below: None,
    }
}

/// A COPY that is ready to be looked at or written.
struct CopyJob {
    images: Arc<ImageStore>,
    below: Stack,
    tree: Arc<Files>,
    owner: Option<(u32, u32)>,
    copy: plan::Copy,
    sources: Vec<Found>,
    latest: Option<i64>,
}

impl CopyJob {
    fn with<T>(&self, work: impl FnOnce(&Selection<'_>) -> Result<T>) -> Result<T> {
        let excludes = Patterns::new(&self.copy.excludes).map_err(|e| Error::Invalid(e.message))?;
        let options = Options {
            destination: &self.copy.destination,
            owner: self.owner,
            mode: Mode::parse(&self.copy.chmod),
            excludes: &excludes,
            now: seconds(),
            latest: self.latest,
        };
        let mut selection = Selection::new(&self.tree, options);
        for found in &self.sources {
            selection.begin_source(found.commit.as_deref());
            for taken in &found.taken {
                selection.add(taken.clone())?;
            }
        }
        work(&selection)
    }
}

fn owner(tree: &Files, spec: &str) -> Result<Option<(u32, u32)>> {
    match spec {
        "" => Ok(None),
        spec => tree.owner(spec).map(Some).map_err(Error::Image),
    }
}

fn layer(images: &ImageStore, below: &Stack, selection: &Selection<'_>) -> Result<Stack> {
    let written = images.layer_of(below, |out| {
        selection
            .write(out)
            .map_err(|source| pontoon_image::Error::Stream {
                op: "cannot copy files",
                source,
            })
    });
    written.map_err(Error::Image)
}

/// The layers of one stack on top of another.
fn relink(images: &ImageStore, below: &Stack, layers: &Stack) -> Result<Stack> {
    let mut stack = below.clone();
    for layer in layers.layers() {
        let (blob, _) = images.open_blob(&layer.blob.digest).map_err(Error::Image)?;
        stack = images.layer_of_archive(blob, &stack).map_err(Error::Image)?;
    }
    Ok(stack)
}

fn seconds() -> i64 {
    id::now() / 1_000_000_000
}
