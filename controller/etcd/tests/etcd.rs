//! The log on real etcd servers: one and three members, killed members, cuts, lost leases, lost answers, compaction, checkpoints.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use etcd_client::{DeleteOptions, GetOptions};
use pontoon_etcd::{EtcdConfig, EtcdLog};
use pontoon_raft::{MembershipError, ProposeError, ReadError, StopReason};
use support::proxy::Proxy;
use support::servers::Servers;
use support::{Entries, first, leads, member, until, write};

async fn another(config: EtcdConfig, id: u64) -> (EtcdLog, Entries) {
    let entries = Entries::default();
    let log = EtcdLog::join(config, "c", member(id), entries.clone())
        .await
        .unwrap();
    (log, entries)
}

#[tokio::test]
async fn managers_see_one_log_and_hand_it_on() {
    let servers = Servers::start(1).await;
    let (one, _) = first(servers.config()).await;
    assert_eq!(write(&one, "a").await, 1);
    let (two, second) = another(servers.config(), 2).await;
    write(&one, "b").await;
    two.read_barrier().await.unwrap();
    assert_eq!(second.data(), ["a", "b"]);
    assert_eq!(second.indexes(), [1, 2]);
    let complete = |log: &EtcdLog| log.members().len() == 2 && log.members().iter().all(|m| m.reachable);
    until("both are members", || complete(&one) && complete(&two)).await;
    let refused = two.propose("x".into()).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NotLeader { leader: Some(leader) } if leader.id == 1));
    one.transfer_leadership(None).await.unwrap();
    leads(&two).await;
    assert!(!one.leadership().borrow().is_leader);
    assert_eq!(write(&two, "c").await, 3);
    two.shutdown().await;
    leads(&one).await;
    assert_eq!(write(&one, "d").await, 4);
    let (again, third) = {
        let entries = Entries::default();
        let log = EtcdLog::open(servers.config(), "c", member(2), entries.clone())
            .await
            .unwrap();
        (log, entries)
    };
    again.read_barrier().await.unwrap();
    assert_eq!(third.data(), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn many_readers_share_questions_and_see_what_was_written_before() {
    let servers = Servers::start(1).await;
    let (one, _) = first(servers.config()).await;
    let (two, entries) = another(servers.config(), 2).await;
    for round in 0..20_usize {
        write(&one, &round.to_string()).await;
        let reads: Vec<_> = (0..16)
            .map(|_| {
                let (log, entries) = (two.clone(), entries.clone());
                tokio::spawn(async move {
                    log.read_barrier().await.unwrap();
                    entries.data().len()
                })
            })
            .collect();
        for read in reads {
            assert!(read.await.unwrap() > round);
        }
    }
}

#[tokio::test]
async fn a_leader_without_its_lease_writes_nothing() {
    let servers = Servers::start(1).await;
    let proxy = Proxy::start(servers.port(0)).await;
    let (one, first_entries) = first(servers.config_at(proxy.port)).await;
    let (two, entries) = another(servers.config(), 2).await;
    write(&one, "a").await;
    proxy.close();
    leads(&two).await;
    until("the first knows", || !one.leadership().borrow().is_leader).await;
    let refused = one.propose("lost".into()).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NotLeader { .. }), "{refused}");
    assert_eq!(one.read_barrier().await, Err(ReadError::NoLeader));
    write(&two, "b").await;
    until("the first is shown as gone", || {
        two.members().iter().any(|m| m.id == 1 && !m.reachable)
    })
    .await;
    proxy.open();
    until("the first follows", || first_entries.data() == ["a", "b"]).await;
    assert_eq!(entries.data(), ["a", "b"]);
    until("it is back", || two.members().iter().all(|m| m.reachable)).await;
}

#[tokio::test]
async fn an_entry_whose_answer_was_lost_is_there_once() {
    let servers = Servers::start(1).await;
    let proxy = Proxy::start(servers.port(0)).await;
    let mut config = servers.config_at(proxy.port);
    // Long enough to outlive the silence.
    config.lease = Duration::from_secs(30);
    let (one, entries) = first(config).await;
    write(&one, "a").await;
    proxy.mute();
    let proposing = {
        let log = one.clone();
        tokio::spawn(async move { write(&log, "b").await })
    };
    let mut client = servers.client().await;
    let key = "/pontoon/c/log/00000000000000000002";
    loop {
        // Written, and the proposer can't know.
        if !client.get(key, None).await.unwrap().kvs().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!proposing.is_finished());
    proxy.open();
    proxy.cut();
    assert_eq!(proposing.await.unwrap(), 2);
    assert_eq!(write(&one, "c").await, 3);
    assert_eq!(entries.data(), ["a", "b", "c"]);
}

