//! Log drivers and `logs` by the command line: what is shown, what is refused, the daemon's default driver, losses told in the
//! daemon's log, and the logs of services with every driver that can be read.

use std::os::unix::net::UnixDatagram;

use anyhow::ensure;
use pontoon_tests::{SHORT, wait_until, with_fleet, with_host};

#[test]
fn logs_shows_what_is_asked_for() {
    with_host(|host, _| {
        let script = "for i in 1 2 3; do echo o$i; done; sleep 0.2; echo e >&2";
        for driver in ["json-file", "local"] {
            let name = format!("box-{driver}");
            #[rustfmt::skip]
            host.ok(&[
                "run", "--name", &name, "--log-driver", driver, "--log-opt", "labels=role", "--label", "role=a b",
                "busybox", "sh", "-c", script,
            ])?;
            let logs = |flags: &[&str]| host.pontoon(&[&["logs"], flags, &[name.as_str()]].concat());
            let all = logs(&[])?;
            ensure!(
                all.stdout == "o1\no2\no3\n" && all.stderr == "e\n" && all.code == 0,
                "{all}"
            );
            let tail = logs(&["-n", "2"])?;
            ensure!(tail.stdout == "o3\n" && tail.stderr == "e\n", "{tail}");
            let details = logs(&["--details", "--tail=2"])?;
            ensure!(
                details.stdout == "role=a+b o3\n" && details.stderr == "role=a+b e\n",
                "{details}"
            );
            let timed = logs(&["-t", "--details"])?;
            let (time, rest) = timed.stdout.split_once(' ').unwrap_or_default();
            ensure!(
                time.len() == 30 && time.ends_with('Z') && rest.starts_with("role=a+b o1\n"),
                "{timed}"
            );
            let since = logs(&["--since", timed.stderr.split(' ').next().unwrap_or_default()])?;
            ensure!(since.stdout.is_empty() && since.stderr == "e\n", "{since}");
            let until = logs(&["--until", time])?;
            ensure!(until.stdout == "o1\n" && until.stderr.is_empty(), "{until}");
            let recent = logs(&["--since", "10m", "--until", "-10m", "--follow"])?;
            ensure!(recent.stdout == all.stdout, "{recent}");
            logs(&["--since", "yesterday"])?.fails(
                1,
                &["invalid value for \"since\": failed to parse value as time or duration: \"yesterday\""],
            )?;
            let shown = host.ok(&[
                "inspect",
                "-f",
                "{{.HostConfig.LogConfig.Type}} {{.LogPath}}",
                &name,
            ])?;
            let has_path = shown.ends_with("-json.log");
            ensure!(
                shown.starts_with(driver) && has_path == (driver == "json-file"),
                "{shown}"
            );
        }
        host.pontoon(&["logs", "nobody"])?
            .fails(1, &["No such container: nobody"])?;
        host.line("run --name silent --log-driver none busybox echo x")?;
        host.pontoon(&["logs", "silent"])?
            .fails(1, &["configured logging driver does not support reading"])?;
        for (flags, message) in [
            (
                ["--log-opt", "x=y"],
                "unknown log opt 'x' for json-file log driver",
            ),
            (["--log-opt", "max-size=big"], "invalid size: 'big'"),
            (["--log-driver", "gelf"], "log driver 'gelf' is not supported"),
            (
                ["--log-driver", "x"],
                "logger: no log driver named 'x' is registered",
            ),
        ] {
            let line = [&["run", "--rm"], &flags[..], &["busybox", "true"]].concat();
            host.pontoon(&line)?.fails(125, &[message])?;
        }
        Ok(())
    });
}

#[test]
fn the_daemon_has_a_default_driver_and_tells_of_losses() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        host.stop()?;
        host.configure("log-driver = \"local\"\n[log-opts]\nmax-size = \"1m\"\n")?;
        host.start()?;
        fleet.load_images()?;
        ensure!(host.ok(&["info", "--format", "{{.LoggingDriver}}"])? == "local");
        host.ok(&["create", "--name", "one", "--log-opt", "max-file=3", "busybox"])?;
        let config = host.ok(&["inspect", "-f", "{{json .HostConfig.LogConfig}}", "one"])?;
        ensure!(
            config == r#"{"Config":{"max-file":"3","max-size":"1m"},"Type":"local"}"#,
            "{config}"
        );

        let path = host.folder().join("syslog.sock");
        let server = UnixDatagram::bind(&path)?;
        let address = format!("syslog-address=unixgram://{}", path.display());
        #[rustfmt::skip]
        host.ok(&[
            "run", "-d", "--name", "two", "--log-driver", "syslog", "--log-opt", &address, "busybox", "sh", "-c",
            "while :; do echo tick; sleep 0.05; done",
        ])?;
        let mut line = [0; 1024];
        let length = server.recv(&mut line)?;
        ensure!(line[..length].starts_with(b"<30>") && line[..length].ends_with(b": tick\n"));
        drop(server);
        let told = |text: &str| {
            let log = host.log_tail(100);
            ensure!(log.contains(text), "{text:?} is not in {log}");
            Ok(())
        };
        wait_until("the daemon tells of the loss", SHORT, || {
            told("output is being lost")
        })?;
        std::fs::remove_file(&path)?;
        let _server = UnixDatagram::bind(&path)?;
        wait_until("the daemon tells of its end", SHORT, || told("lines ("))?;
        ensure!(host.ok(&["logs", "-n", "1", "two"])? == "tick");
        host.ok(&["rm", "-f", "two"])?;
        Ok(())
    });
}

#[test]
fn services_log_by_every_driver() {
    with_fleet(1, |fleet| {
        fleet.ready(1)?;
        let host = fleet.host(1);
        let path = host.folder().join("syslog.sock");
        let _server = UnixDatagram::bind(&path)?;
        let address = format!("syslog-address=unixgram://{}", path.display());
        for (driver, option) in [
            ("local", "max-size=1m"),
            ("json-file", "tag=T"),
            ("syslog", &address),
        ] {
            #[rustfmt::skip]
            host.ok(&[
                "service", "create", "--detach", "--name", driver, "--log-driver", driver, "--log-opt", option, "web:1",
            ])?;
            wait_until("the service has said something", SHORT, || {
                let log = host.ok(&["service", "logs", "--details", driver])?;
                let has_tag = log.contains("| tag=T ");
                ensure!(
                    log.contains("listening on port 8080") && has_tag == (driver == "json-file"),
                    "{log}"
                );
                Ok(())
            })?;
            host.ok(&["service", "rm", driver])?;
        }
        Ok(())
    });
}
