//! Health checks: a command run inside the container at intervals, as Docker does it (moby `daemon/health.go`).
//!
//! STARTING until the first success (HEALTHY) or until the retries are used up (UNHEALTHY); failures in the start period do
//! not count. The verdict is in the container's record, its changes are events.

use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::v1::{ContainerSpec, ContainerState, ExecStart, HealthConfig, HealthResult, HealthState};
use pontoon_runtime::ShimClient;
use tokio_util::sync::CancellationToken;

use super::{Container, procfs};
use crate::engine::blocking;
use crate::event::ContainerEventKind;
use crate::stdio::Started;
use crate::{Engine, Error, Result, id, signal};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Results kept.
const RESULTS: usize = 5;
/// How often the processes of a check that takes too long are looked for.
const FAMILY_ROUNDS: usize = 4;
/// Bytes kept of a check's output.
const OUTPUT: usize = 4096;
/// Shell of `CMD-SHELL` checks.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// True if the container has a check that is not switched off.
pub(crate) fn is_enabled(config: &ContainerSpec) -> bool {
    config
        .healthcheck
        .as_ref()
        .is_some_and(|check| command(check).is_some())
}

fn command(check: &HealthConfig) -> Option<Vec<String>> {
    match check.test.split_first() {
        Some((kind, words)) if kind == "CMD" && !words.is_empty() => Some(words.to_vec()),
        Some((kind, words)) if kind == "CMD-SHELL" && !words.is_empty() => Some(
            SHELL
                .iter()
                .map(ToString::to_string)
                .chain(words.iter().cloned())
                .collect(),
        ),
        _ => None,
    }
}

/// Settings with Docker's defaults filled in.
struct Check {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Check {
    fn new(config: &HealthConfig) -> Option<Self> {
        let or = |nanoseconds: i64, default: Duration| match u64::try_from(nanoseconds) {
            Ok(set) if set > 0 => Duration::from_nanos(set),
            _ => default,
        };
        Some(Self {
            command: command(config)?,
            interval: or(config.interval, INTERVAL),
            timeout: or(config.timeout, TIMEOUT),
            start_period: or(config.start_period, Duration::ZERO),
            start_interval: or(config.start_interval, START_INTERVAL),
            retries: if config.retries == 0 {
                RETRIES
            } else {
                config.retries
            },
        })
    }
}

/// Begins to check a container that has just started or was found again.
pub(crate) fn spawn(engine: &Arc<Engine>, container: &Arc<Container>, shim: &ShimClient) {
    let config = container.read(|record| record.config());
    let Some(check) = config.healthcheck.as_ref().and_then(Check::new) else {
        return;
    };
    let cancelled = engine.stop.child_token();
    if let Some(previous) = container.live().health.replace(cancelled.clone()) {
        previous.cancel();
    }
    let (engine, container, shim) = (engine.clone(), container.clone(), shim.clone());
    let tasks = engine.tasks.clone();
    tasks.spawn(async move {
        let checks = run(&engine, &container, &shim, &check, &cancelled);
        cancelled.run_until_cancelled(checks).await;
    });
}

async fn run(
    engine: &Arc<Engine>,
    container: &Container,
    shim: &ShimClient,
    check: &Check,
    cancelled: &CancellationToken,
) {
    loop {
        let in_start_period = is_in_start_period(container, check, id::now());
        let state = container.watch().borrow().health;
        let pause = if in_start_period && state == HealthState::Starting {
            check.start_interval
        } else {
            check.interval
        };
        tokio::time::sleep(pause).await;
        // A frozen container can't be asked; the check goes on when it is thawed.
        let mut phase = container.watch();
        if phase
            .wait_for(|phase| phase.state != ContainerState::Paused)
            .await
            .is_err()
        {
            return;
        }
        let pauses = container.live().pauses;
        let start = id::now();
        let probed = probe(engine, container, shim, check).await;
        let was_frozen = container.live().pauses != pauses
            || container.state() == ContainerState::Paused
            || matches!(
                &probed,
                Err(Error::Runtime {
                    source: pontoon_runtime::Error::State { .. },
                    ..
                })
            );
        let (exit_code, output) = match probed {
            // Neither its silence nor its slowness says anything then.
            _ if was_frozen => continue,
            Ok(result) => result,
            Err(error) => (-1, error.chain()),
        };
        // The container's end interrupts its check, or lets none begin: that says nothing about its health. The check may be known to have
        // failed before the end is.
        let has_ended = exit_code != 0 && procfs::has_ended(container.read(|record| record.view().pid));
        if cancelled.is_cancelled() || has_ended || !container.is_alive() {
            return;
        }
        let result = HealthResult {
            start,
            end: id::now(),
            exit_code,
            output,
        };
        record(engine, container, check, result);
    }
}

fn is_in_start_period(container: &Container, check: &Check, at: i64) -> bool {
    let since = at.saturating_sub(container.read(|record| record.view().started_at));
    u64::try_from(since).is_ok_and(|since| Duration::from_nanos(since) < check.start_period)
}

/// Runs the check once: exit code and the beginning of its output.
async fn probe(
    engine: &Arc<Engine>,
    container: &Container,
    shim: &ShimClient,
    check: &Check,
) -> Result<(i32, String)> {
    let start = ExecStart {
        command: check.command.clone(),
        ..ExecStart::default()
    };
    let Started {
        id: exec,
        mut process,
    } = engine.exec_process(container, shim, &start).await?;
    let mut output = Output::default();
    let attachment = process.attachment.take();
    let run = async {
        if let Some(attachment) = attachment {
            let (mut reader, _stdin) = attachment.split();
            while let Ok(Some((_, bytes))) = reader.next().await {
                output.add(&bytes);
            }
        }
        process.wait().await
    };
    let ended = tokio::time::timeout(check.timeout, run).await;
    let result = match ended {
        Ok(Ok(code)) => Ok((code, output.text())),
        Ok(Err(error)) => Err(Error::runtime("run the health check", error)),
        Err(_) => {
            end_probe(engine, container, shim, (&exec, process.pid)).await;
            let mut told = format!("Health check exceeded timeout ({})", text(check.timeout));
            if !output.bytes.is_empty() {
                told.push_str(": ");
                told.push_str(&output.text());
            }
            Ok((-1, told))
        }
    };
    container.live().execs.remove(&exec);
    let exit_code = result.as_ref().map_or(-1, |(code, _)| *code);
    engine.emit_for(container, ContainerEventKind::ExecDied { exec, exit_code });
    result
}

/// The beginning of a check's output.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    cut: bool,
}

