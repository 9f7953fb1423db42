//! What the cases stand on: a store in a folder of its own, a client that is impatient, and images to serve.

use std::{
    fs,
    io::Write,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use pontoon_image::registry::{
    Credentials, Error, Patience, Progress, PullOptions, Pulled, Registry, RegistrySettings, Step,
};
use pontoon_image::{Digest, ImageStore, ListOptions, Reference};
use serde_json::{Value, json};

use crate::fake::Fake;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A store, a client, and what it has shown.
pub struct Bed {
    pub folder: tempfile::TempDir,
    pub store: Arc<ImageStore>,
    pub registry: Arc<Registry>,
    steps: Arc<Mutex<Vec<Step>>>,
}

/// Settings under which faults are noticed soon.
pub fn settings() -> RegistrySettings {
    let mut settings = RegistrySettings::default();
    settings.certs_dirs = Vec::new();
    settings.max_attempts = 3;
    settings.patience = Patience {
        window: Duration::from_millis(300),
        window_bytes: 1024,
        back_off: Duration::from_millis(1),
        ..Patience::default()
    };
    settings
}

impl Bed {
    pub fn new() -> Self {
        Bed::with(settings())
    }

    pub fn with(settings: RegistrySettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(ImageStore::open(folder.path()).unwrap());
        Bed {
            folder,
            store,
            registry: Arc::new(Registry::new(settings)),
            steps: Arc::default(),
        }
    }

    pub fn progress(&self) -> Progress {
        let steps = self.steps.clone();
        Progress::new(move |step| steps.lock().unwrap().push(step))
    }

    /// What was shown of a layer, bytes left out, equal words once.
    pub fn words(&self, id: &str) -> Vec<String> {
        let steps = self.steps.lock().unwrap();
        let mut words: Vec<String> = steps
            .iter()
            .filter(|step| step.id == id)
            .map(|step| step.status.clone())
            .collect();
        words.dedup();
        words
    }

    pub async fn pull(&self, name: &str) -> Result<Pulled, Error> {
        self.pull_with(name, PullOptions::default()).await
    }

    pub async fn pull_with(&self, name: &str, options: PullOptions) -> Result<Pulled, Error> {
        let reference = Reference::parse(name).unwrap();
        self.registry
            .pull(&self.store, &reference, &options, &self.progress())
            .await
    }

    /// The pull must fail, with these words in its error and its causes, and leave nothing that can be seen.
    pub async fn refuses(&self, name: &str, words: &[&str]) -> String {
        let error = self.pull(name).await.expect_err("the pull must fail");
        let text = chain(&error);
        for word in words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
        self.is_empty();
        text
    }

    /// No image, no blob, no layer, nothing in staging.
    pub fn is_empty(&self) {
        assert!(self.store.list(&ListOptions::default()).unwrap().is_empty());
        for folder in ["blobs/sha256", "layers", "staging", "rootfs"] {
            let left = names(&self.folder.path().join(folder));
            assert!(left.is_empty(), "{folder}: {left:?}");
        }
    }

    /// A file of an image's only (or top) layer.
    pub fn file(&self, name: &str, path: &str) -> String {
        let image = self.store.get(name).unwrap();
        let mut chains = image.layers.iter().rev();
        let found = chains.find_map(|chain| {
            let layer = self.folder.path().join("layers").join(chain.hex());
            fs::read_to_string(layer.join("diff").join(path)).ok()
        });
        found.unwrap_or_else(|| panic!("{name} has no {path}"))
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

pub fn user(username: &str, password: &str) -> Credentials {
    Credentials {
        username: username.to_owned(),
        password: password.to_owned(),
        ..Credentials::default()
    }
}

/// A tar archive of files.
pub fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_path(name).unwrap();
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Bytes that don't compress.
pub fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// An image to serve.
pub struct Served {
    pub manifest: Value,
    pub digest: Digest,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

/// Puts an image of compressed layers into a registry.
pub fn serve(fake: &Fake, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Served {
    let blobs: Vec<(Vec<u8>, &str)> = layers.iter().map(|layer| (gzip(layer), "tar+gzip")).collect();
    serve_as(fake, (repository, tag), layers, &blobs, json!({}))
}

/// The same with the blobs given, and more members for the configuration.
pub fn serve_as(
    fake: &Fake,
    (repository, tag): (&str, &str),
    layers: &[Vec<u8>],
    blobs: &[(Vec<u8>, &str)],
    more: Value,
) -> Served {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let mut config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    let text = config.to_string().into_bytes();
    let config = fake.put_blob(&text);
    let descriptors: Vec<Value> = blobs
        .iter()
        .map(|(blob, kind)| {
            let digest = fake.put_blob(blob);
            let media_type = format!("application/vnd.oci.image.layer.v1.{kind}");
            json!({ "mediaType": media_type, "digest": digest, "size": blob.len() })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": text.len() },
        "layers": descriptors,
    });
    // Not as a serialiser would write it: its bytes must survive.
    let bytes = serde_json::to_vec_pretty(&manifest).unwrap();
    let digest = fake.put_manifest(repository, tag, MANIFEST, &bytes);
    Served {
        manifest,
        digest,
        config,
        layers: blobs.iter().map(|(blob, _)| Digest::of(blob)).collect(),
    }
}

/// A simple image of one layer.
pub fn serve_small(fake: &Fake) -> Served {
    serve(fake, "app", "1", &[layer(&[("hello", b"world")])])
}
