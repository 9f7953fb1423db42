//! `top`: a container's processes as ps(1) of the host lists them (moby `daemon/top_unix.go`). On a host without `ps` the default
//! listing is made from `/proc`.

use std::collections::BTreeSet;
use std::sync::Arc;

use pontoon_proto::v1::{ContainerState, TopContainerResponse, TopProcess};
use pontoon_runtime::cgroup::{Cgroup, Hierarchies};
use tokio::process::Command;

use super::record::has_process;
use super::{Container, procfs};
use crate::engine::blocking;
use crate::event::ContainerEventKind;
use crate::{Engine, Error, Result};

impl Engine {
    /// Lists the processes of a running container; `options` are those of ps(1), none: `-ef`.
    ///
    /// # Errors
    /// The container does not run, or what `ps` says about its options.
    pub async fn top(self: &Arc<Self>, target: &str, options: &[String]) -> Result<TopContainerResponse> {
        let container = self.containers.find(target)?;
        let joined = options.join(" ");
        let options = if joined.trim().is_empty() {
            "-ef"
        } else {
            joined.as_str()
        };
        check_options(options)?;
        match container.state() {
            ContainerState::Restarting => {
                return Err(Error::Conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            state if !has_process(state) => {
                return Err(Error::Conflict(format!(
                    "Container {} is not running",
                    container.id
                )));
            }
            _ => {}
        }
        let pids = self.processes(&container).await?;
        let listing = match list(options, &pids).await? {
            Some(output) => parse(&output, &pids)?,
            None if options == "-ef" => blocking(move || Ok(from_proc(&pids))).await?,
            None => {
                return Err(Error::Invalid(format!(
                    "ps: command not found on this host: options ({options}) can't be honoured, use none"
                )));
            }
        };
        self.emit(&container.id, ContainerEventKind::Top);
        Ok(listing)
    }

    /// The processes in a container's cgroup.
    pub(crate) async fn processes(&self, container: &Container) -> Result<BTreeSet<u32>> {
        let cgroup = self.cgroup(&container.id);
        let id = container.id.clone();
        blocking(move || {
            let found = Hierarchies::detect().and_then(|all| Cgroup::find(&all, &cgroup)?.processes());
            found
                .map(|pids| pids.into_iter().collect())
                .map_err(|error| Error::runtime(format!("list the processes of container {id}"), error))
        })
        .await
    }
}

/// A column that only pretends to be the pid would let the caller see processes of others (moby's `validatePSArgs`).
fn check_options(options: &str) -> Result<()> {
    let mut options = options.to_owned();
    while options.contains("= ") {
        options = options.replace("= ", "=");
    }
    for word in options.split_ascii_whitespace().skip(1) {
        if let Some((name, value)) = word.rsplit_once('=')
            && value.starts_with("PID")
            && name != "pid"
        {
            return Err(Error::Invalid(format!(
                "specifying \"{name}={value}\" is not allowed"
            )));
        }
    }
    Ok(())
}

/// What `ps` prints; `None` if the host has none.
async fn list(options: &str, pids: &BTreeSet<u32>) -> Result<Option<String>> {
    let words: Vec<&str> = options.split(' ').collect();
    let listed: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let only = format!("-q{}", listed.join(","));
    let mut said = String::new();
    // Some options, such as f, can't be combined with -q.
    for extra in [Some(&only), None] {
        let mut command = Command::new("ps");
        command.args(&words).args(extra).kill_on_drop(true);
        match command.output().await {
            Ok(output) if output.status.success() => {
                return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
            }
            Ok(output) => {
                let errors = String::from_utf8_lossy(&output.stderr);
                said = match errors.lines().next().filter(|line| !line.is_empty()) {
                    Some(line) => format!("ps: {line}"),
                    None => format!("ps: {}", output.status),
                };
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Io {
                    what: "run ps".to_owned(),
                    source,
                });
            }
        }
    }
    Err(Error::Invalid(said))
}

/// Picks the container's processes out of ps's listing. Threads, which `m` prints below their process with `-` for a
/// pid, go with it.
fn parse(output: &str, pids: &BTreeSet<u32>) -> Result<TopContainerResponse> {
    let mut lines = output.lines();
    let fields = |line: &str| -> Vec<String> { line.split_ascii_whitespace().map(str::to_owned).collect() };
    let titles = fields(lines.next().unwrap_or_default());
    let column = titles
        .iter()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::Invalid("Couldn't find PID field in ps output".to_owned()))?;
    let mut processes = Vec::new();
    let mut is_ours = false;
    for line in lines.filter(|line| !line.is_empty()) {
        let values = fields(line);
        let pid = values.get(column).map_or("-", String::as_str);
        if pid != "-" {
            let pid: u32 = pid
                .parse()
                .map_err(|error| Error::Invalid(format!("Unexpected pid '{pid}': {error}")))?;
            is_ours = pids.contains(&pid);
        }
        if is_ours {
            processes.push(TopProcess {
                values: fit(values, titles.len()),
            });
        }
    }
    Ok(TopContainerResponse { titles, processes })
}

/// Joins what hangs over into the last column, a command with its arguments.
fn fit(mut values: Vec<String>, columns: usize) -> Vec<String> {
    if values.len() > columns && columns > 0 {
        let last = values.split_off(columns - 1).join(" ");
        values.push(last);
    }
    values
}

/// `ps -ef` from `/proc`.
fn from_proc(pids: &BTreeSet<u32>) -> TopContainerResponse {
    let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
    let processes = pids
        .iter()
        .filter_map(|&pid| procfs::Process::read(pid))
        .map(|process| TopProcess {
            values: process.full_listing(),
        })
        .collect();
    TopContainerResponse {
        titles: titles.map(str::to_owned).to_vec(),
        processes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_picked_by_pid() {
        let output = "UID  PID CMD\nroot 7 sleep 1000\nroot 8 other\nroot 9 sh -c a b\nroot - -\n";
        let listing = parse(output, &BTreeSet::from([7, 9])).unwrap();
        let rows: Vec<_> = listing
            .processes
            .iter()
            .map(|process| process.values.join("|"))
            .collect();
        assert_eq!(rows, ["root|7|sleep 1000", "root|9|sh -c a b", "root|-|-"]);
        assert_eq!(
            parse("COMMAND\nsleep\n", &BTreeSet::new())
                .unwrap_err()
                .to_string(),
            "Couldn't find PID field in ps output"
        );
        assert!(parse("PID\nx\n", &BTreeSet::new()).is_err());
    }

    #[test]
    fn a_false_pid_column_is_refused() {
        assert!(check_options("-o pid,comm").is_ok());
        assert!(check_options("-o pid=PID").is_ok());
        assert_eq!(
            check_options("-o ppid=PID").unwrap_err().to_string(),
            "specifying \"ppid=PID\" is not allowed"
        );
    }

    #[test]
    fn proc_has_the_default_listing() {
        let own = std::process::id();
        let listing = from_proc(&BTreeSet::from([own]));
        let values = &listing.processes[0].values;
        assert_eq!(values.len(), listing.titles.len());
        assert_eq!(values[1], own.to_string());
        assert!(values[7].contains("pontoon"), "{values:?}");
    }
}
