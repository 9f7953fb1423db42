//! Plans: what is done, in which order, what the image and its history say.

use pontoon_image::ContainerConfig;

use super::*;
use crate::dockerfile::Dockerfile;
use crate::{Error, Result};

/// Images by name: `base` has variables and a user, `trigger` an ONBUILD.
struct Shelf;

impl Images for Shelf {
    fn image(&mut self, name: &str, _: &Platform) -> Result<Base, String> {
        let mut config = ContainerConfig {
            env: vec!["PATH=/bin".into(), "IN=base".into()],
            ..ContainerConfig::default()
        };
        match name {
            "base" => config.working_dir = "/srv".into(),
            "trigger" => config.on_build = vec!["COPY . /app".into(), "RUN make".into()],
            _ => return Err(format!("{name}: not found")),
        }
        Ok(Base {
            name: format!("docker.io/library/{name}:latest"),
            id: format!("sha256:{name}"),
            config: ImageConfig {
                config,
                os: "linux".into(),
                architecture: "amd64".into(),
                ..ImageConfig::default()
            },
        })
    }
}

fn plan_with(text: &str, settings: &Settings) -> Result<Plan> {
    Plan::make(&Dockerfile::parse(text)?, settings, &mut Shelf)
}

fn plan(text: &str) -> Plan {
    plan_with(text, &Settings::default()).unwrap()
}

fn mistake(text: &str) -> Error {
    plan_with(text, &Settings::default()).unwrap_err()
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.name.as_str()).collect()
}

fn history(plan: &Plan) -> Vec<&str> {
    plan.history
        .iter()
        .map(|entry| entry.created_by.as_str())
        .collect()
}

#[test]
fn only_what_the_target_needs() {
    let text = "FROM base AS one\nRUN 1\nFROM base AS two\nRUN 2\nFROM base AS three\nRUN 3\nFROM scratch\nCOPY --from=one /a /b\nCOPY --from=2 /c /d\n";
    let all = plan(text);
    assert_eq!(
        names(&all),
        [
            "[one 1/2] FROM docker.io/library/base:latest",
            "[one 2/2] RUN 1",
            "[stage-3 1/2] COPY --from=one /a /b",
            "[three 2/2] RUN 3",
            "[stage-3 2/2] COPY --from=2 /c /d"
        ]
    );
    assert_eq!(all.base, None);
    for step in &all.steps {
        assert!(step.action.needs().iter().all(|need| *need < all.steps.len()));
    }
    let settings = Settings {
        target: "TWO".into(),
        ..Settings::default()
    };
    let two = plan_with(text, &settings).unwrap();
    assert_eq!(names(&two).last(), Some(&"[two 2/2] RUN 2"));
    assert_eq!(two.base.as_deref(), Some("sha256:base"));
    let settings = Settings {
        target: "tow".into(),
        ..Settings::default()
    };
    let error = plan_with(text, &settings).unwrap_err();
    assert_eq!(
        error.message,
        "target stage \"tow\" could not be found (did you mean two?)"
    );
}

