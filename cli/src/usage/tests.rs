//! Mistakes of usage in Docker's words, help texts, and that no flag of Docker's client is unknown (`docker-flags.txt`): the
//! cases of [`super`].

use super::*;
use crate::cli::{Cli, Wanted, grammar, parse_from};

fn parse(line: &str) -> Result<Cli, Failure> {
    parse_from(line.split_whitespace().map(Into::into))
}

/// Lines, exit statuses, and how the message begins.
const MISTAKES: &[(&str, u8, &str)] = &[
    (
        "pontoon frobnicate",
        1,
        "pontoon: unknown command: pontoon frobnicate\n\nRun 'pontoon --help' for more information",
    ),
    (
        "pontoon service frob x",
        1,
        "pontoon: unknown command: pontoon service frob\n\nUsage:  pontoon service\n\nRun 'pontoon service --help' for more information",
    ),
    (
        "pontoon --foo ps",
        125,
        "unknown flag: --foo\n\nUsage:  pontoon [OPTIONS] COMMAND\n\nRun 'pontoon --help' for more information",
    ),
    (
        "pontoon run --foo img",
        125,
        "unknown flag: --foo\n\nUsage:  pontoon run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nRun 'pontoon run --help' for more information",
    ),
    (
        "pontoon run --foo=bar img",
        125,
        "unknown flag: --foo\n\nUsage:  pontoon run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nRun 'pontoon run --help' for more information",
    ),
    (
        "pontoon run -iXt img",
        125,
        "unknown shorthand flag: 'X' in -iXt\n\nUsage:  pontoon run ",
    ),
    (
        "pontoon ps x",
        1,
        "pontoon: 'pontoon ps' accepts no arguments\n\nUsage:  pontoon ps [OPTIONS]\n\nRun 'pontoon ps --help' for more information",
    ),
    (
        "pontoon run",
        1,
        "pontoon: 'pontoon run' requires at least 1 argument\n",
    ),
    (
        "pontoon rm",
        1,
        "pontoon: 'pontoon rm' requires at least 1 argument\n",
    ),
    (
        "pontoon rename a",
        1,
        "pontoon: 'pontoon rename' requires 2 arguments\n",
    ),
    (
        "pontoon rename a b c",
        1,
        "pontoon: 'pontoon rename' requires 2 arguments\n",
    ),
    (
        "pontoon images a b",
        1,
        "pontoon: 'pontoon images' accepts at most 1 argument\n",
    ),
    (
        "pontoon stack deploy",
        1,
        "required flag(s) \"compose-file\" not set\n\nUsage:  pontoon stack deploy [OPTIONS] STACK\n",
    ),
    (
        "pontoon stack deploy -c f",
        1,
        "pontoon: 'pontoon stack deploy' requires 1 argument\n",
    ),
    (
        "pontoon service update",
        1,
        "pontoon: 'pontoon service update' requires 1 argument\n",
    ),
    (
        "pontoon run --name",
        125,
        "flag needs an argument: --name\n\nUsage:  pontoon run ",
    ),
    (
        "pontoon run -m -1 img",
        125,
        "invalid argument \"-1\" for \"-m, --memory\" flag: invalid size: '-1'",
    ),
    (
        "pontoon run -m lots img",
        125,
        "invalid argument \"lots\" for \"-m, --memory\" flag: invalid size: 'lots'",
    ),
    (
        "pontoon service create --mode both img",
        125,
        "invalid argument \"both\" for \"--mode\" flag: use one of replicated, global",
    ),
    (
        "pontoon service create --replicas x img",
        125,
        "invalid argument \"x\" for \"--replicas\" flag: use a whole number",
    ),
    (
        "pontoon service create --replicas -1 img",
        125,
        "invalid argument \"-1\" for \"--replicas\" flag: it must not be negative",
    ),
    (
        "pontoon service create --tty=maybe img",
        125,
        "invalid argument \"maybe\" for \"-t, --tty\" flag: use one of true, false",
    ),
    (
        "pontoon stack deploy --prune=maybe -c f s",
        125,
        "invalid argument \"maybe\" for \"--prune\" flag: use true or false",
    ),
    (
        "pontoon service inspect --pretty --format x s",
        125,
        "conflicting options: --pretty and --format can't be used together",
    ),
];

