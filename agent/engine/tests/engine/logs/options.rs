//! What log options add to lines, and the daemon's defaults.

use std::collections::HashMap;

use pontoon_proto::v1::LogsRequest;

use super::{driver, logged, read};
use crate::bed::{Bed, all_logs, cases, sh, with};

cases![logs_details, logs_defaults,];

async fn logs_details() {
    let bed = Bed::new().await;
    let options = [
        ("labels", "role,none"),
        ("env-regex", "^TIER"),
        ("tag", "{{.ImageName}}/{{.Name}}"),
    ];
    for name in ["json-file", "local"] {
        let mut request = with(logged("echo x", name, &options), |config, _| {
            config.labels = HashMap::from([("role".into(), "db".into()), ("other".into(), "1".into())]);
            config.env = vec!["TIER=gold".into(), "X=y".into()];
        });
        request.name = format!("box-{name}");
        let id = bed.start(request).await;
        bed.wait(&id).await;
        let details = LogsRequest {
            details: true,
            ..all_logs(&id)
        };
        let expected: HashMap<String, String> = [
            ("role", "db"),
            ("TIER", "gold"),
            ("tag", &format!("busybox/box-{name}")),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        assert_eq!(read(&bed, details).await[0].attributes, expected);
        assert!(read(&bed, all_logs(&id)).await[0].attributes.is_empty());
    }
    bed.finish().await;
}

async fn logs_defaults() {
    let bed = Bed::configured(|config| {
        config.log = driver("local", &[("max-file", "2"), ("max-size", "1m")]).unwrap();
    })
    .await;
    let id = bed.create(logged("true", "", &[("max-size", "2m")])).await;
    let expected = driver("local", &[("max-file", "2"), ("max-size", "2m")]);
    assert_eq!(bed.inspect(&id).host.unwrap().log, expected);
    let id = bed.create(logged("true", "json-file", &[])).await;
    assert_eq!(bed.inspect(&id).host.unwrap().log, driver("json-file", &[]));
    let info = bed.engine.info().await.map_err(|e| e.chain()).unwrap();
    assert_eq!(info.logging_driver, "local");
    let unreadable = "configured logging driver does not support reading";
    for log in [
        driver("none", &[]),
        driver("journald", &[("cache-disabled", "true")]),
    ] {
        let id = bed.create(with(sh("true"), |_, host| host.log = log)).await;
        assert_eq!(
            bed.engine.logs(&all_logs(&id)).unwrap_err().to_string(),
            unreadable
        );
    }
    let missing = bed.create(logged("true", "journald", &[])).await;
    let error = bed.engine.start(&missing).await.unwrap_err().chain();
    assert!(
        error.contains("failed to initialize logging driver")
            && error.contains("journald is not enabled on this host"),
        "{error}"
    );
    bed.finish().await;
}
