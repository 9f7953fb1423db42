//! The conditions of list calls: all of the given kinds must hold, within one kind any.

use std::collections::HashMap;

use pontoon_proto::v1::{Annotations, ListRequest};

/// True when `list` is empty or one of it fits.
pub(super) fn any<T>(list: &[T], fits: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(fits)
}

/// "key" or "key=value", each of which must be among the labels.
pub(super) fn labels(wanted: &[String], labels: &HashMap<String, String>) -> bool {
    wanted.iter().all(|wanted| match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    })
}

/// The conditions that all kinds share. Ids and names are given by their beginning.
pub(super) fn matches(
    request: &ListRequest,
    id: &str,
    name: &str,
    annotations: Option<&Annotations>,
) -> bool {
    any(&request.ids, |wanted| id.starts_with(wanted.as_str()))
        && any(&request.names, |wanted| name.starts_with(wanted.as_str()))
        && match annotations {
            Some(annotations) => labels(&request.labels, &annotations.labels),
            None => request.labels.is_empty(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_anded_and_lists_are_ored() {
        let annotations = Annotations {
            name: "web".into(),
            labels: [("tier".to_owned(), "front".to_owned())].into(),
        };
        let request = |ids: &[&str], names: &[&str], labels: &[&str]| {
            let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            ListRequest {
                ids: list(ids),
                names: list(names),
                labels: list(labels),
                ..ListRequest::default()
            }
        };
        let fits = |request| matches(&request, "abc", "web", Some(&annotations));
        assert!(fits(request(&[], &[], &[])));
        assert!(fits(request(&["x", "ab"], &["we"], &["tier"])));
        assert!(fits(request(&[], &[], &["tier=front"])));
        assert!(!fits(request(&["abc"], &["db"], &[])));
        assert!(!fits(request(&[], &[], &["tier=front", "tier=back"])));
        assert!(!fits(request(&[], &[], &["tie"])));
        assert!(!matches(&request(&[], &[], &["tier"]), "abc", "web", None));
    }
}
