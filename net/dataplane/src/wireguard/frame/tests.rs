//! Cutting and joining against what they mean: the same bytes, right headers. And hostile bytes against all parsers.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::{
    checksum::{fold, sum},
    coalesce::Coalescer,
    layout::{Layout, TCP, UDP},
    segment::segment,
    vnet::{self, Header, Kind, Segmentation},
    vxlan::{self, Route},
};

const ROOM: usize = 7;

/// A frame with right lengths and checksums.
fn frame(v6: bool, protocol: u8, options: usize, flags: u8, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0x42, 10, 0, 0, 2, 2, 0x42, 10, 0, 0, 3];
    let header = if protocol == TCP { 20 + options } else { 8 };
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 1, 2, 3, 0, 0, protocol, 64]);
        bytes.extend((0..32).map(|i| i * 7));
    } else {
        bytes.extend([
            0x08, 0, 0x45, 0, 0, 0, 0xff, 0xfe, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 3, 10, 0, 0, 2,
        ]);
    }
    let transport = bytes.len();
    bytes.extend([0x9c, 0x40, 0, 80]);
    if protocol == TCP {
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([1, 2, 3, 4, ((header / 4) << 4) as u8, flags, 1, 0, 0, 0, 0, 0]);
        bytes.extend((0..options).map(|i| i as u8));
    } else {
        bytes.extend([0, 0, 0, 0]);
    }
    bytes.extend(payload);
    let end = bytes.len();
    if protocol == UDP {
        let length = ((end - transport) as u16).to_be_bytes();
        bytes[transport + 4..transport + 6].copy_from_slice(&length);
    }
    let layout = Layout::of(&bytes, false).unwrap();
    layout.set_length(&mut bytes, end);
    let checksum = !fold(sum(
        &bytes[transport..],
        layout.pseudo_header(&bytes, end - transport),
    ));
    let at = transport + layout.checksum_offset();
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// All that a receiver checks.
fn check(bytes: &[u8]) -> Layout {
    let layout = Layout::of(bytes, true).expect("a whole segment");
    assert_eq!(layout.end, bytes.len());
    if !layout.v6 {
        assert_eq!(fold(sum(&bytes[layout.network..layout.transport], 0)), 0xffff);
    }
    let transport = &bytes[layout.transport..];
    let all = fold(sum(transport, layout.pseudo_header(bytes, transport.len())));
    assert_eq!(all, 0xffff, "the transport checksum");
    layout
}

fn cut(header: &Header, frame: &[u8]) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; ROOM + 70_000];
    let mut all = Vec::new();
    let whole = segment(header, frame, &mut buffer, ROOM, |bytes| {
        all.push(bytes[ROOM..].to_vec())
    });
    assert!(whole);
    all
}

fn join(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut coalescer = Coalescer::default();
    let mut all = Vec::new();
    for frame in frames {
        coalescer.push(frame, &mut |bytes| all.push(bytes.to_vec()));
    }
    coalescer.flush(&mut |bytes| all.push(bytes.to_vec()));
    all
}

