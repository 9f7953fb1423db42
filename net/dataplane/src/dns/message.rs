//! Queries read from and answers written to the wire (RFC 1035 section 4, EDNS: RFC 6891), without allocation.
//!
//! Hand-written because this is the hot path and needs little: one question in; addresses and pointers that all
//! belong to the question's name out. The tests read and write the same messages with `hickory-proto`.

use std::{net::IpAddr, ops::Range};

use super::name::Name;

/// Bytes before the question.
pub(crate) const HEADER: usize = 12;
/// Largest UDP answer to a client that does not say what it can take (RFC 1035 section 4.2.1).
const PLAIN_UDP: u16 = 512;
/// Largest UDP answer at all, and what we advertise: the path is the loopback interface.
const MAX_UDP: u16 = 4096;
const OPT_LEN: usize = 11;
/// Seconds for which a client may keep an answer. Names change at any moment and a change has to be seen within
/// a second; 0 is taken for an error by some resolvers.
const TTL: u32 = 1;

/// Record types that something is done with.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const ANY: u16 = 255;
}

/// Response codes; above 15 only with EDNS.
pub(crate) mod code {
    pub(crate) const NO_ERROR: u16 = 0;
    pub(crate) const FORMAT: u16 = 1;
    pub(crate) const SERVER_FAILURE: u16 = 2;
    pub(crate) const NO_NAME: u16 = 3;
    pub(crate) const NOT_IMPLEMENTED: u16 = 4;
    pub(crate) const REFUSED: u16 = 5;
    pub(crate) const BAD_VERSION: u16 = 16;
}

/// The flag of a cut answer, in the third byte of the header.
pub(crate) const TRUNCATED: u8 = 0x02;

const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;

/// How a query came, which bounds the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A datagram.
    Udp,
    /// A stream.
    Tcp,
}

/// A well-formed query.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    header: [u8; 4],
    /// Name, type and class as they came, to be sent back unchanged.
    question: &'a [u8],
    /// The name, lower-cased.
    pub(crate) name: Name,
    /// The type asked for.
    pub(crate) kind: u16,
    /// Whether the client speaks EDNS.
    edns: bool,
    /// Largest answer that the client takes.
    pub(crate) limit: usize,
}

/// Why a packet is not a query that can be looked up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It gets no answer: too short for a header, or itself an answer (which would make loops).
    Silent,
    /// It gets an answer without content, with this code.
    Code(u16),
}

