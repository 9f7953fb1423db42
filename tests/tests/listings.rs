//! What `ps`, `port` and `inspect` print: Docker's fields, filters and templates.

use anyhow::{Result, ensure};
use pontoon_tests::{Host, with_host};

fn shows(host: &Host, args: &[&str], expected: &str) -> Result<()> {
    let shown = host.ok(args)?;
    ensure!(shown == expected, "{args:?} shows {shown:?}, not {expected:?}");
    Ok(())
}

#[test]
fn listings_have_dockers_fields_and_words() {
    with_host(|host, _| {
        host.line(
            "run -d --name web -l tier=front -p 127.0.0.1:8081:80 --expose 90 --expose 91 busybox sleep 1000",
        )?;
        host.line("create --name later --network none busybox true")?;
        let fields = "{{.Names}}|{{.Image}}|{{.Command}}|{{.State}}|{{.Ports}}|{{.Labels}}|{{.Label \"tier\"}}|{{.Networks}}|\
                      {{.LocalVolumes}}|{{.Mounts}}";
        let rows = host.ok(&["ps", "-a", "--format", fields])?;
        let expected = "later|busybox|\"true\"|created||||none|0|\n\
                        web|busybox|\"sleep 1000\"|running|90-91/tcp, 127.0.0.1:8081->80/tcp|tier=front|front|bridge|0|";
        // Images of the tests may expose ports and have labels of their own: these have none.
        ensure!(rows == expected, "{rows}");
        shows(host, &["ps", "-aq", "--format", "{{.Names}}", "-l"], "later")?;
        shows(
            host,
            &["ps", "-a", "-n", "1", "--format", "{{.Status}}"],
            "Created",
        )?;
        for (filter, expected) in [
            ("name=^/web$", "web"),
            ("label=tier=front", "web"),
            ("publish=8081", "web"),
            ("expose=90", "web"),
            ("status=created", "later"),
            ("network=none", "later"),
            ("isolation=default", "later\nweb"),
            ("is-task=false", "later\nweb"),
            ("health=none", "later\nweb"),
            ("since=web", "later"),
            ("before=later", "web"),
            ("volume=none", ""),
            ("ancestor=busybox", "later\nweb"),
        ] {
            shows(
                host,
                &["ps", "-a", "--format", "{{.Names}}", "-f", filter],
                expected,
            )?;
        }
        host.pontoon(&["ps", "-f", "foo"])?
            .fails(125, &["invalid argument \"foo\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"])?;
        host.pontoon(&["ps", "-f", "foo=bar"])?
            .fails(1, &["invalid filter 'foo'"])?;
        host.pontoon(&["ps", "-f", "status=up"])?
            .fails(1, &["invalid filter 'status=up'"])?;
        host.pontoon(&["ps", "--format", "{{.Nope}}", "-a"])?
            .fails(1, &["Nope"])?;
        shows(host, &["port", "web"], "80/tcp -> 127.0.0.1:8081")?;
        shows(host, &["port", "web", "80"], "127.0.0.1:8081")?;
        host.pontoon(&["port", "web", "99"])?
            .fails(1, &["Error: No public port '99' published for web"])?;
        host.pontoon(&["port", "web", "abc"])?
            .fails(1, &["invalid port (abc)"])?;
        Ok(())
    });
}

#[test]
fn inspect_takes_templates_and_several_names() {
    with_host(|host, _| {
        host.line("run -d --name box -m 64m busybox sleep 1000")?;
        let partly = host.pontoon(&["inspect", "-f", "{{.Name}}", "box", "nobody"])?;
        ensure!(
            partly.code == 1
                && partly.stdout == "/box\n"
                && partly.stderr == "Error: No such object: nobody\n",
            "{partly}"
        );
        let none = host.pontoon(&["inspect", "nobody"])?;
        ensure!(none.code == 1 && none.stdout == "[]\n", "{none}");
        for (template, code, text) in [
            ("{{", 64, "template parsing error: template: :1: unclosed action"),
            (
                "{{nofunc}}",
                64,
                "template parsing error: template: :1: function \"nofunc\" not defined",
            ),
            (
                "{{.State.Nope}}",
                1,
                "template parsing error: template: :1:8: executing \"\" at <.State.Nope>: map has no entry for key \"Nope\"",
            ),
        ] {
            host.pontoon(&["inspect", "-f", template, "box"])?
                .fails(code, &[text])?;
        }
        host.pontoon(&["inspect", "--type", "foo", "box"])?
            .fails(1, &["unknown type: \"foo\": must be one of"])?;
        host.pontoon(&["inspect", "--type", "image", "box"])?
            .fails(1, &["No such image"])?;
        shows(
            host,
            &[
                "inspect",
                "-f",
                "{{json .Config.Cmd}} {{len .Id}} {{.HostConfig.MemorySwap}} {{slice .Name 1}}",
                "box",
            ],
            "[\"sleep\",\"1000\"] 64 134217728 box",
        )?;
        let whole: serde_json::Value = serde_json::from_str(&host.ok(&["inspect", "-s", "box"])?)?;
        let whole = &whole[0];
        ensure!(
            whole["SizeRootFs"].as_i64() > Some(100_000),
            "{}",
            whole["SizeRootFs"]
        );
        ensure!(whole["GraphDriver"]["Data"]["UpperDir"].is_string(), "{whole}");
        ensure!(
            whole["NetworkSettings"]["Networks"]["bridge"]["DNSNames"].is_null()
                || whole["NetworkSettings"]["Networks"]["bridge"]["DNSNames"].is_array()
        );
        Ok(())
    });
}
