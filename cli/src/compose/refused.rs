//! Keys that Compose has and this version does not honour, each with what to do about it. Silence would let a stack run otherwise
//! than its file says, so they are mistakes like unknown keys, but ones that know the way out.

use super::reader::Refusal;

const LIMITS: &str = "use deploy.resources.limits";
const ENGINE_DEFAULT: &str = "containers run with the engine's default: remove it";
const NAMED_VOLUME: &str = "name a volume in both services, declared under volumes at the top";
const NO_SECRETS: &str = "mount a file of the host, or use environment, and remove it";
const ONE_FILE: &str = "write it out, use YAML anchors, or give several files with -c";

/// At the top.
pub const TOP: &[Refusal] = &[
    ("secrets", NO_SECRETS),
    ("configs", NO_SECRETS),
    ("include", ONE_FILE),
    ("models", "remove it"),
];

/// In a service.
pub const SERVICE: &[Refusal] = &[
    ("annotations", "use labels"),
    ("attach", "remove it: stacks are not attached to"),
    ("blkio_config", "remove it"),
    (
        "build",
        "build the image beforehand, load it on the nodes (pontoon load) and name it with image",
    ),
    ("cgroup", ENGINE_DEFAULT),
    ("cgroup_parent", ENGINE_DEFAULT),
    ("cgroupns_mode", ENGINE_DEFAULT),
    ("configs", NO_SECRETS),
    (
        "container_name",
        "containers are named STACK_SERVICE.SLOT.ID: remove it",
    ),
    ("cpu_count", LIMITS),
    ("cpu_percent", LIMITS),
    ("cpu_period", LIMITS),
    ("cpu_quota", LIMITS),
    ("cpu_rt_period", LIMITS),
    ("cpu_rt_runtime", LIMITS),
    ("cpu_shares", "use deploy.resources.reservations.cpus"),
    ("cpus", "use deploy.resources.limits.cpus"),
    ("cpuset", LIMITS),
    ("credential_spec", "remove it"),
    ("develop", "remove it"),
    ("device_cgroup_rules", "remove it"),
    ("devices", "remove it"),
    ("domainname", "use hostname"),
    (
        "expose",
        "services of a network reach each other on all ports: remove it, or use ports to publish",
    ),
    ("extends", ONE_FILE),
    ("external_links", "use a network that both services are in"),
    ("gpus", "remove it"),
    ("ipc", ENGINE_DEFAULT),
    ("isolation", "remove it"),
    ("label_file", "use labels"),
    (
        "links",
        "services of a network reach each other by name: remove it, or use networks with aliases",
    ),
    ("mac_address", "remove it"),
    ("mem_limit", "use deploy.resources.limits.memory"),
    ("mem_reservation", "use deploy.resources.reservations.memory"),
    ("mem_swappiness", LIMITS),
    ("memswap_limit", LIMITS),
    ("models", "remove it"),
    (
        "network_mode",
        "use networks; for the host's network one with external: true and name: host",
    ),
    ("oom_kill_disable", "remove it"),
    ("oom_score_adj", "remove it"),
    ("pid", ENGINE_DEFAULT),
    ("pids_limit", "use deploy.resources.limits.pids"),
    (
        "platform",
        "use a placement constraint, such as node.platform.arch==amd64",
    ),
    ("post_start", "remove it"),
    ("pre_stop", "remove it"),
    ("privileged", "give single capabilities with cap_add"),
    (
        "profiles",
        "put the service into a file of its own and give it with -c",
    ),
    ("provider", "remove it"),
    ("pull_policy", "images are those that the nodes have: remove it"),
    ("pull_refresh_after", "remove it"),
    ("restart", "use deploy.restart_policy"),
    ("runtime", "each daemon chooses it: remove it"),
    ("scale", "use deploy.replicas"),
    ("secrets", NO_SECRETS),
    ("security_opt", ENGINE_DEFAULT),
    ("shm_size", "use a tmpfs mounted on /dev/shm"),
    ("storage_opt", "remove it"),
    ("use_api_socket", "remove it"),
    ("userns_mode", ENGINE_DEFAULT),
    ("uts", ENGINE_DEFAULT),
    (
        "volume_driver",
        "give the volume a driver under volumes at the top",
    ),
    ("volumes_from", NAMED_VOLUME),
];

/// In `deploy.resources.limits` and `.reservations`.
pub const RESOURCES: &[Refusal] = &[
    ("devices", "remove it"),
    ("generic_resources", "they can be reserved, not limited"),
    ("pids", "pids can be limited, not reserved"),
];

/// In an `env_file`.
pub const ENV_FILE: &[Refusal] = &[("format", "lines are NAME=VALUE, taken as they are: remove it")];

/// In a service's network.
pub const ATTACHMENT: &[Refusal] = &[
    ("driver_opts", "remove it"),
    ("gw_priority", "remove it"),
    ("interface_name", "remove it"),
    (
        "ipv4_address",
        "addresses are given by the cluster: use the service's name, or aliases",
    ),
    (
        "ipv6_address",
        "addresses are given by the cluster: use the service's name, or aliases",
    ),
    ("link_local_ips", "remove it"),
    ("mac_address", "remove it"),
    ("priority", "remove it"),
];

/// In a port's long form.
pub const PORT: &[Refusal] = &[
    ("app_protocol", "remove it"),
    (
        "host_ip",
        "a service's ports are published on all addresses of the nodes: remove it",
    ),
    ("name", "remove it"),
];

/// In a mount's long form.
pub const VOLUME: &[Refusal] = &[(
    "cluster",
    "there are no CSI plugins: use a volume with driver_opts",
)];

/// In a mount's `volume`.
pub const VOLUME_OPTIONS: &[Refusal] = &[("labels", "give them to the volume under volumes at the top")];

/// In a mount's `bind`.
pub const BIND: &[Refusal] = &[("selinux", "remove it")];

/// In a top-level network.
pub const NETWORK: &[Refusal] = &[
    ("enable_ipv4", "overlay networks have IPv4 always: remove it"),
    ("enable_ipv6", "overlay networks have IPv4 only: remove it"),
];

/// In `ipam`.
pub const IPAM: &[Refusal] = &[("options", "remove it")];

/// In an `ipam.config`.
pub const SUBNET: &[Refusal] = &[("aux_addresses", "give an ip_range without them")];