fn u16_at(packet: &[u8], at: usize) -> Option<u16> {
    let bytes = packet.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// The end of the name at `at`, which may end in a pointer.
fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            len @ 1..=63 => at += usize::from(len) + 1,
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Looks through the records after the question for the client's EDNS record: its payload size and version.
fn find_edns(packet: &[u8], mut at: usize) -> Result<Option<(u16, u8)>, Unfit> {
    let malformed = Unfit::Code(code::FORMAT);
    let count = |i| u32::from(u16_at(packet, i).unwrap_or(0));
    let mut found = None;
    for _ in 0..count(6) + count(8) + count(10) {
        let Some(fixed) = skip_name(packet, at) else {
            return Err(malformed);
        };
        let (Some(kind), Some(class), Some(len)) = (
            u16_at(packet, fixed),
            u16_at(packet, fixed + 2),
            u16_at(packet, fixed + 8),
        ) else {
            return Err(malformed);
        };
        if kind == kind::OPT {
            // The TTL field is: extended code, version, flags (RFC 6891 section 6.1.3). Two are an error.
            if found.replace((class, packet[fixed + 5])).is_some() {
                return Err(malformed);
            }
        }
        at = fixed + 10 + usize::from(len);
        if at > packet.len() {
            return Err(malformed);
        }
    }
    Ok(found)
}

impl<'a> Query<'a> {
    /// Reads a packet.
    pub(crate) fn read(packet: &'a [u8], transport: Transport) -> Result<Self, Unfit> {
        let malformed = || Unfit::Code(code::FORMAT);
        let header = packet
            .get(..4)
            .filter(|_| packet.len() >= HEADER)
            .ok_or(Unfit::Silent)?;
        if header[2] & 0x80 != 0 {
            return Err(Unfit::Silent);
        }
        if header[2] & 0x78 != 0 {
            return Err(Unfit::Code(code::NOT_IMPLEMENTED));
        }
        if u16_at(packet, 4) != Some(1) {
            return Err(malformed());
        }
        let name = Name::read(&packet[HEADER..]).ok_or_else(malformed)?;
        let at = HEADER + name.wire().len();
        let kind = u16_at(packet, at).ok_or_else(malformed)?;
        let class = u16_at(packet, at + 2).ok_or_else(malformed)?;
        let edns = find_edns(packet, at + 4)?;
        if edns.is_some_and(|(_, version)| version > 0) {
            return Err(Unfit::Code(code::BAD_VERSION));
        }
        if (class != CLASS_IN && class != CLASS_ANY) || kind == kind::AXFR || kind == kind::IXFR {
            return Err(Unfit::Code(code::REFUSED));
        }
        let limit = match transport {
            Transport::Udp => usize::from(edns.map_or(PLAIN_UDP, |(size, _)| size.clamp(PLAIN_UDP, MAX_UDP))),
            Transport::Tcp => usize::from(u16::MAX),
        };
        Ok(Self {
            header: [header[0], header[1], header[2], header[3]],
            question: &packet[HEADER..at + 4],
            name,
            kind,
            edns: edns.is_some(),
            limit,
        })
    }
}

/// An answer being written into a reused buffer.
pub(crate) struct Answer<'b> {
    out: &'b mut Vec<u8>,
    code: u16,
    edns: bool,
    limit: usize,
    records: u16,
    truncated: bool,
}

impl<'b> Answer<'b> {
    /// Begins the answer to `query` in `out`, which is emptied.
    pub(crate) fn new(out: &'b mut Vec<u8>, query: &Query<'_>, code: u16) -> Self {
        start(out, query.header, code, 1);
        out.extend_from_slice(query.question);
        let opt = if query.edns { OPT_LEN } else { 0 };
        let limit = query.limit.saturating_sub(opt);
        Self {
            out,
            code,
            edns: query.edns,
            limit,
            records: 0,
            truncated: false,
        }
    }

    /// Adds an address of the question's name; false if there is no room, which the answer then says.
    pub(crate) fn address(&mut self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.record(kind::A, &v4.octets()),
            IpAddr::V6(v6) => self.record(kind::AAAA, &v6.octets()),
        }
    }

    /// Adds the name, in wire form, that the question's reverse name points to.
    pub(crate) fn pointer(&mut self, target: &[u8]) -> bool {
        self.record(kind::PTR, target)
    }

    fn record(&mut self, kind: u16, data: &[u8]) -> bool {
        if self.truncated || self.out.len() + 12 + data.len() > self.limit {
            self.truncated = true;
            return false;
        }
        // 0xc00c points to the question's name, which always starts right after the header.
        self.out.extend_from_slice(&[0xc0, 0x0c]);
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.out.extend_from_slice(&TTL.to_be_bytes());
        self.out
            .extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        self.out.extend_from_slice(data);
        self.records += 1;
        true
    }

    /// Ends the answer and says that there was more than fits.
    pub(crate) fn cut(mut self) {
        self.truncated = true;
        self.finish();
    }

    /// Ends the answer.
    pub(crate) fn finish(self) {
        self.out[6..8].copy_from_slice(&self.records.to_be_bytes());
        if self.truncated {
            self.out[2] |= TRUNCATED;
        }
        if self.edns {
            push_opt(self.out, self.code);
        }
    }
}

/// Header of an answer: QR, AA and RA set; opcode, RD and CD as in the query.
fn start(out: &mut Vec<u8>, header: [u8; 4], code: u16, questions: u8) {
    out.clear();
    let low = code.to_be_bytes()[1] & 0x0f;
    out.extend_from_slice(&[
        header[0],
        header[1],
        0x84 | (header[2] & 0x79),
        0x80 | (header[3] & 0x10) | low,
    ]);
    out.extend_from_slice(&[0, questions, 0, 0, 0, 0, 0, 0]);
}

