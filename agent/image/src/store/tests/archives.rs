//! Stores and archives for the tests: FROM-scratch images, legacy docker-save, OCI layouts.

use std::{fs, io::Write, path::Path};

use flate2::{Compression, write::GzEncoder};
use tar::Header;

use crate::{ContainerConfig, Digest, ImageStore, Reference, scratch::Builder};

pub(super) fn builder(text: &str) -> Builder {
    let config = ContainerConfig {
        cmd: Some(vec!["/bin/app".into()]),
        env: vec!["A=1".into()],
        exposed_ports: ["80/tcp".to_owned()].into(),
        labels: [("k".to_owned(), "v".to_owned())].into(),
        ..ContainerConfig::default()
    };
    Builder::new()
        .file("/bin/app", 0o755, text)
        .symlink("bin/link", "app")
        .dir("tmp", 0o1777)
        .config(config)
}

pub(super) fn archive(text: &str, names: &[&str]) -> (Digest, Vec<u8>) {
    let names: Vec<Reference> = names.iter().map(|n| Reference::parse(n).unwrap()).collect();
    let mut out = Vec::new();
    let id = builder(text).write(&names, &mut out).unwrap();
    (id, out)
}

pub(super) fn open() -> (tempfile::TempDir, ImageStore) {
    let tmp = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&tmp.path().join("image")).unwrap();
    (tmp, store)
}

pub(super) fn load(store: &ImageStore, archive: &[u8]) -> crate::Result<Vec<crate::Loaded>> {
    store.load(archive, &mut |_| {})
}

pub(super) fn save(store: &ImageStore, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut out = Vec::new();
    store.save(&names, &mut out).unwrap();
    out
}

/// All that a store keeps, by path. Marks of layers that are not on the disk yet go when their time has come.
pub(super) fn content(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("unsettled") {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                todo.push(path.clone());
            }
            out.push(path.strip_prefix(root).unwrap().display().to_string());
        }
    }
    out.sort();
    out
}

/// A tar of named files.
pub(super) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut h = Header::new_gnu();
        h.set_path(name).unwrap();
        h.set_size(data.len() as u64);
        h.set_mode(0o644);
        h.set_cksum();
        tar.append(&h, *data).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(super) fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    tar_of(files)
}

pub(super) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut z = GzEncoder::new(Vec::new(), Compression::fast());
    z.write_all(data).unwrap();
    z.finish().unwrap()
}

pub(super) fn config_of(diff_ids: &[Digest]) -> Vec<u8> {
    let ids: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": null, "Volumes": {"/v": {}}},
        "rootfs": {"type": "layers", "diff_ids": ids}, "history": null
    }))
    .unwrap()
}

/// docker-save as before Docker 25: `<config>.json`, `<id>/layer.tar`, and a link where a layer occurs twice.
pub(super) fn legacy(config: &[u8], layers: &[&[u8]], tag: &str) -> Vec<u8> {
    let config_name = format!("{}.json", Digest::of(config).hex());
    let names: Vec<String> = (0..layers.len()).map(|i| format!("id{i}/layer.tar")).collect();
    let manifest =
        serde_json::to_vec(&serde_json::json!([{"Config": config_name, "RepoTags": [tag], "Layers": names}]))
            .unwrap();
    let mut files: Vec<(&str, &[u8])> = vec![(&config_name, config), ("manifest.json", &manifest)];
    files.extend(names.iter().map(String::as_str).zip(layers.iter().copied()));
    tar_of(&files)
}

pub(super) fn oci(config: &[u8], layers: &[&[u8]], annotations: &serde_json::Value) -> Vec<u8> {
    let blob = |data: &[u8]| (format!("blobs/sha256/{}", Digest::of(data).hex()), data.to_vec());
    let descriptor =
        |data: &[u8]| serde_json::json!({"mediaType": "", "digest": Digest::of(data), "size": data.len()});
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "config": descriptor(config),
        "layers": layers.iter().map(|l| descriptor(l)).collect::<Vec<_>>()
    }))
    .unwrap();
    let index = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::of(&manifest), "size": manifest.len(), "annotations": annotations
    }]}))
    .unwrap();
    let mut files = vec![
        ("oci-layout".to_owned(), b"{}".to_vec()),
        ("index.json".into(), index),
    ];
    files.extend([blob(config), blob(&manifest)]);
    files.extend(layers.iter().map(|l| blob(l)));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), &d[..])).collect();
    tar_of(&files)
}
