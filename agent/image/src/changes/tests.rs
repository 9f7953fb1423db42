//! Instructions as Docker documents them.

use super::apply;
use crate::ContainerConfig;

fn changed(changes: &[&str]) -> Result<ContainerConfig, String> {
    let mut config = ContainerConfig::default();
    let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
    apply(&mut config, &changes).map_err(|e| e.to_string())?;
    Ok(config)
}

#[test]
fn instructions_change_the_configuration() {
    let c = changed(&[
        "ENV A=1 B=\"two words\" C='$A'",
        "env D x y  z",
        "ENV A=$A-${B:-n}-${NONE:-d}-${A:+alt}",
        "LABEL org.x=\"a b\" plain=1",
        "EXPOSE 80 53/udp 8000-8002",
        "USER app:$A",
        "VOLUME [\"/data\", \"/more\"]",
        "VOLUME /x /y",
        "WORKDIR /srv",
        "WORKDIR app/../web",
        "ENTRYPOINT [\"/bin/app\", \"-v\"]",
        "CMD echo hi | cat",
        "STOPSIGNAL SIGQUIT",
        "ONBUILD RUN make",
        "HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD wget -q localhost",
    ])
    .unwrap();
    assert_eq!(c.env, ["A=1-two words-d-alt", "B=two words", "C=$A", "D=x y  z"]);
    assert_eq!(c.labels["org.x"], "a b");
    let ports: Vec<_> = c.exposed_ports.iter().map(String::as_str).collect();
    assert_eq!(ports, ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]);
    assert_eq!(c.user, "app:1-two words-d-alt");
    assert_eq!(c.volumes.len(), 4);
    assert_eq!(c.working_dir, "/srv/web");
    assert_eq!(c.entrypoint.unwrap(), ["/bin/app", "-v"]);
    assert_eq!(c.cmd.unwrap(), ["/bin/sh", "-c", "echo hi | cat"]);
    assert_eq!(c.stop_signal.unwrap(), "SIGQUIT");
    assert_eq!(c.on_build, ["RUN make"]);
    let check = c.healthcheck.unwrap();
    assert_eq!(check.test, ["CMD-SHELL", "wget -q localhost"]);
    assert_eq!(
        (check.interval, check.timeout, check.retries),
        (90_000_000_000, 500_000_000, 3)
    );
    assert_eq!(
        changed(&["HEALTHCHECK NONE"]).unwrap().healthcheck.unwrap().test,
        ["NONE"]
    );
}

#[test]
fn wrong_instructions_are_named() {
    for (change, part) in [
        ("RUN make", "run is not a valid change command"),
        ("ENV", "requires an argument"),
        ("ENV A=1 B", "can't find ="),
        ("ENV A='x", "single-quote"),
        ("EXPOSE 80/xyz", "invalid proto"),
        ("EXPOSE 0", "invalid port"),
        ("EXPOSE 70000", "invalid port"),
        ("ONBUILD FROM x", "isn't allowed as an ONBUILD trigger"),
        ("STOPSIGNAL what ever", "invalid signal"),
        ("HEALTHCHECK CMD", "missing command"),
        ("HEALTHCHECK --interval=1 CMD x", "invalid duration"),
        ("HEALTHCHECK --bad=1 CMD x", "unknown flag"),
        ("USER ${A", "missing '}'"),
    ] {
        let text = changed(&[change]).unwrap_err();
        assert!(text.contains(part), "{change}: {text}");
    }
}
