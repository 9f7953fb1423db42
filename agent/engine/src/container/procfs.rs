//! What proc(5) says about one process: for `top` on hosts without ps(1), to find the descendants of a health check that
//! is to be ended, and to know of an end before the shim has told of it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `/proc/<pid>/stat` and its neighbours.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its session's leader.
    pub session: u32,
    /// Clock ticks after boot at which it started: with the pid this names a process for good.
    pub started: u64,
    terminal: u32,
    ticks: u64,
}

impl Process {
    /// `None` if it is gone.
    pub(crate) fn read(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything, parentheses and spaces too.
        let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
        let number = |field: usize| fields.get(field - 3)?.trim().parse::<u64>().ok();
        let small = |field: usize| number(field).and_then(|value| u32::try_from(value).ok());
        Some(Self {
            pid,
            parent: small(4)?,
            session: small(6)?,
            terminal: small(7).unwrap_or_default(),
            ticks: number(14)? + number(15)?,
            started: number(22)?,
        })
    }

    /// The columns of `ps -ef`.
    pub(crate) fn full_listing(&self) -> Vec<String> {
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let age = uptime().saturating_sub(self.started / per_second);
        let used = self.ticks / per_second;
        let share = (used * 100).checked_div(age).unwrap_or_default().min(99);
        vec![
            self.owner(),
            self.pid.to_string(),
            self.parent.to_string(),
            share.to_string(),
            start_text(age),
            self.terminal_name(),
            format!("{:02}:{:02}:{:02}", used / 3600, used / 60 % 60, used % 60),
            self.command(),
        ]
    }

    fn owner(&self) -> String {
        let Ok(metadata) = std::fs::metadata(format!("/proc/{}", self.pid)) else {
            return "?".to_owned();
        };
        let uid = metadata.uid().to_string();
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == uid).then(|| name.to_owned())
        });
        name.unwrap_or(uid)
    }

    /// `pts/0` for the device numbers that terminals have (Documentation/admin-guide/devices.txt).
    fn terminal_name(&self) -> String {
        let major = (self.terminal >> 8) & 0xfff;
        let minor = (self.terminal & 0xff) | ((self.terminal >> 12) & 0xf_ff00);
        match major {
            136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
            4 if minor < 64 => format!("tty{minor}"),
            4 => format!("ttyS{}", minor - 64),
            _ => "?".to_owned(),
        }
    }

    fn command(&self) -> String {
        let words = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let text = String::from_utf8_lossy(&words)
            .trim_end_matches('\0')
            .replace('\0', " ");
        if !text.is_empty() {
            return text;
        }
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        format!("[{}]", name.trim())
    }
}

/// Whole seconds since the boot.
fn uptime() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(['.', ' ']).next().unwrap_or_default();
    seconds.parse().unwrap_or_default()
}

/// When a process started, as ps says it: the time today, the day before that.
fn start_text(age: u64) -> String {
    let now = Timestamp::now();
    let seconds = now
        .as_second()
        .saturating_sub(i64::try_from(age).unwrap_or(i64::MAX));
    let Ok(at) = Timestamp::from_second(seconds) else {
        return "?".to_owned();
    };
    let zone = TimeZone::system();
    let (at, now) = (at.to_zoned(zone.clone()), now.to_zoned(zone));
    let form = if at.date() == now.date() { "%H:%M" } else { "%b%d" };
    at.strftime(form).to_string()
}

/// Whether a process has ended: it is gone, or its parent has not taken notice yet.
pub(crate) fn has_ended(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    let state = stat.rfind(')').and_then(|name| stat.get(name + 2..));
    state.is_none_or(|state| state.starts_with(['Z', 'X']))
}

/// Those of `pids` that descend from `root`, or are in its session, with itself: all that a health check has started and
/// that has not made itself independent on purpose.
pub(crate) fn family(root: u32, pids: &BTreeSet<u32>) -> Vec<Process> {
    let all: Vec<Process> = pids.iter().filter_map(|&pid| Process::read(pid)).collect();
    let mut family = BTreeSet::from([root]);
    loop {
        let before = family.len();
        for process in &all {
            if family.contains(&process.parent) || process.session == root {
                family.insert(process.pid);
            }
        }
        if family.len() == before {
            break;
        }
    }
    all.into_iter()
        .filter(|process| family.contains(&process.pid))
        .collect()
}

/// Kills a process unless another has its pid by now.
pub(crate) fn kill(process: &Process) {
    let pid = i32::try_from(process.pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let Some(pid) = pid else { return };
    let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return;
    };
    // The descriptor holds on to one process: if that is the one that was meant, nothing can come between.
    if Process::read(process.pid).is_some_and(|now| now.started == process.started) {
        // Gone in between is what was wanted.
        let _ = rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_before_its_parent_knows() {
        assert!(!has_ended(std::process::id()));
        let mut child = std::process::Command::new("true")
            .spawn()
            .expect("a program that ends");
        while !has_ended(child.id()) {
            std::thread::yield_now();
        }
        assert!(
            std::path::Path::new(&format!("/proc/{}", child.id())).exists(),
            "not waited for yet"
        );
        child.wait().expect("it was ours");
        assert!(has_ended(child.id()));
    }
}
