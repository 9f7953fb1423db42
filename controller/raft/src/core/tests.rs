//! Whatever a peer sends, a core does not panic: messages that pass the edge's checks are stepped in any state.

use proptest::prelude::*;
use prost_raft::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeV2, ConfState, Entry, HardState, Message, Snapshot};

use super::*;

const ME: u64 = 1;

/// A voter of three with a few entries behind a snapshot.
fn core() -> Core {
    core_of(ME)
}

fn core_of(id: u64) -> Core {
    Core::new(&config(id), &image(), Some(10)).expect("a sound image starts")
}

fn config(id: u64) -> Config {
    Config::new(id, "cluster", format!("n{id}"), "/raft")
}

fn image() -> Image {
    let members: Vec<Member> = (1..=3)
        .map(|id| Member::new(id, format!("n{id}"), format!("h{id}:1")))
        .collect();
    let conf_state = ConfState {
        voters: vec![1, 2, 3],
        ..ConfState::default()
    };
    let entry = |index| Entry {
        index,
        term: if index < 5 { 1 } else { 2 },
        data: vec![1],
        ..Entry::default()
    };
    Image {
        entries: (3..8).map(entry).collect(),
        compacted: (2, 1),
        hard_state: HardState {
            term: 2,
            vote: 0,
            commit: 5,
        },
        marker: Some(Marker {
            index: 3,
            term: 1,
            conf_state,
            members: Members::of(&members).encode(),
            reset: false,
        }),
        peers: None,
    }
}

/// Carries out what the core wants, as a disk that never fails would.
fn settle(core: &mut Core) {
    for _ in 0..20 {
        let outputs = core.poll();
        let last = outputs.iter().filter_map(|o| {
            if let Output::Persist(job) = o {
                Some(job.number)
            } else {
                None
            }
        });
        match last.max() {
            Some(number) => core.persisted(number),
            None if outputs.is_empty() => return,
            None => {}
        }
    }
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let data = prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..6),
        (0..4i32, 0..6u64).prop_map(|(change_type, node_id)| {
            ConfChangeV2 {
                changes: vec![ConfChangeSingle { change_type, node_id }],
                ..ConfChangeV2::default()
            }
            .encode_to_vec()
        }),
    ];
    let entry = (0..3i32, 0..4u64, 0..12u64, data).prop_map(|(entry_type, term, index, data)| Entry {
        entry_type,
        term,
        index,
        data,
        ..Entry::default()
    });
    prop::collection::vec(entry, 0..3)
}

fn snapshots() -> impl Strategy<Value = Snapshot> {
    let ids = || prop::collection::vec(0..5u64, 0..4);
    (0..12u64, 0..4u64, ids(), ids(), ids(), ids(), any::<bool>()).prop_map(
        |(index, term, voters, learners, voters_outgoing, learners_next, auto_leave)| {
            let mut snapshot = Snapshot::default();
            let metadata = snapshot.mut_metadata();
            (metadata.index, metadata.term) = (index, term);
            metadata.conf_state = Some(ConfState {
                voters,
                learners,
                voters_outgoing,
                learners_next,
                auto_leave,
            });
            snapshot
        },
    )
}

fn messages() -> impl Strategy<Value = Message> {
    let numbers = (-1..20i32, 0..5u64, 0..5u64, 0..5u64, 0..12u64, 0..12u64);
    let rest = (
        any::<bool>(),
        0..12u64,
        0..3u64,
        entries(),
        snapshots(),
        any::<bool>(),
    );
    (numbers, rest).prop_map(|((msg_type, from, term, log_term, index, commit), rest)| {
        let (reject, reject_hint, request_snapshot, mut entries, snapshot, fits) = rest;
        if fits {
            // Otherwise nearly all entries would be refused for not following.
            for (i, entry) in entries.iter_mut().enumerate() {
                entry.index = index + 1 + i as u64;
                entry.term = term;
            }
        }
        let context = if reject {
            b"CampaignTransfer".to_vec()
        } else {
            Vec::new()
        };
        Message {
            msg_type,
            to: ME,
            from,
            term,
            log_term,
            index,
            entries,
            commit,
            commit_term: log_term,
            snapshot: Some(snapshot),
            reject,
            reject_hint,
            request_snapshot,
            context,
            ..Message::default()
        }
    })
}

