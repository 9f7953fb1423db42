//! Tests of the whole flag table of `run` and `create` against what Docker's client says: help texts, mistakes, and what flags become.

use clap::CommandFactory;

use super::request;
use crate::cli::{Wanted, grammar};
use crate::command::container::options::ContainerOptions;
use crate::usage::{command_at, help};

/// Name, short name, kind and text of each flag of `docker run` 28.2, in its order.
const DOCKERS: &str = include_str!("../options/docker-run-flags.txt");

#[derive(clap::Parser, Debug)]
#[command(disable_help_flag = true, args_override_self = true)]
struct Line {
    #[command(flatten)]
    options: ContainerOptions,
    image: String,
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
}

fn parse(words: &[&str]) -> Result<pontoon_proto::v1::CreateContainerRequest, String> {
    let words = ["run"].iter().chain(words).chain(&["img"]);
    let command = crate::usage::take_any_value(Line::command());
    let line = command
        .try_get_matches_from(words)
        .and_then(|matches| <Line as clap::FromArgMatches>::from_arg_matches(&matches))
        .map_err(|error| std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string))?;
    request(&line.options, &line.image, &line.command).map_err(|failure| failure.message)
}

#[test]
fn help_has_dockers_flags_in_its_words_and_order() {
    let root = grammar(Wanted::All);
    for path in ["run", "create"] {
        let path = [path.to_owned()];
        let text = help::help(command_at(&root, &path), &path);
        let shown: Vec<&str> = text.lines().filter(|line| line.contains("--")).collect();
        let mut shown = shown.into_iter();
        for line in DOCKERS.lines() {
            let parts: Vec<&str> = line.splitn(4, '|').collect();
            let [name, short, kind, words] = parts.as_slice() else {
                panic!("{line}");
            };
            let only_run = matches!(*name, "detach" | "detach-keys" | "sig-proxy");
            if only_run && path[0] == "create" {
                continue;
            }
            let mut start = if short.is_empty() {
                format!("      --{name}")
            } else {
                format!("  -{short}, --{name}")
            };
            if !kind.is_empty() {
                start.push_str(&format!(" {kind}"));
            }
            let words = match (*name, path[0].as_str()) {
                ("pull", "create") => {
                    "Pull image before creating (\"always\", \"|missing\", \"never\") (default \"missing\")"
                }
                _ => words,
            };
            let shown = shown.next().unwrap_or_default();
            assert!(
                shown.starts_with(&start) && shown.ends_with(&format!("   {words}")),
                "--{name}:\n{shown}\n{start} … {words}"
            );
        }
    }
}

