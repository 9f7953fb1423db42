//! The mounts that every container has, changed by what it shares and may: another container's or a shareable `/dev/shm`, writable
//! cgroups. Called by `spec::build` on what `spec::mounts` has made.

use std::path::Path;

use oci_spec::runtime::Mount;

use super::Inputs;
use super::security::SecurityOptions;

/// Changes the container's own mounts; the user's stay as they are.
pub(super) fn adjust(mut mounts: Vec<Mount>, inputs: &Inputs<'_>, security: &SecurityOptions) -> Vec<Mount> {
    // A user namespace can't change a mount back to writable later: as Docker.
    let writable = security
        .writable_cgroups
        .unwrap_or(inputs.host.privileged || inputs.remap.is_some());
    for mount in &mut mounts {
        let typ = mount.typ().clone().unwrap_or_default();
        if matches!(typ.as_str(), "cgroup" | "cgroup2") {
            access(mount, writable);
        }
        let is_own_shm = mount.destination() == Path::new("/dev/shm")
            && mount.source().as_deref() == Some(Path::new("shm"))
            && typ == "tmpfs";
        if let Some(shm) = inputs.joined.shm.as_ref().filter(|_| is_own_shm) {
            let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev"];
            mount
                .set_typ(Some("bind".to_owned()))
                .set_source(Some(shm.clone()))
                .set_options(Some(options.map(str::to_owned).to_vec()));
        }
    }
    mounts
}

fn access(mount: &mut Mount, writable: bool) {
    let mut options = mount.options().clone().unwrap_or_default();
    options.retain(|option| !matches!(option.as_str(), "ro" | "rw"));
    options.push(if writable { "rw" } else { "ro" }.to_owned());
    mount.set_options(Some(options));
}
