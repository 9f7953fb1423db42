//! A process as it will be executed, worked out from the specification before the clone.

use std::ffi::CString;
use std::path::PathBuf;

use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimitType, Process};

use super::tuning::Tuning;
use crate::Error;
use crate::seccomp::Filter;

/// Capability sets as bit masks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CapabilityMasks {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// One resource limit.
#[derive(Debug, Clone)]
pub(crate) struct ResourceLimit {
    pub name: String,
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// A process, ready to be set up and executed.
#[derive(Debug, Clone)]
pub(crate) struct ProcessPlan {
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: PathBuf,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    pub capabilities: CapabilityMasks,
    pub limits: Vec<ResourceLimit>,
    pub oom_score_adj: Option<i32>,
    pub no_new_privileges: bool,
    pub apparmor_profile: Option<String>,
    pub seccomp: Option<Filter>,
    pub terminal: bool,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
    pub selinux_label: Option<String>,
    pub tuning: Tuning,
    /// Descriptors after the standard ones that it inherits.
    pub preserved: u32,
    /// Keeps the session keyring of whoever starts it.
    pub keep_keyring: bool,
}

impl ProcessPlan {
    /// Checks and translates a process. What can't be done is refused here, before anything exists.
    pub(crate) fn new(process: &Process, seccomp: Option<Filter>) -> Result<Self, Error> {
        let argv = c_strings(process.args().as_deref().unwrap_or_default(), "argument")?;
        if argv.is_empty() {
            return Err(Error::InvalidSpec("no command specified".to_owned()));
        }
        if !process.cwd().is_absolute() {
            return Err(Error::InvalidSpec(format!(
                "cwd {} must be absolute",
                process.cwd().display()
            )));
        }
        let user = process.user();
        Ok(Self {
            argv,
            env: c_strings(
                process.env().as_deref().unwrap_or_default(),
                "environment variable",
            )?,
            cwd: process.cwd().clone(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask(),
            capabilities: process.capabilities().as_ref().map(masks).unwrap_or_default(),
            limits: limits(process)?,
            oom_score_adj: process.oom_score_adj(),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            apparmor_profile: process.apparmor_profile().clone().filter(|p| !p.is_empty()),
            seccomp,
            terminal: process.terminal().unwrap_or(false),
            console_size: process.console_size().as_ref().map(|size| {
                let side = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
                (side(size.height()), side(size.width()))
            }),
            selinux_label: process.selinux_label().clone().filter(|l| !l.is_empty()),
            tuning: Tuning::new(process)?,
            preserved: 0,
            keep_keyring: false,
        })
    }

    /// The value of an environment variable, the last one if it is set twice.
    pub(crate) fn variable(&self, name: &str) -> Option<&[u8]> {
        self.env.iter().rev().find_map(|entry| {
            entry
                .to_bytes()
                .strip_prefix(name.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"="))
        })
    }
}

fn c_strings(strings: &[String], what: &str) -> Result<Vec<CString>, Error> {
    strings
        .iter()
        .map(|s| {
            CString::new(s.as_str())
                .map_err(|_| Error::InvalidSpec(format!("{what} {s:?} contains a NUL byte")))
        })
        .collect()
}

fn masks(capabilities: &LinuxCapabilities) -> CapabilityMasks {
    let mask = |set: &Option<Capabilities>| {
        set.iter().flatten().fold(0, |mask, &capability| {
            mask | (1_u64 << capability_number(capability))
        })
    };
    CapabilityMasks {
        bounding: mask(capabilities.bounding()),
        effective: mask(capabilities.effective()),
        permitted: mask(capabilities.permitted()),
        inheritable: mask(capabilities.inheritable()),
        ambient: mask(capabilities.ambient()),
    }
}

/// Numbers of linux/capability.h.
fn capability_number(capability: oci_spec::runtime::Capability) -> u32 {
    use oci_spec::runtime::Capability as C;
    match capability {
        C::Chown => 0,
        C::DacOverride => 1,
        C::DacReadSearch => 2,
        C::Fowner => 3,
        C::Fsetid => 4,
        C::Kill => 5,
        C::Setgid => 6,
        C::Setuid => 7,
        C::Setpcap => 8,
        C::LinuxImmutable => 9,
        C::NetBindService => 10,
        C::NetBroadcast => 11,
        C::NetAdmin => 12,
        C::NetRaw => 13,
        C::IpcLock => 14,
        C::IpcOwner => 15,
        C::SysModule => 16,
        C::SysRawio => 17,
        C::SysChroot => 18,
        C::SysPtrace => 19,
        C::SysPacct => 20,
        C::SysAdmin => 21,
        C::SysBoot => 22,
        C::SysNice => 23,
        C::SysResource => 24,
        C::SysTime => 25,
        C::SysTtyConfig => 26,
        C::Mknod => 27,
        C::Lease => 28,
        C::AuditWrite => 29,
        C::AuditControl => 30,
        C::Setfcap => 31,
        C::MacOverride => 32,
        C::MacAdmin => 33,
        C::Syslog => 34,
        C::WakeAlarm => 35,
        C::BlockSuspend => 36,
        C::AuditRead => 37,
        C::Perfmon => 38,
        C::Bpf => 39,
        C::CheckpointRestore => 40,
    }
}

fn limits(process: &Process) -> Result<Vec<ResourceLimit>, Error> {
    let mut seen: Vec<ResourceLimit> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let resource = match limit.typ() {
            PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
            PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
            PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
            PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
            PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
            PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
            PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
            PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
            PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
            PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
            PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
            PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
            PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
            PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
            PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
            PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
        };
        let name = limit.typ().to_string();
        if seen.iter().any(|l| l.resource == resource) {
            return Err(Error::InvalidSpec(format!("{name} is set twice")));
        }
        if limit.soft() > limit.hard() {
            return Err(Error::InvalidSpec(format!(
                "{name}: the soft limit is above the hard one"
            )));
        }
        seen.push(ResourceLimit {
            name,
            resource,
            soft: limit.soft(),
            hard: limit.hard(),
        });
    }
    Ok(seen)
}
