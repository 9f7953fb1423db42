//! Who a container's process is and what it may: limits, user, groups, capabilities, seccomp. The last steps
//! before execve, in an order that the kernel's rules dictate.

use std::fs;
use std::io;

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::plan::ProcessPlan;
use crate::Error;
use crate::error::IoContext;
use crate::sys;

/// Names of linux/capability.h by number, without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The name of a capability.
pub(crate) fn capability_name(number: u32) -> Option<String> {
    let name = CAPABILITIES.get(usize::try_from(number).ok()?)?;
    Some(format!("CAP_{name}"))
}

/// Tells which of the capabilities asked for can't be given, as the engine lacks them itself.
pub(super) fn tell_missing(plan: &ProcessPlan, warnings: &mut Vec<String>) -> Result<(), Error> {
    let own = rustix::thread::capabilities(None)
        .context(|| "read capabilities")?
        .permitted
        .bits();
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    let last: u32 = last.trim().parse().unwrap_or(40);
    let missing: Vec<String> = (0..=last)
        .filter(|bit| plan.capabilities.permitted & !own & (1 << bit) != 0)
        .filter_map(capability_name)
        .collect();
    if !missing.is_empty() {
        warnings.push(format!(
            "{} can't be given to the container: the engine lacks it itself",
            missing.join(", ")
        ));
    }
    Ok(())
}

/// What must be written to the host's `/proc` while it is still in reach: a procfs that the container has
/// arranged can't be trusted (CVE-2025-52881, CVE-2019-19921).
pub(super) fn before_pivot(plan: &ProcessPlan, warnings: &mut Vec<String>) -> Result<(), Error> {
    if let Some(score) = plan.oom_score_adj {
        match fs::write("/proc/self/oom_score_adj", score.to_string()) {
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => warnings.push(format!(
                "oom_score_adj {score} is not applied: lowering it needs CAP_SYS_RESOURCE, which the engine lacks"
            )),
            result => result.context(|| format!("set oom_score_adj to {score}"))?,
        }
    }
    if let Some(profile) = &plan.apparmor_profile {
        let attribute = ["/proc/self/attr/apparmor/exec", "/proc/self/attr/exec"]
            .into_iter()
            .find(|p| fs::exists(p).unwrap_or(false));
        let Some(attribute) = attribute else {
            return Err(Error::Unsupported(format!(
                "AppArmor profile {profile}: not available on this host"
            )));
        };
        fs::write(attribute, format!("exec {profile}"))
            .context(|| format!("apply AppArmor profile {profile}"))?;
    }
    if let Some(label) = &plan.selinux_label {
        if !super::has_selinux() {
            return Err(Error::Unsupported(format!(
                "SELinux label {label}: not available on this host"
            )));
        }
        fs::write("/proc/self/attr/exec", label).context(|| format!("apply SELinux label {label}"))?;
    }
    plan.tuning.apply()?;
    for limit in &plan.limits {
        set_limit(limit, warnings)?;
    }
    Ok(())
}

fn set_limit(limit: &super::plan::ResourceLimit, warnings: &mut Vec<String>) -> Result<(), Error> {
    match sys::process::set_resource_limit(limit.resource, limit.soft, limit.hard) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            let (_, allowed) =
                sys::process::resource_limit(limit.resource).context(|| format!("read {}", limit.name))?;
            warnings.push(format!(
                "{} of {} is not applied: the engine may not raise it above {allowed} (CAP_SYS_RESOURCE)",
                limit.name, limit.hard
            ));
            sys::process::set_resource_limit(limit.resource, limit.soft.min(allowed), allowed)
                .context(|| format!("set {} to {allowed}", limit.name))
        }
        result => result.context(|| format!("set {} to {}", limit.name, limit.hard)),
    }
}

/// Becomes the container's user with its capabilities. A process that may gain privileges gets its filter
/// here, the others by [`seal`], as late as possible.
pub(super) fn become_user(plan: &ProcessPlan) -> Result<(), Error> {
    if let Some(umask) = plan.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask & 0o777));
    }
    if plan.no_new_privileges {
        rustix::thread::set_no_new_privs(true).context(|| "set no_new_privs")?;
    } else {
        // Needs CAP_SYS_ADMIN, so it must come before the capabilities go.
        load_filter(plan)?;
    }
    drop_bounding(plan.capabilities.bounding)?;
    let groups: Vec<Gid> = plan.groups.iter().map(|&g| Gid::from_raw(g)).collect();
    rustix::thread::set_keep_capabilities(true).context(|| "keep capabilities")?;
    rustix::thread::set_thread_groups(&groups).context(|| "set supplementary groups")?;
    rustix::thread::set_thread_gid(Gid::from_raw(plan.gid)).context(|| format!("set gid {}", plan.gid))?;
    rustix::thread::set_thread_uid(Uid::from_raw(plan.uid)).context(|| format!("set uid {}", plan.uid))?;
    rustix::thread::set_keep_capabilities(false).context(|| "keep capabilities")?;
    set_capabilities(plan)
}

/// Loads the filter of a process that may not gain privileges: nothing but execve follows.
pub(super) fn seal(plan: &ProcessPlan) -> Result<(), Error> {
    if plan.no_new_privileges {
        load_filter(plan)
    } else {
        Ok(())
    }
}

fn load_filter(plan: &ProcessPlan) -> Result<(), Error> {
    match &plan.seccomp {
        Some(filter) => filter.load().context(|| "load the seccomp filter"),
        None => Ok(()),
    }
}

/// Removes everything but `keep` from the bounding set, up to the last capability that this kernel knows.
fn drop_bounding(keep: u64) -> Result<(), Error> {
    for bit in 0..64 {
        if keep & (1 << bit) != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(e).context(|| format!("drop capability {bit} from the bounding set")),
        }
    }
    Ok(())
}

fn set_capabilities(plan: &ProcessPlan) -> Result<(), Error> {
    let masks = &plan.capabilities;
    // A privileged container asks for every capability; the engine may lack some itself.
    let own = rustix::thread::capabilities(None)
        .context(|| "read capabilities")?
        .permitted
        .bits();
    let set = |mask: u64| CapabilitySet::from_bits_retain(mask & own);
    let sets = CapabilitySets {
        effective: set(masks.effective & masks.permitted),
        permitted: set(masks.permitted),
        inheritable: set(masks.inheritable),
    };
    rustix::thread::set_capabilities(None, sets).context(|| "set capabilities")?;
    rustix::thread::clear_ambient_capability_set()
        .or_else(ignore_invalid)
        .context(|| "clear ambient capabilities")?;
    let ambient = masks.ambient & own;
    for bit in (0..64).filter(|bit| ambient & (1 << bit) != 0) {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        rustix::thread::configure_capability_in_ambient_set(capability, true)
            .context(|| format!("raise ambient capability {bit}"))?;
    }
    Ok(())
}

fn ignore_invalid(error: rustix::io::Errno) -> Result<(), io::Error> {
    if error == rustix::io::Errno::INVAL {
        Ok(())
    } else {
        Err(error.into())
    }
}
