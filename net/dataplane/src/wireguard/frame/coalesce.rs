//! Joins the TCP segments of one flow that come in together into one long frame for the TAP (GRO), so that the kernel's way up to the
//! socket is gone once for up to 64 KiB instead of for each MTU.
//!
//! Only what cutting would give back exactly is joined: same headers, sequence without a gap, all segments of one size but a
//! shorter last one. A segment whose checksum is wrong is passed on alone and as it is, for the receiver to judge. Within a flow the order stays.

use super::{
    checksum::{fold, sum},
    layout::{Layout, TCP},
    vnet::{self, Header, Kind, Segmentation},
};

/// Flows that are joined at the same time; more come in together rarely, and the oldest is then done.
const FLOWS: usize = 16;
/// The IP length must fit into 16 bits.
const LONGEST: usize = 65_535;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// A flow's joined segments: a vnet header's room, then the frame.
#[derive(Debug)]
struct Flow {
    bytes: Vec<u8>,
    layout: Layout,
    /// Payload of each segment.
    size: usize,
    segments: usize,
    /// The sequence number that comes next.
    next: u32,
    /// A short or pushed segment was the last that can be joined.
    closed: bool,
}

/// The open flows of one network. Frames come out with their vnet header, at the latest in [`Coalescer::flush`].
#[derive(Debug, Default)]
pub(crate) struct Coalescer {
    flows: Vec<Flow>,
    /// Buffers of flows that are done.
    spare: Vec<Vec<u8>>,
}

