//! Makes docker-loadable archives of FROM-scratch images, for demos and tests. Output is deterministic: equal input
//! gives equal bytes, so equal image ids.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::Path,
};

use tar::{EntryType, Header};

use crate::{
    ContainerConfig, Digest, Error, HistoryEntry, ImageConfig, ImageId, Reference, Result, RootFs,
    decompress::Compression,
    error::At,
    oci::{Descriptor, MANIFEST, Manifest, Platform, layer_type},
    save::{Saving, write_archive},
};

enum Node {
    File { mode: u32, data: Vec<u8> },
    Dir { mode: u32 },
    Symlink { target: String },
}

/// Collects files and configuration, then writes the archive.
#[derive(Default)]
pub struct Builder {
    nodes: BTreeMap<String, Node>,
    config: ContainerConfig,
}

impl Builder {
    /// An empty image.
    pub fn new() -> Self {
        Builder::default()
    }

    /// Adds a regular file (path without or with a leading slash); parent directories are made 0755.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.node(
            path,
            Node::File {
                mode,
                data: bytes.into(),
            },
        )
    }

    /// Adds a file of the host.
    ///
    /// # Errors
    /// [`Error::Io`] when it can't be read.
    pub fn host_file(self, path: &str, mode: u32, source: &Path) -> Result<Self> {
        let data = std::fs::read(source).at("cannot read", source)?;
        Ok(self.file(path, mode, data))
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.node(
            path,
            Node::Symlink {
                target: target.into(),
            },
        )
    }

    /// Adds a directory.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.node(path, Node::Dir { mode })
    }

    /// Sets the container defaults: command, entrypoint, environment, ports, health check, labels.
    #[must_use]
    pub fn config(mut self, config: ContainerConfig) -> Self {
        self.config = config;
        self
    }

    /// Writes the archive, under these names, and gives the image's id.
    ///
    /// # Errors
    /// [`Error::Stream`] when `w` fails or a path is longer than a tar header holds (100 bytes, 255 with directories).
    pub fn write(self, references: &[Reference], w: impl Write) -> Result<ImageId> {
        let layer = layer_of(&self.nodes).map_err(|source| Error::Stream {
            op: "cannot make the layer",
            source,
        })?;
        let diff_id = Digest::of(&layer);
        let platform = Platform::host();
        let created = Some("1970-01-01T00:00:00Z".to_owned());
        let step = HistoryEntry {
            created: created.clone(),
            created_by: Some("FROM scratch".into()),
            ..HistoryEntry::default()
        };
        let config = ImageConfig {
            architecture: platform.architecture,
            os: platform.os,
            created,
            config: self.config,
            rootfs: RootFs {
                diff_ids: vec![diff_id],
                ..RootFs::default()
            },
            history: vec![step],
            ..ImageConfig::default()
        };
        let json = |source| Error::Json {
            what: "image".into(),
            source,
        };
        let config = serde_json::to_vec(&config).map_err(json)?;
        let id = Digest::of(&config);
        let layers = vec![Descriptor::new(
            layer_type(Compression::Plain),
            diff_id,
            layer.len() as u64,
        )];
        let manifest = serde_json::to_vec(&Manifest::new((id, config.len() as u64), layers)).map_err(json)?;
        let manifest_digest = Digest::of(&manifest);
        let image = Saving {
            id,
            manifest: (manifest_digest, manifest.len() as u64, MANIFEST.into()),
            index: None,
            blobs: vec![id, manifest_digest, diff_id],
            plain_layers: vec![diff_id],
            references: references
                .iter()
                .cloned()
                .map(Reference::with_default_tag)
                .collect(),
        };
        let blobs = BTreeMap::from([(id, config), (manifest_digest, manifest), (diff_id, layer)]);
        let mut source = |digest: &Digest, sink: &mut dyn FnMut(u64, &mut dyn Read) -> Result<()>| {
            let data = blobs.get(digest).map(Vec::as_slice).unwrap_or_default();
            sink(data.len() as u64, &mut &data[..])
        };
        write_archive(&[image], &mut source, w)?;
        Ok(id)
    }

    fn node(mut self, path: &str, node: Node) -> Self {
        let path = path.trim_matches('/').to_owned();
        for (i, _) in path.match_indices('/') {
            self.nodes
                .entry(path[..i].to_owned())
                .or_insert(Node::Dir { mode: 0o755 });
        }
        self.nodes.insert(path, node);
        self
    }
}

fn layer_of(nodes: &BTreeMap<String, Node>) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, node) in nodes {
        let mut header = Header::new_ustar();
        header.set_path(path)?;
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        let data: &[u8] = match node {
            Node::File { mode, data } => {
                header.set_mode(*mode);
                header.set_size(data.len() as u64);
                data
            }
            Node::Dir { mode } => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(*mode);
                &[]
            }
            Node::Symlink { target } => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                header.set_link_name(target)?;
                &[]
            }
        };
        header.set_cksum();
        tar.append(&header, data)?;
    }
    tar.into_inner()
}