proptest! {
    #[test]
    fn cut_segments_are_the_long_one(
        v6 in any::<bool>(), tcp in any::<bool>(), options in 0usize..10, flags in prop::sample::select(vec![0x10u8, 0x18, 0x19, 0x11, 0x90]),
        sequence in any::<u32>(), payload in prop::collection::vec(any::<u8>(), 1..9000), size in 1u16..9000,
    ) {
        let protocol = if tcp { TCP } else { UDP };
        let long = frame(v6, protocol, options * 4, flags, sequence, &payload);
        let kind = match (tcp, v6) { (false, _) => Kind::Udp, (_, false) => Kind::Tcp4, (_, true) => Kind::Tcp6 };
        let header = Header { checksum: None, segmentation: Some(Segmentation { kind, size }) };
        let parts = cut(&header, &long);
        prop_assert_eq!(parts.len(), payload.len().div_ceil(size.into()));
        let mut data: Vec<u8> = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let layout = check(part);
            prop_assert_eq!(&part[..12], &long[..12]);
            if tcp {
                let at = layout.transport;
                let expected = sequence.wrapping_add(data.len() as u32);
                prop_assert_eq!(&part[at + 4..at + 8], &expected.to_be_bytes());
                let last = index + 1 == parts.len();
                prop_assert_eq!(part[at + 13] & 0x09, if last { flags & 0x09 } else { 0 });
                prop_assert_eq!(part[at + 13] & 0x80, if index == 0 { flags & 0x80 } else { 0 });
                prop_assert_eq!(&part[at + 20..layout.payload], &long[at + 20..layout.payload]);
            }
            data.extend(&part[layout.payload..]);
        }
        prop_assert_eq!(&data, &payload);
        if tcp && flags & 0x81 == 0 {
            // What comes out of the other end is the long one again.
            let joined = join(&parts);
            prop_assert_eq!(joined.len(), 1);
            let (again, bytes) = Header::parse(&joined[0]).unwrap();
            if parts.len() == 1 {
                prop_assert_eq!(bytes, &long[..]);
            } else {
                prop_assert_eq!(again.segmentation, header.segmentation);
                let (start, offset) = again.checksum.unwrap();
                let mut bytes = bytes.to_vec();
                let sum = !fold(sum(&bytes[start.into()..], 0));
                let at = usize::from(start + offset);
                bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
                let (at, mut long) = (usize::from(start + offset), long.clone());
                // 0 and 0xffff are the same sum.
                if bytes[at..at + 2] == [0, 0] { long[at..at + 2].fill(0); }
                prop_assert_eq!(bytes, long);
            }
        }
    }

    /// Any mixture of segments: joined and cut again, each flow's are the same in the same order.
    #[test]
    fn joining_loses_and_reorders_nothing(
        script in prop::collection::vec((0u8..3, 0u8..8, 1usize..40), 1..60),
    ) {
        let mut next = [0u32; 3];
        let frames: Vec<_> = script.iter().map(|(flow, what, length)| {
            let at = &mut next[usize::from(*flow)];
            let payload = vec![*flow; if *what == 1 { 0 } else { 8 * (length / 10) + length % 2 }];
            let flags = match what { 2 => 0x11, 3 => 0x18, _ => 0x10 };
            if *what == 4 { *at = at.wrapping_add(7); }
            let mut bytes = frame(false, TCP, 0, flags, *at, &payload);
            bytes[34] = *flow;
            if *what != 5 {
                // With what == 5 the checksum is wrong.
                bytes[34 + 16..34 + 18].fill(0);
                let layout = Layout::of(&bytes, true).unwrap();
                let sum = !fold(sum(&bytes[34..], layout.pseudo_header(&bytes, bytes.len() - 34)));
                bytes[34 + 16..34 + 18].copy_from_slice(&sum.to_be_bytes());
            }
            // One identification more each time, as far as segments are in a row.
            *at = at.wrapping_add(payload.len() as u32);
            bytes
        }).collect();
        let mut out = Vec::new();
        for bytes in join(&frames) {
            let (header, frame) = Header::parse(&bytes).unwrap();
            out.extend(cut(&header, frame));
        }
        for flow in 0..3u8 {
            let of = |all: &[Vec<u8>]| all.iter().filter(|bytes| bytes[34] == flow).cloned().collect::<Vec<_>>();
            prop_assert_eq!(of(&out), of(&frames));
        }
    }

    #[test]
    fn a_missing_checksum_is_completed(v6 in any::<bool>(), tcp in any::<bool>(), payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let protocol = if tcp { TCP } else { UDP };
        let right = frame(v6, protocol, 0, 0x18, 5, &payload);
        let layout = Layout::of(&right, true).unwrap();
        let at = layout.transport + layout.checksum_offset();
        let mut partial = right.clone();
        let pseudo = fold(layout.pseudo_header(&right, right.len() - layout.transport));
        partial[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let header = Header { checksum: Some((layout.transport as u16, layout.checksum_offset() as u16)), segmentation: None };
        let parts = cut(&header, &partial);
        prop_assert_eq!(parts.len(), 1);
        check(&parts[0]);
    }

    #[test]
    fn vxlan_comes_back(vni in 0..vxlan::VNI_LIMIT, from in any::<u32>(), to in any::<u32>(), frame in prop::collection::vec(any::<u8>(), 14..2000)) {
        let route = Route { from: Ipv4Addr::from(from), to: Ipv4Addr::from(to), vni };
        let mut packet = vec![0xaa; vxlan::HEADERS];
        packet.extend(&frame);
        route.write(&mut packet, vxlan::source_port(&frame));
        prop_assert_eq!(fold(sum(&packet[..20], 0)), 0xffff);
        // Implementations pad to 16 bytes.
        packet.extend([0; 15]);
        prop_assert_eq!(Route::read(&packet), Some((route, &frame[..])));
    }

    #[test]
    fn hostile_bytes_are_only_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), plausible in any::<bool>(), v6 in any::<bool>()) {
        if plausible && bytes.len() > 40 {
            let kind: [u8; 3] = if v6 { [0x86, 0xdd, 0x60] } else { [0x08, 0x00, 0x45] };
            bytes[0] &= 1;
            bytes[1] = [0, 1, 4, 5][usize::from(bytes[1] & 3)];
            bytes[22..25].copy_from_slice(&kind);
            bytes[if v6 { 30 } else { 33 }] = if bytes[2] & 1 == 0 { TCP } else { UDP };
        }
        let _ = Route::read(&bytes);
        let mut buffer = [0; 150];
        if let Some((header, frame)) = Header::parse(&bytes) {
            segment(&header, frame, &mut buffer, ROOM, |_| ());
            join(&[frame.to_vec(), frame.to_vec()]);
        }
        join(&[bytes.clone(), bytes.clone()]);
        vxlan::source_port(&bytes);
    }
}

