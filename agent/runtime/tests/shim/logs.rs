//! Logs under a running container: rotation, a writer that dies, memory.

use pontoon_runtime::AttachOptions;

use crate::bed;
use crate::support::{ALL, halves, json_log, pids_of, read_until, wait_until, within};

#[tokio::test(flavor = "multi_thread")]
async fn log_rotates_under_a_container() {
    let Some(mut bed) = bed() else { return };
    let path = bed.path("log");
    bed.config.log = json_log(path.clone(), Some(4096), 2);
    bed.run("i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done")
        .await;
    assert!(path.with_extension("1").exists() || bed.path("log.1").exists());
    assert!(!bed.path("log.2").exists());
    let text = std::fs::read_to_string(&path).unwrap_or_default()
        + &std::fs::read_to_string(bed.path("log.1")).unwrap();
    assert!(text.contains("line 499\\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_dies_is_replaced() {
    let Some(mut bed) = bed() else { return };
    let path = bed.path("log");
    bed.config.open_stdin = true;
    bed.config.log = json_log(path.clone(), None, 1);
    bed.config.log.buffer = Some(1 << 20);
    bed.sh("while read line; do echo got $line; done");
    let client = bed.create().await.unwrap();
    let (mut reader, mut stdin) = halves(client.attach(ALL).await.unwrap());
    within(client.start()).await.unwrap();
    let dir = bed.config.dir.display().to_string();
    let writers = || -> Vec<u32> {
        let pids = pids_of(&format!("write\0{dir}"));
        pids.iter().map(|pid| pid.parse().unwrap()).collect()
    };
    for (place, line) in ["one", "two", "three"].into_iter().enumerate() {
        within(stdin.write(format!("{line}\n").as_bytes())).await.unwrap();
        read_until(&mut reader, &format!("got {line}\n")).await;
        let text = || std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            wait_until(|| text().contains(&format!("got {line}\\n"))),
            "{}",
            text()
        );
        if place == 1 {
            continue;
        }
        assert!(wait_until(|| writers().len() == 1), "{:?}", writers());
        let memory = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", writers()[0])).unwrap();
        println!(
            "a writer: {:?}",
            memory.lines().find(|line| line.starts_with("Private_Dirty"))
        );
        let pid = rustix::process::Pid::from_raw(writers()[0].try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        assert!(wait_until(
            || !writers().contains(&pid.as_raw_nonzero().get().unsigned_abs())
        ));
    }
    // The last one has been killed too: what is left is written all the same, and nothing stays.
    within(stdin.write(b"last\n")).await.unwrap();
    read_until(&mut reader, "got last\n").await;
    within(stdin.close()).await.unwrap();
    within(client.wait()).await.unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().contains("got last\\n"));
    bed.assert_nothing_left();
}

/// Bytes of memory that a process has had at most (VmHWM, proc_pid_status(5)).
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

/// A line without end, of bytes that json-file has to write as six each: neither the shim nor a writer may gather it.
#[tokio::test(flavor = "multi_thread")]
async fn endless_lines_take_no_memory() {
    const WRITTEN: usize = 100 << 20;
    let limit = 16 << 20;
    for buffer in [None, Some(1 << 20)] {
        let Some(mut bed) = bed() else { return };
        bed.config.open_stdin = true;
        bed.config.log = json_log(bed.path("log"), Some(4 << 20), 2);
        bed.config.log.buffer = buffer;
        bed.sh(&format!(
            "head -c {WRITTEN} /dev/zero; echo; echo done >&2; read end"
        ));
        let client = bed.create().await.unwrap();
        let errors = AttachOptions { stdout: false, ..ALL };
        let (mut reader, mut stdin) = halves(client.attach(errors).await.unwrap());
        within(client.start()).await.unwrap();
        read_until(&mut reader, "done\n").await;
        let shim = client.state().await.unwrap().shim_pid;
        let dir = bed.config.dir.display().to_string();
        let writers = pids_of(&format!("write\0{dir}"));
        assert_eq!(writers.len(), usize::from(buffer.is_some()), "{writers:?}");
        for pid in writers.iter().map(|pid| pid.parse().unwrap()).chain([shim]) {
            let peak = peak(pid);
            println!("buffer {buffer:?}: process {pid} has had {} KiB", peak >> 10);
            assert!(peak < limit, "{peak} bytes for {WRITTEN} bytes of output");
        }
        within(stdin.write(b"end\n")).await.unwrap();
        assert_eq!(within(client.wait()).await.unwrap().code, 0);
        // In blocking mode all of it has gone through the log; only the last files are left.
        let size = |name: &str| std::fs::metadata(bed.path(name)).map_or(0, |file| file.len());
        assert!(size("log.1") > 4 << 20 || buffer.is_some(), "{}", size("log.1"));
        assert!(size("log") + size("log.1") < 16 << 20);
        bed.assert_nothing_left();
    }
}
