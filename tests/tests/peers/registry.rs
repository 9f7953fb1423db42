//! Images of a registry: read once for the whole cluster, also when the leader changes meanwhile; had from peers when the registry is
//! gone; errors that say what was tried; and credentials, which are sent to agents and seen nowhere else.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use pontoon_tests::registry::{Registry, Settings, User};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, Host, LONG, process, wait_until, with_fleet};

use super::{image_of, lines_with, load_busybox, make_app, partial};

/// A registry on host 1's address that all hosts may talk to in plain HTTP.
pub(crate) fn start_registry(fleet: &Fleet, auth: &str) -> Result<Registry> {
    let first = fleet.host(1);
    fleet.trust_registry(&first.address())?;
    let settings = Settings {
        address: format!("{}:5000", first.address()),
        auth: auth.to_owned(),
        ..Settings::default()
    };
    Registry::start(first, "registry", &settings)
}

/// Pushes `app:1` with a random file of so many MiB and leaves nothing of it on the host. Returns its name.
pub(crate) fn push_app(
    fleet: &Fleet,
    user: &User<'_>,
    registry: &Registry,
    mebibytes: u32,
) -> Result<String> {
    let first = fleet.host(1);
    load_busybox(fleet, first)?;
    make_app(first, mebibytes)?;
    let name = registry.name("app:1");
    first.ok(&["tag", "app:1", &name])?;
    user.ok(&["push", "--quiet", &name])?;
    first.ok(&["rmi", "app:1", &name, "busybox"])?;
    let left = first.ok(&["images", "--all", "--quiet"])?;
    ensure!(left.is_empty(), "{left}");
    Ok(name)
}

/// How often the registry was asked for each path below `app/` that begins so, by its access log.
pub(crate) fn reads(fleet: &Fleet, kind: &str) -> Result<BTreeMap<String, usize>> {
    let log = fs::read(fleet.host(1).folder().join("registry/log")).context("no log of the registry")?;
    let log = String::from_utf8_lossy(&log);
    let start = format!("\"GET /v2/app/{kind}/");
    let mut reads = BTreeMap::new();
    for line in log.lines() {
        let path = line
            .split_once(&start)
            .and_then(|(_, rest)| rest.split(' ').next());
        if let Some(path) = path {
            *reads.entry(path.to_owned()).or_default() += 1;
        }
    }
    Ok(reads)
}

pub(crate) fn create(host: &Host, image: &str, options: &[&str]) -> Result<()> {
    let mut args = vec!["service", "create", "--name", "app", "--detach"];
    args.extend(options);
    args.extend([image, "sleep", "1000"]);
    let created = host.pontoon(&args)?;
    ensure!(created.code == 0 && created.stderr.is_empty(), "{created}");
    Ok(())
}

#[test]
fn an_image_leaves_its_registry_once_for_all_hosts() {
    with_fleet(3, |fleet| {
        let first = fleet.host(1);
        let registry = start_registry(fleet, "")?;
        let name = push_app(fleet, &User::new(first)?, &registry, 8)?;
        fleet.form_cluster(1)?;
        let pushed = reads(fleet, "blobs")?.len() + reads(fleet, "manifests")?.len();
        ensure!(pushed == 0, "the push has read {pushed}");
        create(first, &name, &["--replicas", "3", "--replicas-max-per-node", "1"])?;
        wait_until("three tasks run", LONG, || ensure_running(first, "app", 3))?;
        // Configuration, busybox's layer, the upper layer: each once; and the manifest.
        let (blobs, manifests) = (reads(fleet, "blobs")?, reads(fleet, "manifests")?);
        ensure!(
            blobs.len() == 3 && blobs.values().all(|count| *count == 1),
            "{blobs:?}"
        );
        ensure!(manifests.values().sum::<usize>() == 1, "{manifests:?}");
        let fetched: usize = fleet
            .hosts()
            .iter()
            .map(|host| lines_with(host, &["fetched an image from a node"]).map(|lines| lines.len()))
            .sum::<Result<usize>>()?;
        ensure!(fetched == 2, "{fetched} hosts have it from another one");
        Ok(())
    });
}

