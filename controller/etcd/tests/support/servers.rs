//! Processes of Debian's etcd: one or several members, killed, restarted, with TLS. All of it in a temporary folder and on
//! loopback; ended with the value.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pontoon_etcd::EtcdConfig;
use tempfile::TempDir;

/// Members of one etcd cluster.
pub struct Servers {
    dir: TempDir,
    members: Vec<Server>,
    extra: Vec<String>,
    scheme: &'static str,
}

struct Server {
    name: String,
    client: u16,
    peer: u16,
    process: Option<Child>,
}

/// A port that nobody has at this moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Servers {
    /// Starts `count` members, without TLS.
    pub async fn start(count: usize) -> Self {
        Self::start_with(count, "http", &[]).await
    }

    /// Starts members with more arguments; `scheme` is what clients speak.
    pub async fn start_with(count: usize, scheme: &'static str, extra: &[String]) -> Self {
        let members = (0..count)
            .map(|n| Server {
                name: format!("e{n}"),
                client: free_port(),
                peer: free_port(),
                process: None,
            })
            .collect();
        let mut servers = Self {
            dir: TempDir::new().unwrap(),
            members,
            extra: extra.to_vec(),
            scheme,
        };
        for n in 0..count {
            servers.restart(n);
        }
        for n in 0..count {
            servers.wait(n).await;
        }
        servers
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn port(&self, n: usize) -> u16 {
        self.members[n].client
    }

    /// Starts a member that does not run, on its old data.
    pub fn restart(&mut self, n: usize) {
        let all: Vec<_> = self
            .members
            .iter()
            .map(|m| format!("{}=http://127.0.0.1:{}", m.name, m.peer))
            .collect();
        let member = &self.members[n];
        let data: PathBuf = self.dir.path().join(&member.name);
        let log = std::fs::File::create(self.dir.path().join(format!("{}.log", member.name))).unwrap();
        let client = format!("{}://127.0.0.1:{}", self.scheme, member.client);
        let peer = format!("http://127.0.0.1:{}", member.peer);
        let process = Command::new("/usr/bin/etcd")
            .env_clear()
            .args(["--name", &member.name, "--data-dir"])
            .arg(data)
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
            .args([
                "--initial-cluster",
                &all.join(","),
                "--initial-cluster-token",
                "tests",
            ])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("start etcd (Debian's package etcd-server)");
        self.members[n].process = Some(process);
    }

    /// Waits until a member takes connections.
    pub async fn wait(&self, n: usize) {
        let port = self.port(n);
        for _ in 0..3000 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let log = std::fs::read_to_string(self.dir.path().join(format!("{}.log", self.members[n].name)));
        panic!("etcd does not start: {}", log.unwrap_or_default());
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, n: usize) {
        if let Some(mut process) = self.members[n].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Settings that reach all members.
    pub fn config(&self) -> EtcdConfig {
        let hosts: Vec<_> = self
            .members
            .iter()
            .map(|m| format!("127.0.0.1:{}", m.client))
            .collect();
        let mut config = EtcdConfig::parse(&format!("etcd://{}", hosts.join(",")), &[]).unwrap();
        config.lease = Duration::from_secs(2);
        config
    }

    /// Settings for one other address, a proxy's.
    pub fn config_at(&self, port: u16) -> EtcdConfig {
        EtcdConfig {
            endpoints: vec![format!("127.0.0.1:{port}")],
            ..self.config()
        }
    }

    /// A client of its own, to look at keys and to meddle.
    pub async fn client(&self) -> etcd_client::Client {
        let hosts: Vec<_> = self
            .members
            .iter()
            .map(|m| format!("127.0.0.1:{}", m.client))
            .collect();
        etcd_client::Client::connect(hosts, None).await.unwrap()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for n in 0..self.members.len() {
            self.kill(n);
        }
    }
}
