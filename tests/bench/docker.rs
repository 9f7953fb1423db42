//! Private Docker engines on the fleet's switch: the peer. Each is a dockerd with its own containerd in its own network, mount,
//! UTS and PID namespace, with its state below the fleet's folder and everything it runs below the fleet's control group, so it
//! goes away with the fleet. The machine's own Docker is never touched. Used by figures that quote a ratio to Docker.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pontoon_tests::{Fleet, cgroups, process, wait_until, wire};
use serde_json::Value;

/// Host numbers of engines, beside the fleet's own.
const FIRST: usize = 11;

/// In the control group before the namespaces, so that all of the engine can be found and killed there.
const ENTER: &str = "echo $$ >\"$1/cgroup.procs\" && shift && exec \"$@\"";

/// Pid 1 of an engine's namespace; it reaps what containers leave behind. `$1` name, `$2` folder, `$3` control group.
const BOOT: &str = r#"
set -e
echo "$1" >/proc/sys/kernel/hostname
mount --make-rprivate /
# Nothing answers behind the switch: looking for a registry shall fail at once and not by time-outs.
ip route del default 2>/dev/null || true
for own in /etc/docker /var/lib/docker; do
    [ ! -d $own ] || mount --bind "$2/empty" $own
done
mount --bind "$2/run" /run
mkdir -p /run/docker /run/containerd
ulimit -n "$(ulimit -Hn)"
cd /
containerd --config /dev/null --root "$2/containerd" --state /run/containerd \
    --address /run/containerd/containerd.sock --log-level warn >"$2/containerd.log" 2>&1 &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.02; done
dockerd --data-root "$2/data" -H unix:///run/docker.sock --containerd /run/containerd/containerd.sock \
    --insecure-registry 192.168.77.0/24 --cgroup-parent "$3" >"$2/dockerd.log" 2>&1 &
while :; do sleep 3600 & wait $!; done
"#;

/// One engine.
#[derive(Debug)]
pub struct Engine {
    folder: PathBuf,
    group: String,
    address: String,
    client: PathBuf,
    number: usize,
    namespace: PathBuf,
    child: Mutex<Option<Child>>,
}

/// The version of the Docker engine that is installed, when there is one that can be started here.
pub fn installed() -> Option<String> {
    let found = |program: &str| {
        ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/local/sbin"]
            .iter()
            .any(|folder| Path::new(folder).join(program).is_file())
    };
    let complete = ["dockerd", "containerd", "docker"].iter().all(|name| found(name));
    let version = crate::report::first_line("dockerd", &["--version"]);
    (complete && !version.is_empty()).then_some(version)
}

/// Starts `count` engines beside the fleet's hosts and loads an image archive into each.
///
/// # Errors
/// When one does not start, with its log.
pub fn start(fleet: &Fleet, count: usize, image: &Path) -> Result<Vec<Engine>> {
    let engines = start_empty(fleet, count)?;
    for engine in &engines {
        engine.docker(&["load", "--quiet", "--input", &image.display().to_string()])?;
    }
    Ok(engines)
}

/// Starts `count` engines without images beside the fleet's hosts. They take registries on the switch as insecure.
///
/// # Errors
/// When one does not start, with its log.
pub fn start_empty(fleet: &Fleet, count: usize) -> Result<Vec<Engine>> {
    (FIRST..FIRST + count)
        .map(|number| Engine::start(fleet, number))
        .collect()
}