#[tokio::test]
async fn cuts_at_any_moment_lose_and_double_nothing() {
    let servers = Servers::start(1).await;
    let proxy = Proxy::start(servers.port(0)).await;
    let mut config = servers.config_at(proxy.port);
    config.lease = Duration::from_secs(30);
    let (one, _) = first(config).await;
    let (_two, entries) = another(servers.config(), 2).await;
    let writer = {
        let log = one.clone();
        tokio::spawn(async move {
            for n in 0..200 {
                assert_eq!(write(&log, &n.to_string()).await, n + 1);
            }
        })
    };
    while !writer.is_finished() {
        proxy.cut();
        // The cuts come at whatever point the writer has reached.
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    writer.await.unwrap();
    until("the other has all", || entries.data().len() == 200).await;
    let expected: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(entries.data(), expected);
}

#[tokio::test]
async fn checkpoints_trim_the_log_and_bring_back_those_far_behind() {
    let servers = Servers::start(1).await;
    let proxy = Proxy::start(servers.port(0)).await;
    let mut config = servers.config();
    config.snapshot_every = 20;
    let (one, _) = first(config.clone()).await;
    let (_two, behind) = another(
        EtcdConfig {
            snapshot_every: 20,
            ..servers.config_at(proxy.port)
        },
        2,
    )
    .await;
    write(&one, "0").await;
    until("the second follows", || behind.data().len() == 1).await;
    proxy.close();
    // Several checkpoints, so that etcd's history is compacted as well.
    let big = "x".repeat(40_000);
    for n in 1..150 {
        write(&one, &format!("{n} {big}")).await;
    }
    let mut client = servers.client().await;
    let mut oldest = String::new();
    for _ in 0..1000 {
        let logs = GetOptions::new().with_prefix().with_keys_only();
        let found = client.get("/pontoon/c/log/", Some(logs)).await.unwrap();
        let first = found.kvs().first().unwrap();
        first.key_str().unwrap().clone_into(&mut oldest);
        if oldest.as_str() > "/pontoon/c/log/00000000000000000100" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        oldest.as_str() > "/pontoon/c/log/00000000000000000100",
        "not trimmed: {oldest}"
    );
    let states = GetOptions::new().with_prefix().with_keys_only();
    let mut checkpoints: Vec<_> = {
        let found = client.get("/pontoon/c/states/", Some(states)).await.unwrap();
        found
            .kvs()
            .iter()
            .map(|kv| kv.key_str().unwrap()[..38].to_owned())
            .collect()
    };
    checkpoints.dedup();
    assert!(checkpoints.len() <= 2, "old checkpoints stay: {checkpoints:?}");
    assert_eq!(behind.data().len(), 1);
    proxy.open();
    until("the second caught up", || behind.data().len() == 150).await;
    assert!(behind.restored() > 0);
    let (_three, fresh) = another(servers.config(), 3).await;
    until("a new one has it all", || fresh.data().len() == 150).await;
    assert_eq!(fresh.data(), behind.data());
    assert_eq!(fresh.indexes(), (1..=150).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_history_that_others_compacted_is_no_obstacle() {
    let servers = Servers::start(1).await;
    let proxy = Proxy::start(servers.port(0)).await;
    let (one, _) = first(servers.config()).await;
    let (_two, behind) = another(servers.config_at(proxy.port), 2).await;
    write(&one, "0").await;
    until("the second follows", || behind.data().len() == 1).await;
    proxy.close();
    for n in 1..10 {
        write(&one, &n.to_string()).await;
    }
    let mut client = servers.client().await;
    let now = client.get("/pontoon/c/head", None).await.unwrap();
    client
        .compact(now.header().unwrap().revision(), None)
        .await
        .unwrap();
    proxy.open();
    until("the second caught up", || behind.data().len() == 10).await;
    assert_eq!(behind.restored(), 0, "the entries were all there");
    write(&one, "10").await;
    until("and goes on", || behind.data().len() == 11).await;
}

#[tokio::test]
async fn of_three_etcd_members_any_one_may_die() {
    let mut servers = Servers::start(3).await;
    let (one, entries) = first(servers.config()).await;
    let (two, second) = another(servers.config(), 2).await;
    let mut count = 0;
    for victim in 0..3 {
        servers.kill(victim);
        for _ in 0..20 {
            write_somehow(&[&one, &two], &entries, &count.to_string()).await;
            count += 1;
        }
        servers.restart(victim);
        servers.wait(victim).await;
    }
    let expected: Vec<_> = (0..count).map(|n| n.to_string()).collect();
    until("both have all", || {
        entries.data() == expected && second.data() == expected
    })
    .await;
}

/// Writes text once, through whoever leads: the lease may be lost while etcd elects, in the middle of a proposal.
async fn write_somehow(logs: &[&EtcdLog], seen: &Entries, text: &str) {
    loop {
        let leader = logs.iter().find(|log| log.leadership().borrow().is_leader);
        let outcome = match leader {
            Some(leader) => leader.propose(text.to_owned().into()).await,
            None => Err(ProposeError::Busy),
        };
        match outcome {
            Ok(_) => return,
            Err(ProposeError::OutcomeUnknown) => {
                // Whoever leads next has it, or nobody ever will.
                let leads = || logs.iter().find(|log| log.leadership().borrow().is_leader);
                until("a leader", || leads().is_some()).await;
                while logs[0].read_barrier().await.is_err() {}
                if seen.data().last().is_some_and(|last| last == text) {
                    return;
                }
            }
            Err(ProposeError::NotLeader { .. } | ProposeError::Busy) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn without_a_majority_nothing_is_promised_and_nothing_is_lost() {
    let mut servers = Servers::start(3).await;
    let (one, entries) = first(servers.config()).await;
    write(&one, "a").await;
    servers.kill(1);
    servers.kill(2);
    until("leadership is given up", || !one.leadership().borrow().is_leader).await;
    assert_eq!(one.read_barrier().await, Err(ReadError::NoLeader));
    assert!(one.propose("no".into()).await.is_err());
    servers.restart(1);
    servers.restart(2);
    leads(&one).await;
    write(&one, "b").await;
    one.read_barrier().await.unwrap();
    assert_eq!(entries.data(), ["a", "b"]);
}

#[tokio::test]
async fn a_revoked_lease_is_another_reign() {
    let servers = Servers::start(1).await;
    let (one, _) = first(servers.config()).await;
    let term = one.leadership().borrow().term;
    let mut client = servers.client().await;
    let lease = client.get("/pontoon/c/leader", None).await.unwrap().kvs()[0].lease();
    client.lease_revoke(lease).await.unwrap();
    until("a later term", || {
        let now = one.leadership().borrow().clone();
        now.is_leader && now.term > term
    })
    .await;
    assert_eq!(write(&one, "a").await, 1);
}

#[tokio::test]
async fn managers_are_removed_and_stay_out() {
    let servers = Servers::start(1).await;
    let (one, _) = first(servers.config()).await;
    let last = one.remove(1).await.unwrap_err();
    assert_eq!(last, MembershipError::LastVoter { id: 1 });
    let (two, _) = another(servers.config(), 2).await;
    until("known", || one.members().len() == 2 && two.members().len() == 2).await;
    assert!(matches!(
        two.remove(1).await,
        Err(MembershipError::Propose(ProposeError::NotLeader { .. }))
    ));
    assert_eq!(one.remove(9).await, Err(MembershipError::NotFound { id: 9 }));
    one.remove(2).await.unwrap();
    until("the second knows", || {
        *two.stopped().borrow() == Some(StopReason::Removed)
    })
    .await;
    two.shutdown().await;
    assert_eq!(*two.stopped().borrow(), Some(StopReason::Removed));
    let again = EtcdLog::open(servers.config(), "c", member(2), Entries::default())
        .await
        .unwrap();
    until("it is told again", || {
        *again.stopped().borrow() == Some(StopReason::Removed)
    })
    .await;
    assert_eq!(one.members().len(), 1);
    // The leader itself: hands over first.
    let (three, _) = another(servers.config(), 3).await;
    until("known", || {
        one.members().iter().filter(|m| m.reachable).count() == 2
    })
    .await;
    one.remove(1).await.unwrap();
    leads(&three).await;
    until("alone", || three.members().len() == 1).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_cluster_is_said() {
    let servers = Servers::start(1).await;
    let missing = EtcdLog::join(servers.config(), "c", member(2), Entries::default()).await;
    assert!(
        missing
            .err()
            .unwrap()
            .to_string()
            .contains("holds no cluster c under /pontoon")
    );
    let (_one, _) = first(servers.config()).await;
    let twice = EtcdLog::bootstrap(servers.config(), "c", member(2), Entries::default()).await;
    assert!(
        twice
            .err()
            .unwrap()
            .to_string()
            .contains("already holds a cluster c")
    );
    let mut same = member(2);
    same.addr = member(1).addr;
    let taken = EtcdLog::join(servers.config(), "c", same, Entries::default()).await;
    assert!(
        taken
            .err()
            .unwrap()
            .to_string()
            .contains("127.0.0.1:1 is already the address of manager n1")
    );
    let mut client = servers.client().await;
    client.put("/pontoon/c/format", "9", None).await.unwrap();
    let newer = EtcdLog::join(servers.config(), "c", member(2), Entries::default()).await;
    assert!(newer.err().unwrap().to_string().contains("format 9"));
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named() {
    let servers = Servers::start(1).await;
    let config = EtcdConfig {
        patience: Duration::from_millis(500),
        ..servers.config_at(1)
    };
    let nobody = EtcdLog::join(config, "c", member(2), Entries::default()).await;
    let text = nobody.err().unwrap().to_string();
    assert!(text.contains("can't use etcd at 127.0.0.1:1"), "{text}");
}

#[tokio::test]
async fn a_damaged_entry_stops_the_manager_that_reads_it() {
    let servers = Servers::start(1).await;
    let (one, _) = first(servers.config()).await;
    write(&one, "a").await;
    write(&one, "b").await;
    one.shutdown().await;
    let mut client = servers.client().await;
    client
        .put("/pontoon/c/log/00000000000000000001", "", None)
        .await
        .unwrap();
    let log = EtcdLog::open(servers.config(), "c", member(1), Entries::default())
        .await
        .unwrap();
    until("stopped", || log.stopped().borrow().is_some()).await;
    let reason = log.stopped().borrow().clone();
    assert!(
        matches!(reason, Some(StopReason::Storage(text)) if text.contains("00000000000000000001 in etcd is damaged"))
    );
    client
        .delete("/pontoon/c/", Some(DeleteOptions::new().with_prefix()))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_the_rest_goes_on() {
    let servers = Servers::start(1).await;
    let (one, entries) = first(servers.config()).await;
    let large = one.propose(vec![7; 1_490_000].into()).await;
    assert_eq!(large.unwrap(), 1);
    let larger = one.propose(vec![7; 2_000_000].into()).await.unwrap_err();
    assert!(matches!(larger, ProposeError::TooLarge { size: 2_000_000, .. }));
    write(&one, "a").await;
    assert_eq!(entries.indexes(), [1, 2]);
}

#[tokio::test]
async fn a_full_etcd_refuses_and_goes_on_when_there_is_room() {
    let quota = ["--quota-backend-bytes".to_owned(), (4 << 20).to_string()];
    let servers = Servers::start_with(1, "http", &quota).await;
    let (one, entries) = first(servers.config()).await;
    let mut written = 0;
    let refused = loop {
        match one.propose(vec![1; 200_000].into()).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("quota"), "{refused}");
    let mut client = servers.client().await;
    let kept = format!("/pontoon/c/log/{written:020}");
    let logs = DeleteOptions::new().with_range(kept);
    client
        .delete("/pontoon/c/log/00000000000000000001", Some(logs))
        .await
        .unwrap();
    let now = client
        .get("/pontoon/c/head", None)
        .await
        .unwrap()
        .header()
        .unwrap()
        .revision();
    client
        .compact(now, Some(etcd_client::CompactionOptions::new().with_physical()))
        .await
        .unwrap();
    client.defragment().await.unwrap();
    let (action, kind) = (
        etcd_client::AlarmAction::Deactivate,
        etcd_client::AlarmType::Nospace,
    );
    // The alarm is the member's, not the cluster's.
    let mut of = etcd_client::AlarmOptions::new();
    of.with_member(client.status().await.unwrap().header().unwrap().member_id());
    client.alarm(action, kind, Some(of)).await.unwrap();
    leads(&one).await;
    assert_eq!(write(&one, "a").await, written + 1);
    assert_eq!(entries.data().last().unwrap(), "a");
}