fn push_opt(out: &mut Vec<u8>, code: u16) {
    let extended = code.to_be_bytes()[1] >> 4;
    let size = MAX_UDP.to_be_bytes();
    out.extend_from_slice(&[0, 0, 41, size[0], size[1], extended, 0, 0, 0, 0, 0]);
    out[11] = 1;
}

/// The answer without content to a packet that [`Query::read`] refused; `packet` is at least a header.
pub(crate) fn write_code(out: &mut Vec<u8>, packet: &[u8], code: u16) {
    let Some(&[a, b, c, d]) = packet.get(..4) else {
        return out.clear();
    };
    start(out, [a, b, c, d], code, 0);
    if code > 15 {
        push_opt(out, code);
    }
}

/// A record in a message, and where it is.
#[derive(Debug)]
pub(crate) struct Place {
    /// It is in the answer section.
    pub(crate) is_answer: bool,
    /// Its type.
    pub(crate) kind: u16,
    /// Where its time to live is.
    pub(crate) ttl_at: usize,
    /// Seconds.
    pub(crate) ttl: u32,
    /// Where its data is.
    pub(crate) data: Range<usize>,
}

/// The end of a message's question. `None` if it does not have exactly one.
pub(crate) fn question_end(packet: &[u8]) -> Option<usize> {
    if u16_at(packet, 4)? != 1 {
        return None;
    }
    let end = skip_name(packet, HEADER)? + 4;
    (end <= packet.len()).then_some(end)
}

/// The records of a message with one question; `None` if it is malformed.
pub(crate) fn places(packet: &[u8]) -> Option<Vec<Place>> {
    let mut at = question_end(packet)?;
    let mut places = Vec::new();
    for section in [6, 8, 10] {
        for _ in 0..u16_at(packet, section)? {
            let fixed = skip_name(packet, at)?;
            let ttl = packet.get(fixed + 4..)?.first_chunk()?;
            let start = fixed + 10;
            at = start + usize::from(u16_at(packet, fixed + 8)?);
            packet.get(start..at)?;
            places.push(Place {
                is_answer: section == 6,
                kind: u16_at(packet, fixed)?,
                ttl_at: fixed + 4,
                ttl: u32::from_be_bytes(*ttl),
                data: start..at,
            });
        }
    }
    Some(places)
}

/// The empty answer to `packet` that says that the whole one does not fit; false if the packet is no query.
pub(crate) fn write_cut(out: &mut Vec<u8>, packet: &[u8]) -> bool {
    let query = Query::read(packet, Transport::Udp);
    query.is_ok_and(|query| {
        Answer::new(out, &query, code::NO_ERROR).cut();
        true
    })
}

/// Whether `reply` answers the query `sent` to another server: its id, one question, the same question.
pub(crate) fn answers(reply: &[u8], sent: &[u8]) -> bool {
    if reply.len() < HEADER || reply[..2] != sent[..2] || reply[2] & 0x80 == 0 {
        return false;
    }
    let question = |packet: &[u8]| skip_name(packet, HEADER).map(|end| end + 4);
    match (question(sent), u16_at(reply, 4)) {
        (Some(end), Some(1)) => reply
            .get(HEADER..end)
            .is_some_and(|q| q.eq_ignore_ascii_case(&sent[HEADER..end])),
        // Servers that fail early may leave the question out.
        (_, Some(0)) => reply[3] & 0x0f != 0,
        _ => false,
    }
}

/// Whether the answer was cut.
pub(crate) fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & TRUNCATED != 0)
}

/// The basic response code of an answer.
pub(crate) fn response_code(reply: &[u8]) -> u16 {
    reply
        .get(3)
        .map_or(code::SERVER_FAILURE, |flags| u16::from(flags & 0x0f))
}
