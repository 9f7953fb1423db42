//! Blobs that are read while they arrive: as far as they are there, to the end, across a transfer that breaks off, and nothing else.

use std::{sync::Arc, time::Duration};

use super::ingest::{Remote, open, two_layers};
use crate::{Digest, ImageStore, Ingest, Ingested, More, Reference, Tail, Transfer};

/// Nobody waits so long: what a test waits for comes.
const LONG: Duration = Duration::from_secs(60);

/// All that there is now, and what comes after it.
fn drain(tail: &mut Tail) -> (Vec<u8>, More) {
    let (mut all, mut buffer) = (Vec::new(), [0; 50]);
    loop {
        match tail.read(&mut buffer, Duration::ZERO).unwrap() {
            More::Bytes(count) => all.extend_from_slice(&buffer[..count]),
            other => return (all, other),
        }
    }
}

fn writer(ingest: &Ingest, remote: &Remote, layer: usize) -> Box<crate::BlobWriter> {
    let image = ingest.image(&remote.manifest, &remote.config).unwrap();
    let Transfer::Needed(writer) = ingest.blob(&image.layers[layer].blob).unwrap() else {
        panic!("a new blob");
    };
    writer
}

fn begin(store: &Arc<ImageStore>, remote: &Remote) -> (Ingest, Digest) {
    let ingest = Ingest::begin(store).unwrap();
    let image = ingest.image(&remote.manifest, &remote.config).unwrap();
    let pinned = Digest::of(&remote.manifest);
    ingest.offer(&pinned, &image, None);
    (ingest, pinned)
}

#[test]
fn a_blob_is_read_while_it_arrives() {
    let (_tmp, store) = open();
    let remote = two_layers();
    let pinned = Digest::of(&remote.manifest);
    let layer = Digest::of(&remote.blobs[0]);
    let mut early = store.tail(&pinned, &layer, 0);
    assert_eq!(drain(&mut early), (vec![], More::Absent));
    let (ingest, _) = begin(&store, &remote);
    // Documents are there at once, and that a layer will come is known.
    let mut manifest = store.tail(&pinned, &pinned, 0);
    assert_eq!(drain(&mut manifest), (remote.manifest.clone(), More::End));
    let mut config = store.tail(&pinned, &Digest::of(&remote.config), 3);
    assert_eq!(drain(&mut config), (remote.config[3..].to_vec(), More::End));
    assert_eq!(drain(&mut early), (vec![], More::Waiting));
    let mut foreign = store.tail(&pinned, &Digest::of(b"other"), 0);
    assert_eq!(drain(&mut foreign), (vec![], More::Foreign));

    let mut writing = writer(&ingest, &remote, 0);
    writing.write(&remote.blobs[0][..60]).unwrap();
    assert_eq!(drain(&mut early), (remote.blobs[0][..60].to_vec(), More::Waiting));
    let mut late = store.tail(&pinned, &layer, 70);
    assert_eq!(drain(&mut late), (vec![], More::Waiting));
    writing.write(&remote.blobs[0][60..80]).unwrap();
    assert_eq!(
        drain(&mut late),
        (remote.blobs[0][70..80].to_vec(), More::Waiting)
    );
    writing.write(&remote.blobs[0][80..]).unwrap();
    ingest.finish(writing).unwrap();
    assert_eq!(drain(&mut early), (remote.blobs[0][60..].to_vec(), More::End));

    // Complete, but no image's yet; then an image's, and those who have begun go on.
    let mut between = store.tail(&pinned, &layer, 0);
    let mut buffer = [0; 10];
    assert_eq!(between.read(&mut buffer, LONG).unwrap(), More::Bytes(10));
    let mut other = writer(&ingest, &remote, 1);
    other.write(&remote.blobs[1]).unwrap();
    ingest.finish(other).unwrap();
    let image = ingest.image(&remote.manifest, &remote.config).unwrap();
    let ingested = Ingested {
        image,
        index: None,
        references: vec![Reference::parse("app:1").unwrap()],
    };
    ingest.commit(vec![ingested], &mut |_| {}).unwrap();
    assert_eq!(drain(&mut between), (remote.blobs[0][10..].to_vec(), More::End));
    let mut after = store.tail(&pinned, &layer, 0);
    assert_eq!(drain(&mut after), (remote.blobs[0].clone(), More::End));
    let mut foreign = store.tail(&pinned, &Digest::of(b"other"), 0);
    assert_eq!(drain(&mut foreign), (vec![], More::Foreign));
}

#[test]
fn a_reader_outlives_a_transfer_that_breaks_off() {
    let (_tmp, store) = open();
    let remote = two_layers();
    let (ingest, pinned) = begin(&store, &remote);
    let mut tail = store.tail(&pinned, &Digest::of(&remote.blobs[0]), 0);
    let mut writing = writer(&ingest, &remote, 0);
    writing.write(&remote.blobs[0][..40]).unwrap();
    assert_eq!(drain(&mut tail), (remote.blobs[0][..40].to_vec(), More::Waiting));
    drop(writing);
    assert_eq!(drain(&mut tail), (vec![], More::Waiting));
    let mut writing = writer(&ingest, &remote, 0);
    assert_eq!(writing.offset(), 40);
    writing.write(&remote.blobs[0][40..60]).unwrap();
    assert_eq!(
        drain(&mut tail),
        (remote.blobs[0][40..60].to_vec(), More::Waiting)
    );
    // A sender that begins anew: what was read is not read again.
    writing.restart().unwrap();
    writing.write(&remote.blobs[0][..50]).unwrap();
    assert_eq!(drain(&mut tail), (vec![], More::Waiting));
    writing.write(&remote.blobs[0][50..]).unwrap();
    assert_eq!(drain(&mut tail), (remote.blobs[0][60..].to_vec(), More::Waiting));
    ingest.finish(writing).unwrap();
    assert_eq!(drain(&mut tail), (vec![], More::End));
    // Given up before it was whole: the other layer never comes.
    let mut other = store.tail(&pinned, &Digest::of(&remote.blobs[1]), 0);
    assert_eq!(drain(&mut other), (vec![], More::Waiting));
    drop(ingest);
    assert_eq!(drain(&mut other), (vec![], More::Absent));
}

#[test]
fn who_waits_is_woken_by_what_begins_and_by_what_comes() {
    let (_tmp, store) = open();
    let remote = two_layers();
    let pinned = Digest::of(&remote.manifest);
    let mut tail = store.tail(&pinned, &Digest::of(&remote.blobs[0]), 0);
    let reading = std::thread::spawn(move || {
        let (mut all, mut buffer) = (Vec::new(), [0; 50]);
        loop {
            match tail.read(&mut buffer, LONG).unwrap() {
                More::Bytes(count) => all.extend_from_slice(&buffer[..count]),
                other => return (all, other),
            }
        }
    });
    let (ingest, _) = begin(&store, &remote);
    let mut writing = writer(&ingest, &remote, 0);
    for chunk in remote.blobs[0].chunks(7) {
        writing.write(chunk).unwrap();
        std::thread::yield_now();
    }
    ingest.finish(writing).unwrap();
    assert_eq!(reading.join().unwrap(), (remote.blobs[0].clone(), More::End));
}
