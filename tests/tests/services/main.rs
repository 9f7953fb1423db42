//! The life of services, and what `service ps` says of their tasks.

mod life;
mod placement;

use std::collections::BTreeMap;

use pontoon_tests::view::TaskRow;

fn nodes_of(tasks: &[TaskRow]) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for task in tasks {
        *count.entry(task.node.clone()).or_default() += 1;
    }
    count
}
