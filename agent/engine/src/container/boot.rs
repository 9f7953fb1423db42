//! Notices that the machine was restarted since the engine last ran. What a shim has left in a run folder that outlived the restart
//! (one that is no tmpfs) then names processes and cgroups that belong to somebody else by now; only how a container ended
//! is still true.

use std::path::Path;

use crate::Result;
use crate::error::IoContext;

/// The kernel's name for this boot (proc_sys_kernel(5)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Where the name of the boot is kept in the run folder.
const FILE: &str = "boot-id";
/// The one file of a shim that means something after a restart.
const EXIT_RECORD: &str = "exit.json";

/// Forgets the shims of an earlier boot. Called before containers are looked for. True if there was a restart.
pub(crate) fn notice(run_dir: &Path) -> Result<bool> {
    let Ok(now) = std::fs::read_to_string(BOOT_ID) else {
        // A host without procfs has no containers either.
        return Ok(false);
    };
    let path = run_dir.join(FILE);
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    if before == now {
        return Ok(false);
    }
    let restarted = !before.is_empty();
    if restarted {
        tracing::info!("the machine was restarted: containers are started again as their policies say");
        forget(&run_dir.join("shim"))?;
    }
    std::fs::write(&path, now).context(|| format!("write {}", path.display()))?;
    Ok(restarted)
}

fn forget(shims: &Path) -> Result<()> {
    let read = |dir: &Path| std::fs::read_dir(dir).context(|| format!("read {}", dir.display()));
    for shim in read(shims)?.flatten() {
        if !shim.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        for entry in read(&shim.path())?.flatten() {
            if entry.file_name() == EXIT_RECORD {
                continue;
            }
            let path = entry.path();
            let removed = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_of_an_earlier_boot_are_forgotten() {
        let temp = tempfile::tempdir().unwrap();
        let run = temp.path();
        let shim = run.join("shim/abc");
        std::fs::create_dir_all(shim.join("rootfs")).unwrap();
        for file in ["shim.sock", "state.json", EXIT_RECORD] {
            std::fs::write(shim.join(file), "x").unwrap();
        }
        let files = || std::fs::read_dir(&shim).unwrap().count();
        // The first start of an engine, and one in the same boot.
        assert!(!notice(run).unwrap());
        assert!(!notice(run).unwrap());
        assert_eq!(files(), 4);
        std::fs::write(run.join(FILE), "another").unwrap();
        assert!(notice(run).unwrap());
        assert_eq!(files(), 1);
        assert!(shim.join(EXIT_RECORD).exists());
        assert!(!notice(run).unwrap());
    }
}
