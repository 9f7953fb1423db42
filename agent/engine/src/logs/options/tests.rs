//! Options that are good, and the texts of those that are not.

use pontoon_runtime::SyslogAddress;

use super::syslog::address;
use super::*;

fn log(name: &str, options: &[(&str, &str)]) -> LogDriver {
    LogDriver {
        name: name.to_owned(),
        options: options
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
    }
}

fn error(name: &str, options: &[(&str, &str)]) -> String {
    validate(&log(name, options)).unwrap_err().chain()
}

#[test]
fn good_options_are_understood() {
    let of = |name, options: &[_]| settings(&log(name, options)).unwrap();
    let files = |max_size, max_file, compress| Files {
        max_size,
        max_file,
        compress,
    };
    assert_eq!(
        of("json-file", &[]).target,
        Target::JsonFile(files(None, 1, false))
    );
    let options = [("max-size", "10m"), ("max-file", "3"), ("compress", "true")];
    let json = of("json-file", &options);
    assert_eq!(json.target, Target::JsonFile(files(Some(10_000_000), 3, true)));
    assert!(json.cache.is_none() && json.buffer.is_none());
    assert_eq!(
        of("json-file", &[("max-file", "3")]).target,
        Target::JsonFile(files(None, 3, false))
    );
    assert_eq!(
        of("local", &[]).target,
        Target::Local(files(Some(20 << 20), 5, true))
    );
    assert_eq!(of("none", &[("x", "y")]).target, Target::None);
    let journald = of("journald", &[("mode", "non-blocking"), ("cache-max-size", "1m")]);
    assert_eq!(journald.buffer, Some(1_000_000));
    assert_eq!(journald.cache, Some(files(Some(1_000_000), 5, true)));
    let options = [
        ("mode", "non-blocking"),
        ("max-buffer-size", "4m"),
        ("cache-disabled", "true"),
    ];
    let syslog = of("syslog", &options);
    assert_eq!((syslog.buffer, syslog.cache), (Some(4 << 20), None));
    let Target::Syslog(server) = of("syslog", &[("syslog-facility", "local7")]).target else {
        panic!()
    };
    assert_eq!((server.facility, server.address), (23, SyslogAddress::Local));
}

#[test]
fn addresses_are_urls() {
    let of = |text: &str| address(text, &BTreeMap::new());
    assert_eq!(
        of("udp://log.example").unwrap(),
        SyslogAddress::Udp("log.example:514".into())
    );
    assert_eq!(
        of("tcp://[::1]:99").unwrap(),
        SyslogAddress::Tcp("[::1]:99".into())
    );
    assert_eq!(of("tcp://[::1]").unwrap(), SyslogAddress::Tcp("[::1]:514".into()));
    assert_eq!(
        of("unixgram:///dev/null").unwrap(),
        SyslogAddress::Unixgram("/dev/null".into())
    );
    assert!(matches!(of("tcp+tls://h:1").unwrap(), SyslogAddress::Tls(host, _) if host == "h:1"));
    for bad in [
        "corrupted:42",
        "http://x",
        "udp://",
        "tcp://a:b",
        "tcp://:1",
        "tcp://1:2:3",
        "unix:///no/such",
    ] {
        assert!(of(bad).is_err(), "{bad}");
    }
}

#[test]
fn bad_options_are_told_in_dockers_words() {
    type Options = &'static [(&'static str, &'static str)];
    let cases: [(&str, Options, &str); 19] = [
        (
            "json-file",
            &[("x", "y"), ("z", "")],
            "unknown log opt 'x' for json-file log driver",
        ),
        ("local", &[("x", "y")], "unknown log opt 'x' for log driver local"),
        (
            "journald",
            &[("max-size", "1m")],
            "unknown log opt 'max-size' for journald log driver",
        ),
        (
            "syslog",
            &[("x", "y")],
            "unknown log opt 'x' for syslog log driver",
        ),
        (
            "colour",
            &[],
            "logger: no log driver named 'colour' is registered",
        ),
        ("fluentd", &[], "log driver 'fluentd' is not supported"),
        (
            "json-file",
            &[("mode", "x")],
            "logger: logging mode not supported: x",
        ),
        (
            "local",
            &[("max-buffer-size", "1m")],
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        ("json-file", &[("max-size", "x")], "invalid size: 'x'"),
        (
            "json-file",
            &[("max-size", "0")],
            "max-size must be a positive number",
        ),
        (
            "json-file",
            &[("max-file", "0")],
            "max-file cannot be less than 1",
        ),
        (
            "json-file",
            &[("max-file", "x")],
            "strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        (
            "json-file",
            &[("compress", "true")],
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
        (
            "local",
            &[("max-file", "1")],
            "compression cannot be enabled when max file count is 1",
        ),
        ("syslog", &[("syslog-facility", "24")], "invalid syslog facility"),
        ("syslog", &[("syslog-format", "x")], "Invalid syslog format"),
        (
            "syslog",
            &[("syslog-address", "corrupted:42")],
            "syslog-address should be in form proto://address, got corrupted:42",
        ),
        (
            "syslog",
            &[("cache-disabled", "x")],
            "invalid value for option cache-disabled: x",
        ),
        ("json-file", &[("labels-regex", "(")], "error parsing regexp"),
    ];
    for (name, options, text) in cases {
        let error = error(name, options);
        assert!(error.contains(text), "{error:?} instead of {text:?}");
    }
}

#[test]
fn defaults_fill_what_is_open() {
    let default = log("local", &[("max-size", "5m"), ("cache-max-file", "2")]);
    let mut own = log("", &[("max-file", "2")]);
    fill_defaults(&mut own, &default);
    let all = log(
        "local",
        &[("max-size", "5m"), ("max-file", "2"), ("cache-max-file", "2")],
    );
    assert_eq!(own, all);
    let mut other = log("json-file", &[]);
    fill_defaults(&mut other, &default);
    assert_eq!(other, log("json-file", &[("cache-max-file", "2")]));
}

#[test]
fn attributes_are_chosen_by_name_and_pattern() {
    let options = [
        ("labels", "a,b"),
        ("labels-regex", "^x"),
        ("env", "HOME"),
        ("env-regex", "^LC_"),
    ];
    let attributes = settings(&log("json-file", &options)).unwrap().attributes;
    let labels = [("a", "1"), ("c", "2"), ("x1", "3")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let env = ["HOME=/", "LC_ALL=C=D", "PATH=/bin"].map(str::to_owned);
    let chosen = attributes.choose(&labels, &env);
    let pairs: Vec<_> = chosen
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(pairs, ["HOME=/", "LC_ALL=C=D", "a=1", "x1=3"]);
}
