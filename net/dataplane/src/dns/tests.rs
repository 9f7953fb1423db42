//! Look-ups and messages, with `hickory-proto` as the other party.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    rc::Rc,
};

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use proptest::prelude::*;

use super::{
    message::{self, Transport},
    name,
    table::Table,
    view::{Verdict, View},
};
use crate::SandboxDns;

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn table(records: &[(&str, &[&str])]) -> Rc<RefCell<Table>> {
    let records: BTreeMap<_, _> = records
        .iter()
        .map(|(name, list)| (name.to_string(), ips(list)))
        .collect();
    Rc::new(RefCell::new(Table::new(&records)))
}

fn query(name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 0x1234;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

/// Sends a query to a view and reads the answer; `None` if it is to be forwarded or ignored.
fn ask_as(view: &View, packet: &[u8], transport: Transport) -> Option<Message> {
    let mut out = vec![7; 3];
    match view.judge(packet, transport, &mut out) {
        Verdict::Reply => Some(Message::from_vec(&out).unwrap()),
        _ => None,
    }
}

fn ask(view: &View, name: &str, kind: RecordType) -> Option<Message> {
    let reply = ask_as(view, &query(name, kind, None), Transport::Udp)?;
    assert_eq!(reply.metadata.id, 0x1234);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    assert_eq!(reply.queries[0].name().to_ascii(), name);
    Some(reply)
}

fn addresses(reply: &Message) -> Vec<IpAddr> {
    let ip = |data: &RData| match data {
        RData::A(a) => IpAddr::V4(a.0),
        RData::AAAA(a) => IpAddr::V6(a.0),
        other => panic!("unexpected {other:?}"),
    };
    reply.answers.iter().map(|record| ip(&record.data)).collect()
}

fn view(networks: &[&Rc<RefCell<Table>>], change: impl FnOnce(&mut SandboxDns)) -> View {
    let mut sandbox = SandboxDns {
        upstreams: vec!["192.0.2.1:53".parse().unwrap()],
        ..SandboxDns::default()
    };
    change(&mut sandbox);
    View::new(&sandbox, networks.iter().map(|table| Rc::clone(table)).collect())
}

#[test]
fn names_are_answered_in_any_case_with_their_family() {
    let net = table(&[
        ("web", &["10.0.0.2", "fd00::2"]),
        ("db.1.x9", &["10.0.0.3"]),
        ("none", &[]),
    ]);
    let view = view(&[&net], |_| {});
    assert_eq!(
        addresses(&ask(&view, "WeB.", RecordType::A).unwrap()),
        ips(&["10.0.0.2"])
    );
    assert_eq!(
        addresses(&ask(&view, "web.", RecordType::AAAA).unwrap()),
        ips(&["fd00::2"])
    );
    assert_eq!(
        addresses(&ask(&view, "web.", RecordType::ANY).unwrap()),
        ips(&["10.0.0.2", "fd00::2"])
    );
    assert_eq!(
        addresses(&ask(&view, "db.1.x9.", RecordType::A).unwrap()),
        ips(&["10.0.0.3"])
    );
    for (name, kind) in [
        ("db.1.x9.", RecordType::AAAA),
        ("web.", RecordType::MX),
        ("none.", RecordType::A),
    ] {
        let reply = ask(&view, name, kind).unwrap();
        assert_eq!(
            (reply.metadata.response_code, reply.answers.len()),
            (ResponseCode::NoError, 0),
            "{name}"
        );
    }
    assert!(
        ask(&view, "other.", RecordType::A).is_none(),
        "unknown names go to the upstream"
    );
    assert!(ask(&view, "x.web.", RecordType::A).is_none());
}

#[test]
fn networks_scope_and_order_names_and_extra_hosts_win() {
    let (a, b) = (
        table(&[("web", &["10.0.0.2"]), ("a", &["10.0.0.9"])]),
        table(&[("web", &["10.1.0.2"])]),
    );
    let answer = |view: &View| addresses(&ask(view, "web.", RecordType::A).unwrap());
    assert_eq!(answer(&view(&[&a, &b], |_| {})), ips(&["10.0.0.2"]));
    assert_eq!(answer(&view(&[&b, &a], |_| {})), ips(&["10.1.0.2"]));
    let extra = view(&[&a], |s| {
        drop(s.extra_hosts.insert("web".into(), ips(&["192.0.2.7"])))
    });
    assert_eq!(answer(&extra), ips(&["192.0.2.7"]));
    assert!(
        ask(&view(&[&b], |_| {}), "a.", RecordType::A).is_none(),
        "a name of a foreign network"
    );
    b.borrow_mut().set("a", &ips(&["10.1.0.3"]));
    assert!(ask(&view(&[&b], |_| {}), "a.", RecordType::A).is_some());
}

#[test]
fn nothing_unknown_leaves_an_internal_sandbox() {
    let net = table(&[("web", &["10.0.0.2"])]);
    let code = |view: &View, name| ask(view, name, RecordType::A).unwrap().metadata.response_code;
    let internal = view(&[&net], |s| s.internal = true);
    assert_eq!(code(&internal, "secret.example.com."), ResponseCode::NXDomain);
    assert_eq!(code(&internal, "web."), ResponseCode::NoError);
    assert_eq!(
        code(&view(&[&net], |s| s.upstreams.clear()), "example.com."),
        ResponseCode::ServFail
    );
}

#[test]
fn answers_rotate_although_both_families_are_asked() {
    let net = table(&[("web", &["10.0.0.1", "10.0.0.2", "10.0.0.1"])]);
    let view = view(&[&net], |_| {});
    let firsts: Vec<_> = (0..4)
        .map(|_| {
            ask(&view, "web.", RecordType::AAAA).unwrap();
            addresses(&ask(&view, "web.", RecordType::A).unwrap())[0]
        })
        .collect();
    assert_eq!(firsts, ips(&["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.2"]));
}

#[test]
fn addresses_point_back_to_the_closest_name() {
    let net = table(&[
        ("web", &["10.0.0.2", "10.0.0.3"]),
        ("tasks.web", &["10.0.0.3"]),
        ("web.2.abcdef", &["10.0.0.3", "fd00::3"]),
        ("web.3.abcdef", &["10.0.0.3"]),
    ]);
    let view = view(&[&net], |_| {});
    let target =
        |name: &str| ask(&view, name, RecordType::PTR).map(|reply| reply.answers[0].data.to_string());
    assert_eq!(target("3.0.0.10.in-addr.arpa."), Some("web.3.abcdef.".into()));
    assert_eq!(target("2.0.0.10.in-addr.arpa."), Some("web.".into()));
    let v6 = "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(target(v6), Some("web.2.abcdef.".into()));
    net.borrow_mut().unset("web.3.abcdef");
    assert_eq!(target("3.0.0.10.in-addr.arpa."), Some("tasks.web.".into()));
    for unknown in [
        "4.0.0.10.in-addr.arpa.",
        "0.0.10.in-addr.arpa.",
        "1.3.0.0.10.in-addr.arpa.",
        "x3.0.0.10.in-addr.arpa.",
    ] {
        assert_eq!(target(unknown), None, "{unknown}");
    }
}

#[test]
fn long_answers_are_cut_at_what_the_client_takes() {
    let all: Vec<String> = (0..300)
        .map(|i| format!("10.0.{}.{}", i / 250, i % 250 + 1))
        .collect();
    let list: Vec<&str> = all.iter().map(String::as_str).collect();
    let net = table(&[("web", &list)]);
    let view = view(&[&net], |_| {});
    let answer = |edns, transport| {
        let mut out = Vec::new();
        assert_eq!(
            view.judge(&query("web.", RecordType::A, edns), transport, &mut out),
            Verdict::Reply
        );
        let reply = Message::from_vec(&out).unwrap();
        assert_eq!(reply.edns.is_some(), edns.is_some());
        (out.len(), reply.answers.len(), reply.metadata.truncation)
    };
    assert_eq!(answer(None, Transport::Udp), (12 + 9 + 30 * 16, 30, true));
    assert_eq!(
        answer(Some(100), Transport::Udp).1,
        30,
        "less than 512 is not a size"
    );
    assert_eq!(
        answer(Some(1232), Transport::Udp),
        (12 + 9 + 11 + 75 * 16, 75, true)
    );
    assert!(answer(Some(65_535), Transport::Udp).0 <= 4096);
    assert_eq!(answer(None, Transport::Tcp), (12 + 9 + 300 * 16, 300, false));
}

#[test]
fn what_is_no_query_is_refused_or_ignored() {
    let net = table(&[("web", &["10.0.0.2"])]);
    let view = view(&[&net], |_| {});
    let good = query("web.", RecordType::A, Some(1232));
    let code =
        |packet: &[u8]| ask_as(&view, packet, Transport::Udp).map(|reply| reply.metadata.response_code);
    let changed = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        code(&packet)
    };
    assert_eq!(code(&good), Some(ResponseCode::NoError));
    assert_eq!(code(&good[..11]), None, "no header");
    assert_eq!(changed(2, 0x80), None, "an answer");
    assert_eq!(changed(2, 0x28), Some(ResponseCode::NotImp), "an update");
    assert_eq!(changed(5, 0), Some(ResponseCode::FormErr), "no question");
    assert_eq!(changed(5, 2), Some(ResponseCode::FormErr), "two questions");
    assert_eq!(
        changed(12, 0xc0),
        Some(ResponseCode::FormErr),
        "a pointer in the question"
    );
    assert_eq!(
        changed(7, 9),
        Some(ResponseCode::FormErr),
        "records that are not there"
    );
    assert_eq!(code(&good[..good.len() - 1]), Some(ResponseCode::FormErr), "cut");
    assert_eq!(changed(18, 252), Some(ResponseCode::Refused), "a zone transfer");
    assert_eq!(changed(20, 3), Some(ResponseCode::Refused), "another class");
    let mut version = good.clone();
    let at = version.len() - 5;
    version[at] = 1;
    let reply = ask_as(&view, &version, Transport::Udp).unwrap();
    assert_eq!(u16::from(reply.metadata.response_code), 16, "bad version");
}