#[test]
fn history_and_configuration_as_buildkit_makes_them() {
    let text = "ARG V=1\nFROM base\nARG V\nARG W=w\nENV A=$V B=\"x y\"\nLABEL l=$A\nWORKDIR app\nRUN echo $A\nCOPY --chown=1:2 a b /dst/\nADD c.tar .\n\
                USER www\nEXPOSE 80 53/udp\nVOLUME /v\nSTOPSIGNAL SIGINT\nSHELL [\"/bin/bash\", \"-c\"]\nENTRYPOINT run\nCMD [\"x\", \"y\"]\n\
                HEALTHCHECK --interval=30s --retries=3 CMD true\nONBUILD RUN later\nMAINTAINER me\n";
    let plan = plan(text);
    assert_eq!(
        history(&plan),
        [
            "ARG V=1",
            "ARG W=w",
            "ENV A=1 B=x y",
            "LABEL l=1",
            "WORKDIR /srv/app",
            "RUN |2 V=1 W=w /bin/sh -c echo $A # buildkit",
            "COPY --chown=1:2 a b /dst/ # buildkit",
            "ADD c.tar . # buildkit",
            "USER www",
            "EXPOSE map[53/udp:{} 80/tcp:{}]",
            "VOLUME [/v]",
            "STOPSIGNAL SIGINT",
            "SHELL [/bin/bash -c]",
            "ENTRYPOINT [\"/bin/bash\" \"-c\" \"run\"]",
            "CMD [\"x\" \"y\"]",
            "HEALTHCHECK &{[\"CMD-SHELL\" \"true\"] \"30s\" \"0s\" \"0s\" \"0s\" '\\x03'}",
            "MAINTAINER me",
        ]
    );
    let config = &plan.config.config;
    assert_eq!(
        config.env,
        ["PATH=/bin", "IN=base", "A=1", "B=x y"],
        "arguments are no variables of the image"
    );
    assert_eq!(
        (config.working_dir.as_str(), config.user.as_str()),
        ("/srv/app", "www")
    );
    assert_eq!(config.on_build, ["RUN later"]);
    assert_eq!(plan.config.author.as_deref(), Some("me"));
    let Action::Run(run) = &plan.steps[2].action else {
        panic!()
    };
    assert!(run.env.contains(&"V=1".to_owned()) && run.env.contains(&"IN=base".to_owned()));
    assert_eq!((run.dir.as_str(), run.user.as_str()), ("/srv/app", ""));
    assert_eq!(plan.steps[2].name, "[3/5] RUN echo 1");
    assert_eq!(
        plan.context_paths[""],
        BTreeSet::from(["/a".into(), "/b".into(), "/c.tar".into()])
    );
}

#[test]
fn arguments_and_their_scopes() {
    let text = "ARG NAME=base\nARG PF=$TARGETPLATFORM\nFROM $NAME\nARG NAME\nARG OTHER=${NAME}-x\nRUN a\nENV E=$OTHER$PF\n";
    let plan = plan_with(text, &Settings::default()).unwrap();
    assert_eq!(history(&plan)[3], "ENV E=base-x");
    let settings = Settings {
        build_args: BTreeMap::from([
            ("OTHER".into(), "given".into()),
            ("HTTP_PROXY".into(), "p".into()),
        ]),
        ..Settings::default()
    };
    let plan = plan_with(text, &settings).unwrap();
    assert_eq!(history(&plan)[3], "ENV E=given");
    let run = plan.steps.iter().find_map(|step| match &step.action {
        Action::Run(run) => Some(run),
        _ => None,
    });
    let run = run.unwrap();
    assert_eq!(run.proxy, ["http_proxy=p", "HTTP_PROXY=p"]);
    assert!(!history(&plan)[2].contains("proxy"));
    let settings = Settings {
        build_args: BTreeMap::from([("SOURCE_DATE_EPOCH".into(), "12".into())]),
        ..Settings::default()
    };
    assert_eq!(plan_with("FROM base\n", &settings).unwrap().epoch, Some(12));
}

#[test]
fn triggers_of_the_base_come_first() {
    let plan = plan("FROM trigger\nRUN own\n");
    assert_eq!(
        names(&plan)[1..],
        [
            "[internal] load build context",
            "[2/4] ONBUILD COPY . /app",
            "[3/4] ONBUILD RUN make",
            "[4/4] RUN own"
        ]
    );
    assert!(plan.config.config.on_build.is_empty());
    let plan = super::tests::plan("FROM base AS a\nONBUILD RUN t\nFROM a\nRUN own\n");
    assert!(
        names(&plan).iter().any(|name| name.ends_with("ONBUILD RUN t")),
        "{:?}",
        names(&plan)
    );
}

