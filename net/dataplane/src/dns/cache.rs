//! Answers of other servers that may be given again for as long as those allow (RFC 1035 section 7.4; names that do not exist: RFC 2308).
//!
//! Each sandbox has its own: its servers may know names that another's do not. Only what belongs to none of its networks gets here, since
//! those are looked up first; a service that comes to be is seen at once, whatever a server had said of its name. Used by `server`.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::message::{self, Place, code, kind};

/// Answers kept at most.
const MOST: usize = 128;
/// A longer one is not kept.
const LONGEST_REPLY: usize = 2048;
/// An answer is asked for again after this time, whatever its records say.
const LONGEST: Duration = Duration::from_secs(3600);
/// The same of an answer that there is nothing: somebody may be waiting for the name to come to be.
const LONGEST_NOTHING: Duration = Duration::from_secs(300);
/// Not authoritative: in the third byte of the header.
const AUTHORITATIVE: u8 = 0x04;

/// Answers of one sandbox's servers.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    kept: HashMap<Box<[u8]>, Kept>,
    /// In the order in which they came.
    order: VecDeque<Box<[u8]>>,
}

#[derive(Debug)]
struct Kept {
    reply: Box<[u8]>,
    /// Where the times to live are.
    ttls: Box<[usize]>,
    since: Instant,
    until: Instant,
}

/// What tells queries apart: all but the id and the case of letters. None if an answer to it is not for others, or its own: options (cookies
/// and addresses of clients are such), signatures.
fn key(query: &[u8]) -> Option<Box<[u8]>> {
    let plain = |place: &Place| place.kind == kind::OPT && place.data.is_empty();
    if !message::places(query)?.iter().all(plain) {
        return None;
    }
    let mut key = query.get(2..)?.to_vec();
    let end = message::question_end(query)?;
    // The name's part that is no letters are lengths, below those of letters.
    key.get_mut(message::HEADER - 2..end - 6)?.make_ascii_lowercase();
    Some(key.into())
}

/// How long an answer may be kept; zero: not at all.
fn lifetime(reply: &[u8], places: &[Place]) -> Duration {
    let seconds = |ttl: u32| Duration::from_secs(ttl.into());
    let records = || places.iter().filter(|place| place.kind != kind::OPT);
    let least = records().map(|place| place.ttl).min().unwrap_or(0);
    match message::response_code(reply) {
        code::NO_ERROR if places.iter().any(|place| place.is_answer) => seconds(least).min(LONGEST),
        code::NO_ERROR | code::NO_NAME => {
            // The zone says for how long there is nothing, in the last field of its start; without it nobody knows.
            let start = records().find(|place| place.kind == kind::SOA);
            let minimum = start.and_then(|start| reply.get(start.data.clone())?.last_chunk());
            let minimum = minimum.map_or(0, |bytes| u32::from_be_bytes(*bytes));
            seconds(least.min(minimum)).min(LONGEST_NOTHING)
        }
        _ => Duration::ZERO,
    }
}

impl Cache {
    /// Keeps an answer, if it may be. `query` is well-formed.
    pub(crate) fn put(&mut self, query: &[u8], reply: &[u8], now: Instant) {
        let Some(places) = message::places(reply) else {
            return;
        };
        let life = lifetime(reply, &places);
        let same_question = message::question_end(reply).is_some_and(|end| query.get(..end).is_some());
        if life.is_zero() || reply.len() > LONGEST_REPLY || message::is_truncated(reply) || !same_question {
            return;
        }
        let Some(key) = key(query) else { return };
        let ttls = places.iter().filter(|place| place.kind != kind::OPT);
        let kept = Kept {
            reply: reply.into(),
            ttls: ttls.map(|place| place.ttl_at).collect(),
            since: now,
            until: now + life,
        };
        if self.kept.insert(key.clone(), kept).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > MOST {
            if let Some(oldest) = self.order.pop_front() {
                self.kept.remove(&oldest);
            }
        }
    }

    /// Writes the answer to `out` that is kept for this query, if there is one; false otherwise. `limit` is the largest that the client takes:
    /// what is longer becomes an empty one that says so.
    pub(crate) fn get(&self, query: &[u8], limit: usize, now: Instant, out: &mut Vec<u8>) -> bool {
        let kept = key(query).and_then(|key| self.kept.get(&key));
        let Some(kept) = kept.filter(|kept| now < kept.until) else {
            return false;
        };
        if kept.reply.len() > limit {
            return message::write_cut(out, query);
        }
        out.clear();
        out.extend_from_slice(&kept.reply);
        out[..2].copy_from_slice(&query[..2]);
        out[2] &= !AUTHORITATIVE;
        // Letters as they were asked (draft-vixie-dnsext-dns0x20): clients compare them.
        if let Some(end) = message::question_end(query) {
            out[message::HEADER..end].copy_from_slice(&query[message::HEADER..end]);
        }
        let age = u32::try_from((now - kept.since).as_secs()).unwrap_or(u32::MAX);
        for &at in &kept.ttls {
            if let Some(field) = out.get_mut(at..at + 4).and_then(|field| field.first_chunk_mut()) {
                *field = u32::from_be_bytes(*field).saturating_sub(age).to_be_bytes();
            }
        }
        true
    }

    /// Forgets all: other servers may say otherwise.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    use super::*;

    const ALL: usize = 4096;

