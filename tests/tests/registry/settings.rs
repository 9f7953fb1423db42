//! What the daemon is told about registries: certificates, insecure registries, mirrors; by flags, by file, and told again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pontoon_tests::registry::{Registry, Settings, User};
use pontoon_tests::{SHORT, wait_until, with_fleet};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// Certificates for a registry and its client, made by one authority.
struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    fn new(folder: &Path, address: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        for (name, subject) in [("server", address), ("client", "client")] {
            let key = KeyPair::generate()?;
            let params = CertificateParams::new(vec![subject.to_owned()])?;
            fs::write(
                folder.join(format!("{name}.cert")),
                params.signed_by(&key, &issuer)?.pem(),
            )?;
            fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

#[test]
fn tls_with_certificates_of_a_registry() {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        let certificates = Certificates::new(&host.folder().join("tls"), &host.address())?;
        let settings = Settings {
            address: format!("{}:5443", host.address()),
            tls: Some((certificates.path("server.cert"), certificates.path("server.key"))),
            client_roots: Some(certificates.path("ca.crt")),
            ..Settings::default()
        };
        let registry = Registry::start(host, "registry", &settings)?;
        let user = User::new(host)?;
        let name = registry.name("box:1");
        user.ok(&["tag", "busybox", &name])?;
        let folder = host.folder().join("certs.d");
        let own = folder.join(&registry.address);
        fs::create_dir_all(&own)?;
        host.configure(&format!("certs-dir = [\"{}\"]", folder.display()))?;
        let reload = |what: &str, want: &str| {
            host.signal(rustix::process::Signal::HUP)?;
            wait_until(what, SHORT, || {
                let push = user.pontoon(&["push", "-q", &name])?;
                let said = push.stdout.clone() + &push.stderr;
                ensure!(said.contains(want), "{push}");
                Ok(())
            })
        };
        reload("the registry is not trusted", "UnknownIssuer")?;
        fs::copy(certificates.path("ca.crt"), own.join("ca.crt"))?;
        reload(
            "its authority is trusted, but it wants a certificate",
            "ertificate",
        )?;
        fs::copy(certificates.path("client.cert"), own.join("client.cert"))?;
        reload("a certificate without a key is a mistake", "missing key")?;
        fs::copy(certificates.path("client.key"), own.join("client.key"))?;
        reload("all is there", &name)?;
        user.ok(&["rmi", &name])?;
        user.ok(&["pull", "-q", &name])?;
        // Without its authority, but called insecure.
        fs::remove_file(own.join("ca.crt"))?;
        host.configure(&format!(
            "certs-dir = [\"{}\"]\ninsecure-registry = [\"{}/32\"]",
            folder.display(),
            host.address()
        ))?;
        reload("it is called insecure", &name)?;
        let info = host.ok(&["info", "--format", "{{json .RegistryConfig}}"])?;
        ensure!(info.contains(&format!("{}/32", host.address())), "{info}");
        // A plain registry that is not insecure is not talked to.
        let plain = Settings {
            address: format!("{}:5001", host.address()),
            ..Settings::default()
        };
        let plain = Registry::start(host, "plain", &plain)?;
        host.configure("")?;
        host.signal(rustix::process::Signal::HUP)?;
        wait_until("plain HTTP is refused", SHORT, || {
            user.pontoon(&["pull", &plain.name("box:1")])?
                .fails(1, &["server gave HTTP response to HTTPS client"])
                .map(drop)
        })
    });
}

#[test]
fn mirrors_stand_for_docker_hub() {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        let registry = Registry::start(host, "registry", &Settings::default())?;
        let user = User::new(host)?;
        let seed = registry.name("library/box:1");
        user.ok(&["tag", "busybox", &seed])?;
        user.ok(&["push", "-q", &seed])?;
        host.configure("registry-mirror = [\"http://localhost:5000\"]")?;
        host.signal(rustix::process::Signal::HUP)?;
        wait_until("the mirror is asked", SHORT, || {
            let pulled = user.pontoon(&["pull", "box:1"])?.ok()?;
            ensure!(pulled.ends_with("docker.io/library/box:1"), "{pulled}");
            Ok(())
        })
    });
}

#[test]
fn settings_by_flags() {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        // Not on loopback, which is always called insecure.
        let address = format!("{}:5000", host.address());
        let settings = Settings {
            address: address.clone(),
            ..Settings::default()
        };
        let registry = Registry::start(host, "registry", &settings)?;
        let user = User::new(host)?;
        let name = registry.name("library/box:1");
        user.ok(&["tag", "busybox", &name])?;
        user.pontoon(&["push", &name])?
            .fails(1, &["server gave HTTP response to HTTPS client"])?;
        let mirror = format!("http://{address}");
        host.stop()?;
        host.start_flagged(&["--insecure-registry", &address, "--registry-mirror", &mirror])?;
        user.ok(&["push", "-q", &name])?;
        user.ok(&["pull", "-q", "box:1"])?;
        ensure!(user.ok(&["run", "--rm", "--pull", "never", "box:1", "echo", "hi"])? == "hi");
        let info = host.ok(&["info"])?;
        ensure!(
            info.contains("Registry Mirrors:") && info.contains(&format!("{mirror}/")),
            "{info}"
        );
        ensure!(
            info.contains("Insecure Registries:") && info.contains(&address),
            "{info}"
        );
        host.stop()?;
        // A mistake stops the start, and is named.
        let started = host.start_flagged(&["--registry-mirror", "ftp://x"]);
        let error = format!("{:#}", started.err().context("it started")?);
        ensure!(error.contains("invalid mirror: unsupported scheme"), "{error}");
        host.start()
    });
}
