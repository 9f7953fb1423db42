//! Volumes by the command line: Docker's outputs, prompts and refusals; volumes of services and stacks on their nodes; what a
//! killed daemon finds again.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, Host, LONG, SHORT, wait_until, with_fleet, with_host};

fn file(fleet: &Fleet, name: &str, text: &str) -> Result<PathBuf> {
    let path = fleet.folder().join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

fn equal(found: &str, expected: &str) -> Result<()> {
    ensure!(found == expected, "{found}\nexpected: {expected}");
    Ok(())
}

#[test]
fn volume_commands() {
    with_host(|host, _| {
        equal(&host.ok(&["volume", "create", "data"])?, "data")?;
        equal(
            &host.line("volume create --label tier=db -o type=tmpfs -o device=tmpfs v10")?,
            "v10",
        )?;
        host.ok(&["volume", "create", "v9"])?;
        let made_up = host.ok(&["volume", "create"])?;
        ensure!(made_up.len() == 64, "{made_up}");
        let listed = host.ok(&["volume", "ls", "--filter", "name=v", "--filter", "name=data"])?;
        equal(
            &listed,
            "DRIVER    VOLUME NAME\nlocal     data\nlocal     v9\nlocal     v10",
        )?;
        equal(&host.ok(&["volume", "ls", "-q", "-f", "label=tier"])?, "v10")?;
        let row = host.ok(&[
            "volume",
            "ls",
            "--format",
            "{{.Name}} {{.Labels}} {{.Scope}} {{.Size}}",
            "-f",
            "label=tier=db",
        ])?;
        equal(&row, "v10 tier=db local N/A")?;
        let shown = host.ok(&["volume", "inspect", "v10"])?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        ensure!(
            shown[0]["Options"]["type"] == "tmpfs" && shown[0]["Labels"]["tier"] == "db",
            "{shown}"
        );
        ensure!(
            shown[0]["Mountpoint"]
                .as_str()
                .is_some_and(|path| path.ends_with("/volumes/v10/_data")),
            "{shown}"
        );
        equal(
            &host.ok(&["volume", "inspect", "-f", "{{.Driver}} {{.Scope}}", "data"])?,
            "local local",
        )?;
        equal(&host.ok(&["inspect", "-f", "{{.Name}}", "data"])?, "data")?;
        let id = host.ok(&["create", "-v", "data:/d:ro", "--name", "user", "busybox", "true"])?;
        host.pontoon(&["volume", "rm", "data"])?.fails(
            1,
            &[&format!(
                "Error response from daemon: remove data: volume is in use - [{id}]"
            )],
        )?;
        host.pontoon(&["volume", "rm", "nothing"])?
            .fails(1, &["Error response from daemon: get nothing: no such volume"])?;
        host.ok(&["volume", "rm", "-f", "nothing"])?;
        host.pontoon(&["volume", "inspect", "nothing"])?
            .fails(1, &["Error response from daemon: get nothing: no such volume"])?;
        host.pontoon(&["volume", "create", "a"])?
            .fails(1, &["create a: volume name is too short"])?;
        host.pontoon(&["volume", "create", "-d", "x", "ab"])?.fails(
            1,
            &["create ab: error looking up volume plugin x: plugin \"x\" not found"],
        )?;
        host.pontoon(&["volume", "create", "--group", "g", "ab"])?
            .fails(1, &["--group is for cluster volumes"])?;
        host.pontoon(&["volume", "ls", "--cluster"])?
            .fails(1, &["--cluster"])?;
        host.pontoon(&["volume", "update", "--availability", "drain", "data"])?
            .fails(1, &["cluster volumes"])?;
        host.pontoon(&["volume", "ls", "-f", "x=y"])?
            .fails(1, &["invalid filter 'x'"])?;
        prunes(host, &made_up)
    });
}

fn prunes(host: &Host, made_up: &str) -> Result<()> {
    let asked = pontoon_tests::process::run_with_input(host.command(&["volume", "prune"]), b"n\n")?;
    ensure!(
        asked.code == 0
            && asked.stdout
                == "WARNING! This will remove anonymous local volumes not used by at least one container.\n\
                    Are you sure you want to continue? [y/N] "
            && asked.stderr.is_empty(),
        "{asked}"
    );
    let pruned = host.ok(&["volume", "prune", "-f"])?;
    equal(
        &pruned,
        &format!("Deleted Volumes:\n{made_up}\n\nTotal reclaimed space: 0B"),
    )?;
    equal(
        &host.ok(&["volume", "prune", "-f", "-a", "--filter", "label!=tier"])?,
        "Deleted Volumes:\nv9\n\nTotal reclaimed space: 0B",
    )?;
    let asked = pontoon_tests::process::run_with_input(host.command(&["volume", "prune", "-a"]), b"y\n")?;
    ensure!(
        asked.code == 0
            && asked.stdout.contains("all local volumes not used")
            && asked.stdout.contains("\nv10\n"),
        "{asked}"
    );
    host.pontoon(&["volume", "prune", "-a", "--filter", "all=1"])?
        .fails(
            1,
            &["conflicting options: cannot specify both --all and --filter all=1"],
        )?;
    equal(&host.ok(&["volume", "ls", "-q"])?, "data")
}

/// A command line without quotes.
fn line(host: &Host, words: &str) -> Result<String> {
    host.ok(&words.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn mounts_by_flags() {
    with_host(|host, fleet| {
        let folder = fleet.folder().join("host");
        std::fs::create_dir(&folder)?;
        let folder = folder.display().to_string();
        let missing = format!("{folder}/made/by-v");
        let bind = format!("{missing}:/b");
        let script = "echo kept >/v/f; echo bound >/b/f; touch /a/x /t/x; busybox stat -c %a /t";
        let flags = [
            "run",
            "--rm",
            "-v",
            "vol:/v",
            "-v",
            &bind,
            "-v",
            "/a",
            "--tmpfs",
            "/t:mode=711",
        ];
        let command = ["busybox", "sh", "-c", script];
        equal(&host.ok(&[&flags[..], &command[..]].concat())?, "711")?;
        ensure!(std::fs::read_to_string(format!("{missing}/f"))? == "bound\n");
        equal(&host.ok(&["volume", "ls", "-q"])?, "vol")?;
        let read = |mount: &str| line(host, &format!("run --rm --mount {mount} busybox cat /m/f"));
        equal(&read("source=vol,target=/m,readonly")?, "kept")?;
        equal(&read(&format!("type=bind,src={missing},dst=/m,ro"))?, "bound")?;
        let group = line(
            host,
            "run --rm --mount type=image,src=busybox,dst=/i busybox cat /i/etc/group",
        )?;
        ensure!(group.starts_with("root:x:0:"), "{group}");
        host.pontoon(&["run", "--rm", "-v", "vol:/v:ro", "busybox", "touch", "/v/x"])?
            .fails(1, &["Read-only file system"])?;
        line(
            host,
            "create --name source -v vol:/v -v /anon --mount type=tmpfs,dst=/t,tmpfs-size=1m busybox true",
        )?;
        equal(
            &line(host, "run --rm --volumes-from source:ro busybox cat /v/f")?,
            "kept",
        )?;
        shown_mounts(host)?;
        host.ok(&["rm", "-v", "source"])?;
        equal(&host.ok(&["volume", "ls", "-q"])?, "vol")?;
        refusals(host, &folder)
    });
}

fn shown_mounts(host: &Host) -> Result<()> {
    let template = "{{json .HostConfig.Binds}} {{json .HostConfig.Mounts}} {{json .Config.Volumes}}";
    equal(
        &host.ok(&["inspect", "-f", template, "source"])?,
        r#"["vol:/v"] [{"Target":"/t","TmpfsOptions":{"SizeBytes":1048576},"Type":"tmpfs"}] {"/anon":{}}"#,
    )?;
    let template = "{{range .Mounts}}{{.Type}}:{{.Destination}}:{{.RW}} {{end}}";
    let point = host.ok(&["inspect", "-f", template, "source"])?;
    let mut points: Vec<&str> = point.split_whitespace().collect();
    points.sort_unstable();
    ensure!(
        points == ["tmpfs:/t:true", "volume:/anon:true", "volume:/v:true"],
        "{point}"
    );
    equal(
        &line(host, "ps -aq --no-trunc --filter volume=vol")?,
        &host.ok(&["inspect", "-f", "{{.Id}}", "source"])?,
    )?;
    equal(&line(host, "ps -aq --filter volume=other")?, "")
}

fn refusals(host: &Host, folder: &str) -> Result<()> {
    for (flag, value, text) in [
        (
            "-v",
            "a/b:/x",
            "Error response from daemon: create a/b: \"a/b\" includes invalid characters for a local volume name",
        ),
        (
            "-v",
            "x:y",
            "invalid volume specification: 'x:y': invalid mount path: 'y' mount path must be absolute",
        ),
        ("-v", "/x:/", "invalid specification: destination can't be '/'"),
        ("-v", "/x:/y:zz", "invalid mode: zz"),
        (
            "--mount",
            "type=bind,src=/no/such,dst=/x",
            "bind source path does not exist: /no/such",
        ),
        (
            "--mount",
            "type=volume,dst=x",
            "invalid mount path: 'x' mount path must be absolute",
        ),
        ("--mount", "type=npipe,src=a,dst=/x", "mount type unknown"),
        ("--mount", "type=cluster,src=a,dst=/x", "CSI"),
        ("--volumes-from", "nobody", "No such container: nobody"),
        ("--tmpfs", "/x:foo", "invalid tmpfs option [\"foo\"]"),
    ] {
        host.pontoon(&["run", flag, value, "busybox", "true"])?
            .fails(125, &[text])?;
    }
    host.pontoon(&["run", "-v", "one:/x", "--tmpfs", "/x", "busybox", "true"])?
        .fails(125, &["Duplicate mount point: /x"])?;
    host.pontoon(&[
        "run",
        "--volume-driver",
        "nope",
        "-v",
        "one:/x",
        "busybox",
        "true",
    ])?
    .fails(
        125,
        &["error looking up volume plugin nope: plugin \"nope\" not found"],
    )?;
    host.pontoon(&["run", "-v", &format!("{folder}:/x:nocopy"), "busybox", "true"])?
        .fails(125, &["field VolumeOptions must not be specified"])?;
    equal(&host.ok(&["volume", "ls", "-q"])?, "vol")?;
    equal(&host.ok(&["ps", "-aq"])?, "")
}

const STACK: &str = r#"
services:
  each:
    image: busybox
    command: ["sh", "-c", "echo $$HOSTNAME >> /data/who; sleep 1000"]
    hostname: "slot{{.Task.Slot}}"
    stop_grace_period: 100ms
    volumes:
      - data:/data
      - {type: volume, source: own, target: /own}
      - /scratch
    deploy: {replicas: 2}
volumes:
  data:
    labels: {kept: "yes"}
  own:
    name: "own-{{.Task.Slot}}"
    driver_opts: {type: tmpfs, device: tmpfs, o: size=1m}
"#;

#[test]
fn volumes_of_stacks_are_made_on_the_nodes() {
    with_fleet(1, |fleet| {
        fleet.ready(1)?;
        let host = fleet.host(1);
        let path = file(fleet, "stack.yaml", STACK)?.display().to_string();
        host.ok(&["stack", "deploy", "-c", &path, "app"])?;
        ensure_running(host, "app_each", 2)?;
        let named = host.line("volume ls -q --filter name=own --filter name=app")?;
        equal(&named, "app_data\nown-1\nown-2")?;
        let label = "{{index .Labels \"kept\"}} {{index .Labels \"com.docker.stack.namespace\"}}";
        equal(
            &host.ok(&["volume", "inspect", "-f", label, "app_data"])?,
            "yes app",
        )?;
        ensure!(host.ok(&["volume", "inspect", "-f", "{{.Options.type}}", "own-2"])? == "tmpfs");
        let seen = [
            "run",
            "--rm",
            "-v",
            "app_data:/d:ro",
            "busybox",
            "sh",
            "-c",
            "busybox sort /d/who",
        ];
        wait_until("both tasks have written", SHORT, || {
            equal(&host.ok(&seen)?, "slot1\nslot2")
        })?;
        let mounts = host.ok(&[
            "service",
            "inspect",
            "-f",
            "{{json .Spec.TaskTemplate.ContainerSpec.Mounts}}",
            "app_each",
        ])?;
        ensure!(
            mounts.contains(r#""Source":"app_data""#) && mounts.contains(r#""Type":"volume""#),
            "{mounts}"
        );
        host.line(
            "service create --quiet --name one --mount source=byname,target=/m,readonly busybox sleep 1000",
        )?;
        ensure_running(host, "one", 1)?;
        ensure!(host.ok(&["volume", "ls", "-q", "-f", "name=byname"])? == "byname");
        host.ok(&["service", "rm", "one"])?;
        host.ok(&["stack", "rm", "app"])?;
        // Tasks take their anonymous volumes along; named ones are the user's.
        wait_until("only named volumes are left", LONG, || {
            equal(
                &host.ok(&["volume", "ls", "-q"])?,
                "app_data\nbyname\nown-1\nown-2",
            )?;
            ensure!(view::containers(host)?.is_empty());
            Ok(())
        })
    });
}
