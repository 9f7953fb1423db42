//! Streams: terminals, input to its end, slow readers, the log.

use pontoon_runtime::ExecSpec;

use crate::support::{ALL, Bed, OUTPUT, collect, halves, read_until, wait_until, within};

pub async fn terminal_with_resize(mut bed: Bed) {
    bed.config.tty = true;
    bed.config.open_stdin = true;
    bed.sh("tty; echo ready; read line; stty size; echo got $line; ls -l /dev/console | cut -c1; exit 4");
    let client = bed.create().await.unwrap();
    let (mut reader, mut stdin) = halves(client.attach(ALL).await.unwrap());
    within(client.start()).await.unwrap();
    let start = read_until(&mut reader, "ready\r\n").await;
    assert!(start.starts_with("/dev/pts/0\r\n"), "{start:?}");
    within(client.resize(None, 33, 99)).await.unwrap();
    within(stdin.write(b"hello\n")).await.unwrap();
    let (rest, _) = collect(reader).await;
    assert!(rest.contains("33 99\r\ngot hello\r\nc\r\n"), "{rest:?}");
    assert_eq!(within(client.wait()).await.unwrap().code, 4);
}

pub async fn stdin_to_its_end(mut bed: Bed) {
    bed.config.open_stdin = true;
    bed.sh("wc -c");
    let client = bed.create().await.unwrap();
    let (reader, mut stdin) = halves(client.attach(ALL).await.unwrap());
    within(client.start()).await.unwrap();
    for _ in 0..40 {
        within(stdin.write(&[b'x'; 50_000])).await.unwrap();
    }
    within(stdin.close()).await.unwrap();
    assert_eq!(collect(reader).await.0, "2000000\n");
    assert_eq!(within(client.wait()).await.unwrap().code, 0);
}

pub async fn slow_reader(mut bed: Bed) {
    bed.sh("head -c 3000000 /dev/zero | tr '\\0' x; echo done >&2");
    let client = bed.create().await.unwrap();
    let (reader, _stdin) = halves(client.attach(OUTPUT).await.unwrap());
    within(client.start()).await.unwrap();
    // A second client that leaves at once must not hold anything up.
    drop(client.attach(OUTPUT).await.unwrap());
    let log = bed.path("log");
    assert!(wait_until(
        || std::fs::metadata(&log).is_ok_and(|m| m.len() > 100_000)
    ));
    let stalled = std::fs::metadata(&log).unwrap().len();
    assert!(stalled < 3_000_000, "the container is held back: {stalled}");
    let (out, err) = collect(reader).await;
    assert_eq!((out.len(), err.as_str()), (3_000_000, "done\n"));
    within(client.wait()).await.unwrap();
}

pub async fn exec_terminal(mut bed: Bed) {
    let client = bed.up().await;
    let process = bed.process("tty; echo ready; read x; stty size; exit 9");
    let spec = ExecSpec {
        id: "t".to_owned(),
        process,
        tty: true,
        stdin: true,
        detach: false,
    };
    let mut exec = within(client.exec(spec)).await.unwrap();
    let (mut reader, mut stdin) = halves(exec.attachment.take().unwrap());
    read_until(&mut reader, "ready\r\n").await;
    within(client.resize(Some("t"), 12, 34)).await.unwrap();
    within(stdin.write(b"\n")).await.unwrap();
    let (rest, _) = collect(reader).await;
    assert!(rest.contains("12 34"), "{rest:?}");
    assert_eq!(within(exec.wait()).await.unwrap(), 9);
}

pub async fn log_file(mut bed: Bed) {
    bed.run("echo one; echo two >&2; printf rest").await;
    let text = std::fs::read_to_string(bed.path("log")).unwrap();
    let mut lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    lines.sort_by_key(|l| l["log"].to_string());
    let seen: Vec<_> = lines
        .iter()
        .map(|l| (l["log"].as_str().unwrap(), l["stream"].as_str().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [("one\n", "stdout"), ("rest", "stdout"), ("two\n", "stderr")]
    );
}