impl Coalescer {
    /// Takes a frame; what is complete goes to `emit`.
    pub(crate) fn push(&mut self, frame: &[u8], emit: &mut impl FnMut(&[u8])) {
        let tcp = Layout::of(frame, true).filter(|layout| layout.protocol == TCP);
        let Some(layout) = tcp else {
            return self.pass(frame, emit);
        };
        let frame = &frame[..layout.end];
        let known = self.flows.iter().position(|flow| flow.is_of(&layout, frame));
        let joinable = joinable(&layout, frame);
        if let Some(at) = known {
            if joinable && self.flows[at].join(&layout, frame) {
                return;
            }
            let flow = self.flows.remove(at);
            self.done(flow, emit);
        }
        if !joinable {
            return self.pass(frame, emit);
        }
        if self.flows.len() == FLOWS {
            let flow = self.flows.remove(0);
            self.done(flow, emit);
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.resize(vnet::LENGTH, 0);
        bytes.extend_from_slice(frame);
        self.flows.push(Flow::new(layout, bytes));
    }

    /// Hands out all that is open.
    pub(crate) fn flush(&mut self, emit: &mut impl FnMut(&[u8])) {
        for flow in std::mem::take(&mut self.flows) {
            self.done(flow, emit);
        }
    }

    /// A frame that is not joined.
    fn pass(&mut self, frame: &[u8], emit: &mut impl FnMut(&[u8])) {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(&Header::default().encode(0));
        bytes.extend_from_slice(frame);
        emit(&bytes);
        self.spare.push(bytes);
    }

    fn done(&mut self, mut flow: Flow, emit: &mut impl FnMut(&[u8])) {
        flow.finish();
        emit(&flow.bytes);
        self.spare.push(flow.bytes);
    }
}

/// Whether a segment may be joined at all: data, nothing but ACK and PSH, and a right checksum, as the joined one is summed up anew.
fn joinable(layout: &Layout, frame: &[u8]) -> bool {
    let flags = frame[layout.transport + 13];
    let plain = flags & !PSH == ACK && layout.payload < frame.len();
    // The headers of cut segments have these IP options' length and no others.
    plain && (layout.v6 || layout.transport == layout.network + 20) && verified(layout, frame)
}

fn verified(layout: &Layout, frame: &[u8]) -> bool {
    let transport = &frame[layout.transport..];
    let ip_is_right = layout.v6 || fold(sum(&frame[layout.network..layout.transport], 0)) == 0xffff;
    ip_is_right && fold(sum(transport, layout.pseudo_header(frame, transport.len()))) == 0xffff
}

fn sequence(layout: &Layout, frame: &[u8]) -> u32 {
    let at = layout.transport + 4;
    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

impl Flow {
    fn new(layout: Layout, bytes: Vec<u8>) -> Self {
        let frame = &bytes[vnet::LENGTH..];
        let size = frame.len() - layout.payload;
        Self {
            size,
            segments: 1,
            next: sequence(&layout, frame).wrapping_add(size as u32),
            closed: frame[layout.transport + 13] & PSH != 0,
            layout,
            bytes,
        }
    }

    /// Same addresses and ports.
    fn is_of(&self, layout: &Layout, frame: &[u8]) -> bool {
        let own = &self.bytes[vnet::LENGTH..];
        self.layout.v6 == layout.v6
            && self.layout.transport == layout.transport
            && self.layout.addresses(own) == layout.addresses(frame)
            && own[layout.transport..layout.transport + 4] == frame[layout.transport..layout.transport + 4]
    }

    /// Appends a segment of this flow if it fits.
    fn join(&mut self, layout: &Layout, frame: &[u8]) -> bool {
        let payload = &frame[layout.payload..];
        let own = &self.bytes[vnet::LENGTH..];
        let fits = !self.closed
            && self.next == sequence(layout, frame)
            && payload.len() <= self.size
            && own.len() - layout.network + payload.len() <= LONGEST
            && self.same_headers(layout, own, frame);
        if !fits {
            return false;
        }
        let flags = frame[layout.transport + 13];
        self.closed = payload.len() < self.size || flags & PSH != 0;
        self.segments += 1;
        self.next = self.next.wrapping_add(payload.len() as u32);
        self.bytes[vnet::LENGTH + layout.transport + 13] |= flags;
        self.bytes.extend_from_slice(payload);
        true
    }

    /// Everything that cutting copies into each segment, or counts up.
    fn same_headers(&self, layout: &Layout, own: &[u8], frame: &[u8]) -> bool {
        let (ip, tcp) = (layout.network, layout.transport);
        let same = |from: usize, to: usize| own[from..to] == frame[from..to];
        let ip_same = if layout.v6 {
            // All but the length.
            same(ip, ip + 4) && same(ip + 6, tcp)
        } else {
            let id = |bytes: &[u8]| u16::from_be_bytes([bytes[ip + 4], bytes[ip + 5]]);
            // All but length, identification (one more each time) and checksum.
            same(ip, ip + 2)
                && id(frame) == id(own).wrapping_add(self.segments as u16)
                && same(ip + 6, ip + 10)
        };
        // Acknowledgement, header length, window, urgent pointer and options; flags were looked at.
        let tcp_same = same(tcp + 8, tcp + 13) && same(tcp + 14, tcp + 16) && same(tcp + 18, layout.payload);
        self.layout.payload == layout.payload && same(0, ip) && ip_same && tcp_same
    }

    /// Writes the headers of what was joined.
    fn finish(&mut self) {
        if self.segments == 1 {
            return;
        }
        let layout = self.layout;
        let (room, frame) = self.bytes.split_at_mut(vnet::LENGTH);
        let end = frame.len();
        layout.set_length(frame, end);
        let checksum = layout.transport + layout.checksum_offset();
        let pseudo = fold(layout.pseudo_header(frame, end - layout.transport));
        frame[checksum..checksum + 2].copy_from_slice(&pseudo.to_be_bytes());
        let header = Header {
            checksum: Some((layout.transport as u16, layout.checksum_offset() as u16)),
            segmentation: Some(Segmentation {
                kind: if layout.v6 { Kind::Tcp6 } else { Kind::Tcp4 },
                size: self.size as u16,
            }),
        };
        room.copy_from_slice(&header.encode(layout.payload as u16));
    }
}
