//! What ADD brings in besides the client's files: downloads, repositories, and the content of archives.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use pontoon_build::git;
use pontoon_image::build::Tree;
use pontoon_image::{Digest, DigestWriter, archive};
use reqwest::header;
use serde::{Deserialize, Serialize};

use super::copy::{self, Taken};
use super::progress::Begun;
use super::{Build, Failure, Outcome, contexts};
use crate::engine::make_dir;
use crate::error::IoContext;
use crate::{Error, Result, id};

/// Bytes of a download.
const DOWNLOAD: u64 = 8 << 30;

/// What is known of a download that was kept.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    etag: String,
    last_modified: String,
    digest: String,
    mtime: i64,
}

impl Build {
    /// Downloads a file, or takes the one that is kept if the server says that it is still the same.
    /// It is in `place` then, under its name.
    pub(super) async fn download(
        &self,
        (url, name): (&str, &str),
        checksum: &str,
        place: PathBuf,
        begun: &Begun,
    ) -> Outcome<Arc<Tree>> {
        let wanted = match checksum {
            "" => None,
            text => Some(text.parse::<Digest>().map_err(|_| {
                Failure::new(format!(
                    "invalid checksum digest format: {text}: sha256:… is expected"
                ))
            })?),
        };
        let folder = format!("{}{url}", super::cache::HTTP);
        let (_held, dir, _) = self.engine.build_cache.mount(&folder, false)?;
        let lock = self.engine.build_cache.lock_of(&folder).lock_owned();
        let _lock = tokio::select! {
            lock = lock => lock,
            () = self.stop.cancelled() => return Err(Failure::cancelled()),
        };
        let kept = tokio::select! {
            kept = self.fetch(url, &dir, begun) => kept?,
            () = self.stop.cancelled() => return Err(Failure::cancelled()),
        };
        if let Some(wanted) = wanted
            && kept.digest != wanted.to_string()
        {
            let text = format!("digest mismatch {}: {wanted}", kept.digest);
            return Err(Failure::new(text));
        }
        make_dir(&place)?;
        // The next download replaces the file and does not change this one.
        let linked = std::fs::hard_link(dir.join("data"), place.join(name));
        linked.context(|| format!("add {url} as {name}"))?;
        Ok(Arc::new(Tree::folder(&place).map_err(Error::Image)?))
    }