/// Flags, and the whole message of Docker's client.
const MISTAKES: &[(&[&str], &str)] = &[
    (&["-e", "=x"], "invalid environment variable: =x"),
    (&["-l", ""], "invalid label '': empty name"),
    (&["-l", "a b=c"], "label 'a b' contains whitespaces"),
    (&["--env-file", "/nope"], "open /nope: no such file or directory"),
    (
        &["--label-file", "/nope"],
        "open /nope: no such file or directory",
    ),
    (&["--ulimit", "as=1"], "invalid ulimit type: as"),
    (&["--ulimit", "nofile"], "invalid ulimit argument: nofile"),
    (
        &["--ulimit", "nofile=3:2"],
        "ulimit soft limit must be less than or equal to hard limit: 3 > 2",
    ),
    (
        &["--ulimit", "nofile=a"],
        "strconv.ParseInt: parsing \"a\": invalid syntax",
    ),
    (
        &["--ulimit", "nofile=1:2:3"],
        "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`",
    ),
    (&["--device", ""], "bad format for path: "),
    (&["--device", "a:b:c:d"], "bad format for path: a:b:c:d"),
    (&["--device", "/dev/null:x"], "x is not an absolute path"),
    (&["--device", "/dev/null:/x:q"], "bad mode specified: q"),
    (
        &["--device-cgroup-rule", "x 1:2 r"],
        "invalid device cgroup format 'x 1:2 r'",
    ),
    (&["--pid", "foo"], "--pid: invalid PID mode"),
    (&["--pid", "container:"], "--pid: invalid PID mode"),
    (&["--uts", "foo"], "--uts: invalid UTS mode"),
    (&["--userns", "foo"], "--userns: invalid USER mode"),
    (&["--cgroupns", "foo"], "--cgroupns: invalid CGROUP mode"),
    (
        &["--restart", ":3"],
        "invalid restart policy format: no policy provided before colon",
    ),
    (
        &["--restart", "on-failure:x"],
        "invalid restart policy format: maximum retry count must be an integer",
    ),
    (
        &["--rm", "--restart", "always"],
        "conflicting options: cannot specify both --restart and --rm",
    ),
    (&["--security-opt", "foo"], "Invalid --security-opt: \"foo\""),
    (
        &["--security-opt", "seccomp=/nope"],
        "opening seccomp profile (/nope) failed: open /nope: no such file or directory",
    ),
    (&["--storage-opt", "foo"], "invalid storage option"),
    (
        &["--memory-swappiness", "101"],
        "invalid value: 101. Valid memory swappiness range is 0-100",
    ),
    (
        &["--blkio-weight", "x"],
        "strconv.ParseUint: parsing \"x\": invalid syntax",
    ),
    (
        &["--blkio-weight", "70000"],
        "strconv.ParseUint: parsing \"70000\": value out of range",
    ),
    (&["--blkio-weight-device", "foo"], "bad format: foo"),
    (
        &["--blkio-weight-device", "/a:1"],
        "bad format for device path: /a:1",
    ),
    (
        &["--blkio-weight-device", "/dev/a:1"],
        "invalid weight for device: /dev/a:1",
    ),
    (
        &["--device-read-bps", "/dev/a:x"],
        "invalid rate for device: /dev/a:x. The correct format is <device-path>:<number>[<unit>]. Number must be a positive \
         integer. Unit is optional and can be kb, mb, or gb",
    ),
    (
        &["--device-read-iops", "/dev/a:x"],
        "invalid rate for device: /dev/a:x. The correct format is <device-path>:<number>. Number must be a positive integer",
    ),
    (&["--cpus", "x"], "failed to parse x as a rational number"),
    (&["--cpus", "0.0000000001"], "value is too precise"),
    (
        &["--pids-limit", "x"],
        "strconv.ParseInt: parsing \"x\": invalid syntax",
    ),
    (&["--sysctl", "foo"], "sysctl 'foo' is not allowed"),
    (
        &["--sysctl", "kernel.foo=1"],
        "sysctl 'kernel.foo=1' is not allowed",
    ),
    (&["-a", "foo"], "valid streams are STDIN, STDOUT and STDERR"),
    (
        &["--log-driver", "none", "--log-opt", "a=b"],
        "invalid logging opts for driver none",
    ),
    (
        &["--no-healthcheck", "--health-cmd", "x"],
        "--no-healthcheck conflicts with --health-* options",
    ),
    (
        &["--health-interval", "-1s"],
        "--health-interval cannot be negative",
    ),
    (&["--health-retries", "-1"], "--health-retries cannot be negative"),
    (
        &["--stop-timeout", "x"],
        "strconv.ParseInt: parsing \"x\": invalid syntax",
    ),
];

#[test]
fn mistakes_are_dockers() {
    for (words, expected) in MISTAKES {
        assert_eq!(parse(words).expect_err(expected), *expected, "{words:?}");
    }
}

