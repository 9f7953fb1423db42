//! cp and export. Here is what the cases share: archives to put in, and what comes out.
#![allow(clippy::too_many_lines)]

mod attacks;
pub mod content;
mod owners;
pub mod places;

use std::io::Read;

use bytes::Bytes;
use pontoon_engine::{Chunks, Error};
use pontoon_image::Limits;
use pontoon_image::archive::{Head, Kind, TarReader, TarWriter};
use pontoon_proto::v1::{ContainerPathRequest, CopyToStart};
use tokio::sync::mpsc;

use crate::bed::Bed;

pub fn cases() -> Vec<(&'static str, crate::Case)> {
    [
        attacks::cases(),
        content::cases(),
        owners::cases(),
        places::cases(),
    ]
    .concat()
}

pub fn path(target: &str, path: &str) -> ContainerPathRequest {
    ContainerPathRequest {
        target: target.to_owned(),
        path: path.to_owned(),
    }
}

async fn collect(mut chunks: Chunks) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

/// Name, kind and content of each entry.
fn entries(archive: &[u8]) -> Vec<(String, Kind, String)> {
    let limits = Limits::default();
    let mut reader = TarReader::new(archive, &limits);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut content = String::new();
        if entry.size < 4096 {
            reader.read_to_string(&mut content).unwrap();
        }
        let link = String::from_utf8(entry.link.clone()).unwrap();
        found.push((entry.shown(), entry.kind, content + &link));
    }
    found
}

async fn out(bed: &Bed, id: &str, from: &str) -> Vec<(String, Kind, String)> {
    let (_, chunks) = bed
        .engine
        .copy_out(&path(id, from))
        .await
        .map_err(|e| e.chain())
        .unwrap();
    entries(&collect(chunks).await.unwrap())
}

/// The text of the file that a path is.
async fn text(bed: &Bed, id: &str, from: &str) -> String {
    let found = out(bed, id, from).await;
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap().2
}

fn archive(heads: &[(Head, &str)]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (head, data) in heads {
        let mode = if head.mode == 0 { 0o644 } else { head.mode };
        let size = data.len() as u64;
        let head = Head {
            size,
            mode,
            ..head.clone()
        };
        tar.file(&head, &mut data.as_bytes()).unwrap();
    }
    tar.finish().unwrap()
}

fn start(id: &str, to: &str) -> CopyToStart {
    CopyToStart {
        target: id.to_owned(),
        path: to.to_owned(),
        no_overwrite_dir_non_dir: true,
        copy_uid_gid: false,
    }
}

async fn put_with(bed: &Bed, start: CopyToStart, archive: Vec<u8>) -> Result<(), String> {
    let (sender, receiver) = mpsc::channel(4);
    let send = async {
        for part in archive.chunks(100_000) {
            if sender.send(Ok(Bytes::copy_from_slice(part))).await.is_err() {
                break;
            }
        }
        drop(sender);
    };
    let (copied, ()) = tokio::join!(bed.engine.copy_in(start, receiver), send);
    copied.map_err(|error| error.chain())
}

async fn put(bed: &Bed, id: &str, to: &str, archive: Vec<u8>) -> Result<(), String> {
    put_with(bed, start(id, to), archive).await
}

/// Makes one of each kind of file in `/d`.
const TREE: &str = "mkdir -p /d/s; echo text >/d/f; ln /d/f /d/s/hard; ln -s /d/f /d/l; ln -s d /ld; mkfifo /d/p; mknod /d/n c 1 3";