    async fn fetch(&self, url: &str, dir: &Path, begun: &Begun) -> Outcome<Kept> {
        let known: Option<Kept> = std::fs::read(dir.join("kept.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .filter(|_| dir.join("data").is_file());
        let failed = |error: reqwest::Error| Failure::new(format!("Get \"{url}\": {}", chain(&error)));
        let mut request = client()?.get(url);
        if let Some(known) = &known {
            if !known.etag.is_empty() {
                request = request.header(header::IF_NONE_MATCH, &known.etag);
            }
            if !known.last_modified.is_empty() {
                request = request.header(header::IF_MODIFIED_SINCE, &known.last_modified);
            }
        }
        let mut answer = request.send().await.map_err(failed)?;
        if answer.status() == reqwest::StatusCode::NOT_MODIFIED
            && let Some(known) = known
        {
            return Ok(known);
        }
        if !answer.status().is_success() {
            return Err(Failure::new(format!(
                "invalid response status {}",
                answer.status().as_u16()
            )));
        }
        let text = |name: header::HeaderName| {
            let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (etag, last_modified) = (text(header::ETAG), text(header::LAST_MODIFIED));
        let staged = dir.join("data.new");
        let mut file = std::fs::File::create(&staged).context(|| format!("write {}", staged.display()))?;
        let (mut hash, mut bytes) = (DigestWriter::default(), 0);
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            bytes += piece.len() as u64;
            if bytes > DOWNLOAD {
                return Err(Failure::new(format!("{url} is larger than {DOWNLOAD} bytes")));
            }
            let written = file.write_all(&piece).and_then(|()| hash.write_all(&piece));
            written.context(|| format!("write {}", staged.display()))?;
        }
        begun.status("downloading", bytes, true).await;
        let mtime = jiff::fmt::rfc2822::parse(&last_modified)
            .map_or_else(|_| id::now() / 1_000_000_000, |time| time.timestamp().as_second());
        let kept = Kept {
            etag,
            last_modified,
            digest: hash.finish().to_string(),
            mtime,
        };
        let place = || {
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            let seconds = std::time::Duration::from_secs(kept.mtime.unsigned_abs());
            file.set_modified(std::time::UNIX_EPOCH + seconds)?;
            std::fs::rename(&staged, dir.join("data"))?;
            std::fs::write(dir.join("kept.json"), serde_json::to_vec(&kept)?)
        };
        place().context(|| format!("keep {url}"))?;
        Ok(kept)
    }

    /// Fetches one commit of a repository with the host's git. Gives its files, and the commit's name.
    pub(super) async fn clone_repository(
        &self,
        url: &str,
        keep_git_dir: bool,
        checksum: &str,
        dir: PathBuf,
        begun: &Begun,
    ) -> Outcome<(Arc<Tree>, String)> {
        let source =
            git::Source::parse(url).ok_or_else(|| Failure::new(format!("invalid git reference {url}")))?;
        make_dir(&dir)?;
        let runner = Runner {
            build: self,
            dir: &dir,
            begun,
        };
        let commit = source.check_out(&runner).await?;
        if !checksum.is_empty() && !commit.starts_with(checksum) {
            let text = format!("expected checksum to match {checksum}, got {commit}");
            return Err(Failure::new(text));
        }
        source.check_out_submodules(&runner).await?;
        if !keep_git_dir {
            super::cache::remove(&dir, ".git")?;
        }
        let folder = source.folder();
        let below = Tree::folder_below(&dir, folder).context(|| format!("read {folder}"))?;
        let below =
            below.ok_or_else(|| Failure::new(format!("{url}: the repository has no folder {folder}")))?;
        let tree = Arc::new(Tree::folder(&below).map_err(Error::Image)?);
        Ok((tree, commit))
    }

    async fn git(&self, dir: &Path, arguments: &[&str], begun: &Begun) -> Outcome<String> {
        let mut command = git_in(dir);
        command.args(arguments);
        let output = tokio::select! {
            output = command.output() => output,
            () = self.stop.cancelled() => return Err(Failure::cancelled()),
        };
        let output = match output {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = "ADD of a repository needs git on the daemon's host: install it, or add the files from the context";
                return Err(Failure::new(text));
            }
            other => other.context(|| "run git")?,
        };
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() {
            return Ok(text);
        }
        begun.log(2, output.stderr.clone().into()).await;
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Failure::new(format!(
            "git {} failed: {words}",
            arguments.first().unwrap_or(&"")
        )))
    }
}

/// Runs git for a step.
struct Runner<'r> {
    build: &'r Build,
    dir: &'r Path,
    begun: &'r Begun,
}

impl git::Run for Runner<'_> {
    type Error = Failure;

    async fn run(&self, arguments: &[&str]) -> Outcome<String> {
        self.build.git(self.dir, arguments, self.begun).await
    }
}

