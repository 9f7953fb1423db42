//! Logs in files: their formats, rotation and compression, torn ends, a full disk, readers over a restart.

use pontoon_proto::v1::LogsRequest;

use super::{folder, hear, logged, read, say, shim_log, text, with_stdin};
use crate::bed::{Bed, all_logs, cases, eventually, next, run, stop, with};

cases![
    logs_local,
    logs_compressed,
    logs_torn,
    logs_over_restart,
    logs_disk_full,
];

async fn logs_local() {
    let bed = Bed::new().await;
    let script = "echo one; echo two >&2; echo three; printf rest";
    let id = bed.start(logged(script, "local", &[])).await;
    assert_eq!(bed.wait(&id).await, 0);
    let entries = read(&bed, all_logs(&id)).await;
    assert_eq!(
        (text(&entries, 1).as_str(), text(&entries, 2).as_str()),
        ("one\nthree\nrest", "two\n")
    );
    assert!(folder(&bed, &id).join("local-logs/container.log").exists());
    assert_eq!(bed.inspect(&id).log_path, "", "the format is not for others");
    let last = LogsRequest {
        tail: Some(1),
        ..all_logs(&id)
    };
    let entries = read(&bed, last).await;
    assert_eq!(text(&entries, 1), "rest");
    let json = bed.create(logged("echo x", "json-file", &[])).await;
    assert_eq!(
        bed.inspect(&json).log_path,
        "",
        "as in Docker before the first start"
    );
    bed.engine.start(&json).await.unwrap();
    bed.wait(&json).await;
    let path = folder(&bed, &json).join(format!("{json}-json.log"));
    assert_eq!(bed.inspect(&json).log_path, path.to_str().unwrap());
    bed.finish().await;
}

async fn logs_compressed() {
    let bed = Bed::new().await;
    for (name, options) in [
        ("local", &[("max-size", "50k"), ("max-file", "99")][..]),
        (
            "json-file",
            &[("max-size", "50k"), ("max-file", "99"), ("compress", "true")],
        ),
        (
            "json-file",
            &[
                ("max-size", "50k"),
                ("max-file", "99"),
                ("compress", "true"),
                ("mode", "non-blocking"),
                ("max-buffer-size", "9m"),
            ],
        ),
    ] {
        let id = bed.create(logged("read x; seq 1 30000", name, options)).await;
        let mut session = with_stdin(&bed, &id).await;
        let follow = LogsRequest {
            follow: true,
            ..all_logs(&id)
        };
        let following = read(&bed, follow);
        let (followed, ()) = tokio::join!(following, async {
            say(&session, "go\n").await;
            hear(&mut session, "30000\n").await;
        });
        let expected: String = (1..=30000).map(|n| format!("{n}\n")).collect();
        assert_eq!(text(&followed, 1), expected, "{name} {options:?}");
        assert_eq!(bed.wait(&id).await, 0);
        assert_eq!(text(&read(&bed, all_logs(&id)).await, 1), expected);
        let tail = LogsRequest {
            tail: Some(23210),
            ..all_logs(&id)
        };
        let entries = read(&bed, tail).await;
        assert_eq!(
            (entries.len(), entries[0].line.as_ref()),
            (23210, b"6791\n".as_slice())
        );
        let since = LogsRequest {
            since: followed[5000].timestamp,
            ..all_logs(&id)
        };
        assert!(text(&read(&bed, since).await, 1).ends_with("29999\n30000\n"));
        let mut folder = folder(&bed, &id);
        if name == "local" {
            folder.push("local-logs");
        }
        let names: Vec<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(
            names.iter().filter(|name| name.ends_with(".gz")).count() > 2,
            "{names:?}"
        );
        assert!(
            !names
                .iter()
                .any(|name| name.ends_with(".tmp") || name.ends_with(".new")),
            "{names:?}"
        );
    }
    bed.finish().await;
}