#[test]
fn names_that_dns_cannot_express_cost_nothing_else() {
    let long = "x".repeat(64);
    let net = table(&[
        (&long, &["10.0.0.2"]),
        ("a..b", &["10.0.0.3"]),
        ("", &["10.0.0.4"]),
        ("Ok", &["10.0.0.5"]),
    ]);
    let view = view(&[&net], |_| {});
    assert_eq!(
        addresses(&ask(&view, "ok.", RecordType::A).unwrap()),
        ips(&["10.0.0.5"])
    );
    assert!(name::to_wire(&vec!["x".repeat(63); 4].join(".")).is_none());
    assert!(
        name::to_wire(&format!(
            "{}.{}",
            vec!["x".repeat(63); 3].join("."),
            "x".repeat(61)
        ))
        .is_some()
    );
}

#[test]
fn only_the_answer_to_our_question_counts() {
    let sent = query("Example.com.", RecordType::A, None);
    let answer = |change: &dyn Fn(&mut Message)| {
        let mut reply = Message::response(0x1234, OpCode::Query);
        reply.add_query(Query::query(
            Name::from_ascii("example.COM.").unwrap(),
            RecordType::A,
        ));
        change(&mut reply);
        message::answers(&reply.to_vec().unwrap(), &sent)
    };
    assert!(answer(&|_| {}));
    assert!(!answer(&|m| m.metadata.id = 1));
    assert!(!answer(&|m| drop(m.queries.pop())), "no question and no error");
    let evil = Name::from_ascii("evil.com.").unwrap();
    assert!(!answer(&|m| _ = m.queries[0].set_name(evil.clone())));
    assert!(!answer(&|m| _ = m.queries[0].set_query_type(RecordType::AAAA)));
    assert!(!answer(&|m| _ = m.queries[0].set_query_class(DNSClass::CH)));
    assert!(!message::answers(&sent, &sent), "our own query");
    assert!(!message::answers(&[], &sent));
}

