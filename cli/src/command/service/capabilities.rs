//! `--cap-add` and `--cap-drop` of services, put into a spec by [`spec`](super::spec).

use std::collections::BTreeSet;

/// Docker's word for "none of those from before".
const RESET: &str = "RESET";

/// Adds and drops capabilities, as Docker's client does: what is added is not dropped any more, and the other way round; what is named in
/// both flags is added.
pub fn change(added: &mut Vec<String>, dropped: &mut Vec<String>, add: &[String], drop: &[String]) {
    if add.is_empty() && drop.is_empty() {
        return;
    }
    let (mut add, mut drop) = (named(add), named(drop));
    let (mut all_added, mut all_dropped) = (named(added), named(dropped));
    if add.remove(RESET) {
        all_added.clear();
    }
    if drop.remove(RESET) {
        all_dropped.clear();
    }
    for name in drop.difference(&add) {
        all_added.remove(name);
        all_dropped.insert(name.clone());
    }
    for name in add {
        all_dropped.remove(&name);
        all_added.insert(name);
    }
    *added = all_added.into_iter().collect();
    *dropped = all_dropped.into_iter().collect();
}

/// The kernel's names: `CAP_NET_ADMIN` for `net_admin`.
fn named(list: &[String]) -> BTreeSet<String> {
    let name = |text: &String| {
        let text = text.trim().to_ascii_uppercase();
        if text == "ALL" || text == RESET || text.starts_with("CAP_") {
            text
        } else {
            format!("CAP_{text}")
        }
    };
    list.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_and_dropped_take_each_others_place() {
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let after = |(added, dropped): (&str, &str), add: &str, drop: &str| {
            let (mut added, mut dropped) = (list(added), list(dropped));
            change(&mut added, &mut dropped, &list(add), &list(drop));
            format!("{} | {}", added.join(" "), dropped.join(" "))
        };
        let none = ("", "");
        assert_eq!(
            after(none, "net_admin CAP_SYS_TIME NET_ADMIN", "ALL"),
            "CAP_NET_ADMIN CAP_SYS_TIME | ALL"
        );
        assert_eq!(after(none, "MKNOD", "MKNOD"), "CAP_MKNOD | ");
        let before = ("CAP_NET_ADMIN", "CAP_MKNOD");
        assert_eq!(after(before, "MKNOD", ""), "CAP_MKNOD CAP_NET_ADMIN | ");
        assert_eq!(after(before, "", "NET_ADMIN"), " | CAP_MKNOD CAP_NET_ADMIN");
        assert_eq!(after(before, "NET_ADMIN", "MKNOD"), "CAP_NET_ADMIN | CAP_MKNOD");
        assert_eq!(after(before, "RESET", "RESET CHOWN"), " | CAP_CHOWN");
        assert_eq!(after(("NET_ADMIN", ""), "", ""), "NET_ADMIN | ");
    }
}