#[test]
fn it_leaves_the_registry_once_also_when_the_leader_dies_meanwhile() {
    with_fleet(4, |fleet| {
        let (first, second) = (fleet.host(1), fleet.host(2));
        let registry = start_registry(fleet, "")?;
        let name = push_app(fleet, &User::new(first)?, &registry, 24)?;
        fleet.form_cluster(3)?;
        first.throttle("40mbit")?;
        let constraint = "node.hostname!=host1";
        create(first, &name, &["--mode", "global", "--constraint", constraint])?;
        wait_until("half of it is on some host", LONG, || {
            let most = fleet.hosts().iter().map(partial).max().unwrap_or_default();
            ensure!(most > 8 << 20, "{most} bytes");
            Ok(())
        })?;
        first.kill()?;
        wait_until("three tasks run", LONG, || ensure_running(second, "app", 3))?;
        let blobs = reads(fleet, "blobs")?;
        ensure!(
            blobs.len() == 3 && blobs.values().all(|count| *count == 1),
            "{blobs:?}"
        );
        Ok(())
    });
}

#[test]
fn a_registry_that_is_gone_is_not_needed_while_a_node_has_the_image() {
    with_fleet(2, |fleet| {
        let (first, second) = (fleet.host(1), fleet.host(2));
        let registry = start_registry(fleet, "")?;
        let name = push_app(fleet, &User::new(first)?, &registry, 1)?;
        fleet.form_cluster(1)?;
        first.ok(&["pull", "--quiet", &name])?;
        let lost = registry.name("lost:1");
        create(first, &name, &["--constraint", "node.labels.ready==yes"])?;
        let pinned = image_of(first)?;
        first.ok(&["service", "rm", "app"])?;
        drop(registry);
        create(first, &name, &["--constraint", "node.hostname==host2"])?;
        ensure!(image_of(first)? == pinned, "{}", image_of(first)?);
        wait_until("it runs where it was not", LONG, || {
            ensure_running(first, "app", 1)
        })?;
        ensure!(lines_with(second, &["fetched an image from a node"])?.len() == 1);

        // Nowhere: the error says what was tried. The digest is one that nothing has.
        let digest = format!("sha256:{}", "5".repeat(64));
        let missing = format!("{lost}@{digest}");
        first.ok(&["service", "create", "--detach", "--name", "lost", &missing])?;
        wait_until("its task says why", LONG, || {
            let tasks = view::tasks(first, "lost")?;
            let told = tasks.iter().any(|task| {
                task.error.contains(&format!("No such image: {missing}: "))
                    && task.error.to_lowercase().contains("connection refused")
            });
            ensure!(told, "{tasks:?}");
            Ok(())
        })
    });
}

/// Whether a file below a folder has this text.
fn find_text(folder: &std::path::Path, text: &str) -> Result<String> {
    let folder = folder.display().to_string();
    let mut command = std::process::Command::new("grep");
    command.args([
        "--recursive",
        "--binary",
        "--files-with-matches",
        "--fixed-strings",
        text,
        &folder,
    ]);
    Ok(process::run(command)?.stdout)
}

/// A stack on host 2, which does not have the image any more: its deployment brings credentials too.
fn stack_with_credentials(fleet: &Fleet, user: &User<'_>, name: &str) -> Result<()> {
    let path = fleet.folder().join("stack.yaml");
    let constraint = "node.hostname==host2";
    fs::write(
        &path,
        format!(
            "services:\n  web:\n    image: {name}\n    command: [\"sleep\", \"1000\"]\n    deploy: {{placement: {{constraints: [\"{constraint}\"]}}}}\n"
        ),
    )?;
    forget_images(fleet)?;
    let path = path.display().to_string();
    let deployed = user.pontoon(&[
        "stack",
        "deploy",
        "--detach",
        "--with-registry-auth",
        "-c",
        &path,
        "demo",
    ])?;
    ensure!(deployed.code == 0 && deployed.stderr.is_empty(), "{deployed}");
    wait_until("the stack runs", LONG, || {
        ensure_running(fleet.host(1), "demo_web", 1)
    })?;
    Ok(())
}

/// A registry that asks for a password, daemons that log all they have to say, and a user who is logged in.
fn registry_with_password<'f>(fleet: &'f Fleet, secret: &str) -> Result<(Registry, User<'f>)> {
    let first = fleet.host(1);
    let passwords = fleet.folder().join("htpasswd");
    fs::write(&passwords, process::tool("htpasswd", &["-Bbn", "me", secret])?)?;
    let auth = format!(
        "auth:\n  htpasswd:\n    realm: x\n    path: {}\n",
        passwords.display()
    );
    let registry = start_registry(fleet, &auth)?;
    for host in fleet.hosts() {
        let trusted = format!("insecure-registry = [\"{}/32\"]", first.address());
        host.configure(&format!("{trusted}\nlog-level = \"debug\""))?;
        host.signal(rustix::process::Signal::HUP)?;
    }
    let user = User::new(first)?;
    let address = &registry.address;
    user.ok(&["login", "--username", "me", "--password", secret, address])?;
    Ok((registry, user))
}