impl Output {
    fn add(&mut self, bytes: &[u8]) {
        let room = OUTPUT.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.cut |= bytes.len() > room;
    }

    fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.cut {
            text.push_str("...");
        }
        text
    }
}

/// Kills a check that takes too long, with all that it has started: what survived would pile up with each round.
async fn end_probe(engine: &Arc<Engine>, container: &Container, shim: &ShimClient, (exec, pid): (&str, u32)) {
    // Its children are found by their parents, so before it dies; those made meanwhile by their session.
    for round in 0..FAMILY_ROUNDS {
        let family = match engine.processes(container).await {
            Ok(pids) => blocking(move || Ok(procfs::family(pid, &pids))).await,
            Err(error) => Err(error),
        };
        if round == 0
            && let Err(error) = shim.kill_exec(exec, signal::KILL).await
        {
            tracing::debug!(
                container = container.id,
                error = error.chain(),
                "could not end a health check"
            );
        }
        match family {
            Ok(family) if family.is_empty() => return,
            Ok(family) => family.iter().for_each(procfs::kill),
            Err(error) => {
                tracing::debug!(
                    container = container.id,
                    error = error.chain(),
                    "could not end a health check"
                );
                return;
            }
        }
    }
}

/// A duration as Go writes it: `30s`, `500ms`, `1h30m0s`.
fn text(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let fraction = |unit: u128, name: &str| {
        let rest = format!("{:0width$}", nanoseconds % unit, width = unit.ilog10() as usize);
        let rest = rest.trim_end_matches('0');
        let whole = nanoseconds / unit;
        if rest.is_empty() {
            format!("{whole}{name}")
        } else {
            format!("{whole}.{rest}{name}")
        }
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => fraction(1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(1_000_000, "ms"),
        _ => {
            let minutes = duration.as_secs() / 60;
            let seconds = Duration::from_secs(duration.as_secs() % 60)
                + Duration::from_nanos(u64::from(duration.subsec_nanos()));
            let rest = format!("{:09}", seconds.subsec_nanos());
            let rest = rest.trim_end_matches('0');
            let seconds = match rest {
                "" => format!("{}s", seconds.as_secs()),
                rest => format!("{}.{rest}s", seconds.as_secs()),
            };
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

fn record(engine: &Engine, container: &Container, check: &Check, result: HealthResult) {
    let in_start_period = is_in_start_period(container, check, result.start);
    let mut changed = None;
    let saved = container.update(|record| {
        let health = record.view_mut().health.get_or_insert_default();
        let before = health.state();
        if result.exit_code == 0 {
            health.failing_streak = 0;
            health.set_state(HealthState::Healthy);
        } else if !(in_start_period && before == HealthState::Starting) {
            health.failing_streak += 1;
            if health.failing_streak >= check.retries {
                health.set_state(HealthState::Unhealthy);
            }
        }
        health.log.push(result);
        if health.log.len() > RESULTS {
            health.log.remove(0);
        }
        changed = (health.state() != before).then(|| health.state());
    });
    if let Err(error) = saved {
        tracing::warn!(
            container = container.id,
            error = error.chain(),
            "could not record a health check"
        );
    }
    if let Some(state) = changed {
        engine.emit(&container.id, ContainerEventKind::Health(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_check() {
        let of = |words: &[&str]| {
            command(&HealthConfig {
                test: words.iter().map(ToString::to_string).collect(),
                ..HealthConfig::default()
            })
        };
        assert_eq!(of(&["CMD", "a", "b"]).unwrap(), ["a", "b"]);
        assert_eq!(of(&["CMD-SHELL", "a b"]).unwrap(), ["/bin/sh", "-c", "a b"]);
        assert!(of(&["NONE"]).is_none() && of(&[]).is_none() && of(&["CMD"]).is_none());
        for (milliseconds, expected) in [
            (500, "500ms"),
            (1_500, "1.5s"),
            (30_000, "30s"),
            (5_400_000, "1h30m0s"),
        ] {
            assert_eq!(text(Duration::from_millis(milliseconds)), expected);
        }
    }

    #[test]
    fn long_output_is_cut() {
        let mut output = Output::default();
        output.add(b"ab");
        assert_eq!(output.text(), "ab");
        output.add(&[b'x'; OUTPUT]);
        assert_eq!(output.text().len(), OUTPUT + 3);
        assert!(output.text().ends_with("x..."));
    }
}
