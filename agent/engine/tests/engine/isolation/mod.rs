//! Isolation and limits, seen from inside the container. Here is what the cases share: tables of settings and what they print.

mod cgroups;
mod flags;
mod namespaces;
mod privileges;
mod refusals;

use pontoon_proto::v1::{ContainerSpec, Device, HostConfig};

use crate::bed::{Bed, sh, with};

pub fn cases() -> Vec<(&'static str, crate::Case)> {
    [
        cgroups::cases(),
        flags::cases(),
        namespaces::cases(),
        privileges::cases(),
        refusals::cases(),
    ]
    .concat()
}

type Change = fn(&mut ContainerSpec, &mut HostConfig);

/// What is set, what the container runs, and what it prints.
type Case = (&'static str, Change, &'static str, &'static str);

fn device(path: &str, inside: &str, permissions: &str) -> Device {
    Device {
        path_on_host: path.to_owned(),
        path_in_container: inside.to_owned(),
        permissions: permissions.to_owned(),
    }
}

async fn check(bed: &Bed, cases: &[Case]) {
    for &(what, change, script, expected) in cases {
        let (code, out, err) = bed.run(with(sh(script), change)).await;
        assert_eq!(out, expected, "{what}: exit {code}, {err}");
    }
}