/// git in a folder that a stranger fills: no configuration but the repository's own, which git itself has written, and no way
/// to a remote but over the network. A `.gitconfig` in the folder, or the host's, would name programs to run as the daemon.
fn git_in(dir: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("git");
    for setting in [
        "advice.detachedHead=false",
        "core.hooksPath=/dev/null",
        "protocol.allow=never",
        "protocol.http.allow=always",
        "protocol.https.allow=always",
        "protocol.git.allow=always",
        "protocol.ssh.allow=always",
    ] {
        command.args(["-c", setting]);
    }
    command
        .current_dir(dir)
        .env("GIT_TERMINAL_PROMPT", "0")
        // Git looks for a name of its own in the network's otherwise, where that may take long.
        .env("GIT_COMMITTER_NAME", "pontoon")
        .env("GIT_COMMITTER_EMAIL", "pontoon@localhost")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        // For a git that does not know the line above (before 2.32).
        .env("HOME", "/nonexistent")
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Trusts what the host trusts.
fn client() -> Outcome<reqwest::Client> {
    let failed = |text: String| Failure::new(format!("downloads are not possible: {text}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(std::time::Duration::from_secs(30))
        .build();
    client.map_err(|e| failed(chain(&e)))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// What a source of ADD stands for: archives become their content.
pub(super) fn unpacked(tree: Arc<Tree>, path: &str, dir: &Path, name: &str) -> Result<Vec<Taken>> {
    let mut taken = Vec::new();
    let paths = copy::expand(&tree, path)?;
    if paths.is_empty() {
        return Ok(vec![Taken::Tree {
            tree,
            path: path.to_owned(),
            below: None,
        }]);
    }
    for (number, found) in paths.into_iter().enumerate() {
        let shown = String::from_utf8_lossy(&found).into_owned();
        let resolved = tree.resolve(&found).context(|| format!("read {shown}"))?;
        let file = match resolved.node {
            Some(node) if !node.is_dir() => node.open().ok(),
            _ => None,
        };
        if let Some(mut file) = file
            && is_archive(&mut file, &shown)?
        {
            let content = dir.join(format!("{name}-{number}"));
            taken.push(extracted(file, &content)?);
            continue;
        }
        taken.push(Taken::Tree {
            tree: tree.clone(),
            // It has been found: nothing in it is a wildcard any more.
            path: escape(&shown),
            below: None,
        });
    }
    Ok(taken)
}

fn extracted(archive: impl Read, dir: &Path) -> Result<Taken> {
    make_dir(dir)?;
    contexts::extract_as(archive, dir, None)?;
    Ok(Taken::Tree {
        tree: Arc::new(Tree::folder(dir).map_err(Error::Image)?),
        path: "/".into(),
        below: None,
    })
}

/// A path in which nothing is a wildcard.
pub(super) fn escape(path: &str) -> String {
    let mut out = String::new();
    for c in path.chars() {
        if matches!(c, '*' | '?' | '[' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// True for a tar archive, plain or compressed; the file is at its beginning again.
fn is_archive(file: &mut (impl Read + std::io::Seek), name: &str) -> Result<bool> {
    let failed = || format!("read {name}");
    let mut block = Vec::new();
    let plain = archive::plain(&mut *file);
    let read = plain.and_then(|plain| plain.take(512).read_to_end(&mut block));
    file.rewind().context(failed)?;
    if read.is_err() || block.len() < 512 {
        return Ok(false);
    }
    let field = |range: std::ops::Range<usize>| {
        String::from_utf8_lossy(&block[range])
            .trim_matches(['\0', ' '])
            .to_owned()
    };
    let sum: u32 = block[..148]
        .iter()
        .chain(&block[156..])
        .map(|b| u32::from(*b))
        .sum::<u32>()
        + 8 * 32;
    Ok(u32::from_str_radix(&field(148..156), 8).is_ok_and(|said| said == sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn git_takes_no_orders_from_what_it_fetched() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join(".gitconfig"), "[core]\n\tfsmonitor = /evil\n").expect("a file");
        let asked = git_in(dir.path())
            .args(["config", "--get", "core.fsmonitor"])
            .output()
            .await
            .expect("git runs");
        assert_eq!(String::from_utf8_lossy(&asked.stdout), "");

        let near = git_in(dir.path())
            .args(["ls-remote", "file:///"])
            .output()
            .await
            .expect("git runs");
        let words = String::from_utf8_lossy(&near.stderr).into_owned();
        assert!(words.contains("transport 'file' not allowed"), "{words}");
    }
}
