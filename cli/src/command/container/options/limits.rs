//! Flags of `run` and `create` that limit what a container may use. Part of [`ContainerOptions`](super::ContainerOptions); turned into
//! the engine's settings by [`config::limits`](super::super::config).

use clap::Args;
use pontoon_proto::v1;

use super::values;
use crate::output::human;

/// Limits, as they were given.
#[derive(Args, Clone, Debug)]
pub struct LimitOptions {
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)
    #[arg(long, value_name = "uint16", value_parser = values::unsigned16, default_value = "0", hide_default_value = true)]
    pub blkio_weight: u16,
    /// Block IO weight (relative device weight) (default [])
    #[arg(long, value_name = "list", value_parser = values::block_weight)]
    pub blkio_weight_device: Vec<v1::BlockDeviceLimit>,
    /// Optional parent cgroup for the container
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    pub cgroup_parent: String,
    /// CPU count (Windows only)
    #[arg(long, value_name = "int", value_parser = values::integer)]
    pub cpu_count: Option<i64>,
    /// CPU percent (Windows only)
    #[arg(long, value_name = "int", value_parser = values::integer)]
    pub cpu_percent: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int", value_parser = values::integer, default_value = "0", hide_default_value = true)]
    pub cpu_period: i64,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int", value_parser = values::integer, default_value = "0", hide_default_value = true)]
    pub cpu_quota: i64,
    /// Limit CPU real-time period in microseconds
    #[arg(long, value_name = "int", value_parser = values::integer, default_value = "0", hide_default_value = true)]
    pub cpu_rt_period: i64,
    /// Limit CPU real-time runtime in microseconds
    #[arg(long, value_name = "int", value_parser = values::integer, default_value = "0", hide_default_value = true)]
    pub cpu_rt_runtime: i64,
    /// CPU shares (relative weight)
    #[arg(short = 'c', long, value_name = "int", value_parser = values::integer, default_value = "0", hide_default_value = true)]
    pub cpu_shares: i64,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", value_parser = values::cpus)]
    pub cpus: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    pub cpuset_cpus: String,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    pub cpuset_mems: String,
    /// Limit read rate (bytes per second) from a device (default [])
    #[arg(long, value_name = "list", value_parser = values::block_rate)]
    pub device_read_bps: Vec<v1::BlockDeviceLimit>,
    /// Limit read rate (IO per second) from a device (default [])
    #[arg(long, value_name = "list", value_parser = values::block_operations)]
    pub device_read_iops: Vec<v1::BlockDeviceLimit>,
    /// Limit write rate (bytes per second) to a device (default [])
    #[arg(long, value_name = "list", value_parser = values::block_rate)]
    pub device_write_bps: Vec<v1::BlockDeviceLimit>,
    /// Limit write rate (IO per second) to a device (default [])
    #[arg(long, value_name = "list", value_parser = values::block_operations)]
    pub device_write_iops: Vec<v1::BlockDeviceLimit>,
    /// Maximum IO bandwidth limit for the system drive (Windows only)
    #[arg(long, value_name = "bytes", value_parser = human::parse_size)]
    pub io_maxbandwidth: Option<i64>,
    /// Maximum IOps limit for the system drive (Windows only)
    #[arg(long, value_name = "uint", value_parser = values::unsigned)]
    pub io_maxiops: Option<u64>,
    /// Kernel memory limit
    #[arg(long, value_name = "bytes", value_parser = human::parse_size)]
    pub kernel_memory: Option<i64>,
    /// Memory limit
    #[arg(short = 'm', long, value_name = "bytes", value_parser = human::parse_size)]
    pub memory: Option<i64>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", value_parser = human::parse_size)]
    pub memory_reservation: Option<i64>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = values::memory_swap)]
    pub memory_swap: Option<i64>,
    /// Tune container memory swappiness (0 to 100) (default -1)
    #[arg(long, value_name = "int", value_parser = values::integer)]
    pub memory_swappiness: Option<i64>,
    /// Disable OOM Killer
    #[arg(long)]
    pub oom_kill_disable: bool,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, value_name = "int", value_parser = values::integer, default_value = "0", hide_default_value = true)]
    pub oom_score_adj: i64,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int", value_parser = values::integer, default_value = "0", hide_default_value = true)]
    pub pids_limit: i64,
    /// Size of /dev/shm
    #[arg(long, value_name = "bytes", value_parser = human::parse_size)]
    pub shm_size: Option<i64>,
    /// Ulimit options (default [])
    #[arg(long, value_name = "ulimit", value_parser = values::ulimit)]
    pub ulimit: Vec<v1::Ulimit>,
}
