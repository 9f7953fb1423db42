//! The log's places and the filters' comparisons; what the engine tells is tested with real containers.

use std::collections::HashMap;
use std::sync::Arc;

use pontoon_proto::v1::{Event, FilterValues};

use super::filter::EventFilter;
use super::log::EventLog;

fn event(kind: &str, action: &str, id: &str, attributes: &[(&str, &str)]) -> Event {
    Event {
        r#type: kind.to_owned(),
        action: action.to_owned(),
        actor_id: id.to_owned(),
        attributes: attributes
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        scope: "local".to_owned(),
        time: 0,
    }
}

fn filter(pairs: &[(&str, &str)]) -> crate::Result<EventFilter> {
    let mut keys: HashMap<String, FilterValues> = HashMap::new();
    for (key, value) in pairs {
        keys.entry((*key).to_owned())
            .or_default()
            .values
            .push((*value).to_owned());
    }
    EventFilter::new(&keys)
}

#[test]
fn filters_compare_as_dockers() {
    let start = event(
        "container",
        "exec_start: ls -l",
        "c0ffee",
        &[("image", "host:5000/web:1"), ("name", "web"), ("tier", "front")],
    );
    let pull = event("image", "pull", "busybox:latest", &[("name", "busybox")]);
    for (pairs, on_start, on_pull) in [
        (vec![("event", "exec_start")], true, false),
        (vec![("event", "exec_start: ls -l")], true, false),
        (vec![("event", "exec")], false, false),
        (vec![("event", "pull"), ("event", "exec_start")], true, true),
        (vec![("type", "container")], true, false),
        (vec![("container", "c0f")], true, false),
        (vec![("container", "we")], true, false),
        (vec![("image", "host:5000/web")], true, false),
        (vec![("image", "busybox")], false, true),
        (vec![("label", "tier")], true, false),
        (vec![("label", "tier=back")], false, false),
        (vec![("label", "tier"), ("label", "image")], true, false),
        (vec![("scope", "local")], true, true),
        (vec![("type", "container"), ("event", "pull")], false, false),
        (vec![], true, true),
    ] {
        let wanted = filter(&pairs).unwrap();
        assert_eq!(
            (wanted.matches(&start), wanted.matches(&pull)),
            (on_start, on_pull),
            "{pairs:?}"
        );
    }
    let refused = filter(&[("colour", "red")]).unwrap_err();
    assert_eq!(refused.to_string(), "invalid filter 'colour'");
}

#[tokio::test]
async fn a_watcher_reads_at_its_own_pace() {
    let log = Arc::new(EventLog::default());
    let at = |time: i64| Event {
        time,
        ..event("container", "start", &time.to_string(), &[])
    };
    log.add(at(1));
    log.add(at(2));
    let mut past = log.cursor(2);
    let mut live = log.cursor(0);
    log.add(at(3));
    assert_eq!(past.next().await.time, 2);
    assert_eq!(past.next().await.time, 3);
    assert_eq!(live.next().await.time, 3);
    let waiting = tokio::spawn(async move { live.next().await.time });
    log.add(at(4));
    assert_eq!(waiting.await.unwrap(), 4);
    // One that sleeps while the log moves on loses the oldest and goes on with the rest.
    for time in 5..=6000 {
        log.add(at(time));
    }
    assert_eq!(past.next().await.time, 6000 - 4096 + 1);
    assert_eq!(past.next().await.time, 6000 - 4096 + 2);
}
