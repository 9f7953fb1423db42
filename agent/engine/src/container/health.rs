//! Health checks: a command run inside the container at intervals, as Docker does it (moby `daemon/health.go`).
//!
//! STARTING until the first success (HEALTHY) or until the retries are used up (UNHEALTHY); failures in the start period do
//! not count. The verdict is in the container's record, its changes are events.

use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::v1::{ContainerSpec, ExecStart, HealthConfig, HealthResult, HealthState};
use pontoon_runtime::ShimClient;
use tokio_util::sync::CancellationToken;

use super::Container;
use crate::event::ContainerEventKind;
use crate::{Engine, Error, Result, id, signal};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Results kept.
const RESULTS: usize = 5;
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
        let in_start_period = is_in_start_period(container, check);
        let state = container.watch().borrow().health;
        let pause = if in_start_period && state == HealthState::Starting {
            check.start_interval
        } else {
            check.interval
        };
        tokio::time::sleep(pause).await;
        let start = id::now();
        let (exit_code, output) = match probe(engine, container, shim, check).await {
            Ok(result) => result,
            Err(error) => (-1, error.chain()),
        };
        // The container's end interrupts its check: that says nothing about its health.
        if cancelled.is_cancelled() || !container.is_alive() {
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

fn is_in_start_period(container: &Container, check: &Check) -> bool {
    let since = id::now().saturating_sub(container.read(|record| record.view().started_at));
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
    let mut process = engine.exec_process(container, shim, &start).await?;
    let exec_id = process.id.clone();
    let run = async {
        let mut output = Vec::new();
        if let Some(attachment) = process.process.attachment.take() {
            let (mut reader, _stdin) = attachment.split();
            while let Ok(Some((_, bytes))) = reader.next().await {
                let room = OUTPUT.saturating_sub(output.len());
                output.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
        let code = process
            .process
            .wait()
            .await
            .map_err(|error| Error::runtime("run the health check", error))?;
        engine.emit_for(
            container,
            ContainerEventKind::ExecDied {
                exec: exec_id.clone(),
                exit_code: code,
            },
        );
        Ok((code, String::from_utf8_lossy(&output).into_owned()))
    };
    match tokio::time::timeout(check.timeout, run).await {
        Ok(result) => result,
        Err(_) => {
            if let Err(error) = shim.kill_exec(&exec_id, signal::KILL).await {
                tracing::debug!(
                    container = container.id,
                    error = error.chain(),
                    "could not end a health check"
                );
            }
            Ok((
                -1,
                format!("Health check exceeded timeout ({})", text(check.timeout)),
            ))
        }
    }
}

/// A duration as Docker writes it: `30s`, `500ms`.
fn text(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

fn record(engine: &Engine, container: &Container, check: &Check, result: HealthResult) {
    let in_start_period = is_in_start_period(container, check);
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
        assert_eq!(text(Duration::from_millis(500)), "500ms");
    }
}
