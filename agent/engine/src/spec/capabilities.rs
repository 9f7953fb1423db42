//! Which capabilities a container has: Docker's list, `--cap-add`, `--cap-drop`, `--privileged`.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};
use pontoon_proto::v1::{ContainerSpec, HostConfig};
use pontoon_runtime::defaults;

use crate::{Error, Result};

const ALL: [Capability; 41] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Kill,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::Setgid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// Every capability this kernel knows: newer ones than the kernel's last can't be set.
fn all() -> HashSet<Capability> {
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse::<u8>().ok())
        .unwrap_or(40);
    ALL.into_iter()
        .filter(|capability| match capability {
            Capability::Perfmon => last >= 38,
            Capability::Bpf => last >= 39,
            Capability::CheckpointRestore => last >= 40,
            _ => true,
        })
        .collect()
}

fn parse(name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.into_iter()
        .find(|capability| capability.to_string().trim_start_matches("CAP_") == bare)
        .ok_or_else(|| Error::Invalid(format!("invalid capability: unknown capability: \"CAP_{bare}\"")))
}

/// The container's capabilities. Docker's rule: `ALL` in one list first, the names of both lists then.
pub(crate) fn resolve(config: &ContainerSpec, host: &HostConfig) -> Result<HashSet<Capability>> {
    if host.privileged {
        return Ok(all());
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set: HashSet<Capability> = if config.cap_add.iter().any(is_all) {
        all()
    } else if config.cap_drop.iter().any(is_all) {
        HashSet::new()
    } else {
        defaults::CAPABILITIES.into_iter().collect()
    };
    for name in config.cap_drop.iter().filter(|name| !is_all(name)) {
        set.remove(&parse(name)?);
    }
    for name in config.cap_add.iter().filter(|name| !is_all(name)) {
        set.insert(parse(name)?);
    }
    Ok(set)
}

/// The OCI form. Inheritable and ambient stay empty (CVE-2022-24769); a user other than root gets the rest through
/// the bounding set only, as in Docker.
pub(crate) fn linux(set: &HashSet<Capability>, uid: u32) -> LinuxCapabilities {
    let effective = if uid == 0 { set.clone() } else { HashSet::new() };
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set.clone()))
        .set_effective(Some(effective.clone()))
        .set_permitted(Some(effective))
        .set_inheritable(Some(HashSet::new()))
        .set_ambient(Some(HashSet::new()));
    capabilities
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(add: &[&str], drop: &[&str]) -> HashSet<Capability> {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let config = ContainerSpec {
            cap_add: list(add),
            cap_drop: list(drop),
            ..Default::default()
        };
        resolve(&config, &HostConfig::default()).unwrap()
    }

    #[test]
    fn adds_and_drops() {
        assert_eq!(of(&[], &[]).len(), 14);
        assert!(of(&["NET_ADMIN"], &[]).contains(&Capability::NetAdmin));
        assert!(of(&["cap_sys_time"], &[]).contains(&Capability::SysTime));
        assert_eq!(of(&["CHOWN"], &["all"]), HashSet::from([Capability::Chown]));
        assert!(!of(&["ALL"], &["SYS_ADMIN"]).contains(&Capability::SysAdmin));
        assert!(parse("FLY").is_err());
    }
}
