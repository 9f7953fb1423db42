//! `service create --depends-on` and `service update --depends-on-add|-rm`: the services that a service waits for before tasks of a new
//! version of it start. Docker has no such flags; in a stack it is Compose's `depends_on`.

use pontoon_proto::v1::Dependency;
use pontoon_proto::v1::dependency::Condition;

/// `db`, `db:healthy`, `db:completed:optional`.
///
/// # Errors
/// A message that quotes the text.
pub fn read(text: &str) -> Result<Dependency, String> {
    let bad = || {
        format!(
            "invalid dependency {text:?}: use SERVICE, SERVICE:started, SERVICE:healthy or SERVICE:completed, and :optional after \
             that if it need not be there"
        )
    };
    let (text_of, optional) = match text.strip_suffix(":optional") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (service, condition) = match text_of.split_once(':') {
        None => (text_of, Condition::Started),
        Some((service, "started")) => (service, Condition::Started),
        Some((service, "healthy")) => (service, Condition::Healthy),
        Some((service, "completed")) => (service, Condition::Completed),
        Some(_) => return Err(bad()),
    };
    if service.is_empty() {
        return Err(bad());
    }
    Ok(Dependency {
        service: service.to_owned(),
        condition: condition.into(),
        optional,
    })
}

/// Takes the services out that are no longer waited for, and adds or replaces others.
pub fn change(depends: &mut Vec<Dependency>, add: &[Dependency], remove: &[String]) {
    depends.retain(|known| {
        !remove.contains(&known.service) && add.iter().all(|added| added.service != known.service)
    });
    depends.extend(add.iter().cloned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_as_written() {
        let read = |text| read(text).map(|it| (it.service.clone(), it.condition(), it.optional));
        assert_eq!(read("db"), Ok(("db".to_owned(), Condition::Started, false)));
        assert_eq!(
            read("db:healthy"),
            Ok(("db".to_owned(), Condition::Healthy, false))
        );
        assert_eq!(
            read("init:completed:optional"),
            Ok(("init".to_owned(), Condition::Completed, true))
        );
        assert_eq!(
            read("db:optional"),
            Ok(("db".to_owned(), Condition::Started, true))
        );
        for text in ["", ":healthy", "db:", "db:ready", "db:healthy:maybe"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn added_ones_take_the_place_of_what_there_was() {
        let mut depends = vec![read("db").unwrap(), read("cache").unwrap(), read("init").unwrap()];
        change(
            &mut depends,
            &[read("db:healthy").unwrap()],
            &["cache".to_owned()],
        );
        assert_eq!(depends, [read("init").unwrap(), read("db:healthy").unwrap()]);
    }
}
