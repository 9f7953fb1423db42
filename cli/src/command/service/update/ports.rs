//! `--publish-add` and `--publish-rm`. Called by [`update`](super).

use pontoon_proto::v1::{PortConfig, PortProtocol, PublishMode};

use crate::command::service::spec;
use crate::error::Failure;

/// Takes ports away and adds others. One target may be published on several ports.
///
/// # Errors
/// Quotes what is no port.
pub(super) fn change(ports: &mut Vec<PortConfig>, add: &[String], remove: &[String]) -> Result<(), Failure> {
    let mut removed = Vec::new();
    for text in remove {
        removed.extend(named(text)?);
    }
    let mut added = Vec::new();
    for text in add {
        added.extend(spec::published(text)?);
    }
    ports.retain(|port| !removed.iter().any(|gone| gone.means(port)));
    for port in added {
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(())
}

/// A target port that is to be published no more.
struct Removed {
    target: u32,
    protocol: PortProtocol,
    /// However it is published, if not said.
    mode: Option<PublishMode>,
}

impl Removed {
    fn means(&self, port: &PortConfig) -> bool {
        self.target == port.target_port
            && self.protocol == port.protocol()
            && self.mode.is_none_or(|mode| mode == port.publish_mode())
    }
}

/// What `--publish-rm` names: `80`, `53/udp`, or as it was published.
fn named(text: &str) -> Result<Vec<Removed>, Failure> {
    let bad = || {
        Failure::new(format!(
            "invalid --publish-rm {text:?}: use the target port, as in 80 or 53/udp"
        ))
    };
    let ports = spec::published(text).map_err(|_| bad())?;
    let has_mode = text.split(',').any(|field| field.starts_with("mode="));
    let removed = |port: PortConfig| Removed {
        target: port.target_port,
        protocol: port.protocol(),
        mode: has_mode.then(|| port.publish_mode()),
    };
    Ok(ports.into_iter().map(removed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(before: &[&str], add: &[&str], remove: &[&str]) -> String {
        let read = |text: &&str| spec::published(text).unwrap();
        let mut ports: Vec<PortConfig> = before.iter().flat_map(read).collect();
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        if let Err(failure) = change(&mut ports, &owned(add), &owned(remove)) {
            return failure.message;
        }
        let shown = |port: &PortConfig| {
            let protocol = port.protocol().as_str_name().replace("PORT_PROTOCOL_", "");
            let mode = if port.publish_mode() == PublishMode::Host {
                " host"
            } else {
                ""
            };
            format!("{}:{}/{protocol}{mode}", port.published_port, port.target_port)
        };
        ports.iter().map(shown).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn one_target_may_have_several_ports() {
        let before = ["8080:80"];
        assert_eq!(after(&before, &["8081:80"], &[]), "8080:80/TCP, 8081:80/TCP");
        assert_eq!(after(&before, &["8080:80"], &[]), "8080:80/TCP");
        // Another one in its place.
        assert_eq!(after(&before, &["8081:80"], &["80"]), "8081:80/TCP");
    }

    #[test]
    fn only_what_is_named_goes() {
        let before = [
            "53:53",
            "53:53/udp",
            "80:80",
            "target=81,published=81,mode=host",
            "82:81",
        ];
        assert_eq!(
            after(&before, &[], &["53/udp", "80"]),
            "53:53/TCP, 81:81/TCP host, 82:81/TCP"
        );
        assert_eq!(after(&before[3..], &[], &["81"]), "");
        assert_eq!(after(&before[3..], &[], &["target=81,mode=host"]), "82:81/TCP");
        assert_eq!(
            after(&before[3..], &[], &["published=82,target=81,mode=ingress"]),
            "81:81/TCP host"
        );
        assert_eq!(after(&before[..2], &[], &["53:53"]), "53:53/UDP");
        assert!(after(&before, &[], &["http"]).contains("invalid --publish-rm \"http\""));
    }
}