/// Flags that can't be honoured, and which flag the message names.
#[test]
fn what_is_not_done_is_refused_by_name() {
    for (words, name) in [
        (&["--cpu-count", "1"][..], "--cpu-count"),
        (&["--cpu-percent", "1"], "--cpu-percent"),
        (&["--io-maxbandwidth", "1m"], "--io-maxbandwidth"),
        (&["--io-maxiops", "1"], "--io-maxiops"),
        (&["--kernel-memory", "1m"], "--kernel-memory"),
        (&["--gpus", "all"], "[[gpu]]"),
        (&["--device", "vendor.com/class=all"], "CDI"),
        (&["--use-api-socket"], "--use-api-socket"),
        (&["--isolation", "hyperv"], "linux only supports 'default'"),
        (
            &["--disable-content-trust=false"],
            "--disable-content-trust=false",
        ),
    ] {
        let message = parse(words).expect_err(name);
        assert!(message.contains(name), "{words:?}: {message}");
    }
    for fine in [
        &["--disable-content-trust"][..],
        &["--isolation", "default"],
        &["-q"],
    ] {
        assert!(parse(fine).is_ok(), "{fine:?}");
    }
}

#[test]
fn limits_become_the_engines_settings() {
    let request = parse(&[
        "-m",
        "64m",
        "--memory-swap",
        "-1",
        "--memory-swappiness",
        "0",
        "--cpus",
        "1/2",
        "-c",
        "512",
        "--cpuset-cpus",
        "0",
        "--pids-limit",
        "-1",
        "--blkio-weight",
        "300",
        "--device-read-bps",
        "/dev/a:1mb",
        "--oom-kill-disable",
        "--oom-score-adj",
        "-500",
        "--shm-size",
        "1g",
        "--cgroup-parent",
        "/x",
        "--cpu-rt-runtime",
        "950000",
    ])
    .unwrap();
    let host = request.host.unwrap();
    let limits = host.resources.unwrap();
    assert_eq!(
        (limits.memory_bytes, limits.nano_cpus, limits.pids),
        (64 << 20, 500_000_000, -1)
    );
    assert_eq!((host.memory_swap, host.memory_swappiness), (-1, Some(0)));
    assert_eq!(
        (host.cpu_shares, host.blkio_weight, host.oom_score_adj),
        (512, 300, -500)
    );
    assert_eq!(host.device_read_bps[0].value, 1 << 20);
    assert!(host.oom_kill_disable);
    assert_eq!((host.shm_size, host.cpu_rt_runtime), (1 << 30, 950_000));
}

#[test]
fn isolation_becomes_the_engines_settings() {
    let request = parse(&[
        "--device",
        "/dev/null",
        "--device",
        "/dev/zero:r",
        "--device",
        "/dev/full:/x:rw",
        "--pid",
        "container:a",
        "--ipc",
        "shareable",
        "--uts",
        "host",
        "--userns",
        "host",
        "--cgroupns",
        "private",
        "--annotation",
        "a=b",
        "--security-opt",
        "no-new-privileges",
        "--group-add",
        "5",
        "--stop-timeout",
        "0",
        "--platform",
        "linux/arm64",
        "-e",
        "SURELY_NOT_SET_XYZ",
        "--sysctl",
        "net.ipv4.ip_forward=1",
    ])
    .unwrap();
    let (host, config) = (request.host.unwrap(), request.config.unwrap());
    let devices: Vec<_> = host
        .devices
        .iter()
        .map(|d| (d.path_in_container.as_str(), d.permissions.as_str()))
        .collect();
    assert_eq!(devices, [("/dev/null", "rwm"), ("/dev/zero", "r"), ("/x", "rw")]);
    assert_eq!(
        (host.pid_mode.as_str(), host.ipc_mode.as_str()),
        ("container:a", "shareable")
    );
    assert_eq!(
        (host.uts_mode.as_str(), host.userns_mode.as_str()),
        ("host", "host")
    );
    assert_eq!(host.annotations["a"], "b");
    assert_eq!(config.groups, ["5"]);
    assert_eq!(config.env, ["SURELY_NOT_SET_XYZ"]);
    assert_eq!(config.stop_grace_period, 1, "at once, not the default");
    assert_eq!(request.platform, "linux/arm64");
}