#[test]
fn mounts_and_here_documents_of_run() {
    let text = "FROM base AS b\nFROM base\nRUN --mount=type=cache,target=/c,sharing=locked --mount=type=secret,id=s --mount=type=ssh \
                --mount=type=bind,from=b,source=/x,target=y --mount=type=tmpfs,target=/t,size=1m --mount=type=secret,id=e,env=TOKEN \
                make\nRUN <<EOF\n#!/bin/bash\necho\nEOF\nRUN <<EOF\necho one\necho two\nEOF\n";
    let plan = plan(text);
    let runs: Vec<&Run> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Run(run) => Some(&**run),
            _ => None,
        })
        .collect();
    let targets: Vec<&str> = runs[0].mounts.iter().map(|m| m.target.as_str()).collect();
    assert_eq!(targets, ["/c", "/run/secrets/s", "", "/srv/y", "/t", ""]);
    assert!(matches!(
        &runs[0].mounts[4].what,
        MountOf::Tmpfs { size: 1_048_576 }
    ));
    assert_eq!(runs[1].args, ["/bin/sh", "-c", "/dev/pipes/EOF"]);
    assert_eq!(runs[2].args, ["/bin/sh", "-c", "echo one\necho two\n"]);
    assert!(
        plan.steps
            .last()
            .unwrap()
            .name
            .ends_with("RUN <<EOF (echo one...)"),
        "{:?}",
        names(&plan)
    );
}

#[test]
fn mistakes_have_their_line() {
    for (text, line, part) in [
        ("FROM nothing\n", 1, "nothing: not found"),
        (
            "FROM base AS a\nCOPY --from=a x y\n",
            2,
            "circular dependency detected on stage: a",
        ),
        (
            "FROM base AS a\nCOPY --from=b x y\nFROM base AS b\nFROM a\n",
            2,
            "it needs to be defined before current stage \"a\"",
        ),
        ("FROM base\nCOPY --from=7 x y\n", 2, "invalid stage index 7"),
        (
            "FROM base\nCOPY --from=$X x y\n",
            2,
            "variable expansion is not supported for --from",
        ),
        ("FROM base\nCOPY --from=gone x y\n", 2, "gone: not found"),
        ("FROM base\nEXPOSE x\n", 2, "invalid containerPort: x"),
        ("FROM base\nSTOPSIGNAL FOO\n", 2, "invalid signal: FOO"),
        (
            "FROM base\nCOPY --chmod=9 x y\n",
            2,
            "invalid chmod parameter: '9'",
        ),
        (
            "FROM base\nCOPY http://x/y z\n",
            2,
            "source can't be a URL for COPY",
        ),
        (
            "FROM base\nADD --checksum=sha256:x a b\n",
            2,
            "checksum requires HTTP(S) or Git sources",
        ),
        (
            "FROM base\nRUN --mount=type=bind,target=/ x\n",
            2,
            "invalid mount target \"/\"",
        ),
        ("FROM $X\n", 1, "base name ($X) should not be blank"),
        (
            "FROM --platform=$X base\n",
            1,
            "empty platform value from expression $X",
        ),
        ("FROM base\nENV A=${B?no}\n", 2, "B: no"),
    ] {
        let error = mistake(text);
        assert!(error.message.contains(part), "{text}: {}", error.message);
        assert_eq!(error.lines.map(|lines| lines.first), Some(line), "{text}");
    }
}

#[test]
fn sources_that_are_remote() {
    for (text, git) in [
        ("https://github.com/a/b.git#v1:sub", true),
        ("git@github.com:a/b.git", true),
        ("git://x/y", true),
        ("ssh://git@x/y", true),
        ("https://x/y.tar.gz", false),
        ("a:b", false),
        ("./x.git", false),
    ] {
        assert_eq!(super::copy::is_git(text), git, "{text}");
    }
    let plan = plan("FROM base\nADD https://x/dir/f.txt?y=1 /d/\n");
    let Action::Copy(copy) = &plan.steps[1].action else {
        panic!()
    };
    assert!(matches!(&copy.sources[0].what, SourceOf::Url { name, .. } if name == "f.txt"));
    assert_eq!(copy.destination, "/d/");
}

#[test]
fn platforms() {
    for (text, shown) in [
        ("linux/amd64", "linux/amd64"),
        ("arm64", "linux/arm64"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/x86_64", "linux/amd64"),
    ] {
        assert_eq!(Platform::parse(text).unwrap().to_string(), shown);
    }
    assert!(Platform::parse("a/b/c/d").is_err() && Platform::parse("a b").is_err());
}
