//! Driver options of local networks (`-o`), checked once when a network is made and read from then on. Keys are Docker's;
//! a `com.docker.network.*` key that is not known here is refused, foreign ones are kept for their owners.
use std::net::Ipv4Addr;

use crate::{Driver, Error, NetworkSpec, Result, netlink::Below};

const PREFIX: &str = "com.docker.network.";

/// How a bridge leads out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GatewayMode {
    /// Source NAT and published ports.
    #[default]
    Nat,
    /// Plain routing; published ports are opened, not translated.
    Routed,
    /// Not at all: not even the host has an address on it.
    Isolated,
}

/// The options of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// MTU of the network's links.
    pub mtu: Option<u32>,
    /// Containers reach each other.
    pub icc: bool,
    /// Source NAT for what leaves.
    pub masquerade: bool,
    /// Address to which ports are published that name none.
    pub host_binding: Option<Ipv4Addr>,
    /// Interface name of the bridge.
    pub bridge: Option<String>,
    /// Begin of the names of the containers' interfaces.
    pub interface_prefix: String,
    /// How it leads out, by family.
    pub mode: [GatewayMode; 2],
    /// The bridge gets no IPv4 address.
    pub inhibit_ipv4: bool,
    /// Interface of the host below which links are made.
    pub parent: Option<String>,
    /// Kind of these links.
    pub below: Below,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mtu: None,
            icc: true,
            masquerade: true,
            host_binding: None,
            bridge: None,
            interface_prefix: "eth".into(),
            mode: [GatewayMode::Nat; 2],
            inhibit_ipv4: false,
            parent: None,
            below: Below::Macvlan(4),
        }
    }
}

fn invalid(key: &str, value: &str, why: &str) -> Error {
    Error::Invalid {
        what: "option",
        reason: format!("{key}={value}: {why}"),
    }
}

/// Go's `strconv.ParseBool`.
fn claim(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(key, value, "use true or false")),
    }
}

fn gateway_mode(key: &str, value: &str, internal: bool) -> Result<GatewayMode> {
    match value {
        "nat" => Ok(GatewayMode::Nat),
        "routed" => Ok(GatewayMode::Routed),
        "isolated" if internal => Ok(GatewayMode::Isolated),
        "isolated" => Err(Error::Invalid {
            what: "option",
            reason: "gateway mode 'isolated' can only be used for an internal network".into(),
        }),
        _ => Err(invalid(key, value, "use nat, routed or isolated")),
    }
}

/// Whether text can be an interface's name.
pub fn check_interface(name: &str) -> Result<()> {
    let valid = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if name.is_empty() || name.len() > 15 || name.starts_with('.') || !name.chars().all(valid) {
        return Err(Error::Invalid {
            what: "interface name",
            reason: format!("{name:?} can't be one"),
        });
    }
    Ok(())
}

impl Options {
    /// Reads a network's options.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the first one that is no good.
    pub fn parse(spec: &NetworkSpec) -> Result<Self> {
        let mut options = Self {
            below: match spec.driver {
                Driver::Ipvlan => Below::Ipvlan(0, 0),
                _ => Below::Macvlan(4),
            },
            ..Self::default()
        };
        for (key, value) in &spec.options {
            match (key.strip_prefix(PREFIX), &spec.driver) {
                (Some("driver.mtu"), _) => options.mtu = Some(mtu(key, value)?),
                (Some("container_iface_prefix"), _) => {
                    check_interface(value)?;
                    if value.len() > 12 {
                        return Err(invalid(key, value, "use at most 12 characters"));
                    }
                    options.interface_prefix.clone_from(value);
                }
                (Some(key), Driver::Bridge) => options.bridge_option(key, value, spec.internal)?,
                (Some(_), _) => return Err(unknown(key, &spec.driver)),
                (None, Driver::Macvlan | Driver::Ipvlan) => {
                    options.parent_option(key, value, &spec.driver)?
                }
                (None, _) => {}
            }
        }
        Ok(options)
    }

    fn bridge_option(&mut self, key: &str, value: &str, internal: bool) -> Result<()> {
        let full = format!("{PREFIX}{key}");
        match key {
            "bridge.name" => {
                check_interface(value)?;
                self.bridge = Some(value.to_owned());
            }
            "bridge.enable_icc" => self.icc = claim(&full, value)?,
            "bridge.enable_ip_masquerade" => self.masquerade = claim(&full, value)?,
            "bridge.inhibit_ipv4" => self.inhibit_ipv4 = claim(&full, value)?,
            "bridge.host_binding_ipv4" => {
                let binding: Ipv4Addr = value
                    .parse()
                    .map_err(|_| invalid(&full, value, "it is no IPv4 address"))?;
                self.host_binding = (!binding.is_unspecified()).then_some(binding);
            }
            "bridge.gateway_mode_ipv4" => self.mode[0] = gateway_mode(&full, value, internal)?,
            "bridge.gateway_mode_ipv6" => self.mode[1] = gateway_mode(&full, value, internal)?,
            // The predefined network is shown with it; the name decides.
            "bridge.default_bridge" => {
                claim(&full, value)?;
            }
            _ => return Err(unknown(&full, &Driver::Bridge)),
        }
        Ok(())
    }

