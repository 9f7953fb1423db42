//! Finding the program to execute, with Docker's messages and codes for what goes wrong.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::Errno;

use super::plan::ProcessPlan;
use crate::Error;

/// Exit code when the program does not exist.
const NOT_FOUND: i32 = 127;
/// Exit code when it exists but can't be executed.
const NOT_EXECUTABLE: i32 = 126;
/// Where to look if the environment has no PATH (as Docker's image default).
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The path to execute for `argv[0]`, looked up as the container's user inside its root.
pub(super) fn program(plan: &ProcessPlan) -> Result<CString, Error> {
    let Some(name) = plan.argv.first() else {
        return Err(Error::InvalidSpec("no command specified".to_owned()));
    };
    let bytes = name.to_bytes();
    let shown = name.to_string_lossy();
    if bytes.contains(&b'/') {
        return match check(name) {
            Ok(()) => Ok(name.clone()),
            Err(errno) => Err(failure(&shown, errno, true)),
        };
    }
    let mut denied = None;
    let path = plan.variable("PATH").unwrap_or(DEFAULT_PATH);
    for directory in path.split(|&b| b == b':') {
        let directory = if directory.is_empty() {
            b".".as_slice()
        } else {
            directory
        };
        let candidate = Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(bytes));
        let Ok(candidate) = CString::new(candidate.into_os_string().as_bytes()) else {
            continue;
        };
        match check(&candidate) {
            Ok(()) if !bytes.is_empty() => return Ok(candidate),
            Err(Errno::ACCESS) => denied = Some(Errno::ACCESS),
            _ => {}
        }
    }
    match denied {
        Some(errno) => Err(failure(&shown, errno, false)),
        None => Err(Error::Exec {
            code: NOT_FOUND,
            message: format!("exec: \"{shown}\": executable file not found in $PATH"),
        }),
    }
}

fn check(path: &CString) -> Result<(), Errno> {
    let metadata = stat(path)?;
    if FileType::from_raw_mode(metadata.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    // Root may "execute" anything by access(2); execve wants one x bit.
    if metadata.st_mode & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    // Real and effective ids are the same here; the plain call is the one that old filters allow.
    accessat(CWD, path, Access::EXEC_OK, AtFlags::empty())
}

fn failure(name: &str, errno: Errno, is_path: bool) -> Error {
    let reason = describe(errno);
    let code = match errno {
        Errno::NOENT => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    };
    let message = match errno {
        Errno::NOENT | Errno::NOTDIR if is_path => format!("exec: \"{name}\": stat {name}: {reason}"),
        _ => format!("exec: \"{name}\": {reason}"),
    };
    Error::Exec { code, message }
}

/// What execve itself refused.
pub(super) fn execve_failure(path: &CString, error: &io::Error) -> Error {
    let path = path.to_string_lossy();
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    // ENOENT here is a missing interpreter or loader: the file itself was found.
    let code = if errno == Errno::NOENT {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    };
    Error::Exec {
        code,
        message: format!("exec {path}: {}", describe(errno)),
    }
}

/// Go's wording, which Docker's clients match on.
fn describe(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "no such file or directory".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::ISDIR => "is a directory".to_owned(),
        Errno::NOTDIR => "not a directory".to_owned(),
        Errno::NOEXEC => "exec format error".to_owned(),
        other => io::Error::from(other).to_string(),
    }
}
