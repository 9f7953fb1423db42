//! Pulls and pushes by the command line, against Debian's registry: plain, with TLS, with passwords, with tokens; what other tools
//! push we pull and the other way round, with the same digests.
//!
//! - `words`: what the commands say; `runs`: pulls of `run`, `create` and tasks
//! - `login`: passwords and where they are kept; `tokens`: a token server; `settings`: certificates, mirrors, insecure registries
//! - `broken`: pulls that are ended in the middle; `tools`: skopeo, buildah, umoci

use anyhow::{Context, Result};
use pontoon_tests::registry::{Registry, Settings, User};
use pontoon_tests::{Host, with_fleet};

mod broken;
mod login;
mod runs;
mod settings;
mod tokens;
mod tools;
mod words;

/// One host with the test images, a registry on its loopback, and a user.
fn bed(test: impl FnOnce(&Host, &Registry, &User<'_>) -> Result<()>) {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        let registry = Registry::start(host, "registry", &Settings::default())?;
        test(host, &registry, &User::new(host)?)
    });
}

/// The digest in a line of `pull` or `push`.
fn digest(output: &str) -> Result<String> {
    let at = output
        .rfind("sha256:")
        .with_context(|| format!("no digest in {output}"))?;
    Ok(output[at..].chars().take("sha256:".len() + 64).collect())
}
