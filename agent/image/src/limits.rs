//! Bounds on what an archive may make us read, allocate or write. An archive is untrusted input (the bombs behind
//! CVE-2021-21285 and CVE-2017-14992): every bound is checked before the memory or the disk is used.

use crate::decompress::Ratio;

/// The bounds; [`Default`] is generous for honest images.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a whole archive, uncompressed.
    pub archive_bytes: u64,
    /// Bytes of regular files of one unpacked layer, and of its uncompressed archive.
    pub layer_bytes: u64,
    /// How many times as many bytes a compressed stream may become, once it has given `ratio_from` bytes. gzip can't pass 1,032.
    pub ratio: u64,
    /// Below so many bytes a high ratio does no harm.
    pub ratio_from: u64,
    /// Entries of one archive (layer or outer).
    pub entries: u64,
    /// Bytes of one path or link target (Linux' `PATH_MAX`).
    pub path_bytes: usize,
    /// Bytes of one PAX or GNU extension header, so also of all extended attributes of an entry.
    pub extension_bytes: u64,
    /// Bytes of one extended attribute's value (Linux' `XATTR_SIZE_MAX`).
    pub xattr_bytes: usize,
    /// Bytes of a JSON document (manifest, index, configuration).
    pub json_bytes: u64,
    /// How deep image indexes may nest.
    pub index_depth: usize,
    /// Layers of an image (Docker's bound for overlay2 is 125, the kernel's 500).
    pub layers: usize,
    /// Images of one archive.
    pub images: usize,
}

impl Limits {
    pub(crate) fn ratio(&self) -> Ratio {
        Ratio {
            from: self.ratio_from,
            times: self.ratio,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            archive_bytes: 256 << 30,
            layer_bytes: 64 << 30,
            ratio: 4096,
            ratio_from: 1 << 30,
            entries: 4_000_000,
            path_bytes: 4095,
            extension_bytes: 1 << 20,
            xattr_bytes: 64 << 10,
            json_bytes: 4 << 20,
            index_depth: 4,
            layers: 400,
            images: 1000,
        }
    }
}
