//! Entries in a journal that is made here.

use std::collections::HashMap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use pontoon_proto::v1::LogsRequest;

use super::{driver, logged, read, text};
use crate::bed::{Bed, PATIENCE, all_logs, cases, command, with};

cases![journald,];

async fn journald() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("journal");
    let journal = UnixDatagram::bind(&path).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    let bed = Bed::configured(|config| config.journal = path.clone()).await;
    let options = [("labels", "com.example.role"), ("tag", "t-{{.Name}}")];
    let mut request = with(
        logged("echo out; echo err >&2", "journald", &options),
        |config, _| {
            config.labels = HashMap::from([("com.example.role".into(), "db".into())]);
        },
    );
    request.name = "box".to_owned();
    let id = bed.start(request).await;
    let mut entries = [entry(&journal), entry(&journal)];
    entries.sort_by_key(|fields| fields["PRIORITY"].clone());
    for (fields, (priority, message)) in entries.iter().zip([("3", "err"), ("6", "out")]) {
        for (name, value) in [
            ("MESSAGE", message),
            ("PRIORITY", priority),
            ("CONTAINER_ID", &id[..12]),
            ("CONTAINER_ID_FULL", &id),
            ("CONTAINER_NAME", "box"),
            ("CONTAINER_TAG", "t-box"),
            ("SYSLOG_IDENTIFIER", "t-box"),
            ("IMAGE_NAME", "busybox"),
            ("COM_EXAMPLE_ROLE", "db"),
        ] {
            assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}");
        }
    }
    bed.wait(&id).await;
    let details = LogsRequest {
        details: true,
        ..all_logs(&id)
    };
    let cached = read(&bed, details).await;
    assert_eq!(
        (text(&cached, 1), text(&cached, 2)),
        ("out\n".into(), "err\n".into())
    );
    assert_eq!(cached[0].attributes["com.example.role"], "db");

    let id = bed
        .start(with(
            command(&["sh", "-c", "head -c 20000 /dev/zero | tr '\\0' x; echo"]),
            |_, host| {
                host.log = driver("journald", &[]);
            },
        ))
        .await;
    let (first, last) = (entry(&journal), entry(&journal));
    assert_eq!(
        (first["MESSAGE"].len(), last["MESSAGE"].len()),
        (16384, 20000 - 16384)
    );
    assert_eq!(first["CONTAINER_PARTIAL_MESSAGE"], "true");
    assert_eq!(first["CONTAINER_PARTIAL_ID"], last["CONTAINER_PARTIAL_ID"]);
    assert_eq!(
        (
            first["CONTAINER_PARTIAL_LAST"].as_str(),
            last["CONTAINER_PARTIAL_LAST"].as_str()
        ),
        ("false", "true")
    );
    assert_eq!(last.get("CONTAINER_PARTIAL_MESSAGE"), None);
    bed.wait(&id).await;
    assert_eq!(bed.log(&id).await.len(), 20_001);
    assert!(Path::new(&path).exists());
    bed.finish().await;
}

/// Receives an entry; none of these has a value with newlines.
fn entry(journal: &UnixDatagram) -> HashMap<String, String> {
    let mut buffer = vec![0; 1 << 16];
    let length = journal.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length])
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
