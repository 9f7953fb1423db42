//! Volumes and mounts: names, life, content, drivers, what is mounted where, and what attackers try. Here is what the cases
//! share: mounts and volumes to ask for.

mod attacks;
mod content;
mod drivers;
mod life;
mod mounts;

use std::collections::HashMap;

use pontoon_engine::Error;
use pontoon_image::ContainerConfig;
use pontoon_proto::v1::{
    CreateContainerRequest, CreateVolumeRequest, Mount, MountSyntax, MountType, RemoveVolumeRequest,
};

use crate::bed::{self, Bed, mount, sh, with};

pub fn cases() -> Vec<(&'static str, crate::Case)> {
    [
        attacks::cases(),
        content::cases(),
        drivers::cases(),
        life::cases(),
        mounts::cases(),
    ]
    .concat()
}

fn volume(source: &str, target: &str) -> Mount {
    mount(MountType::Volume, source, target)
}

/// `-v target`
fn anonymous(target: &str) -> Mount {
    Mount {
        syntax: MountSyntax::Volume.into(),
        ..volume("", target)
    }
}

fn mounting(script: &str, mounts: Vec<Mount>) -> CreateContainerRequest {
    with(sh(script), |config, _| config.mounts = mounts)
}

fn of_image(image: &str, request: CreateContainerRequest) -> CreateContainerRequest {
    with(request, |config, _| image.clone_into(&mut config.image))
}

fn named(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        ..CreateVolumeRequest::default()
    }
}

fn driven(name: &str, options: &[(&str, &str)]) -> CreateVolumeRequest {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    CreateVolumeRequest {
        options: options.iter().map(owned).collect(),
        ..named(name)
    }
}

impl Bed {
    fn volumes(&self) -> Vec<String> {
        let listed = self.engine.list_volumes(&HashMap::new()).unwrap();
        listed.into_iter().map(|volume| volume.name).collect()
    }

    fn data(&self, volume: &str) -> std::path::PathBuf {
        self.path().join("data/volumes").join(volume).join("_data")
    }

    async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        let request = RemoveVolumeRequest {
            name: name.into(),
            force: false,
        };
        self.engine.remove_volume(request).await
    }

    /// Lines of this host's mount table that belong to volumes.
    fn mounted(&self) -> usize {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let prefix = self.path().join("data/volumes").display().to_string();
        table.lines().filter(|line| line.contains(&prefix)).count()
    }
}

/// An image with content in a volume of its own.
async fn with_volume(bed: &Bed) {
    let image = bed::image()
        .dir("/data", 0o1770)
        .file("/data/file", 0o640, "from image\n")
        .dir("/data/sub", 0o750)
        .symlink("/data/sub/link", "../file")
        .dir("/empty", 0o711)
        .config(ContainerConfig {
            env: vec!["PATH=/bin".into()],
            volumes: ["/data".to_owned()].into(),
            ..ContainerConfig::default()
        });
    bed.load_image(image, "withvolume:latest").await;
}
