//! Passwords: `login` and `logout`, Docker's own `config.json`, credential helpers.

use std::fs;

use anyhow::{Result, ensure};
use pontoon_tests::process::tool;
use pontoon_tests::pty::Session;
use pontoon_tests::registry::{Registry, Settings, User};
use pontoon_tests::with_fleet;

#[test]
fn passwords_and_where_they_are_kept() {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        let passwords = host.folder().join("htpasswd");
        fs::write(&passwords, tool("htpasswd", &["-Bbn", "me", "secret"])?)?;
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: x\n    path: {}\n",
            passwords.display()
        );
        let settings = Settings {
            auth,
            ..Settings::default()
        };
        let registry = Registry::start(host, "registry", &settings)?;
        let user = User::new(host)?;
        let name = registry.name("box:1");
        user.ok(&["tag", "busybox", &name])?;
        user.pontoon(&["push", &name])?
            .fails(1, &["no basic auth credentials"])?;
        user.pontoon(&["pull", &name])?
            .fails(1, &["no basic auth credentials"])?;
        let server = registry.address.as_str();
        user.with_input(&["login", "-u", "me", "--password-stdin", server], "wrong\n")?
            .fails(1, &["401 Unauthorized"])?;
        ensure!(!user.config().exists());
        user.pontoon(&["login", "--password-stdin", server])?
            .fails(1, &["Must provide --username with --password-stdin"])?;
        user.pontoon(&["login", "-p", "x", "--password-stdin", server])?
            .fails(1, &["mutually exclusive"])?;
        user.with_input(&["login", server], "")?
            .fails(1, &["Cannot perform an interactive login from a non TTY device"])?;

        fs::write(user.config(), "{\"psFormat\": \"kept\"}")?;
        let login = user.with_input(&["login", "-u", "me", "--password-stdin", server], "secret\n")?;
        ensure!(login.code == 0 && login.stdout == "Login Succeeded\n", "{login}");
        ensure!(
            login
                .stderr
                .contains("WARNING! Your credentials are stored unencrypted in"),
            "{login}"
        );
        let config: serde_json::Value = serde_json::from_slice(&fs::read(user.config())?)?;
        ensure!(
            config["auths"][server]["auth"] == "bWU6c2VjcmV0" && config["psFormat"] == "kept",
            "{config}"
        );
        user.ok(&["push", "-q", &name])?;
        user.ok(&["pull", "-q", &name])?;
        let existing = user.with_input(&["login", server], "")?;
        ensure!(
            existing.code == 0
                && existing
                    .stdout
                    .contains("Authenticating with existing credentials... [Username: me]"),
            "{existing}"
        );
        ensure!(user.ok(&["logout", server])? == format!("Removing login credentials for {server}"));
        user.pontoon(&["push", &name])?
            .fails(1, &["no basic auth credentials"])?;
        // The daemon has kept nothing.
        let found = tool(
            "grep",
            &["-rl", "bWU6c2VjcmV0", &host.data_dir().display().to_string()],
        );
        ensure!(found.is_err(), "{found:?}");

        typed_password_is_hidden(&user, server)?;
        helpers(&user, server, &name)
    });
}

/// On a terminal the password is asked for and not shown.
fn typed_password_is_hidden(user: &User<'_>, server: &str) -> Result<()> {
    let mut session = Session::start(&user.command(&["login", server]), 24, 100)?;
    session.expect("Username: ")?;
    session.type_text("me\n")?;
    session.expect("Password: ")?;
    session.type_text("secret\n")?;
    session.expect("Login Succeeded")?;
    ensure!(
        session.end()? == 0 && !session.shown().contains("secret"),
        "{}",
        session.shown()
    );
    user.ok(&["logout", server]).map(drop)
}

/// A helper keeps the password, the file only says so.
fn helpers(user: &User<'_>, server: &str, name: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let store = user.programs().join("kept");
    let script = format!(
        "#!/bin/sh\ncase $1 in store) cat >{0} ;; get) [ -e {0} ] || {{ echo 'credentials not found in native keychain'; exit 1; }}; \
         cat {0} ;; erase) rm -f {0} ;; esac\n",
        store.display()
    );
    let program = user.programs().join("docker-credential-test");
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::write(
        user.config(),
        format!("{{\"credHelpers\": {{\"{server}\": \"test\"}}}}"),
    )?;
    user.pontoon(&["pull", name])?
        .fails(1, &["no basic auth credentials"])?;
    let login = user.with_input(&["login", "-u", "me", "--password-stdin", server], "secret")?;
    ensure!(
        login.code == 0 && !login.stderr.contains("unencrypted"),
        "{login}"
    );
    ensure!(fs::read_to_string(&store)?.contains("secret"));
    ensure!(!fs::read_to_string(user.config())?.contains("auth\""));
    user.ok(&["pull", "-q", name])?;
    user.ok(&["logout", server])?;
    ensure!(!store.exists());
    fs::write(user.config(), "{\"credsStore\": \"missing\"}")?;
    user.pontoon(&["pull", name])?
        .fails(1, &["docker-credential-missing"])?;
    Ok(())
}