    fn query(name: &str, id: u16) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = id;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message.to_vec().unwrap()
    }

    fn reply(query: &[u8], change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::from_vec(query).unwrap().into_response();
        message.metadata.authoritative = true;
        change(&mut message);
        message.to_vec().unwrap()
    }

    fn address(name: &str, ttl: u32) -> Record {
        let data = RData::A(A::new(192, 0, 2, 1));
        Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
    }

    fn start(ttl: u32, minimum: u32) -> Record {
        let name = |text| Name::from_ascii(text).unwrap();
        let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 2, 3, 4, minimum);
        Record::from_rdata(name("example."), ttl, RData::SOA(soa))
    }

    fn get(cache: &Cache, query: &[u8], now: Instant) -> Option<Message> {
        let mut out = vec![7; 3];
        cache
            .get(query, ALL, now, &mut out)
            .then(|| Message::from_vec(&out).unwrap())
    }

    #[test]
    fn an_answer_is_given_again_until_its_first_record_ends() {
        let (mut cache, begun) = (Cache::default(), Instant::now());
        let first = query("www.example.", 1);
        let answer = reply(&first, |message| {
            message.add_answer(address("www.example.", 60));
            message.add_answer(address("www.example.", 30));
        });
        cache.put(&first, &answer, begun);
        let again = query("wWw.eXample.", 2);
        let found = get(&cache, &again, begun + Duration::from_secs(10)).unwrap();
        assert_eq!((found.metadata.id, found.metadata.authoritative), (2, false));
        assert_eq!(found.queries[0].name().to_ascii(), "wWw.eXample.");
        let ttls: Vec<u32> = found.answers.iter().map(|record| record.ttl).collect();
        assert_eq!(ttls, [50, 20]);
        assert!(get(&cache, &again, begun + Duration::from_secs(30)).is_none());
        assert!(get(&cache, &query("other.example.", 1), begun).is_none());
        cache.clear();
        assert!(get(&cache, &again, begun).is_none());
    }

    #[test]
    fn that_there_is_nothing_is_known_as_long_as_the_zone_says() {
        let begun = Instant::now();
        let asked = query("none.example.", 1);
        for (code, records, life) in [
            (ResponseCode::NXDomain, vec![start(600, 20)], 20),
            (ResponseCode::NoError, vec![start(15, 20)], 15),
            (ResponseCode::NXDomain, vec![start(90_000, 90_000)], 300),
            (ResponseCode::NXDomain, vec![], 0),
            (ResponseCode::ServFail, vec![start(600, 20)], 0),
        ] {
            let mut cache = Cache::default();
            let answer = reply(&asked, |message| {
                message.metadata.response_code = code;
                for record in &records {
                    message.add_authority(record.clone());
                }
            });
            cache.put(&asked, &answer, begun);
            let at = |seconds| get(&cache, &asked, begun + Duration::from_secs(seconds));
            assert!(at(life).is_none(), "{code} {records:?}");
            if life > 0 {
                assert_eq!(at(life - 1).unwrap().metadata.response_code, code);
            }
        }
    }

    #[test]
    fn what_is_cut_or_of_one_client_is_not_kept() {
        let begun = Instant::now();
        let asked = query("www.example.", 1);
        let mut cache = Cache::default();
        cache.put(
            &asked,
            &reply(&asked, |message| {
                message.add_answer(address("www.example.", 60));
                message.metadata.truncation = true;
            }),
            begun,
        );
        cache.put(
            &asked,
            &reply(&asked, |message| {
                message.add_answer(address("www.example.", 0));
            }),
            begun,
        );
        assert!(get(&cache, &asked, begun).is_none());
        // With a cookie.
        let mut special = Message::from_vec(&asked).unwrap();
        let mut edns = Edns::new();
        let option = hickory_proto::rr::rdata::opt::EdnsOption::Unknown(10, vec![1; 8]);
        edns.options_mut().insert(option);
        special.set_edns(edns);
        let special = special.to_vec().unwrap();
        let answer = reply(&special, |message| {
            message.add_answer(address("www.example.", 60));
        });
        cache.put(&special, &answer, begun);
        assert!(get(&cache, &special, begun).is_none());
    }

    #[test]
    fn a_client_that_takes_less_is_told_to_ask_otherwise() {
        let begun = Instant::now();
        let asked = query("large.example.", 1);
        let mut cache = Cache::default();
        let answer = reply(&asked, |message| {
            for _ in 0..40 {
                message.add_answer(address("large.example.", 60));
            }
        });
        assert!(answer.len() > 512 && answer.len() < LONGEST_REPLY);
        cache.put(&asked, &answer, begun);
        let mut out = Vec::new();
        assert!(cache.get(&asked, 512, begun, &mut out));
        let cut = Message::from_vec(&out).unwrap();
        assert_eq!(
            (cut.metadata.truncation, cut.answers.len(), cut.metadata.id),
            (true, 0, 1)
        );
        assert_eq!(get(&cache, &asked, begun).unwrap().answers.len(), 40);
    }

    #[test]
    fn the_oldest_go_when_there_are_many() {
        let begun = Instant::now();
        let mut cache = Cache::default();
        let asked = |n: usize| query(&format!("n{n}.example."), 1);
        for n in 0..=MOST {
            let answer = reply(&asked(n), |message| {
                message.add_answer(address(&format!("n{n}.example."), 60));
            });
            cache.put(&asked(n), &answer, begun);
            // Anew, it is no second one.
            cache.put(&asked(n), &answer, begun);
        }
        assert!(get(&cache, &asked(0), begun).is_none());
        assert!((1..=MOST).all(|n| get(&cache, &asked(n), begun).is_some()));
        assert_eq!((cache.kept.len(), cache.order.len()), (MOST, MOST));
    }
}
