//! Health checks: states, times, and what becomes of a check's processes.

use pontoon_proto::v1::{HealthConfig, HealthState};

use crate::bed::{Bed, cases, command, eventually, with};

cases![
    health,
    hanging_checks_die_with_their_children,
    checks_wait_while_frozen,
];

async fn health() {
    let mut bed = Bed::new().await;
    let check = |test: &str| HealthConfig {
        test: vec!["CMD-SHELL".into(), test.into()],
        interval: 50_000_000,
        timeout: 5_000_000_000,
        retries: 2,
        ..HealthConfig::default()
    };
    let checked = |test: &str| {
        with(command(&["sleep", "1000"]), |config, _| {
            config.healthcheck = Some(check(test))
        })
    };
    let id = bed.start(checked("test -e /tmp/well && echo fine")).await;
    let state = |c: &pontoon_proto::v1::Container| c.health.as_ref().unwrap().state();
    let view = bed
        .until(&id, "it is unhealthy", |c| state(c) == HealthState::Unhealthy)
        .await;
    assert!(view.health.unwrap().failing_streak >= 2);
    let exec = pontoon_proto::v1::ExecStart {
        target: id.clone(),
        command: vec!["touch".into(), "/tmp/well".into()],
        ..Default::default()
    };
    crate::bed::collect(bed.engine.exec(exec).await.unwrap()).await;
    let view = bed
        .until(&id, "it is healthy", |c| state(c) == HealthState::Healthy)
        .await;
    assert_eq!(view.health.unwrap().log.last().unwrap().output, "fine\n");
    // Checks go on after a restart of the daemon.
    bed.reopen().await;
    let last = bed.inspect(&id).health.unwrap().log.last().unwrap().start;
    bed.until(&id, "it is checked", |c| {
        c.health.as_ref().unwrap().log.last().unwrap().start > last
    })
    .await;
    let mut slow = check("sleep 1000");
    slow.timeout = 50_000_000;
    slow.retries = 1;
    let id = bed
        .start(with(command(&["sleep", "1000"]), |config, _| {
            config.healthcheck = Some(slow)
        }))
        .await;
    let view = bed
        .until(&id, "the check times out", |c| state(c) == HealthState::Unhealthy)
        .await;
    assert_eq!(
        view.health.unwrap().log[0].output,
        "Health check exceeded timeout (50ms)"
    );
    let none = with(command(&["true"]), |config, _| {
        config.healthcheck = Some(HealthConfig {
            test: vec!["NONE".into()],
            ..HealthConfig::default()
        });
    });
    let id = bed.create(none).await;
    assert!(bed.inspect(&id).health.is_none());
    bed.finish().await;
}

async fn hanging_checks_die_with_their_children() {
    let bed = Bed::new().await;
    let check = HealthConfig {
        test: vec![
            "CMD-SHELL".into(),
            "echo begun; sleep 1001 & sleep 1002; true".into(),
        ],
        interval: 500_000_000,
        timeout: 200_000_000,
        retries: 1,
        ..HealthConfig::default()
    };
    let id = bed
        .start(with(command(&["sleep", "1000"]), |config, _| {
            config.healthcheck = Some(check)
        }))
        .await;
    let view = bed
        .until(&id, "the check has timed out", |c| {
            c.health.as_ref().is_some_and(|health| !health.log.is_empty())
        })
        .await;
    let result = &view.health.unwrap().log[0];
    assert_eq!(
        (result.exit_code, result.output.as_str()),
        (-1, "Health check exceeded timeout (200ms): begun\n")
    );
    // Between two checks the container is alone with its own process again.
    eventually("nothing of a check is left", || async {
        let listed = bed.engine.top(&id, &[]).await.unwrap();
        (listed.processes.len() == 1).then_some(())
    })
    .await;
    let view = bed.engine.inspect_whole(&id).await.unwrap();
    assert_eq!(view.health.unwrap().state(), HealthState::Unhealthy);
    bed.finish().await;
}

async fn checks_wait_while_frozen() {
    let bed = Bed::new().await;
    let check = HealthConfig {
        test: vec!["CMD".into(), "true".into()],
        interval: 20_000_000,
        ..HealthConfig::default()
    };
    let id = bed
        .start(with(command(&["sleep", "1000"]), |config, _| {
            config.healthcheck = Some(check)
        }))
        .await;
    let checked = |c: &pontoon_proto::v1::Container| {
        let health = c.health.as_ref().unwrap();
        health.log.last().map_or(0, |result| result.start)
    };
    bed.until(&id, "it is healthy", |c| checked(c) > 0).await;
    bed.engine.pause(&id).await.unwrap();
    bed.engine.unpause(&id).await.unwrap();
    let thawed = checked(&bed.inspect(&id));
    let view = bed
        .until(&id, "it is checked again", |c| checked(c) > thawed)
        .await;
    let health = view.health.unwrap();
    assert!(
        health.log.iter().all(|result| result.exit_code == 0),
        "{health:?}"
    );
    bed.finish().await;
}