impl Engine {
    fn start(fleet: &Fleet, number: usize) -> Result<Self> {
        let folder = fleet.folder().join(format!("docker{number}"));
        for part in ["run", "empty", "data", "containerd"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        fleet.wire().add_host(number)?;
        let parent = fleet.host(1).group().trim_end_matches("/h1").to_owned();
        let group = format!("{parent}/docker{number}");
        let engine = Self {
            address: wire::address(number),
            client: client(),
            number,
            namespace: wire::path(&fleet.wire().host(number)),
            group,
            folder,
            child: Mutex::new(None),
        };
        engine.power_on()?;
        Ok(engine)
    }

    /// Starts it, after [`Engine::power_off`] again, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start, with its log.
    pub fn power_on(&self) -> Result<()> {
        // What a boot of the machine would have emptied.
        let run = self.folder.join("run");
        fs::remove_dir_all(&run).with_context(|| format!("cannot empty {}", run.display()))?;
        fs::create_dir_all(&run).with_context(|| format!("cannot make {}", run.display()))?;
        let mut command = wire::enter(&self.namespace);
        command
            .args(["sh", "-c", ENTER, "sh"])
            .arg(cgroups::home(&format!("{}/engine", self.group))?)
            .args([
                "unshare",
                "--mount",
                "--uts",
                "--pid",
                "--fork",
                "--mount-proc",
                "--kill-child",
            ])
            .args(["sh", "-c", BOOT, "sh", &format!("docker{}", self.number)])
            .arg(&self.folder)
            .arg(&self.group)
            .stdin(Stdio::null())
            .stdout(fs::File::create(self.folder.join("boot.log")).context("cannot make a log")?)
            .stderr(fs::File::create(self.folder.join("boot.err")).context("cannot make a log")?);
        *self.child() = Some(command.spawn().context("cannot start a Docker engine")?);
        wait_until("the Docker engine answers", Duration::from_secs(60), || {
            self.get("/_ping").map(drop)
        })
        .with_context(|| self.log())
    }

    /// Ends everything that runs on it at once: daemons, what keeps containers, and containers.
    ///
    /// # Errors
    /// When something stays alive.
    pub fn power_off(&self) -> Result<()> {
        cgroups::kill_all(&self.group)?;
        if let Some(mut child) = self.child().take() {
            process::end(&mut child, pontoon_tests::SHORT)?;
        }
        Ok(())
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its address on the switch.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The control group that holds everything it runs.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// A `docker` command against this engine.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT")
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args(arguments);
        command
    }

    /// Runs a `docker` command that must succeed.
    ///
    /// # Errors
    /// When it fails.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        process::run(self.command(arguments))?.ok()
    }

    /// Asks the engine's API: polling by the command line would cost the machine more than the engine's own work.
    ///
    /// # Errors
    /// When there is no answer or it is not 200.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.socket()).context("cannot connect to the Docker engine")?;
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .context("cannot set a deadline")?;
        // HTTP/1.0: the answer ends with the connection and is not chunked.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n")
            .context("cannot ask the Docker engine")?;
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .context("cannot read the Docker engine's answer")?;
        let answer = String::from_utf8_lossy(&answer);
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            bail!("the Docker engine answered {answer:?}");
        };
        ensure!(head.contains(" 200 "), "GET {path}: {answer}");
        Ok(body.to_owned())
    }

    /// How many containers it has; `all`: ended ones too.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub fn containers(&self, all: bool) -> Result<usize> {
        let body: Value = serde_json::from_str(&self.get(&format!("/containers/json?all={all}"))?)?;
        Ok(body.as_array().map_or(0, Vec::len))
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("run/docker.sock")
    }

    fn log(&self) -> String {
        let mut said = String::new();
        for name in ["boot.err", "containerd.log", "dockerd.log"] {
            let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            said.push_str(&lines[lines.len().saturating_sub(15)..].join("\n"));
        }
        said
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // `unshare --kill-child` takes pid 1 of the namespace with it, and the kernel everything below that.
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The hostname of engine `number`, from 1.
pub fn hostname(number: usize) -> String {
    format!("docker{}", FIRST + number - 1)
}

/// Makes a Swarm: the first `managers` engines as managers, the others as workers.
///
/// # Errors
/// When one can't join.
pub fn swarm(engines: &[Engine], managers: usize) -> Result<()> {
    let Some((first, others)) = engines.split_first() else {
        return Ok(());
    };
    let at = |engine: &Engine| format!("{}:2377", engine.address());
    first.docker(&[
        "swarm",
        "init",
        "--advertise-addr",
        first.address(),
        "--listen-addr",
        &at(first),
    ])?;
    for (index, engine) in others.iter().enumerate() {
        let role = if index + 1 < managers { "manager" } else { "worker" };
        let token = first.docker(&["swarm", "join-token", "--quiet", role])?;
        let (address, listen) = (engine.address(), at(engine));
        engine.docker(&[
            "swarm",
            "join",
            "--advertise-addr",
            address,
            "--listen-addr",
            &listen,
            "--token",
            token.trim(),
            &at(first),
        ])?;
    }
    Ok(())
}

/// Debian's client before another one that may be first in the path.
fn client() -> PathBuf {
    let debian = Path::new("/usr/bin/docker");
    if debian.is_file() {
        debian.to_owned()
    } else {
        PathBuf::from("docker")
    }
}
