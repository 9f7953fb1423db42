//! What this kernel can limit, by the controllers and files that cgroups(7) shows. For `info` and its warnings.

use crate::system::has_unified_cgroups;

/// What this kernel can limit: which controllers and files there are.
pub(crate) struct KernelLimits {
    /// Of memory.
    pub memory: bool,
    /// Of memory and swap together.
    pub swap: bool,
    /// Of CPU time by period.
    pub cpu_quota: bool,
    /// Weights of CPU time.
    pub cpu_shares: bool,
    /// Which CPUs.
    pub cpuset: bool,
    /// Of processes.
    pub pids: bool,
    /// Freezing instead of killing for lack of memory.
    pub oom_kill_disable: bool,
}

impl KernelLimits {
    /// Looks at the mounted hierarchies.
    pub(crate) fn read() -> Self {
        let root = std::path::Path::new("/sys/fs/cgroup");
        if has_unified_cgroups() {
            let text = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            let has = |name: &str| text.split_whitespace().any(|controller| controller == name);
            return Self {
                memory: has("memory"),
                // Since 4.5 there is swap accounting wherever there is memory accounting.
                swap: has("memory"),
                cpu_quota: has("cpu"),
                cpu_shares: has("cpu"),
                cpuset: has("cpuset"),
                pids: has("pids"),
                // The unified hierarchy has no such switch, and nobody is warned of it.
                oom_kill_disable: false,
            };
        }
        let has = |path: &str| root.join(path).exists();
        Self {
            memory: has("memory/memory.limit_in_bytes"),
            swap: has("memory/memory.memsw.limit_in_bytes"),
            cpu_quota: has("cpu/cpu.cfs_quota_us"),
            cpu_shares: has("cpu/cpu.shares"),
            cpuset: has("cpuset/cpuset.cpus"),
            pids: has("pids"),
            oom_kill_disable: has("memory/memory.oom_control"),
        }
    }

    /// Docker's sentences about what is missing.
    pub(crate) fn warnings(&self) -> Vec<String> {
        [
            (self.memory, "No memory limit support"),
            (self.swap, "No swap limit support"),
            (
                self.oom_kill_disable || has_unified_cgroups(),
                "No oom kill disable support",
            ),
            (self.cpu_quota, "No cpu cfs quota support"),
            (self.cpu_shares, "No cpu shares support"),
            (self.cpuset, "No cpuset support"),
            (self.pids, "No pids limit support"),
            (
                is_on("/proc/sys/net/ipv4/ip_forward"),
                "IPv4 forwarding is disabled",
            ),
        ]
        .into_iter()
        .filter(|(there, _)| !there)
        .map(|(_, sentence)| sentence.to_owned())
        .collect()
    }
}

/// True for a file of /proc that holds a 1.
pub(crate) fn is_on(path: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}
