//! What benches time: a layer taken apart as the store does it, but into a folder of the caller's and without keeping anything.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use crate::{
    Digest, Limits, Result, decompress::Decoder, digest::HashReader, error::At, merged::Merged,
    pipeline::Pipeline, tar_stream::read_failed, unpack,
};

/// Unpacks a layer's file (tar, plain or compressed) into an empty folder, in overlayfs' form; gives its diff id and the bytes of its
/// files.
///
/// # Errors
/// Those of [`crate::ImageStore::load`] about layers.
pub fn unpack_layer(layer: &Path, into: &Path, limits: &Limits) -> Result<(Digest, u64)> {
    fs::create_dir_all(into).at("cannot make", into)?;
    let file = File::open(layer).at("cannot read", layer)?;
    let reader = Pipeline::start(file, limits).map_err(read_failed)?;
    let below = Merged::open(std::iter::empty()).at("cannot unpack into", into)?;
    let (size, reader) = unpack::unpack(reader, into, unpack::Form::Overlay, &below, limits)?;
    Ok((reader.finish().map_err(read_failed)?, size))
}

/// Takes a layer's compression off and forgets what comes out; gives how many bytes that were.
///
/// # Errors
/// The file can't be read or is damaged.
pub fn decompress_layer(layer: &Path) -> Result<u64> {
    let file = File::open(layer).at("cannot read", layer)?;
    let mut decoder = Decoder::new(file).map_err(read_failed)?;
    io::copy(&mut decoder, &mut io::sink()).map_err(read_failed)
}

/// The digest of a file.
///
/// # Errors
/// The file can't be read.
pub fn digest_layer(layer: &Path) -> Result<Digest> {
    let mut reader = HashReader::new(File::open(layer).at("cannot read", layer)?);
    io::copy(&mut reader, &mut io::sink()).at("cannot read", layer)?;
    Ok(reader.finish().0)
}