    fn parent_option(&mut self, key: &str, value: &str, driver: &Driver) -> Result<()> {
        match (key, &mut self.below) {
            ("parent", _) => {
                check_interface(value)?;
                self.parent = Some(value.to_owned());
            }
            ("macvlan_mode", Below::Macvlan(mode)) => {
                *mode = match value {
                    "private" => 1,
                    "vepa" => 2,
                    "" | "bridge" => 4,
                    "passthru" => 8,
                    _ => {
                        let why = "is not valid, 'bridge' mode is the macvlan driver default";
                        return Err(mistake(format!("requested macvlan mode '{value}' {why}")));
                    }
                }
            }
            ("ipvlan_mode", Below::Ipvlan(mode, _)) => {
                *mode = match value {
                    "" | "l2" => 0,
                    "l3" => 1,
                    "l3s" => 2,
                    _ => {
                        let why = "is not valid, 'l2' mode is the ipvlan driver default";
                        return Err(mistake(format!("requested ipvlan mode '{value}' {why}")));
                    }
                }
            }
            ("ipvlan_flag", Below::Ipvlan(_, flags)) => {
                *flags = match value {
                    "" | "bridge" => 0,
                    "private" => 1,
                    "vepa" => 2,
                    _ => {
                        let why = "is not valid, 'bridge' is the ipvlan driver default";
                        return Err(mistake(format!("requested ipvlan flag '{value}' {why}")));
                    }
                }
            }
            ("macvlan_mode" | "ipvlan_mode" | "ipvlan_flag", _) => return Err(unknown(key, driver)),
            _ => {}
        }
        Ok(())
    }

    /// Whether routes of containers go to the link itself instead of a gateway: ipvlan works on layer 3.
    pub fn is_layer3(&self) -> bool {
        matches!(self.below, Below::Ipvlan(1 | 2, _))
    }
}

fn mistake(reason: String) -> Error {
    Error::Invalid {
        what: "option",
        reason,
    }
}

fn unknown(key: &str, driver: &Driver) -> Error {
    mistake(format!("{key} is not known to the {driver} driver"))
}

fn mtu(key: &str, value: &str) -> Result<u32> {
    value
        .parse()
        .ok()
        .filter(|mtu| (68..=65535).contains(mtu))
        .ok_or_else(|| invalid(key, value, "it is no number from 68 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(driver: Driver, options: &[(&str, &str)]) -> Result<Options> {
        let mut spec = NetworkSpec::new("x", "x", driver);
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        spec.options = options.iter().map(pair).collect();
        Options::parse(&spec)
    }

    #[test]
    fn dockers_options_are_known_and_others_of_its_kind_refused() {
        let good = parse(
            Driver::Bridge,
            &[
                ("com.docker.network.bridge.enable_icc", "false"),
                ("com.docker.network.bridge.gateway_mode_ipv6", "routed"),
                ("com.docker.network.driver.mtu", "1400"),
                ("com.docker.network.container_iface_prefix", "lan"),
                ("org.example.note", "mine"),
            ],
        );
        let good = good.expect("all are known");
        assert!(!good.icc && good.masquerade && good.mtu == Some(1400));
        assert_eq!(good.mode, [GatewayMode::Nat, GatewayMode::Routed]);
        assert_eq!(good.interface_prefix, "lan");
        for (key, value) in [
            ("com.docker.network.bridge.enable_icc", "maybe"),
            ("com.docker.network.bridge.no_such", "1"),
            ("com.docker.network.driver.mtu", "9"),
            ("com.docker.network.bridge.gateway_mode_ipv4", "isolated"),
            ("com.docker.network.bridge.gateway_mode_ipv4", "nat-unprotected"),
            ("com.docker.network.bridge.name", "much-too-long-a-name"),
        ] {
            let error = parse(Driver::Bridge, &[(key, value)]).expect_err(key);
            assert!(matches!(error, Error::Invalid { .. }), "{key}: {error:?}");
        }
    }

    #[test]
    fn modes_of_links_below_an_interface() {
        let below = |driver, key, value| parse(driver, &[(key, value)]).map(|o| o.below);
        assert_eq!(
            below(Driver::Macvlan, "macvlan_mode", "vepa").expect("known"),
            Below::Macvlan(2)
        );
        assert_eq!(
            below(Driver::Ipvlan, "ipvlan_mode", "l3").expect("known"),
            Below::Ipvlan(1, 0)
        );
        assert!(below(Driver::Macvlan, "ipvlan_mode", "l3").is_err());
        let error = below(Driver::Macvlan, "macvlan_mode", "x")
            .expect_err("unknown")
            .to_string();
        assert!(
            error.contains("requested macvlan mode 'x' is not valid"),
            "{error}"
        );
    }
}