#[derive(Debug, Clone)]
enum Input {
    Message(Box<Message>),
    Ticks(usize),
    Propose,
    Settle,
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let input = prop_oneof![
        8 => messages().prop_map(|m| Input::Message(Box::new(m))),
        1 => (1..25usize).prop_map(Input::Ticks),
        1 => Just(Input::Propose),
        4 => Just(Input::Settle),
    ];
    prop::collection::vec(input, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_message_that_passes_the_checks_makes_a_core_panic(inputs in inputs(), leads in any::<bool>()) {
        let mut core = core();
        if leads {
            for _ in 0..12 {
                core.tick();
            }
            settle(&mut core);
            for kind in [MessageType::MsgRequestPreVoteResponse, MessageType::MsgRequestVoteResponse] {
                let mut vote = Message { to: ME, from: 2, term: 3, ..Message::default() };
                vote.set_msg_type(kind);
                core.step(vote);
                settle(&mut core);
            }
            prop_assert!(core.is_leader());
        }
        for input in inputs {
            match input {
                Input::Message(message) => {
                    let bytes = message.encode_to_vec();
                    if let Ok(message) = crate::validate::decode(&bytes, message.from, ME) {
                        core.step(message);
                    }
                }
                Input::Ticks(count) => (0..count).for_each(|_| core.tick()),
                Input::Propose => drop(core.propose(vec![([7; 16], vec![1])])),
                Input::Settle => settle(&mut core),
            }
        }
        settle(&mut core);
    }
}

/// What a peer that is well answers to a leader, or to one who wants to be.
fn answer(core: &mut Core, from: u64, msg_type: MessageType, term: u64) {
    core.step(Message {
        msg_type: msg_type.into(),
        from,
        to: ME,
        term,
        ..Message::default()
    });
    settle(core);
}

#[test]
fn peers_that_answer_are_reachable_at_every_tick() {
    let mut core = core();
    core.campaign();
    settle(&mut core);
    answer(&mut core, 2, MessageType::MsgRequestPreVoteResponse, 3);
    answer(&mut core, 2, MessageType::MsgRequestVoteResponse, 3);
    assert!(core.is_leader());
    answer(&mut core, 3, MessageType::MsgHeartbeatResponse, 3);
    for tick in 1..100 {
        core.tick();
        settle(&mut core);
        let silent: Vec<u64> = core
            .member_list()
            .iter()
            .filter(|member| !member.reachable)
            .map(|member| member.id)
            .collect();
        let expected = if tick > 40 { vec![3] } else { vec![] };
        assert!(
            silent == expected || (20..=40).contains(&tick),
            "tick {tick}: {silent:?}"
        );
        answer(&mut core, 2, MessageType::MsgHeartbeatResponse, 3);
        if tick < 20 {
            answer(&mut core, 3, MessageType::MsgHeartbeatResponse, 3);
        }
    }
}

/// Lets the core do what it wants to; gives what it sends.
fn sent(core: &mut Core) -> Vec<Message> {
    let mut sent = Vec::new();
    loop {
        let outputs = core.poll();
        if outputs.is_empty() {
            return sent;
        }
        for output in outputs {
            match output {
                Output::Persist(job) => core.persisted(job.number),
                Output::Send(message) => sent.push(message),
                _ => {}
            }
        }
    }
}

/// Both campaign, and what each sends crosses what the other does; who leads in the end.
fn crossing(pair: &mut [Core; 2]) -> Vec<u64> {
    for core in pair.iter_mut() {
        sent(core);
        core.campaign();
    }
    for _ in 0..8 {
        let crossing: Vec<Message> = pair.iter_mut().flat_map(sent).collect();
        for message in crossing {
            if let Some(core) = pair.iter_mut().find(|core| core.id == message.to) {
                core.step(message);
            }
        }
    }
    let leaders = pair.iter().filter(|core| core.is_leader());
    leaders.map(|core| core.id).collect()
}

#[test]
fn of_two_who_campaign_at_once_one_wins_at_once() {
    // Their leader, the third, is gone.
    for (a, b, winner) in [(1, 2, 2), (2, 1, 2), (2, 3, 3)] {
        assert_eq!(crossing(&mut [core_of(a), core_of(b)]), [winner], "{a} and {b}");
    }
}

#[test]
fn a_better_log_wins_over_a_rank() {
    // As long, but its last entry is of an earlier term.
    let mut image = image();
    for entry in &mut image.entries {
        entry.term = 1;
    }
    let stale = Core::new(&config(3), &image, Some(10)).expect("it starts");
    assert_eq!(crossing(&mut [core_of(2), stale]), [2]);
}

/// A follower is sent other entries than those at its log's end, with a commit index among them. Whatever part of that a torn write leaves, the
/// commit index never speaks of the entries that were there before.
#[test]
fn a_torn_write_leaves_no_commit_of_entries_that_it_was_to_replace() {
    let mut core = core();
    settle(&mut core);
    let entry = |index| Entry {
        index,
        term: 4,
        data: vec![4],
        ..Entry::default()
    };
    core.step(Message {
        msg_type: MessageType::MsgAppend.into(),
        from: 2,
        to: 1,
        term: 4,
        log_term: 2,
        index: 5,
        commit: 7,
        entries: (6..9).map(entry).collect(),
        ..Message::default()
    });
    let mut records = Vec::new();
    for output in core.poll() {
        if let Output::Persist(job) = output {
            records.extend(job.records);
        }
    }
    assert!(records.len() >= 5, "{records:?}");
    for kept in 0..=records.len() {
        let mut found = image();
        for record in &records[..kept] {
            found.replay(record.clone()).unwrap();
        }
        found.finish().unwrap();
        let state = &found.hard_state;
        let wrong = |entry: &&Entry| entry.index > 5 && entry.index <= state.commit && entry.term < 4;
        assert_eq!(
            found.entries.iter().find(wrong),
            None,
            "{kept} records: {state:?}"
        );
        let last = found.entries.last().map_or(0, |entry| entry.term);
        assert!(
            last <= state.term,
            "{kept} records: a term that the vote does not know"
        );
        if kept == records.len() {
            assert_eq!((state.term, state.commit, found.entries.len()), (4, 7, 6));
        }
    }
}