#[test]
fn credentials_reach_the_agents_and_are_seen_nowhere() {
    with_fleet(2, |fleet| {
        let first = fleet.host(1);
        let secret = "a-password-that-is-nowhere";
        let (registry, user) = registry_with_password(fleet, secret)?;
        let name = push_app(fleet, &user, &registry, 1)?;
        fleet.form_cluster(1)?;
        let worker = ["--constraint", "node.hostname==host2"];

        // Without: neither the manager nor the agent may read it.
        let mut args = vec!["service", "create", "--name", "app", "--detach"];
        args.extend(worker);
        args.extend([name.as_str(), "sleep", "1000"]);
        let created = user.pontoon(&args)?;
        ensure!(
            created.code == 0 && created.stderr.contains("could not be accessed on a registry"),
            "{created}"
        );
        wait_until("the task is refused", LONG, || {
            let tasks = view::tasks(first, "app")?;
            let told = tasks.iter().any(|task| {
                task.error.contains(&format!("No such image: {name}")) && task.error.contains("credentials")
            });
            ensure!(told, "{tasks:?}");
            Ok(())
        })?;
        // An update brings them.
        let update = [
            "service",
            "update",
            "--detach",
            "--with-registry-auth",
            "--image",
            &name,
            "app",
        ];
        let updated = user.pontoon(&update)?;
        ensure!(updated.code == 0 && updated.stderr.is_empty(), "{updated}");
        wait_until("the task runs", LONG, || ensure_running(first, "app", 1))?;
        let pinned = image_of(first)?;
        ensure!(pinned.starts_with(&format!("{name}@sha256:")), "{pinned}");
        // A later update that says nothing of them keeps them, and shows none.
        first.ok(&["service", "update", "--detach", "--label-add", "a=b", "app"])?;
        shows_no_credentials(first, secret)?;
        first.ok(&["service", "rm", "app"])?;
        stack_with_credentials(fleet, &user, &name)?;
        // And at once when it is created; refused ones are not told either.
        first.ok(&["stack", "rm", "demo"])?;
        forget_images(fleet)?;
        let mut create = vec![
            "service",
            "create",
            "--name",
            "app",
            "--detach",
            "--with-registry-auth",
        ];
        create.extend(worker);
        create.extend([name.as_str(), "sleep", "1000"]);
        let created = user.pontoon(&create)?;
        ensure!(created.code == 0 && created.stderr.is_empty(), "{created}");
        wait_until("the task runs", LONG, || ensure_running(first, "app", 1))?;
        ensure!(image_of(first)? == pinned, "{}", image_of(first)?);
        shows_no_credentials(first, secret)?;

        for text in forms(secret) {
            let left = find_text(&fleet.host(2).data_dir(), &text)?;
            ensure!(left.is_empty(), "on the worker's disk: {left}");
            for host in fleet.hosts() {
                let logged = find_text(&host.log(), &text)?;
                ensure!(logged.is_empty(), "in the log of {}", host.name());
            }
        }
        Ok(())
    });
}

/// The password itself, and as the basic scheme has it.
fn forms(secret: &str) -> [String; 2] {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("me:{secret}"));
    [secret.to_owned(), encoded.trim_end_matches('=').to_owned()]
}

/// Whatever a user can look at.
fn shows_no_credentials(host: &Host, secret: &str) -> Result<()> {
    for args in [
        &["service", "inspect", "app"][..],
        &["service", "inspect", "--pretty", "app"],
        &["service", "inspect", "--format", "{{json .}}", "app"],
        &["service", "ps", "--no-trunc", "--format", "json", "app"],
        &["events", "--since", "1h", "--until", "0s", "--format", "json"],
        &["system", "info", "--format", "json"],
    ] {
        let text = host.ok(args)?;
        ensure!(!text.is_empty(), "{args:?} shows nothing");
        for form in forms(secret) {
            ensure!(
                !text.contains(&form) && !text.contains("RegistryAuth"),
                "{args:?}: {text}"
            );
        }
    }
    Ok(())
}

/// Lets the worker forget all images.
fn forget_images(fleet: &Fleet) -> Result<()> {
    wait_until("the image is gone from the worker", LONG, || {
        fleet.host(2).ok(&["image", "prune", "--all", "--force"])?;
        let left = fleet.host(2).ok(&["images", "--quiet"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}
