//! Walks through what changes a container's files or makes an image of them.

use crate::{CREATED, RM, operation};

#[test]
fn commit() {
    operation("commit box made:1")
        .before(&["run --name box --network none busybox touch /tmp/file"])
        .leaves(&["exited"])
        .again(&["commit box made:2", "run --rm --network none made:2 ls /tmp/file"])
        .lasting()
        .clean(&[RM, "rmi made:1", "rmi made:2"])
        .walk();
}

const COPY: &str = "cp /bin/busybox box:/tmp/copied";
const COPIED: &[&str] = &[COPY, "start box", "exec box cmp /bin/busybox /tmp/copied"];

#[test]
fn copy_into_a_created_container() {
    operation(COPY)
        .before(&[CREATED])
        .leaves(&["created"])
        .again(COPIED)
        .lasting()
        .walk();
}

#[test]
fn copy_into_a_running_container() {
    operation(COPY)
        .before(&[CREATED, "start box"])
        .leaves(&["running"])
        .again(COPIED)
        .lasting()
        .walk();
}
