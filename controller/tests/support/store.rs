//! Where the managers of a test keep their log: themselves, or in an etcd when the tests are compiled into the binary `etcd`.
//!
//! One etcd serves each file of tests, each cluster has a prefix of its own, named in a file of each host's folder.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pontoon_controller::ExternalStore;

const FILE: &str = "store";
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// For a new cluster.
pub fn choose(dir: &Path) {
    if is_external() {
        let n = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        std::fs::write(dir.join(FILE), format!("{}/t{n}", *SERVER)).unwrap();
    }
}

/// True when the tests run on etcd.
pub fn is_external() -> bool {
    env!("CARGO_CRATE_NAME") == "etcd"
}

/// For a new cluster in another etcd.
pub fn set(dir: &Path, store: &str) {
    std::fs::write(dir.join(FILE), store).unwrap();
}

/// For a further manager.
pub fn share(from: &Path, to: &Path) {
    if let Ok(store) = std::fs::read(from.join(FILE)) {
        std::fs::write(to.join(FILE), store).unwrap();
    }
}

pub fn of(dir: &Path) -> Option<ExternalStore> {
    let store = std::fs::read_to_string(dir.join(FILE)).ok()?;
    Some(ExternalStore::parse(&store, &["lease=2s".to_owned()]).unwrap())
}

/// The server's address. It is killed when the thread that started it ends, and that lives as long as the process.
static SERVER: LazyLock<String> = LazyLock::new(|| {
    let (started, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Nobody is left to remove it when the process ends; the next one does.
        let dir = format!(
            "{}/{}",
            env!("CARGO_TARGET_TMPDIR"),
            module_path!().replace("::", "-")
        );
        let _ = std::fs::remove_dir_all(&dir);
        let port = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let (client, peer) = (
            format!("http://127.0.0.1:{}", port()),
            format!("http://127.0.0.1:{}", port()),
        );
        let mut server = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "/usr/bin/etcd", "--data-dir", &dir])
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start etcd (Debian's package etcd-server)");
        started.send(client.replace("http", "etcd")).unwrap();
        let _ = server.wait();
    });
    address.recv().unwrap()
});