#[test]
fn mistakes_are_told_as_docker_tells_them() {
    for &(line, code, expected) in MISTAKES {
        let failure = parse(line).expect_err(line);
        assert_eq!(failure.code, code, "{line}: {failure}");
        assert!(
            failure.message.starts_with(expected),
            "{line}:\n{failure}\nexpected:\n{expected}"
        );
    }
}

#[test]
fn good_lines_parse() {
    for line in [
        "pontoon run --rm=true -it --name a --name b img sh -c x --detach=false --nope",
        "pontoon run -d=false img",
        "pontoon -H unix:///x ps -a",
        "pontoon ps --all=false --filter a=b --filter c=d",
        "pontoon run -eA=1 -e B=2 -p80:80 --cpus=1.5 --memory 64m img",
        "pontoon stack deploy -c - --detach=true demo",
        "pontoon stack deploy --compose-file a --compose-file b demo",
        "pontoon service create --replicas 3 --constraint node.role==worker img --flag-of-the-command",
        "pontoon service ls -q",
        "pontoon exec -it c sh --help",
        "pontoon stack up -c f s",
        "pontoon container list",
    ] {
        if let Err(failure) = parse(line) {
            panic!("{line}: {failure}");
        }
    }
}

#[test]
fn switches_take_booleans_only_before_the_containers_command() {
    let root = grammar(Wanted::All);
    let walked = |line: &str| {
        let walked = walk::walk(&root, line.split_whitespace().map(Into::into)).unwrap();
        let arguments: Vec<_> = walked
            .arguments
            .iter()
            .map(|text| text.to_str().unwrap().to_owned())
            .collect();
        (walked.path.join(" "), arguments.join(" "))
    };
    for (line, path, arguments) in [
        (
            "pontoon run --rm=true img --rm=true",
            "run",
            "pontoon run --rm img --rm=true",
        ),
        (
            "pontoon run --name --rm=true img",
            "run",
            "pontoon run --name --rm=true img",
        ),
        (
            "pontoon run -ite A=1 --rm=0 img",
            "run",
            "pontoon run -ite A=1 img",
        ),
        (
            "pontoon stack ps --no-trunc=f s",
            "stack ps",
            "pontoon stack ps s",
        ),
        ("pontoon ps -- --all=true", "ps", "pontoon ps -- --all=true"),
        ("pontoon container list", "container ls", "pontoon container list"),
    ] {
        assert_eq!(walked(line), (path.to_owned(), arguments.to_owned()), "{line}");
    }
}

#[test]
fn help_is_laid_out_as_dockers() {
    let root = grammar(Wanted::All);
    let text = help::help(&root, &[]);
    let places: Vec<_> = [
        "Usage:  pontoon [OPTIONS] COMMAND",
        "\nCommon Commands:\n  run ",
        "\nManagement Commands:\n  builder ",
        "\nSwarm Commands:\n  node ",
        "\nCommands:\n  attach ",
        "\nGlobal Options:\n",
        "Run 'pontoon COMMAND --help'",
    ]
    .iter()
    .map(|part| {
        text.find(part)
            .unwrap_or_else(|| panic!("{part} is missing in:\n{text}"))
    })
    .collect();
    assert!(places.is_sorted(), "{text}");
    for (path, usage) in [
        (
            &["run"][..],
            "Usage:  pontoon run [OPTIONS] IMAGE [COMMAND] [ARG...]\n",
        ),
        (&["rm"], "Usage:  pontoon rm [OPTIONS] CONTAINER [CONTAINER...]\n"),
        (&["stack"], "Usage:  pontoon stack COMMAND\n"),
        (
            &["stack", "deploy"],
            "Usage:  pontoon stack deploy [OPTIONS] STACK\n",
        ),
        (&["rename"], "Usage:  pontoon rename CONTAINER NEW_NAME\n"),
    ] {
        let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
        let text = help::help(command_at(&root, &path), &path);
        assert!(text.contains(usage), "{text}");
    }
    let path = ["run".to_owned()];
    let text = help::help(command_at(&root, &path), &path);
    assert!(
        text.contains("\n  -e, --env list ") && text.contains("\n      --rm  "),
        "{text}"
    );
}

