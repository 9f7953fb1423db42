//! The life of services, and what `service ps` says of their tasks.

mod jobs;
mod leaving;
mod life;
mod logs;
mod placement;
mod updates;

use std::collections::BTreeMap;

use pontoon_tests::view::TaskRow;

fn nodes_of(tasks: &[TaskRow]) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for task in tasks {
        *count.entry(task.node.clone()).or_default() += 1;
    }
    count
}
