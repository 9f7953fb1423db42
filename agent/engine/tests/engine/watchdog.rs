//! The suite's own safety: a case that leaves a frozen process behind, whose pid namespace therefore can't end, is ended by the
//! watchdog of `host`, and its control group is gone afterwards.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::bed::cases;
use crate::group::Group;
use crate::host;

cases![frozen_leftovers_do_not_hold_up_the_suite];

/// The name by which `main` knows the inner case, which is in no list.
pub const FROZEN: &str = "leave_a_frozen_process";

async fn frozen_leftovers_do_not_hold_up_the_suite() {
    let run = || {
        let group = Group::of_case("engine-inner", FROZEN);
        let outcome = host::run(&group, (crate::CASE, FROZEN), Duration::from_secs(3));
        (outcome, group)
    };
    let (outcome, group) = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(!outcome.is_good());
    assert!(outcome.left.folders.is_empty(), "{}", outcome.report());
    assert!(group.places().iter().all(|place| !place.exists()));
    // Version 2 lets a frozen process be killed, so that its namespace ends by itself.
    if outcome.text.contains("frozen by version 1") {
        assert!(outcome.is_overdue, "{}", outcome.report());
        assert_eq!(outcome.left.processes.len(), 1, "{}", outcome.report());
    }
}

/// The inner case: freezes a process in its group and ends.
#[allow(clippy::zombie_processes)]
pub fn leave_a_frozen_process() {
    let is_usable = |place: &PathBuf| std::fs::create_dir_all(place).is_ok();
    let places: Vec<PathBuf> = Group::mine().places().into_iter().filter(is_usable).collect();
    let sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
    let has = |file: &str| places.iter().map(|p| p.join(file)).find(|p| p.exists());
    let (switch, word, version) = match (has("freezer.state"), has("cgroup.freeze")) {
        (Some(switch), _) => (switch, "FROZEN", 1),
        (None, Some(switch)) => (switch, "1", 2),
        (None, None) => panic!("this host can't freeze"),
    };
    std::fs::write(switch.with_file_name("cgroup.procs"), sleeper.id().to_string()).unwrap();
    std::fs::write(&switch, word).unwrap();
    while std::fs::read_to_string(&switch).unwrap().trim() != word {
        std::thread::yield_now();
    }
    println!("frozen by version {version}");
}