/// One change of a table.
fn change() -> impl Strategy<Value = (u8, Option<Vec<u8>>)> {
    (
        0u8..6,
        proptest::option::of(proptest::collection::vec(0u8..5, 0..4)),
    )
}

proptest! {
    #[test]
    fn garbage_never_panics_and_never_amplifies(packet in proptest::collection::vec(any::<u8>(), 0..300)) {
        let net = table(&[("web", &["10.0.0.2"])]);
        let mut out = Vec::new();
        let verdict = view(&[&net], |s| s.internal = true).judge(&packet, Transport::Udp, &mut out);
        if verdict == Verdict::Reply {
            prop_assert!(Message::from_vec(&out).is_ok());
            prop_assert!(out.len() <= packet.len() + 11);
        }
    }

    #[test]
    fn damaged_queries_never_panic(damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6), cut in any::<usize>()) {
        let net = table(&[("web", &["10.0.0.2"])]);
        let mut packet = query("web.example.", RecordType::A, Some(4096));
        for (at, value) in damage {
            let at = at % packet.len();
            packet[at] = value;
        }
        packet.truncate(packet.len() - cut % 8);
        let mut out = Vec::new();
        for transport in [Transport::Udp, Transport::Tcp] {
            view(&[&net], |_| {}).judge(&packet, transport, &mut out);
            message::answers(&packet, &query("web.", RecordType::A, None));
        }
    }

    #[test]
    fn a_changed_table_equals_a_new_one(changes in proptest::collection::vec(change(), 0..40)) {
        let mut model: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        let mut changed = Table::default();
        for (name, addresses) in changes {
            let name = format!("n{name}");
            match addresses {
                Some(list) => {
                    let list: Vec<IpAddr> = list.into_iter().map(|n| IpAddr::from([10, 0, 0, n])).collect();
                    changed.set(&name, &list);
                    model.insert(name, list);
                }
                None => {
                    changed.unset(&name);
                    model.remove(&name);
                }
            }
        }
        let fresh = Table::new(&model);
        for n in 0..6u8 {
            let wire = name::to_wire(&format!("n{n}")).unwrap();
            let list = |table: &Table| table.entry(&wire).map(|e| e.v4().collect::<BTreeSet<_>>());
            prop_assert_eq!(list(&changed), list(&fresh));
            let address = IpAddr::from([10, 0, 0, n]);
            prop_assert_eq!(changed.pointer(address), fresh.pointer(address));
        }
    }
}
