//! The language: tables of expansions, lines and instructions; nothing that is read can make it panic.

use proptest::prelude::*;

use super::words::Lexer;
use super::*;
use crate::Error;

fn env() -> Vec<String> {
    [
        "A=1",
        "EMPTY=",
        "P=/usr/local/bin",
        "F=archive.tar.gz",
        "S=a-b-c",
        "SPACE=x  y",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn expand(text: &str) -> Result<String, String> {
    Lexer::new('\\')
        .word(text, env().as_slice())
        .map_err(|e| e.message)
}

#[test]
fn variables_with_all_modifiers() {
    for (text, value) in [
        ("$A", "1"),
        ("${A}", "1"),
        ("x${A}y", "x1y"),
        ("$A$B", "1"),
        ("\\$A", "$A"),
        ("'$A'", "$A"),
        ("\"$A\"", "1"),
        ("\"\\$A\\x\"", "$A\\x"),
        ("${B:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${B-d}", "d"),
        ("${A:+s}", "s"),
        ("${EMPTY:+s}", ""),
        ("${EMPTY+s}", "s"),
        ("${B:-${A:-x}}", "1"),
        ("${B:-a b}", "a b"),
        ("${P#*/}", "usr/local/bin"),
        ("${P##*/}", "bin"),
        ("${P%/*}", "/usr/local"),
        ("${P%%/*}", ""),
        ("${F%.*}", "archive.tar"),
        ("${F%%.*}", "archive"),
        ("${F#*.}", "tar.gz"),
        ("${F##*.}", "gz"),
        ("${F%.g?}", "archive.tar"),
        ("${S/-/+}", "a+b-c"),
        ("${S//-/+}", "a+b+c"),
        ("${S//-}", "${S//-}"),
        ("${P//\\//_}", "_usr_local_bin"),
        ("${S/x/y}", "a-b-c"),
        ("${S//*/z}", "z"),
        ("$", "$"),
        ("a\\", "a"),
        ("$1x", "x"),
        ("$A_B", ""),
        ("${A:?no}", "1"),
    ] {
        if text == "${S//-}" {
            assert!(expand(text).is_err(), "a slash is missing");
            continue;
        }
        assert_eq!(expand(text).as_deref(), Ok(value), "{text}");
    }
    for (text, part) in [
        ("${A", "unsupported modifier"),
        ("${", "missing '}'"),
        ("${}", "bad substitution"),
        ("${A:", "missing '}'"),
        ("${A:-x", "missing '}'"),
        ("${A/x", "missing '/' in ${}"),
        ("${A:#x}", "unsupported modifier (:#)"),
        ("${B?}", "B: is not allowed to be unset"),
        ("${EMPTY:?}", "is not allowed to be empty"),
        ("${B?why}", "B: why"),
        ("'x", "single-quote"),
        ("\"x", "double-quote"),
        ("${F#\\a}", "invalid pattern"),
    ] {
        let error = expand(text).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
    let deep = "${B:-".repeat(10_000);
    assert!(expand(&deep).is_err());
    let words = Lexer::new('\\')
        .words("a $SPACE \"b c\" d\\ e", env().as_slice())
        .unwrap();
    assert_eq!(words, ["a", "x", "y", "b c", "d e"]);
    assert_eq!(
        Lexer::new('`').word("C:\\x`$A", env().as_slice()).unwrap(),
        "C:\\x$A"
    );
}

fn steps(text: &str) -> Vec<Step> {
    Dockerfile::parse(text).unwrap().stages.remove(0).steps
}

fn mistake(text: &str) -> Error {
    Dockerfile::parse(text).unwrap_err()
}

#[test]
fn lines_comments_and_continuations() {
    let text = "# syntax=docker/dockerfile:1\n# escape=\\\n# a comment\nFROM a AS b\n\nRUN one && \\\n  # a comment inside\n\n  two \\\n  \
                three\n  CMD [\"x\", \"y z\"]\r\nLABEL a=b \\\n c=d\n";
    let file = Dockerfile::parse(text).unwrap();
    let stage = &file.stages[0];
    assert_eq!((stage.base.as_str(), stage.name.as_str()), ("a", "b"));
    assert_eq!(stage.lines, Lines { first: 4, last: 4 });
    let Instruction::Run(run) = &stage.steps[0].instruction else {
        panic!()
    };
    assert_eq!(run.line.words, ["one &&   two   three"]);
    assert_eq!(stage.steps[0].lines, Lines { first: 6, last: 10 });
    let Instruction::Cmd(line) = &stage.steps[1].instruction else {
        panic!()
    };
    assert_eq!(
        (line.words.as_slice(), line.is_shell),
        (["x".to_owned(), "y z".to_owned()].as_slice(), false)
    );
    let Instruction::Label(pairs) = &stage.steps[2].instruction else {
        panic!()
    };
    assert_eq!(pairs.len(), 2);
    assert_eq!(file.warnings.len(), 1, "an empty continuation line");
    let tick = Dockerfile::parse("# escape=`\nFROM a\nRUN x `\n y\\\n").unwrap();
    let Instruction::Run(run) = &tick.stages[0].steps[0].instruction else {
        panic!()
    };
    assert_eq!(run.line.words, ["x  y\\"]);
}

#[test]
fn heredocs_are_read_to_their_mark() {
    let text = "FROM a\nRUN <<EOF\necho one\n  EOF\nEOF\nCOPY <<-\"A\" <<B /x/\n\tquoted $A\n\tA\n$B\nB\nRUN cat <<X 3<<Y\nx\nX\ny\nY\nUSER u\n";
    let steps = steps(text);
    let Instruction::Run(run) = &steps[0].instruction else {
        panic!()
    };
    assert_eq!(run.line.files[0].content, "echo one\n  EOF\n");
    let Instruction::Copy(copy) = &steps[1].instruction else {
        panic!()
    };
    assert_eq!(copy.files[0].text(), "quoted $A\n");
    assert!(!copy.files[0].expand && copy.files[1].expand);
    assert_eq!(
        (copy.files[1].content.as_str(), copy.destination.as_str()),
        ("$B\n", "/x/")
    );
    let Instruction::Run(run) = &steps[2].instruction else {
        panic!()
    };
    assert_eq!(run.line.files.len(), 2);
    assert_eq!(steps[3].lines, Lines { first: 16, last: 16 });
    assert_eq!(mistake("FROM a\nRUN <<EOF\nx\n").message, "unterminated heredoc");
    assert!(
        mistake("FROM a\nCOPY x <<EOF\ny\nEOF\n")
            .message
            .contains("cannot accept a heredoc as a destination")
    );
}

#[test]
fn every_instruction_says_what_it_says() {
    let text = "FROM --platform=linux/arm64 a\nMAINTAINER me\nENV A=1 B=\"x y\" C=z\\ w\nENV OLD the rest\nARG X=1 Y\nEXPOSE 80 53/udp\n\
                VOLUME [\"/a\", \"/b\"]\nVOLUME /c /d\nUSER u:g\nWORKDIR /w x\nSTOPSIGNAL INT\nSHELL [\"/bin/bash\", \"-c\"]\n\
                ENTRYPOINT run me\nHEALTHCHECK --interval=1m --timeout=3s --retries=3 CMD curl x\nHEALTHCHECK NONE\n\
                ONBUILD RUN make\nCOPY --from=b --chown=1:2 --chmod=755 --link --exclude=*.md --exclude=x src/ /dst\n\
                ADD --checksum=sha256:aa --keep-git-dir=true https://x/y /z\nCOPY --parents [\"a b\", \"/d/\"]\n\
                RUN --mount=type=cache,target=/c --network=none --security=insecure echo --x\n";
    let steps = steps(text);
    let find = |number: usize| &steps[number].instruction;
    let Instruction::Env(pairs) = find(1) else {
        panic!()
    };
    assert_eq!(pairs[2].value, "z\\ w", "escapes stay until variables are put in");
    let Instruction::Env(pairs) = find(2) else {
        panic!()
    };
    assert!(pairs[0].legacy && pairs[0].value == "the rest");
    let Instruction::Healthcheck(check) = find(12) else {
        panic!()
    };
    assert_eq!(
        (check.interval, check.retries, check.test[0].as_str()),
        (60_000_000_000, 3, "CMD-SHELL")
    );
    assert_eq!(find(14), &Instruction::Onbuild("RUN make".into()));
    let Instruction::Copy(copy) = find(15) else {
        panic!()
    };
    assert_eq!(
        (copy.from.as_str(), copy.link, copy.excludes.len()),
        ("b", true, 2)
    );
    let Instruction::Copy(copy) = find(17) else {
        panic!()
    };
    assert_eq!(
        (copy.sources.as_slice(), copy.parents),
        (["a b".to_owned()].as_slice(), true)
    );
    let Instruction::Run(run) = find(18) else { panic!() };
    assert_eq!(
        (run.network.as_str(), run.security.as_str(), run.mounts.len()),
        ("none", "insecure", 1)
    );
    assert_eq!(run.line.words, ["echo --x"]);
}

/// Text, line of the mistake, part of what is said.
const MISTAKES: &[(&str, usize, &str)] = &[
    (
        "FROM a\nRUNN x\n",
        2,
        "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
    ),
    ("FROM a\nfoo\n", 2, "unknown instruction: foo"),
    ("FROM a b\n", 1, "FROM requires either one or three arguments"),
    ("FROM a AS 1x\n", 1, "invalid name for build stage: \"1x\""),
    ("RUN x\n", 1, "no build stage in current context"),
    (
        "FROM a\nCOPY x\n",
        2,
        "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
    ),
    ("FROM a\nENV\n", 2, "ENV requires at least one argument"),
    ("FROM a\nENV A\n", 2, "ENV must have two arguments"),
    ("FROM a\nENV A=1 B\n", 2, "can't find = in \"B\""),
    ("FROM a\nENV =1\n", 2, "ENV names can not be blank"),
    ("FROM a\nCMD [1]\n", 2, "arrays must be comprised of strings only"),
    (
        "FROM a\nSHELL x\n",
        2,
        "SHELL requires the arguments to be in JSON form",
    ),
    (
        "FROM a\nCOPY --frm=x a b\n",
        2,
        "unknown flag: --frm (did you mean from?)",
    ),
    ("FROM a\nCOPY --from a b\n", 2, "missing a value on flag: --from"),
    (
        "FROM a\nCOPY --link=x a b\n",
        2,
        "expecting boolean value for flag --link",
    ),
    (
        "FROM a\nCOPY --chown=1 --chown=2 a b\n",
        2,
        "duplicate flag specified: --chown",
    ),
    (
        "FROM a\nONBUILD FROM x\n",
        2,
        "FROM isn't allowed as an ONBUILD trigger",
    ),
    ("FROM a\nONBUILD ONBUILD RUN x\n", 2, "Chaining ONBUILD"),
    (
        "FROM a\nHEALTHCHECK CMD\n",
        2,
        "Missing command after HEALTHCHECK CMD",
    ),
    (
        "FROM a\nHEALTHCHECK FOO x\n",
        2,
        "Unknown type \"FOO\" in HEALTHCHECK (try CMD)",
    ),
    (
        "FROM a\nHEALTHCHECK --retries=-1 CMD x\n",
        2,
        "--retries cannot be negative (-1)",
    ),
    (
        "FROM a\nRUN --mount=type=foo x\n",
        2,
        "unsupported mount type \"foo\"",
    ),
    (
        "FROM a\nRUN --mount=type=cache,from=$X,target=/x y\n",
        2,
        "'from' doesn't support variable expansion",
    ),
    (
        "FROM a\nRUN --mount=type=bind,uid=1,target=/x y\n",
        2,
        "uid not allowed for \"bind\" type mounts",
    ),
    (
        "FROM a\nRUN --mount=type=tmpfs,sharing=locked,target=/x y\n",
        2,
        "invalid cache sharing",
    ),
    (
        "FROM a\nRUN --network=foo y\n",
        2,
        "network mode \"foo\" is not valid",
    ),
    ("FROM a\nRUN --device=x y\n", 2, "CDI devices"),
    ("# escape=x\nFROM a\n", 1, "invalid escape token 'x'"),
    ("# syntax=a/b\nFROM a\n", 1, "another frontend"),
    (
        "FROM a\nVOLUME [\"\"]\n",
        2,
        "VOLUME specified can not be an empty string",
    ),
];

#[test]
fn mistakes_have_their_line_and_words() {
    for (text, line, part) in MISTAKES {
        let error = mistake(text);
        assert!(error.message.contains(part), "{text}: {}", error.message);
        assert_eq!(error.lines.map(|lines| lines.first), Some(*line), "{text}");
    }
    assert_eq!(mistake("").message, "the Dockerfile cannot be empty");
    assert_eq!(mistake("# only\n").message, "file with no instructions");
    assert_eq!(
        mistake("ARG x\n").message,
        "dockerfile contains no stages to build"
    );
}

/// Texts made of what the language is made of.
fn fragments() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "FROM",
        "a",
        "AS",
        "b",
        "RUN",
        "COPY",
        "ENV",
        "A=1",
        "ARG",
        "--from=b",
        "--mount=type=cache,target=/x",
        "<<EOF",
        "EOF",
        "\n",
        "\\\n",
        "#",
        "$A",
        "${A:-",
        "}",
        "'",
        "\"",
        "[\"x\"]",
        " ",
        "\t",
        "ONBUILD",
        "HEALTHCHECK",
        "CMD",
        "\r\n",
        "# escape=`\n",
        "`",
    ]);
    prop::collection::vec(words, 0..40).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in any::<String>()) {
        let _ = Dockerfile::parse(&text);
        let _ = Lexer::new('\\').words(&text, env().as_slice());
        let _ = crate::ignore::Patterns::new(&[&text]).map(|p| p.matches(&text));
    }

    #[test]
    fn nothing_that_looks_right_does(text in fragments()) {
        let _ = Dockerfile::parse(&format!("FROM a\n{text}"));
        let _ = Dockerfile::parse(&text);
    }

    #[test]
    fn quoted_words_come_back(word in "[^'\u{0}]{0,30}") {
        let words = Lexer::new('\\').word(&format!("'{word}'"), env().as_slice()).unwrap();
        prop_assert_eq!(words, word);
    }

    #[test]
    fn json_commands_come_back(words in prop::collection::vec("[^\n\r\\\\]{0,12}", 1..5)) {
        let json = serde_json::to_string(&words).unwrap();
        let file = Dockerfile::parse(&format!("FROM a\nCMD {json}\n")).unwrap();
        let Instruction::Cmd(line) = &file.stages[0].steps[0].instruction else { panic!() };
        prop_assert_eq!(&line.words, &words);
    }
}