/// What a crash of the host leaves is skipped, and the next start writes on behind it.
async fn logs_torn() {
    let bed = Bed::new().await;
    for (name, torn) in [
        ("json-file", &b"{\"log\":\"torn"[..]),
        ("local", &[0, 0, 0, 60, 10, 6, b's']),
    ] {
        let id = bed.start(logged("echo whole", name, &[])).await;
        bed.wait(&id).await;
        let path = match name {
            "local" => folder(&bed, &id).join("local-logs/container.log"),
            _ => folder(&bed, &id).join(format!("{id}-json.log")),
        };
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, torn).unwrap();
        assert_eq!(bed.log(&id).await, "whole\n");
        bed.engine.start(&id).await.unwrap();
        bed.wait(&id).await;
        assert_eq!(bed.log(&id).await, "whole\nwhole\n", "{name}");
    }
    bed.finish().await;
}

async fn logs_over_restart() {
    let bed = Bed::new().await;
    let script = "echo run; while :; do sleep 0.05; done";
    let id = bed.start(logged(script, "local", &[])).await;
    let follow = LogsRequest {
        follow: true,
        ..all_logs(&id)
    };
    let mut entries = bed.engine.logs(&follow).unwrap();
    for _ in 0..3 {
        let entry = next(&mut entries).await.unwrap();
        assert_eq!(entry.unwrap().line, "run\n");
        bed.engine
            .restart(stop(&id))
            .await
            .map_err(|e| e.chain())
            .unwrap();
    }
    let entry = next(&mut entries).await.unwrap();
    assert_eq!(entry.unwrap().line, "run\n");
    bed.engine.stop(stop(&id)).await.unwrap();
    assert!(next(&mut entries).await.is_none(), "it ends with the container");
    bed.finish().await;
}

/// The container goes on, the loss is counted, and when there is room again lines are written again.
async fn logs_disk_full() {
    let bed = Bed::new().await;
    let script =
        "while read x; do case $x in fill) seq 1 100000;; *) echo said $x;; esac; echo done $x >&2; done";
    let request = with(logged(script, "local", &[]), |config, _| config.open_stdin = true);
    let id = bed.create(request).await;
    let disk = folder(&bed, &id).join("local-logs");
    std::fs::create_dir_all(&disk).unwrap();
    let path = disk.to_str().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=512k", "tmpfs", path]);
    std::fs::write(disk.join("ballast"), vec![0; 256 << 10]).unwrap();
    let mut session = with_stdin(&bed, &id).await;
    say(&session, "fill\n").await;
    hear(&mut session, "done fill\n").await;
    eventually("the loss is told", || async {
        shim_log(&bed, &id).contains("output is being lost").then_some(())
    })
    .await;
    std::fs::remove_file(disk.join("ballast")).unwrap();
    say(&session, "again\n").await;
    hear(&mut session, "done again\n").await;
    eventually("writing goes on", || async {
        let log = shim_log(&bed, &id);
        (log.contains("is being written again") && log.contains("were lost")).then_some(())
    })
    .await;
    say(&session, "more\n").await;
    hear(&mut session, "done more\n").await;
    let written = eventually("the last line is there", || async {
        let entries = read(&bed, all_logs(&id)).await;
        text(&entries, 2).contains("done more\n").then_some(entries)
    })
    .await;
    let output = text(&written, 1);
    // Lines are whole and in order; between those that were written before the disk was full none is missing.
    let numbers: Vec<u32> = output.lines().map_while(|line| line.parse().ok()).collect();
    assert!(
        numbers.len() > 1000 && numbers.len() < 100_000,
        "{}",
        numbers.len()
    );
    assert!(
        numbers
            .iter()
            .zip(1..=1000)
            .all(|(number, place)| *number == place)
    );
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(
        output.ends_with("said more\n"),
        "{:?}",
        &output[output.len() - 50..]
    );
    bed.engine.kill(&id, "KILL").await.unwrap();
    run("umount", &[path]);
    bed.finish().await;
}
