//! Repositories as sources of files: how an address names one, and which commands fetch a commit of it. Who runs git, with what
//! settings, is the caller's ([`Run`]): the engine's for `ADD`, and the client's for contexts.

use std::future::Future;

/// Runs git in the folder of the repository.
pub trait Run: Sync {
    /// Why it did not succeed.
    type Error: Send;

    /// Gives what git has printed, without blanks at both ends.
    fn run(&self, arguments: &[&str]) -> impl Future<Output = Result<String, Self::Error>> + Send;
}

/// `remote#reference:folder`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    remote: String,
    reference: String,
    folder: String,
}

impl Source {
    /// Reads an address; `None` for one that git would take for an option.
    pub fn parse(address: &str) -> Option<Self> {
        let (remote, fragment) = address.split_once('#').unwrap_or((address, ""));
        let remote = match remote.strip_prefix("github.com/") {
            Some(path) => format!("https://github.com/{path}"),
            None => remote.to_owned(),
        };
        let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
        let reference = if reference.is_empty() { "HEAD" } else { reference };
        let is_option = |word: &str| word.starts_with('-');
        (!is_option(&remote) && !is_option(reference)).then(|| Self {
            remote,
            reference: reference.to_owned(),
            folder: folder.to_owned(),
        })
    }

    /// The folder of the repository that is meant; empty: all of it.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Checks the commit out into an empty folder, and gives its name.
    ///
    /// # Errors
    /// git's.
    pub async fn check_out<R: Run>(&self, git: &R) -> Result<String, R::Error> {
        git.run(&["init", "-q", "."]).await?;
        git.run(&["remote", "add", "origin", "--", &self.remote]).await?;
        let one = [
            "fetch",
            "-q",
            "--depth",
            "1",
            "--no-tags",
            "origin",
            "--",
            &self.reference,
        ];
        if git.run(&one).await.is_ok() {
            git.run(&["checkout", "-q", "--detach", "FETCH_HEAD"]).await?;
        } else {
            self.check_out_of_all(git).await?;
        }
        git.run(&["rev-parse", "HEAD"]).await
    }

    /// For servers that don't give single commits, and that don't say what their HEAD is but by a fetch of it.
    async fn check_out_of_all<R: Run>(&self, git: &R) -> Result<(), R::Error> {
        let head = "+HEAD:refs/remotes/origin/HEAD";
        git.run(&["fetch", "-q", "--tags", "origin", head]).await?;
        git.run(&["fetch", "-q", "--tags", "origin"]).await?;
        let branch = format!("refs/remotes/origin/{}", self.reference);
        if git.run(&["checkout", "-q", "--detach", &branch]).await.is_err() {
            git.run(&["checkout", "-q", "--detach", &self.reference]).await?;
        }
        Ok(())
    }

    /// Checks its submodules out too.
    ///
    /// # Errors
    /// git's.
    pub async fn check_out_submodules<R: Run>(&self, git: &R) -> Result<(), R::Error> {
        let update = [
            "submodule",
            "update",
            "-q",
            "--init",
            "--recursive",
            "--depth",
            "1",
        ];
        git.run(&update).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_commit_and_a_folder() {
        let source = |remote: &str, reference: &str, folder: &str| {
            Some(Source {
                remote: remote.into(),
                reference: reference.into(),
                folder: folder.into(),
            })
        };
        assert_eq!(
            Source::parse("https://x/y.git"),
            source("https://x/y.git", "HEAD", "")
        );
        assert_eq!(Source::parse("git@x:y#v1:a/b"), source("git@x:y", "v1", "a/b"));
        assert_eq!(
            Source::parse("github.com/a/b#:c"),
            source("https://github.com/a/b", "HEAD", "c")
        );
        assert_eq!(Source::parse("--upload-pack=x"), None);
        assert_eq!(Source::parse("x#--y"), None);
    }
}
