//! Seeds, and scenarios that were met or feared.

use super::*;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One seed: bad weather, then good weather, then the oracle.
fn run(seed: u64) -> (usize, usize) {
    let mut world = World::new(seed);
    for _ in 0..3 {
        for _ in 0..1200 {
            world.step();
        }
        world.heal();
        world.check_acknowledged();
        let weather = &mut world.weather;
        (
            weather.drop,
            weather.duplicate,
            weather.reorder,
            weather.crash,
            weather.membership,
        ) = (10, 10, 10, 2, 2);
    }
    (world.acknowledged.len(), world.answered_reads)
}

#[test]
fn no_seed_loses_what_was_acknowledged() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(200),
    };
    let (mut acknowledged, mut reads, count) = (0, 0, seeds.end - seeds.start);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        let Ok((a, r)) = result else {
            panic!("seed {seed} fails; replay it with SEED={seed}")
        };
        acknowledged += a;
        reads += r;
    }
    println!("{count} seeds: {acknowledged} proposals acknowledged, {reads} linearizable reads");
    assert!(
        acknowledged as u64 > 20 * count,
        "the simulation must make progress to mean anything"
    );
}

#[test]
fn a_seed_replays_exactly() {
    let trace = |seed| {
        let mut world = World::new(seed);
        for _ in 0..2000 {
            world.step();
        }
        (world.history, world.leaders, world.network.len())
    };
    for seed in 0..5 {
        assert!(trace(seed) == trace(seed), "seed {seed} took two ways");
    }
}

/// raft-rs #557: an append was rejected, the answer is delayed, the follower catches up by another way, and then the old
/// rejection arrives. Released 0.7.0 then sets `next <= matched`.
#[test]
fn a_stale_rejection_does_not_take_progress_back() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        world.weather = Weather {
            drop: 0,
            duplicate: 60,
            reorder: 60,
            crash: 0,
            membership: 0,
        };
        for step in 0..800 {
            // Followers lose their way now and then, so that appends get rejected.
            if step % 100 == 50
                && let Some(id) = world.pick_up()
            {
                world.nodes.get_mut(&id).expect("it is up").kill();
                world.restart(id);
            }
            // `settle` asserts that no peer's progress is stale.
            world.step();
        }
    }
}

/// A lone voter leads without asking anybody. It must not speak in a term that a crash can take from it.
#[test]
fn a_lone_voter_speaks_only_when_its_term_is_durable() {
    let mut world = World::new(
        (0..)
            .find(|seed| World::new(*seed).nodes.len() == 3)
            .expect("one voter, two spares"),
    );
    world.weather = Weather {
        drop: 0,
        duplicate: 0,
        reorder: 0,
        crash: 0,
        membership: 0,
    };
    while world.leader().is_none() {
        world
            .nodes
            .get_mut(&1)
            .and_then(SimNode::core)
            .expect("it runs")
            .tick();
        world.settle(1);
    }
    world.nodes.get_mut(&1).map(|node| node.persist(100));
    world.settle(1);
    let nonce = world.nonce();
    let core = world.nodes.get_mut(&1).and_then(SimNode::core).expect("it runs");
    core.propose_change(nonce, &[MemberChange::AddLearner(member(2))])
        .expect("a learner costs nothing");
    for _ in 0..50 {
        world.settle(1);
        world.nodes.get_mut(&1).map(|node| node.persist(100));
        world.nodes.get_mut(&2).map(|node| node.persist(100));
        world.settle(2);
        world.deliver();
    }
    // It starts again and leads, but nothing has reached the disk: nothing may have been said.
    world.nodes.get_mut(&1).expect("it exists").kill();
    world.network.clear();
    world.restart(1);
    while world.leader().is_none() {
        world
            .nodes
            .get_mut(&1)
            .and_then(SimNode::core)
            .expect("it runs")
            .tick();
        world.settle(1);
    }
    assert!(world.propose());
    assert!(
        world.network.is_empty(),
        "a message of a term that is not durable"
    );
    world.nodes.get_mut(&1).map(|node| node.persist(100));
    world.settle(1);
    assert!(!world.network.is_empty(), "now it may speak");
}
