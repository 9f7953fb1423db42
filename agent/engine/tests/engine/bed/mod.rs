//! A host for one case: folders, a cgroup parent, an engine, a busybox image; at its end the check that nothing is left. The
//! agent's suite has its beds from here too.

#![allow(dead_code)]

mod image;
mod requests;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pontoon_engine::{Engine, EngineConfig, Error, LoadUpdate, StdStream, StdioEvent, StdioSession};
use pontoon_image::{Reference, scratch};
use pontoon_proto::v1::{Container, CreateContainerRequest, ExecStart, WaitCondition};

pub use image::image;
#[allow(unused_imports)]
pub use requests::{all, all_logs, all_streams, command, filters, is_running, mount, named, sh, stop, with};

pub const BUSYBOX: &str = "/bin/busybox";
pub const IMAGE: &str = "busybox";

/// How long any single expectation may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Names a list of cases.
#[allow(unused_macros)]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub fn cases() -> Vec<(&'static str, crate::Case)> {
            vec![$((stringify!($name), (|| Box::pin($name())) as crate::Case)),*]
        }
    };
}
#[allow(unused_imports)]
pub(crate) use cases;

/// Runs a program that has to succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The engine of the moment: between two daemons there is none.
pub struct Slot(Option<Arc<Engine>>);

impl std::ops::Deref for Slot {
    type Target = Arc<Engine>;

    fn deref(&self) -> &Arc<Engine> {
        self.0.as_ref().unwrap()
    }
}

/// The storage driver of all beds of this process, when a case asks for another than the product's.
pub static STORAGE: std::sync::OnceLock<Storage> = std::sync::OnceLock::new();

/// See [`STORAGE`].
pub struct Storage {
    pub driver: &'static str,
    /// Where beds have their data; none: as always.
    pub folder: Option<PathBuf>,
}

pub struct Bed {
    pub engine: Slot,
    config: EngineConfig,
    temp: tempfile::TempDir,
}

impl Bed {
    pub async fn new() -> Self {
        Self::configured(|_| {}).await
    }

    /// With other settings than the product's.
    pub async fn configured(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let tag = temp
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .replace('.', "");
        let mut config = EngineConfig::new(temp.path().join("data"), temp.path().join("run"));
        config.cgroup_parent = crate::group::Group::mine().of_bed(&tag);
        config.resolv_conf = temp.path().join("resolv.conf");
        std::fs::write(&config.resolv_conf, "nameserver 192.0.2.53\nsearch example.org\n").unwrap();
        if let Some(storage) = STORAGE.get() {
            config.storage.driver = storage.driver.to_owned();
            if let Some(folder) = &storage.folder {
                config.data_dir = folder.join(&tag);
            }
        }
        change(&mut config);
        let engine = Engine::open(config.clone()).await.unwrap();
        let bed = Self {
            engine: Slot(Some(engine)),
            config,
            temp,
        };
        bed.load().await;
        bed
    }

    /// As a daemon that is stopped and started again.
    pub async fn reopen(&mut self) {
        self.reopen_with(|_| {}).await.unwrap();
    }

    /// The same with other settings. It is stopped when they are refused.
    pub async fn reopen_with(&mut self, change: impl FnOnce(&mut EngineConfig)) -> Result<(), Error> {
        if let Some(engine) = self.engine.0.take() {
            engine.shutdown().await;
        }
        change(&mut self.config);
        self.engine.0 = Some(Engine::open(self.config.clone()).await?);
        Ok(())
    }

    pub fn path(&self) -> PathBuf {
        self.temp.path().to_owned()
    }

    async fn load(&self) {
        self.load_image(image(), "busybox:latest").await;
    }

    /// Loads another image.
    pub async fn load_image(&self, image: scratch::Builder, name: &str) {
        let mut archive = Vec::new();
        image
            .write(&[Reference::parse(name).unwrap()], &mut archive)
            .unwrap();
        let (sender, mut updates) = self.engine.load_images();
        sender.send(Ok(archive.into())).await.unwrap();
        drop(sender);
        let mut loaded = 0;
        while let Some(update) = updates.recv().await {
            match update {
                LoadUpdate::Loaded(image) => loaded += image.references.len(),
                LoadUpdate::Failed(error) => panic!("{}", error.chain()),
                LoadUpdate::Event(_) => {}
            }
        }
        assert_eq!(loaded, 1);
    }

    pub async fn create(&self, request: CreateContainerRequest) -> String {
        self.engine
            .create(request)
            .await
            .map_err(|e| e.chain())
            .unwrap()
            .id
    }

    /// Creates and starts.
    pub async fn start(&self, request: CreateContainerRequest) -> String {
        let id = self.create(request).await;
        self.engine.start(&id).await.map_err(|e| e.chain()).unwrap();
        id
    }

    pub async fn wait(&self, id: &str) -> i32 {
        let wait = self.engine.wait(id, WaitCondition::NotRunning);
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the container ends")
            .unwrap()
            .exit_code
    }

