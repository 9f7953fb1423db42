//! How the kernel runs a process: personality, scheduler, I/O priority, processors. Worked out before the clone;
//! set with the host's rights, as a user namespace has no say in any of it.

use std::io;

use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, LinuxIOPriority, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler,
};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Error;
use crate::error::IoContext;
use crate::sys::sched::{self, SchedAttr};

/// Everything of it that a specification asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tuning {
    pub personality: Option<u32>,
    scheduler: Option<SchedAttr>,
    io_priority: Option<u16>,
    /// Processors of an exec'd process before and after it is in the container's cgroup.
    affinity: (Option<CpuSet>, Option<CpuSet>),
}

impl Tuning {
    /// Checks and translates a process's part.
    pub(crate) fn new(process: &Process) -> Result<Self, Error> {
        Ok(Self {
            personality: None,
            scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
            io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
            affinity: process
                .exec_cpu_affinity()
                .as_ref()
                .map_or(Ok((None, None)), affinity)?,
        })
    }

    /// Applies it to the calling process.
    pub(super) fn apply(&self) -> Result<(), Error> {
        if let Some(personality) = self.personality {
            sched::set_personality(personality).context(|| format!("set personality {personality:#x}"))?;
        }
        if let Some(attributes) = &self.scheduler {
            sched::set_scheduler(attributes).map_err(|source| Error::Io {
                what: format!("set scheduling policy {}{}", attributes.policy, hint(&source)),
                source,
            })?;
        }
        if let Some(priority) = self.io_priority {
            sched::set_io_priority(priority).context(|| "set the I/O priority")?;
        }
        Ok(())
    }

    /// The processors of an exec'd process, in its two moments.
    pub(super) fn settle_before_cgroup(&self) -> Result<(), Error> {
        set_affinity(self.affinity.0.as_ref())
    }

    /// See [`Tuning::settle_before_cgroup`].
    pub(super) fn settle_in_cgroup(&self) -> Result<(), Error> {
        set_affinity(self.affinity.1.as_ref())
    }
}

fn set_affinity(set: Option<&CpuSet>) -> Result<(), Error> {
    match set {
        Some(set) => sched_setaffinity(None, set).context(|| "set the processors of the process"),
        None => Ok(()),
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            " (a real-time policy needs CAP_SYS_NICE and, with cgroup v1, a real-time budget of the cgroup)"
        }
        _ => "",
    }
}

/// The number that personality(2) takes.
pub(crate) fn personality(personality: &LinuxPersonality) -> Result<u32, Error> {
    if personality.flags().as_ref().is_some_and(|f| !f.is_empty()) {
        return Err(Error::Unsupported("linux.personality.flags".to_owned()));
    }
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

fn scheduler(scheduler: &Scheduler) -> Result<SchedAttr, Error> {
    let invalid = |text: &str| Err(Error::InvalidSpec(format!("process.scheduler: {text}")));
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let (nice, priority) = (scheduler.nice().unwrap_or(0), scheduler.priority().unwrap_or(0));
    if !(-20..=19).contains(&nice) {
        return invalid("nice must be between -20 and 19");
    }
    if priority != 0 && !matches!(policy, 1 | 2) {
        return invalid("priority needs SCHED_FIFO or SCHED_RR");
    }
    let deadline = [scheduler.runtime(), scheduler.deadline(), scheduler.period()];
    if policy != 6 && deadline.iter().any(|v| v.is_some_and(|v| v != 0)) {
        return invalid("runtime, deadline and period need SCHED_DEADLINE");
    }
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    Ok(SchedAttr {
        policy,
        flags,
        nice,
        priority: u32::try_from(priority)
            .map_err(|_| Error::InvalidSpec("process.scheduler: priority is negative".to_owned()))?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..SchedAttr::default()
    })
}

fn io_priority(priority: &LinuxIOPriority) -> Result<u16, Error> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(priority.priority()) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => Err(Error::InvalidSpec(format!(
            "process.ioPriority: {} is not between 0 and 7",
            priority.priority()
        ))),
    }
}

fn affinity(affinity: &ExecCPUAffinity) -> Result<(Option<CpuSet>, Option<CpuSet>), Error> {
    let set = |text: &Option<String>| {
        text.as_deref()
            .filter(|t| !t.is_empty())
            .map(processors)
            .transpose()
    };
    Ok((set(affinity.initial())?, set(affinity.cpu_affinity_final())?))
}

/// A list like `0-3,7`.
fn processors(text: &str) -> Result<CpuSet, Error> {
    let invalid = || {
        Error::InvalidSpec(format!(
            "process.execCPUAffinity: {text:?} is no list of processors"
        ))
    };
    let mut set = CpuSet::new();
    for part in text.split(',') {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let (first, last): (usize, usize) = (
            first.parse().map_err(|_| invalid())?,
            last.parse().map_err(|_| invalid())?,
        );
        if first > last || last >= CpuSet::MAX_CPU {
            return Err(invalid());
        }
        (first..=last).for_each(|cpu| set.set(cpu));
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        let set = processors("0-2,7").unwrap();
        assert_eq!(
            (set.count(), set.is_set(2), set.is_set(3), set.is_set(7)),
            (4, true, false, true)
        );
        for bad in ["", "a", "3-1", "1-", "99999"] {
            assert!(processors(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn priorities() {
        let level: LinuxIOPriority =
            serde_json::from_value(serde_json::json!({"class": "IOPRIO_CLASS_BE", "priority": 5})).unwrap();
        assert_eq!(io_priority(&level).unwrap(), (2 << 13) | 5);
        let bad: Scheduler =
            serde_json::from_value(serde_json::json!({"policy": "SCHED_OTHER", "priority": 5})).unwrap();
        assert!(scheduler(&bad).is_err());
    }
}
