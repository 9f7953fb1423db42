//! Figures of a container's life, printed, never asserted. Run alone on a quiet machine:
//! `cargo test --release -p pontoon-runtime --test figures -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{Bed, Kind, within};

const ROUNDS: usize = 60;

async fn one_life(bed: &Bed) -> Duration {
    let begin = Instant::now();
    let client = bed.create().await.unwrap();
    within(client.start()).await.unwrap();
    assert_eq!(within(client.wait()).await.unwrap().code, 0);
    begin.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures, asserts nothing"]
async fn create_start_exit_remove() {
    let (Some(mut native), Some(mut runc)) = (Bed::new(Kind::Native), Bed::new(Kind::Runc)) else {
        return;
    };
    native.args(&["/bin/true"]);
    runc.args(&["/bin/true"]);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(one_life(&native).await);
        theirs.push(one_life(&runc).await);
    }
    for (name, times) in [("native", &mut ours), ("runc", &mut theirs)] {
        times.sort();
        println!(
            "{name}: median {:?}, best {:?} of {ROUNDS}",
            times[ROUNDS / 2],
            times[0]
        );
    }
}
