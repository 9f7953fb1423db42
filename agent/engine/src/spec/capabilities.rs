//! Which capabilities a container has: Docker's list, `--cap-add`, `--cap-drop`, `--privileged`.

use std::collections::HashSet;
use std::sync::OnceLock;

use oci_spec::runtime::{Capability, LinuxCapabilities};
use pontoon_proto::v1::{ContainerSpec, HostConfig};
use pontoon_runtime::defaults;

use crate::{Error, Result};

/// In the kernel's order: a capability's place is its number (linux/capability.h).
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Every capability that the engine can give: known to the kernel and not taken from the engine itself (capabilities(7): the bounding
/// set). Can't change while the engine runs.
fn available() -> &'static HashSet<Capability> {
    static AVAILABLE: OnceLock<HashSet<Capability>> = OnceLock::new();
    AVAILABLE.get_or_init(|| {
        let kernel = known_to_kernel();
        match bounding_set() {
            Some(bounding) => kernel
                .into_iter()
                .filter(|capability| bounding.checked_shr(number(*capability).into()).unwrap_or(0) & 1 == 1)
                .collect(),
            None => kernel,
        }
    })
}

/// The engine's bounding set as a mask; `None` if the kernel does not tell.
fn bounding_set() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn known_to_kernel() -> HashSet<Capability> {
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse::<u8>().ok())
        .unwrap_or(40);
    ALL.into_iter()
        .filter(|capability| number(*capability) <= last)
        .collect()
}

/// Capabilities that the kernel knows and the engine lacks, by name.
pub(crate) fn lacking() -> Vec<String> {
    let mut names: Vec<String> = known_to_kernel()
        .difference(available())
        .map(|capability| format!("CAP_{}", bare(*capability)))
        .collect();
    names.sort();
    names
}

/// Its number in linux/capability.h.
fn number(capability: Capability) -> u8 {
    let place = ALL.iter().position(|known| *known == capability);
    place
        .and_then(|place| u8::try_from(place).ok())
        .unwrap_or(u8::MAX)
}

/// Its name without prefix.
fn bare(capability: Capability) -> String {
    capability.to_string().trim_start_matches("CAP_").to_owned()
}

fn parse(name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    let wanted = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let capability = ALL
        .into_iter()
        .find(|capability| bare(*capability) == wanted)
        .ok_or_else(|| Error::Invalid(format!("unknown capability: \"CAP_{wanted}\"")))?;
    if !available().contains(&capability) {
        return Err(Error::Invalid(format!(
            "capability not supported by your kernel or not available in the current environment: \"CAP_{wanted}\""
        )));
    }
    Ok(capability)
}

/// Names of a list as capabilities; the error says which list.
fn parse_list(list: &str, names: &[String]) -> Result<Vec<Capability>> {
    names
        .iter()
        .filter(|name| !is_all(name))
        .map(|name| parse(name).map_err(|error| Error::Invalid(format!("invalid {list}: {error}"))))
        .collect()
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

/// The container's capabilities (moby `caps.TweakCapabilities`): with `ALL` added everything but what is dropped, with `ALL` dropped
/// only what is added, else Docker's list without the ones and with the others.
pub(crate) fn resolve(config: &ContainerSpec, host: &HostConfig) -> Result<HashSet<Capability>> {
    let added = parse_list("CapAdd", &config.cap_add)?;
    let dropped = parse_list("CapDrop", &config.cap_drop)?;
    if host.privileged {
        return Ok(available().clone());
    }
    let has_all = |names: &[String]| names.iter().any(|name| is_all(name));
    if has_all(&config.cap_add) {
        let mut set = available().clone();
        set.retain(|capability| !dropped.contains(capability));
        return Ok(set);
    }
    let mut set: HashSet<Capability> = if has_all(&config.cap_drop) {
        HashSet::new()
    } else {
        let kept = defaults::CAPABILITIES
            .into_iter()
            .filter(|capability| !dropped.contains(capability));
        kept.collect()
    };
    set.extend(added);
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
        assert!(of(&["CHOWN"], &["CHOWN"]).contains(&Capability::Chown));
        assert!(of(&[], &["ALL"]).is_empty());
        assert_eq!(number(Capability::CheckpointRestore), 40);
        assert_eq!(number(Capability::SysAdmin), 21);
        assert!(parse("FLY").is_err());
    }
}
