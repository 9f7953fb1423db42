//! The broker's decisions: one fetcher, many takers, and who takes over when one is gone.

use super::*;

const IMAGE: &str = "sha256:aa";

fn nodes(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn ask(node: &str) -> Ask {
    Ask {
        image: IMAGE.to_owned(),
        node: node.to_owned(),
        ..Ask::default()
    }
}

fn peers(names: &[&str]) -> Answer {
    Answer::Peers(names.iter().map(|name| (*name).to_owned()).collect())
}

/// A table that all of these nodes have reported to.
fn settled(names: &[&str], now: Instant) -> Sources {
    let sources = Sources::new(now);
    for name in names {
        sources.report(name, [], []);
    }
    sources
}

#[test]
fn one_asks_the_registry_and_the_others_take_it_from_there() {
    let (now, all) = (Instant::now(), nodes(&["a", "b", "c"]));
    let sources = settled(&["a", "b", "c"], now);
    assert_eq!(sources.ask(&ask("a"), &all, &all, now), Answer::Registry);
    assert_eq!(sources.ask(&ask("b"), &all, &all, now), peers(&["a"]));
    // Not from the one that gives already: from hop to hop.
    assert_eq!(sources.ask(&ask("c"), &all, &all, now), peers(&["b"]));
    // Reports keep the lease, however long it takes.
    let mut later = now;
    for _ in 0..20 {
        later += SILENCE / 2;
        sources.heard(IMAGE, "a", "", None, later);
        assert_eq!(sources.ask(&ask("b"), &all, &all, later), peers(&["a"]));
    }
    let mut woken = sources.changes();
    woken.mark_unchanged();
    sources.heard(IMAGE, "a", "", Some(true), later);
    assert!(woken.has_changed().unwrap(), "those who wait are not woken");
    assert_eq!(sources.ask(&ask("b"), &all, &all, later), peers(&["a"]));
    sources.heard(IMAGE, "b", "", Some(true), later);
    // The one that serves least comes first.
    assert_eq!(sources.ask(&ask("c"), &all, &all, later), peers(&["a", "b"]));
    assert_eq!(sources.ask(&ask("d"), &all, &all, later), peers(&["b", "a"]));
}

#[test]
fn the_lease_ends_with_the_session_by_silence_and_by_asking_again() {
    let (now, all) = (Instant::now(), nodes(&["a", "b"]));
    let sources = settled(&["a", "b"], now);
    assert_eq!(sources.ask(&ask("a"), &all, &all, now), Answer::Registry);
    assert_eq!(sources.ask(&ask("b"), &all, &all, now), peers(&["a"]));
    sources.forget("a");
    assert_eq!(
        sources.ask(&ask("b"), &nodes(&["b"]), &nodes(&["b"]), now),
        Answer::Registry
    );
    // Silent: the next one takes over, and the late report of the first does not bring its lease back.
    assert_eq!(sources.ask(&ask("a"), &all, &all, now), peers(&["b"]));
    let late = now + SILENCE;
    assert_eq!(sources.ask(&ask("a"), &all, &all, late), Answer::Registry);
    sources.heard(IMAGE, "b", "", None, late);
    assert_eq!(sources.ask(&ask("b"), &all, &all, late), peers(&["a"]));
    // The holder asks again: it is not fetching any more.
    let failed = Ask {
        registry_failed: true,
        ..ask("a")
    };
    // b hangs on what has ended: it is about to ask, and may have more luck.
    assert_eq!(sources.ask(&failed, &all, &all, late), Answer::Later);
    assert_eq!(sources.ask(&ask("b"), &all, &all, late), Answer::Registry);
    assert_eq!(sources.ask(&failed, &all, &all, late), peers(&["b"]));
    let b_failed = Ask {
        registry_failed: true,
        ..ask("b")
    };
    assert_eq!(sources.ask(&b_failed, &all, &all, late), Answer::Later);
    assert_eq!(sources.ask(&failed, &all, &all, late), Answer::Nowhere);
    assert_eq!(sources.ask(&b_failed, &all, &all, late), Answer::Nowhere);
}

#[test]
fn nobody_gets_it_from_one_that_gets_it_from_them() {
    let (now, all) = (Instant::now(), nodes(&["a", "b", "c", "d"]));
    let sources = settled(&["a", "b", "c", "d"], now);
    assert_eq!(sources.ask(&ask("a"), &all, &all, now), Answer::Registry);
    assert_eq!(sources.ask(&ask("b"), &all, &all, now), peers(&["a"]));
    assert_eq!(sources.ask(&ask("c"), &all, &all, now), peers(&["b"]));
    // Who finds its source slow may go on with the one that it was told, but never with what it gives to.
    let without_a = Ask {
        failed: nodes(&["a"]),
        ..ask("b")
    };
    assert_eq!(sources.ask(&without_a, &all, &all, now), Answer::Later);
    // c hangs on b, which has nothing now: it does not count for others either.
    assert_eq!(sources.ask(&ask("d"), &all, &all, now), peers(&["a"]));
    assert_eq!(sources.ask(&ask("c"), &all, &all, now), peers(&["d"]));
    assert_eq!(sources.ask(&without_a, &all, &all, now), peers(&["c"]));
    // Chains that a new leader hears of may be circles: nobody is sent there.
    let other = settled(&["a", "b", "c", "d"], now);
    other.heard(IMAGE, "a", "b", None, now);
    other.heard(IMAGE, "b", "a", None, now);
    assert_eq!(other.ask(&ask("c"), &all, &all, now), Answer::Registry);
    // One that goes on to the next of those that it was told is found there.
    sources.heard(IMAGE, "d", "z", None, now);
    sources.report("z", [IMAGE.to_owned()], []);
    let with_z = nodes(&["a", "b", "c", "d", "z"]);
    assert_eq!(sources.ask(&ask("e"), &with_z, &all, now), peers(&["a", "z"]));
}

#[test]
fn peers_that_die_or_fail_are_left_out_and_the_registry_is_asked_at_last() {
    let (now, all) = (Instant::now(), nodes(&["a", "b", "c"]));
    let sources = settled(&["a", "b", "c"], now);
    sources.report("a", [IMAGE.to_owned()], []);
    sources.report("b", [IMAGE.to_owned()], []);
    assert_eq!(sources.ask(&ask("c"), &all, &all, now), peers(&["a", "b"]));
    let without_a = Ask {
        failed: nodes(&["a"]),
        ..ask("c")
    };
    assert_eq!(sources.ask(&without_a, &all, &all, now), peers(&["b"]));
    // b is gone without its session having ended here yet: it has none to be asked by.
    assert_eq!(
        sources.ask(&without_a, &nodes(&["a", "c"]), &all, now),
        Answer::Registry
    );
    sources.forget("b");
    let all = nodes(&["a", "c"]);
    assert_eq!(sources.ask(&without_a, &all, &all, now), Answer::Registry);
    // A report replaces what was known: an image that was removed is not offered.
    sources.report("a", [], []);
    assert_eq!(sources.ask(&ask("d"), &all, &all, now), peers(&["c"]));
}

#[test]
fn a_source_serves_a_few_at_once() {
    let now = Instant::now();
    let names: Vec<String> = (0..20).map(|number| format!("n{number:02}")).collect();
    let all: BTreeSet<String> = names.iter().cloned().collect();
    let sources = Sources::new(now);
    for name in &names {
        sources.report(name, [], []);
    }
    sources.report("n00", [IMAGE.to_owned()], []);
    // All at once: each gives to a few, and none is many hops away.
    let mut given: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut depths = BTreeMap::from([("n00".to_owned(), 0)]);
    for name in &names[1..] {
        let Answer::Peers(told) = sources.ask(&ask(name), &all, &all, now) else {
            panic!("{name} waits");
        };
        assert!(told[1..].iter().all(|node| node == "n00"), "{told:?}");
        depths.insert(name.clone(), depths[&told[0]] + 1);
        given.entry(told[0].clone()).or_default().push(name.clone());
    }
    assert!(given.values().all(|nodes| nodes.len() <= 3), "{given:?}");
    assert!(depths.values().all(|depth| *depth <= DEEPEST), "{depths:?}");
    assert_eq!(depths["n02"], 2, "{depths:?}");

    // Who got it wrong from all others takes its turn at the one that is left.
    let sources = settled(&names.iter().map(String::as_str).collect::<Vec<_>>(), now);
    sources.report("n00", [IMAGE.to_owned()], []);
    let failed: BTreeSet<String> = names[1..].iter().cloned().collect();
    let desperate = |name: &str| Ask {
        failed: failed.clone(),
        ..ask(name)
    };
    for name in &names[1..=SERVED_AT_ONCE] {
        assert_eq!(sources.ask(&desperate(name), &all, &all, now), peers(&["n00"]));
    }
    assert_eq!(sources.ask(&desperate("n19"), &all, &all, now), Answer::Later);
    sources.heard(IMAGE, "n01", "n00", Some(true), now);
    assert_eq!(sources.ask(&desperate("n19"), &all, &all, now), peers(&["n00"]));
}

#[test]
fn a_new_leader_waits_for_what_agents_have_to_say() {
    let (now, all) = (Instant::now(), nodes(&["a", "b", "c"]));
    let sources = Sources::new(now);
    sources.report("a", [], []);
    sources.report("b", [], []);
    // c may have it.
    assert_eq!(sources.ask(&ask("a"), &all, &all, now), Answer::Later);
    sources.report("c", [IMAGE.to_owned()], []);
    assert_eq!(sources.ask(&ask("a"), &all, &all, now), peers(&["c"]));
    let other = Sources::new(now);
    other.report("a", [], []);
    let failed = Ask {
        registry_failed: true,
        ..ask("a")
    };
    assert_eq!(other.ask(&failed, &all, &all, now), Answer::Later);
    // One that never says anything does not hold up the cluster.
    assert_eq!(other.ask(&ask("a"), &all, &all, now + SETTLING), Answer::Registry);
}

#[test]
fn what_goes_on_when_the_leader_changes_is_not_begun_again() {
    let now = Instant::now();
    let (all, some) = (nodes(&["a", "b", "c"]), nodes(&["b", "c"]));
    let sources = Sources::new(now);
    sources.report("b", [], []);
    sources.report("c", [], []);
    // a has no session yet, but should have one: it may be at it.
    assert_eq!(sources.ask(&ask("b"), &some, &all, now), Answer::Later);
    // It tells of its fetch before it tells what it has.
    sources.heard(IMAGE, "a", "", None, now);
    sources.report("a", [], []);
    assert_eq!(sources.ask(&ask("b"), &all, &all, now), peers(&["a"]));
    // Another that had the same lease from somebody does not get a second one.
    sources.heard(IMAGE, "c", "", None, now);
    sources.heard(IMAGE, "a", "", Some(true), now);
    assert_eq!(sources.ask(&ask("b"), &all, &all, now), peers(&["a"]));
    // A fetch from a node counts as that node's load.
    for busy in ["d", "e", "f"] {
        sources.heard(IMAGE, busy, "a", None, now);
    }
    assert_eq!(sources.ask(&ask("c"), &all, &all, now), peers(&["b", "a"]));
}

#[test]
fn names_stand_for_what_all_nodes_agree_on() {
    let sources = Sources::new(Instant::now());
    let named = |digest: &str| [("app:1".to_owned(), digest.to_owned())];
    assert_eq!(sources.named("app:1"), Ok(None));
    sources.report("a", [], []);
    sources.report("b", [], named("sha256:aa"));
    sources.report("c", [], named("sha256:aa"));
    assert_eq!(sources.named("app:1"), Ok(Some("sha256:aa".to_owned())));
    assert_eq!(sources.named("app:2"), Ok(None));
    sources.report("a", [], named("sha256:bb"));
    let meant = sources.named("app:1").unwrap_err();
    assert_eq!(meant.keys().collect::<Vec<_>>(), ["sha256:aa", "sha256:bb"]);
    sources.forget("a");
    assert_eq!(sources.named("app:1"), Ok(Some("sha256:aa".to_owned())));
}