    /// Runs to the end: exit code and standard output and error.
    pub async fn run(&self, request: CreateContainerRequest) -> (i32, String, String) {
        let id = self.create(request).await;
        let session = self.engine.attach(&id, all_streams(), false).await.unwrap();
        self.engine.start(&id).await.map_err(|e| e.chain()).unwrap();
        let (out, err, _) = collect(session).await;
        let code = self.wait(&id).await;
        self.engine.remove(&id, true).await.unwrap();
        (code, out, err)
    }

    /// What a container that has to succeed prints.
    pub async fn output(&self, request: CreateContainerRequest) -> String {
        let (code, out, err) = self.run(request).await;
        assert_eq!(code, 0, "{out}{err}");
        out
    }

    /// Why a container is not created.
    pub async fn refused(&self, request: CreateContainerRequest) -> String {
        self.engine.create(request).await.unwrap_err().chain()
    }

    /// What a command prints in a running container, on both streams.
    pub async fn exec(&self, target: &str, words: &[&str]) -> String {
        let start = ExecStart {
            target: target.to_owned(),
            command: words.iter().map(ToString::to_string).collect(),
            ..ExecStart::default()
        };
        let (out, err, _) = collect(self.engine.exec(start).await.unwrap()).await;
        out + &err
    }

    pub fn inspect(&self, id: &str) -> Container {
        self.engine.inspect(id).unwrap()
    }

    pub async fn log(&self, id: &str) -> String {
        let mut entries = self.engine.logs(&all_logs(id)).unwrap();
        let mut text = String::new();
        while let Some(entry) = entries.recv().await {
            text.push_str(&String::from_utf8_lossy(&entry.unwrap().line));
        }
        text
    }

    /// Waits until a container looks as expected.
    pub async fn until(&self, id: &str, what: &str, test: impl Fn(&Container) -> bool) -> Container {
        eventually(what, || async {
            let view = self.engine.inspect(id).ok()?;
            test(&view).then_some(view)
        })
        .await
    }

    /// Everything is removed: nothing of ours may be left anywhere.
    pub async fn finish(self) {
        for container in self.engine.list(&all()).await.unwrap() {
            match self.engine.remove(&container.id, true).await {
                Ok(()) | Err(Error::NoSuchContainer(_)) => {}
                Err(error) => panic!("{}", error.chain()),
            }
        }
        self.assert_empty().await;
        self.engine.shutdown().await;
        // Ends netd; the namespace goes with the process.
        self.engine.network().shutdown_all().await.unwrap();
        for entry in walk_cgroups(&self.config.cgroup_parent) {
            std::fs::remove_dir(entry).ok();
        }
    }

    /// No folder, mount, cgroup or namespace of a container is left.
    pub async fn assert_empty(&self) {
        let left = || {
            let mut left = Vec::new();
            for dir in ["data/engine/containers", "run/shim", "run/netns"] {
                if let Ok(entries) = std::fs::read_dir(self.temp.path().join(dir)) {
                    left.extend(entries.flatten().map(|entry| entry.path().display().to_string()));
                }
            }
            let ids = self.engine.images().rootfs_ids().unwrap();
            left.extend(ids.into_iter().map(|id| format!("root file system {id}")));
            for parent in walk_cgroups(&self.config.cgroup_parent) {
                for entry in std::fs::read_dir(parent).unwrap().flatten() {
                    if entry.path().is_dir() {
                        left.push(entry.path().display().to_string());
                    }
                }
            }
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let prefix = self.temp.path().display().to_string();
            left.extend(
                mounts
                    .lines()
                    .filter(|line| line.contains(&prefix))
                    .map(str::to_owned),
            );
            left
        };
        eventually("nothing is left", || async {
            let left = left();
            if !left.is_empty() {
                eprintln!("still there: {left:#?}");
            }
            left.is_empty().then_some(())
        })
        .await;
    }
}

fn walk_cgroups(parent: &str) -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let mut candidates = vec![root.join(parent.trim_start_matches('/'))];
    if let Ok(entries) = std::fs::read_dir(&root) {
        candidates.extend(
            entries
                .flatten()
                .map(|e| e.path().join(parent.trim_start_matches('/'))),
        );
    }
    candidates.retain(|path| path.is_dir());
    candidates
}

/// Tries until it gives something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut test: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = test().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The next of a stream, or `None` at its end.
pub async fn next<T>(stream: &mut tokio::sync::mpsc::Receiver<T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, stream.recv())
        .await
        .expect("there is more to come, or the end")
}

/// Reads a session to its end: standard output, standard error, exit code if there is one.
pub async fn collect(mut session: StdioSession) -> (String, String, Option<i32>) {
    let (mut out, mut err, mut code) = (Vec::new(), Vec::new(), None);
    let read = async {
        while let Some(event) = session.output.recv().await {
            match event.unwrap() {
                StdioEvent::Output(StdStream::Stdout, bytes) => out.extend_from_slice(&bytes),
                StdioEvent::Output(StdStream::Stderr, bytes) => err.extend_from_slice(&bytes),
                StdioEvent::Exit(exit) => code = Some(exit),
            }
        }
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the streams end");
    (
        String::from_utf8_lossy(&out).into_owned(),
        String::from_utf8_lossy(&err).into_owned(),
        code,
    )
}
