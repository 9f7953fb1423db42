//! Contexts that are elsewhere: repositories, which the client's git fetches, and archives and Dockerfiles at web addresses.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_build::git;
use pontoon_image::build;

use super::context::failed;
use crate::error::Failure;

/// True for `git@…`, `git://`, `ssh://`, `file://`, `github.com/…`, and web addresses that end in `.git`.
pub fn is_git(text: &str) -> bool {
    let before = text.split(['#', '?']).next().unwrap_or_default();
    let scp_like = before
        .split_once(':')
        .is_some_and(|(host, path)| host.contains('@') && !host.contains('/') && !path.starts_with("//"));
    ["git://", "ssh://", "file://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
        || text.starts_with("github.com/")
        || scp_like
        || is_web(text) && before.ends_with(".git")
}

/// True for a web address.
pub fn is_web(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Clones a repository with the client's git: `remote#ref:folder`. Gives the folder.
///
/// # Errors
/// There is no git, or what it says.
pub async fn clone(context: &str, into: &Path) -> Result<PathBuf, Failure> {
    let invalid = || Failure::new(format!("ERROR: invalid repository {context}"));
    let source = git::Source::parse(context).ok_or_else(invalid)?;
    source.check_out(&Runner(into)).await?;
    source.check_out_submodules(&Runner(into)).await?;
    std::fs::remove_dir_all(into.join(".git")).map_err(|e| failed("remove .git", e))?;
    let below = source.folder();
    let folder = build::Tree::folder_below(into, below).map_err(|e| failed(below, e))?;
    folder.ok_or_else(|| {
        failed(
            "unable to prepare context",
            format!("the repository has no folder {below}"),
        )
    })
}

/// Runs the user's git, with the user's settings.
struct Runner<'r>(&'r Path);

impl git::Run for Runner<'_> {
    type Error = Failure;

    async fn run(&self, arguments: &[&str]) -> Result<String, Failure> {
        git(self.0, arguments).await
    }
}

async fn git(dir: &Path, arguments: &[&str]) -> Result<String, Failure> {
    let output = tokio::process::Command::new("git")
        .args(["-c", "protocol.ext.allow=never"])
        .args(arguments)
        .current_dir(dir)
        .env("GIT_TERMINAL_PROMPT", "0")
        // Git looks for a name of its own in the network's otherwise, where that may take long.
        .env("GIT_COMMITTER_NAME", "pontoon")
        .env("GIT_COMMITTER_EMAIL", "pontoon@localhost")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(
                "ERROR: unable to prepare context: unable to find 'git': install it, or clone the repository yourself",
            ));
        }
        other => other?,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let what = arguments.first().copied().unwrap_or_default();
    Err(failed(
        format!("unable to prepare context: git {what} failed"),
        words,
    ))
}

/// Downloads an archive or a Dockerfile into a file without a name, which is at its beginning then.
///
/// # Errors
/// The server's answer, or there is none.
pub async fn download(url: &str) -> Result<File, Failure> {
    let wrong = |error: reqwest::Error| {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        failed(format!("failed to download remote context {url}"), text)
    };
    let mut answer = client()?.get(url).send().await.map_err(wrong)?;
    if !answer.status().is_success() {
        return Err(failed(
            format!("failed to download remote context {url}"),
            format!("server replied {}", answer.status()),
        ));
    }
    let mut file = tempfile::tempfile()?;
    while let Some(piece) = answer.chunk().await.map_err(wrong)? {
        file.write_all(&piece)?;
    }
    file.rewind()?;
    Ok(file)
}

/// Trusts what the host trusts.
fn client() -> Result<reqwest::Client, Failure> {
    let wrong = |error: &dyn std::fmt::Display| failed("downloads are not possible", error);
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(std::time::Duration::from_secs(30));
    client.build().map_err(|e| wrong(&e))
}