#[test]
fn every_command_is_described() {
    fn check(command: &clap::Command, path: &str) {
        assert!(command.get_about().is_some(), "{path} has no description");
        for arg in command.get_arguments() {
            assert!(
                arg.get_help().is_some(),
                "{path}: {} has no description",
                arg.get_id()
            );
        }
        for sub in command.get_subcommands() {
            check(sub, &format!("{path} {}", sub.get_name()));
        }
    }
    let root = grammar(Wanted::All);
    check(&root, "pontoon");
    root.debug_assert();
}

/// The promise of `alias docker=pontoon`: no command and no flag of Docker's is unknown.
#[test]
fn every_flag_of_dockers_is_known() {
    let root = grammar(Wanted::All);
    let mut missing = Vec::new();
    for line in include_str!("docker-flags.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let (words, flags) = line.split_once(':').expect("command: flags");
        let words: Vec<&str> = words.split(' ').collect();
        let command = words
            .iter()
            .try_fold(&root, |command, word| command.find_subcommand(word));
        let Some(command) = command else {
            missing.push(words.join(" "));
            continue;
        };
        for flag in flags.split_whitespace() {
            let (short, long) = match flag.split_once(',') {
                Some((short, long)) => (short.chars().nth(1), long),
                None => (None, flag),
            };
            let known = command.get_arguments().any(|arg| {
                let mut longs = arg.get_long_and_visible_aliases().unwrap_or_default();
                longs.extend(arg.get_all_aliases().unwrap_or_default());
                longs.iter().any(|name| long == format!("--{name}"))
                    && (short.is_none() || arg.get_short() == short)
            });
            if !known {
                missing.push(format!("{} {flag}", words.join(" ")));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

proptest::proptest! {
    #[test]
    fn arguments_never_panic(line in proptest::collection::vec(
        proptest::sample::select(vec![
            "run", "ps", "stack", "deploy", "service", "create", "-", "--", "-c", "-it", "--rm=x", "--rm=true", "-é", "--é=1", "--name",
            "--help", "img", "=", "-=", "--=", "-c=", "update", "",
        ]),
        0..8,
    )) {
        let mut arguments = vec!["pontoon"];
        arguments.extend(line);
        let arguments: Vec<std::ffi::OsString> = arguments.into_iter().map(Into::into).collect();
        let root = grammar(Wanted::All);
        if let Ok(walked) = walk::walk(&root, arguments)
            && let Err(error) = root.clone().try_get_matches_from(&walked.arguments)
        {
            let _ = explain(&error, &root, &walked);
        }
    }
}

/// What makes a start of the client short.
#[test]
fn only_the_command_that_is_asked_for_is_described() {
    let root = grammar(Wanted::Only("exec"));
    for command in root.get_subcommands() {
        let is_described = command.get_arguments().next().is_some() || command.has_subcommands();
        assert_eq!(
            is_described,
            command.get_name() == "exec",
            "{}",
            command.get_name()
        );
    }
    // Mistakes and help are told in the same words whichever way the grammar was made.
    for line in [
        "pontoon -c x exec --foo",
        "pontoon container frob",
        "pontoon -H",
        "pontoon ps x",
    ] {
        let whole = grammar(Wanted::All);
        let arguments = line.split_whitespace().map(std::ffi::OsString::from);
        let walked = walk::walk(&whole, arguments).unwrap();
        let error = whole.clone().try_get_matches_from(&walked.arguments).unwrap_err();
        assert_eq!(
            parse(line).unwrap_err().message,
            explain(&error, &whole, &walked).message,
            "{line}"
        );
    }
}