#[test]
fn what_does_not_fit_is_dropped_whole() {
    let long = frame(false, TCP, 0, 0x10, 0, &[1; 3000]);
    let kind = Kind::Tcp4;
    let header = Header {
        checksum: None,
        segmentation: Some(Segmentation { kind, size: 1400 }),
    };
    let mut seen = 0;
    assert!(!segment(&header, &long, &mut [0; 1400], ROOM, |_| seen += 1));
    assert!(!segment(&Header::default(), &long, &mut [0; 1400], ROOM, |_| {
        seen += 1
    }));
    let other = Header {
        segmentation: Some(Segmentation {
            kind: Kind::Udp,
            size: 1400,
        }),
        ..header
    };
    assert!(!segment(&other, &long, &mut [0; 4000], ROOM, |_| seen += 1));
    assert_eq!(seen, 0);
}

#[test]
fn joined_frames_stay_below_64_kib() {
    let frames: Vec<_> = (0..60u32)
        .map(|i| {
            let mut bytes = frame(true, TCP, 12, 0x10, i * 1400, &[0; 1400]);
            bytes.resize(bytes.len(), 0);
            bytes
        })
        .collect();
    let joined = join(&frames);
    assert_eq!(joined.len(), 2);
    assert!(
        joined
            .iter()
            .all(|bytes| bytes.len() <= vnet::LENGTH + 14 + 65_535)
    );
}

#[test]
fn foreign_tunnel_packets_are_not_vxlan() {
    let route = Route {
        from: Ipv4Addr::new(100, 64, 0, 1),
        to: Ipv4Addr::new(100, 64, 0, 2),
        vni: 4097,
    };
    let mut packet = vec![0; vxlan::HEADERS + 60];
    route.write(&mut packet, 50_000);
    assert!(Route::read(&packet).is_some());
    for (at, value) in [
        (0, 0x65),
        (0, 0x44),
        (9, TCP),
        (6, 0x20),
        (7, 1),
        (23, 1),
        (28, 0),
        (25, 90),
        (3, 120),
        (25, 29),
    ] {
        let mut wrong = packet.clone();
        wrong[at] = value;
        assert_eq!(Route::read(&wrong), None, "byte {at} = {value}");
    }
}
