//! Where the programs under test are. Used by [`crate::fleet`] and [`crate::images`].

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The `pontoon` binary: `PONTOON_BIN`, else the one beside this program's target folder, release before debug.
///
/// # Errors
/// When there is none.
pub fn pontoon() -> Result<PathBuf> {
    find("pontoon", "PONTOON_BIN")
}

/// The program that the test images run: `PONTOON_WEB`, else found like [`pontoon`].
///
/// # Errors
/// When there is none.
pub fn web() -> Result<PathBuf> {
    find("web", "PONTOON_WEB")
}

/// The program that kills daemons at exact steps: `PONTOON_KILLER`, else found like [`pontoon`].
///
/// # Errors
/// When there is none.
pub fn killer() -> Result<PathBuf> {
    find("killer", "PONTOON_KILLER")
}

fn find(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return path
            .canonicalize()
            .with_context(|| format!("{variable} names {}", path.display()));
    }
    let exe = std::env::current_exe().context("cannot find this program's own path")?;
    // <target>/<triple>/<profile>/{deps/,}<program>
    let profile = exe
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .unwrap_or(Path::new("/"));
    let triple = profile.parent().unwrap_or(Path::new("/"));
    for folder in [&triple.join("release"), profile, &triple.join("debug")] {
        let candidate = folder.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!(
        "no {name} binary below {}: build it (`cargo build --release`) or name it in {variable}",
        triple.display()
    )
}
