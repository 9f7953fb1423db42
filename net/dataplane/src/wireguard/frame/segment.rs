//! Cuts the long frames that the kernel leaves to us (TSO, USO) into frames of the network's MTU, and completes checksums.
//!
//! The caller gives a buffer with room in front for what goes before each frame; each frame is built there and handed over.

use super::{
    checksum::{fold, sum},
    layout::{Layout, TCP},
    vnet::{Header, Kind, Segmentation},
};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Hands each frame that is in `frame` to `emit`, built in `buffer` behind `room` bytes that are the callee's. `buffer` must
/// hold `room` and the longest frame; what does not fit, or is not what its header says, is dropped: false.
pub(crate) fn segment(
    header: &Header,
    frame: &[u8],
    buffer: &mut [u8],
    room: usize,
    mut emit: impl FnMut(&mut [u8]),
) -> bool {
    if let Some(segmentation) = header.segmentation {
        return cut(segmentation, frame, buffer, room, &mut emit).is_some();
    }
    let Some(space) = buffer.get_mut(room..room + frame.len()) else {
        return false;
    };
    space.copy_from_slice(frame);
    if let Some((start, offset)) = header.checksum
        && complete(space, start.into(), offset.into()).is_none()
    {
        return false;
    }
    emit(&mut buffer[..room + frame.len()]);
    true
}

/// Sums up from `start`; the sum of the pseudo header is in the place of the checksum already.
fn complete(frame: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let covered = frame.get_mut(start..)?;
    covered.get(offset..offset + 2)?;
    let checksum = match !fold(sum(covered, 0)) {
        // In UDP 0 means none; in TCP the two are the same number.
        0 => 0xffff,
        checksum => checksum,
    };
    covered[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

fn cut(
    segmentation: Segmentation,
    frame: &[u8],
    buffer: &mut [u8],
    room: usize,
    emit: &mut impl FnMut(&mut [u8]),
) -> Option<()> {
    let layout = Layout::of(frame, false)?;
    let fits = match segmentation.kind {
        Kind::Tcp4 => layout.protocol == TCP && !layout.v6,
        Kind::Tcp6 => layout.protocol == TCP && layout.v6,
        Kind::Udp => layout.protocol != TCP,
    };
    let size = usize::from(segmentation.size);
    if !fits || buffer.len() < room + layout.payload + size.min(frame.len() - layout.payload) {
        return None;
    }
    let mut pieces = frame[layout.payload..].chunks(size).enumerate().peekable();
    while let Some((index, piece)) = pieces.next() {
        let length = room + layout.payload + piece.len();
        let space = &mut buffer[room..length];
        space[..layout.payload].copy_from_slice(&frame[..layout.payload]);
        space[layout.payload..].copy_from_slice(piece);
        finish(&layout, space, index, size, pieces.peek().is_none());
        emit(&mut buffer[..length]);
    }
    Some(())
}

/// Makes the headers of the `index`-th segment right.
fn finish(layout: &Layout, frame: &mut [u8], index: usize, size: usize, last: bool) {
    let end = frame.len();
    if !layout.v6 {
        let at = layout.network + 4;
        let id = u16::from_be_bytes([frame[at], frame[at + 1]]).wrapping_add(index as u16);
        frame[at..at + 2].copy_from_slice(&id.to_be_bytes());
    }
    layout.set_length(frame, end);
    let at = layout.transport;
    if layout.protocol == TCP {
        let sequence = u32::from_be_bytes([frame[at + 4], frame[at + 5], frame[at + 6], frame[at + 7]]);
        let sequence = sequence.wrapping_add((index * size) as u32);
        frame[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
        if !last {
            frame[at + 13] &= !(FIN | PSH);
        }
        if index > 0 {
            // Told once (RFC 3168 6.1.2).
            frame[at + 13] &= !CWR;
        }
    } else {
        frame[at + 4..at + 6].copy_from_slice(&((end - at) as u16).to_be_bytes());
    }
    let checksum = at + layout.checksum_offset();
    let pseudo = fold(layout.pseudo_header(frame, end - at));
    frame[checksum..checksum + 2].copy_from_slice(&pseudo.to_be_bytes());
    // Cannot fail: the layout was checked.
    let _ = complete(frame, at, layout.checksum_offset());
}
