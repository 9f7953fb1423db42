//! Carries a plan out: every step that the result needs is a task that waits for what it needs, so that independent ones run side
//! by side. A step's key in the cache is what it does and what it does it to: content, never where that came from.

use std::sync::Arc;

use pontoon_build::dockerfile::Sharing;
use pontoon_build::plan::{self, Action, MountOf, Plan, Run};
use pontoon_image::build::Tree as Files;
use pontoon_image::{Digest, ImageStore, Stack};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cache::Made;
use super::contexts::Context;
use super::copy::digest_below;
use super::progress::Begun;
use super::{Build, Failure, Outcome};
use crate::engine::blocking;
use crate::{Error, Result, id};

/// A tree that a step has made.
#[derive(Clone)]
pub(super) enum Tree {
    /// Layers, and when the last one was made.
    Stack(Stack, i64),
    /// A context.
    Folder(Arc<Context>),
}

/// The tree that becomes the image, and when the steps of its history were made.
pub(super) struct Solved {
    pub(super) stack: Stack,
    /// By step: layers and time.
    pub(super) steps: Vec<Option<(usize, i64)>>,
}

/// Carries the plan out.
pub(super) async fn solve(build: &Arc<Build>, plan: &Plan) -> Outcome<Solved> {
    let count = plan.steps.len();
    build
        .made
        .get_or_init(|| (0..count).map(|_| watch::Sender::new(None)).collect());
    let mut tasks = JoinSet::new();
    for number in needed(plan) {
        let build = build.clone();
        tasks.spawn(Box::pin(async move {
            let made = Box::pin(build.step(number)).await?;
            let (tree, keeping) = made;
            if let Some(senders) = build.made.get() {
                senders[number].send_replace(Some(tree));
            }
            // The result is used meanwhile.
            match keeping {
                Some(keeping) => keeping.await.unwrap_or_else(|_| Ok(())).map_err(Failure::from),
                None => Ok(()),
            }
        }));
    }
    let mut failure: Option<Failure> = None;
    while let Some(ended) = tasks.join_next().await {
        let failed = match ended {
            Ok(Ok(())) => continue,
            Ok(Err(failed)) => failed,
            Err(_) => Failure::cancelled(),
        };
        if failure
            .as_ref()
            .is_none_or(|known| known.is_cancelled && !failed.is_cancelled)
        {
            failure = Some(failed);
        }
        build.stop.cancel();
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let trees: Vec<Option<Tree>> = build
        .made
        .get()
        .into_iter()
        .flatten()
        .map(|s| s.borrow().clone())
        .collect();
    let stack = match plan.result.and_then(|number| trees[number].clone()) {
        Some(Tree::Stack(stack, _)) => stack,
        Some(Tree::Folder(context)) => build.layer_of_folder(&context).await?,
        None => Stack::empty(),
    };
    let steps = trees.into_iter().map(|tree| match tree {
        Some(Tree::Stack(stack, time)) => Some((stack.layers().len(), time)),
        _ => None,
    });
    Ok(Solved {
        stack,
        steps: steps.collect(),
    })
}

/// Steps that the result needs, in order.
fn needed(plan: &Plan) -> Vec<usize> {
    let mut wanted = vec![false; plan.steps.len()];
    let mut todo: Vec<usize> = plan.result.into_iter().collect();
    while let Some(number) = todo.pop() {
        if !std::mem::replace(&mut wanted[number], true) {
            todo.extend(plan.steps[number].action.needs());
        }
    }
    (0..wanted.len()).filter(|number| wanted[*number]).collect()
}

/// A result that is being kept.
pub(super) type Keeping = tokio::task::JoinHandle<Result<()>>;

impl Build {
    /// A step's tree, waiting until it is made.
    pub(super) async fn made(&self, tree: plan::Tree) -> Outcome<Tree> {
        let Some(number) = tree else {
            return Ok(Tree::Stack(Stack::empty(), 0));
        };
        let sender = self.made.get().and_then(|senders| senders.get(number));
        let mut made = sender.ok_or_else(Failure::cancelled)?.subscribe();
        tokio::select! {
            found = made.wait_for(Option::is_some) => match found.ok().and_then(|found| found.clone()) {
                Some(tree) => Ok(tree),
                None => Err(Failure::cancelled()),
            },
            () = self.stop.cancelled() => Err(Failure::cancelled()),
        }
    }

    async fn stack(&self, tree: plan::Tree) -> Outcome<(Stack, i64)> {
        match self.made(tree).await? {
            Tree::Stack(stack, time) => Ok((stack, time)),
            Tree::Folder(context) => Ok((self.layer_of_folder(&context).await?, id::now())),
        }
    }

    /// Files of a tree.
    pub(super) async fn look(&self, made: &Tree) -> Result<Arc<Files>> {
        let (images, made) = (self.engine.images.clone(), made.clone());
        blocking(move || look(&images, &made)).await
    }

    async fn step(self: &Arc<Self>, number: usize) -> Outcome<(Tree, Option<Keeping>)> {
        let plan = self.plan.get().ok_or_else(Failure::cancelled)?;
        let step = &plan.steps[number];
        for need in step.action.needs() {
            self.made(Some(need)).await?;
        }
        let made = match &step.action {
            Action::Image { id, .. } => self.image(&step.name, id).await.map(|tree| (tree, None)),
            Action::Context { name } => self
                .context(&step.name, name, plan)
                .await
                .map(|tree| (tree, None)),
            _ => self.cached_or_made(step).await,
        };
        made.map_err(|failure| Failure {
            lines: failure.lines.or(Some(step.lines)),
            ..failure
        })
    }

    async fn image(&self, name: &str, image: &str) -> Outcome<Tree> {
        let begun = self.reporter.begin(name).await;
        let (images, image) = (self.engine.images.clone(), image.to_owned());
        let stack = blocking(move || {
            let id: Digest = image.parse().map_err(|_| Error::NoSuchImage(image.clone()))?;
            images.stack(&id).map_err(|error| Error::image(&image, error))
        });
        match stack.await {
            Ok(stack) => {
                begun.done().await;
                Ok(Tree::Stack(stack, 0))
            }
            Err(error) => {
                begun.failed(error.chain()).await;
                Err(error.into())
            }
        }
    }

    async fn context(&self, shown: &str, name: &str, plan: &Plan) -> Outcome<Tree> {
        let begun = self.reporter.begin(shown).await;
        let dir = self
            .dir
            .join(format!("context-{}", Digest::of(name.as_bytes()).short()));
        let paths = plan.context_paths.get(name).cloned().unwrap_or_default();
        let taken = if name.is_empty() && self.start.no_context {
            blocking(move || Context::empty(dir))
                .await
                .map(|context| (context, 0))
        } else {
            let chunks = self.incoming.expect(name);
            self.reporter
                .need(name.to_owned(), paths.into_iter().collect())
                .await;
            Context::extract(chunks, dir).await
        };
        match taken {
            Ok((context, bytes)) => {
                begun.status("transferring context:", bytes, true).await;
                begun.done().await;
                Ok(Tree::Folder(Arc::new(context)))
            }
            Err(_) if self.stop.is_cancelled() => Err(Failure::cancelled()),
            Err(error) => {
                begun.failed(error.chain()).await;
                Err(error.into())
            }
        }
    }

    /// A step's result from the cache, or made and kept.
    async fn cached_or_made(self: &Arc<Self>, step: &plan::Step) -> Outcome<(Tree, Option<Keeping>)> {
        let base = match &step.action {
            Action::Run(run) => run.base,
            Action::Copy(copy) => copy.base,
            Action::Folder { base, .. } => *base,
            Action::Image { .. } | Action::Context { .. } => None,
        };
        let (base, _) = self.stack(base).await?;
        let begun = self.reporter.begin(&step.name).await;
        let made = self.look_up(step, &base, &begun).await;
        match &made {
            Ok((_, _, true)) => begun.cached().await,
            Ok(_) => begun.done().await,
            Err(failure) if failure.is_cancelled => begun.failed("CANCELED".into()).await,
            Err(failure) => begun.failed(failure.message.clone()).await,
        }
        made.map(|(tree, keeping, _)| (tree, keeping))
    }

    async fn look_up(
        self: &Arc<Self>,
        step: &plan::Step,
        base: &Stack,
        begun: &Begun,
    ) -> Outcome<(Tree, Option<Keeping>, bool)> {
        let key = match &step.action {
            Action::Run(run) => self.key_of_run(run, base).await?,
            Action::Copy(copy) => return self.copy_step(step, copy, base, begun).await,
            Action::Folder { path, user, .. } => {
                self.key(&format!("folder.v1\0{:?}\0{path}\0{user}", base.chain()))
            }
            Action::Image { .. } | Action::Context { .. } => return Err(Failure::cancelled()),
        };
        if let Some(found) = self.find(step, &key, base.layers().len()).await? {
            return Ok((found, None, true));
        }
        let stack = match &step.action {
            Action::Run(run) => self.run(run, base, begun).await?,
            Action::Folder { path, user, .. } => self.make_folder(path, user, base).await?,
            _ => return Err(Failure::cancelled()),
        };
        let (tree, keeping) = self.keep(step, key, stack, base.layers().len());
        Ok((tree, Some(keeping), false))
    }

    /// A key; two builds with different `SOURCE_DATE_EPOCH` have different layers.
    pub(super) fn key(&self, text: &str) -> String {
        Digest::of(format!("{text}\0{:?}", self.epoch()).as_bytes()).hex()
    }

    /// A result that is kept. `below`: how many layers the step begins with.
    pub(super) async fn find(&self, step: &plan::Step, key: &str, below: usize) -> Outcome<Option<Tree>> {
        if step.no_cache {
            return Ok(None);
        }
        let (engine, looked) = (self.engine.clone(), key.to_owned());
        let found = blocking(move || Ok(engine.build_cache.find(&engine.images, &looked))).await?;
        let Some((stack, created_at)) = found else {
            return Ok(None);
        };
        let made = Made {
            description: step.name.clone(),
            created_at,
            below,
        };
        self.results.remember(key, &stack, &made);
        Ok(Some(Tree::Stack(stack, created_at)))
    }

    /// Keeps a result in the background.
    pub(super) fn keep(&self, step: &plan::Step, key: String, stack: Stack, below: usize) -> (Tree, Keeping) {
        let made = Made {
            description: step.name.clone(),
            created_at: id::now(),
            below,
        };
        let tree = Tree::Stack(stack.clone(), made.created_at);
        self.results.remember(&key, &stack, &made);
        let engine = self.engine.clone();
        let keeping = tokio::spawn(blocking(move || {
            engine.build_cache.keep(&engine.images, &key, &stack, &made)
        }));
        (tree, keeping)
    }

    async fn key_of_run(&self, run: &Run, base: &Stack) -> Outcome<String> {
        let mut mounts = String::new();
        for mount in &run.mounts {
            let what = match &mount.what {
                MountOf::Bind {
                    tree,
                    source,
                    read_only,
                } => {
                    let files = self.look(&self.made(*tree).await?).await?;
                    let path = source.clone();
                    let digest = blocking(move || digest_below(&files, &path)).await?;
                    format!("bind {digest} {read_only}")
                }
                MountOf::Cache {
                    id,
                    sharing,
                    read_only,
                    source,
                    rights,
                    ..
                } => {
                    let sharing = match sharing {
                        Sharing::Shared => "shared",
                        Sharing::Private => "private",
                        Sharing::Locked => "locked",
                    };
                    format!("cache {id:?} {sharing} {read_only} {source:?} {rights:?}")
                }
                MountOf::Tmpfs { size } => format!("tmpfs {size}"),
                // What is in them is nobody's business, and does not change the key.
                MountOf::Secret { id, env, rights, .. } => format!("secret {id:?} {env:?} {rights:?}"),
                MountOf::Ssh { id, rights, .. } => format!("ssh {id:?} {rights:?}"),
                MountOf::Script { name, data } => format!("script {name:?} {data:?}"),
            };
            mounts.push_str(&format!("{:?} {what}\n", mount.target));
        }
        let text = format!(
            "run.v1\0{:?}\0{:?}\0{:?}\0{:?}\0{:?}\0{mounts}\0{:?} {} {:?}",
            base.chain(),
            run.args,
            run.env,
            run.dir,
            run.user,
            run.network,
            run.is_insecure,
            self.start.hosts,
        );
        Ok(self.key(&text))
    }
}

fn look(images: &ImageStore, made: &Tree) -> Result<Arc<Files>> {
    let files = match made {
        Tree::Stack(stack, _) => images.tree(stack),
        Tree::Folder(context) => Files::folder(context.path()),
    };
    files.map(Arc::new).map_err(Error::Image)
}
