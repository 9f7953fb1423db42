//! `swarm ca`: shows the root that nodes trust, replaces it and shows how far the nodes have followed, in Docker's words.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use pontoon_proto::v1::{Cluster, GetClusterRequest, ListRequest, Node, RotateRootRequest, TlsInfo};
use sha2::{Digest, Sha256};

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::{human, listing};
use crate::terminal;

/// How often is looked how far the nodes are.
const PERIOD: Duration = Duration::from_millis(200);

/// `swarm ca [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Path to the PEM-formatted root CA certificate to use for the new cluster
    #[arg(long, value_name = "pem-file", value_parser = pem_file)]
    ca_cert: Option<String>,
    /// Path to the PEM-formatted root CA key to use for the new cluster
    #[arg(long, value_name = "pem-file", value_parser = pem_file)]
    ca_key: Option<String>,
    /// Validity period for node certificates (ns|us|ms|s|m|h) (default 2160h0m0s)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    cert_expiry: Option<i64>,
    /// Exit immediately instead of waiting for the root rotation to converge
    #[arg(short = 'd', long)]
    detach: bool,
    /// Specifications of one or more certificate signing endpoints
    #[arg(long, value_name = "external-ca")]
    external_ca: Vec<String>,
    /// Suppress progress output
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Rotate the swarm CA - if no certificate or key are provided, new ones will be generated
    #[arg(long)]
    rotate: bool,
}

/// What is said of `--external-ca` wherever it is given.
pub const NO_EXTERNAL_CA: &str = "--external-ca is not supported: the managers sign the nodes' certificates themselves; \
     give them a root of your own with `pontoon swarm ca --rotate --ca-cert FILE --ca-key FILE`";

/// The content of a file in PEM form.
fn pem_file(path: &str) -> Result<String, String> {
    let content =
        std::fs::read_to_string(path).map_err(|error| format!("open {path}: {}", reason(&error)))?;
    match content.contains("-----BEGIN ") {
        true => Ok(content),
        false => Err("file contents must be in PEM format".to_owned()),
    }
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

/// Runs `swarm ca`.
///
/// # Errors
/// Flags that do not go together, and the managers' refusals.
pub async fn run(client: &Client, arguments: Arguments) -> Outcome {
    check(&arguments)?;
    if !arguments.rotate {
        return show(&cluster(client).await?);
    }
    let request = RotateRootRequest {
        version: 0,
        certificate: arguments.ca_cert.unwrap_or_default().into(),
        key: arguments.ca_key.unwrap_or_default().into(),
        node_cert_expiry: arguments.cert_expiry,
    };
    client.control().rotate_root(request).await?;
    if arguments.detach {
        return Ok(0);
    }
    tokio::select! {
        followed = follow(client, arguments.quiet) => followed?,
        _ = tokio::signal::ctrl_c() => {
            if !arguments.quiet {
                listing::write("Operation continuing in background.\nUse `pontoon info` to check progress.\n");
            }
            return Ok(0);
        }
    }
    match arguments.quiet {
        true => Ok(0),
        false => show(&cluster(client).await?),
    }
}

/// Docker's rules of which flags go together.
fn check(arguments: &Arguments) -> Result<(), Failure> {
    let given = [
        ("ca-cert", arguments.ca_cert.is_some()),
        ("ca-key", arguments.ca_key.is_some()),
        ("cert-expiry", arguments.cert_expiry.is_some()),
        ("external-ca", !arguments.external_ca.is_empty()),
    ];
    let first = given.iter().find(|(_, given)| *given);
    if let Some((flag, _)) = first.filter(|_| !arguments.rotate) {
        return Err(Failure::new(format!(
            "`--{flag}` flag requires the `--rotate` flag to update the CA"
        )));
    }
    if !arguments.external_ca.is_empty() {
        return Err(Failure::new(NO_EXTERNAL_CA));
    }
    if arguments.ca_cert.is_some() && arguments.ca_key.is_none() {
        return Err(Failure::new(
            "the --ca-cert flag requires that a --ca-key flag and/or --external-ca flag be provided as well",
        ));
    }
    Ok(())
}

async fn cluster(client: &Client) -> Result<Cluster, Failure> {
    Ok(client
        .control()
        .get_cluster(GetClusterRequest {})
        .await?
        .into_inner())
}

/// The root that nodes trust.
fn show(cluster: &Cluster) -> Outcome {
    let root = cluster
        .root_ca
        .as_ref()
        .map(|root| String::from_utf8_lossy(&root.certificate));
    match root.filter(|root| !root.is_empty()) {
        Some(root) => {
            listing::write(&format!("{}\n", root.trim()));
            Ok(0)
        }
        None => Err(Failure::new("No CA information available")),
    }
}

/// How far the nodes have followed the root.
#[derive(Debug, Default, PartialEq, Eq)]
struct Followed {
    /// Digest of the root that they are to have.
    digest: String,
    /// Nodes with a certificate of it.
    certificates: usize,
    /// Nodes that trust it.
    roots: usize,
    /// All nodes.
    nodes: usize,
    /// The cluster has moved on as well.
    over: bool,
}

impl Followed {
    fn of(cluster: &Cluster, nodes: &[Node]) -> Self {
        let wanted = cluster.tls_info.clone().unwrap_or_default();
        let info = |node: &Node| node.description.as_ref().and_then(|of| of.tls_info.clone());
        let count = |fits: &dyn Fn(&TlsInfo) -> bool| {
            let fitting = nodes
                .iter()
                .filter(|node| info(node).is_some_and(|info| fits(&info)));
            fitting.count()
        };
        let over = cluster
            .root_ca
            .as_ref()
            .is_none_or(|root| root.rotation.is_none());
        let mut digest = String::from("sha256:");
        for byte in Sha256::digest(&wanted.trust_root) {
            // Writing to a String can't fail.
            let _ = write!(digest, "{byte:02x}");
        }
        Self {
            digest,
            certificates: count(&|info| {
                info.issuer_public_key == wanted.issuer_public_key
                    && info.issuer_subject == wanted.issuer_subject
            }),
            roots: match over {
                true => count(&|info| info.trust_root == wanted.trust_root),
                false => 0,
            },
            nodes: nodes.len(),
            over,
        }
    }

    fn is_done(&self) -> bool {
        self.over && self.certificates == self.nodes && self.roots == self.nodes
    }

    /// Docker's three lines.
    fn lines(&self, width: usize) -> [String; 3] {
        [
            format!("desired root digest: {}", self.digest),
            format!(
                "  rotated TLS certificates: {}",
                bar(self.certificates, self.nodes, width)
            ),
            format!(
                "  rotated CA certificates:  {}",
                bar(self.roots, self.nodes, width)
            ),
        ]
    }
}

/// `[=====>    ] 1/2 nodes` (moby `pkg/jsonmessage`); without the bar where there is no room for it.
fn bar(current: usize, total: usize, width: usize) -> String {
    let counted = format!("{current}/{total} nodes");
    if width <= 110 {
        return counted;
    }
    let half = (current * 50 / total.max(1)).min(50);
    let space = match half {
        50 => String::new(),
        half => format!(">{}", " ".repeat(50 - half)),
    };
    format!("[{}{space}] {counted}", "=".repeat(half))
}

/// Shows how far the nodes are until all have followed. Without a terminal a line is said once.
async fn follow(client: &Client, quiet: bool) -> Result<(), Failure> {
    let is_terminal = std::io::stdout().is_terminal();
    let mut last = None;
    loop {
        let cluster = cluster(client).await?;
        let nodes = client
            .control()
            .list_nodes(ListRequest::default())
            .await?
            .into_inner()
            .nodes;
        let now = Followed::of(&cluster, &nodes);
        if !quiet && last.as_ref() != Some(&now) {
            draw(&now, last.as_ref(), is_terminal);
        }
        if now.is_done() {
            return Ok(());
        }
        last = Some(now);
        tokio::time::sleep(PERIOD).await;
    }
}

fn draw(now: &Followed, last: Option<&Followed>, is_terminal: bool) {
    let width = match is_terminal {
        true => terminal::size().map_or(200, |(_, columns)| usize::from(columns)),
        false => 0,
    };
    let lines = now.lines(width);
    let mut text = String::new();
    if is_terminal {
        if last.is_some() {
            text.push_str("\x1b[3A");
        }
        for line in lines {
            let _ = write!(text, "\x1b[2K\r{line}\n");
        }
    } else {
        let said = last.map(|last| last.lines(width));
        for (number, line) in lines.into_iter().enumerate() {
            if said.as_ref().is_none_or(|said| said[number] != line) {
                text.push_str(&line);
                text.push('\n');
            }
        }
    }
    listing::write(&text);
    let _ = std::io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_proto::v1::{NodeDescription, RootCa, RootRotation};

    fn info(key: &'static str, root: &'static str) -> TlsInfo {
        TlsInfo {
            trust_root: root.into(),
            issuer_public_key: key.into(),
            ..TlsInfo::default()
        }
    }

    fn node(info: Option<TlsInfo>) -> Node {
        Node {
            description: Some(NodeDescription {
                tls_info: info,
                ..NodeDescription::default()
            }),
            ..Node::default()
        }
    }

    #[test]
    fn roots_count_when_all_certificates_have_followed() {
        let mut cluster = Cluster {
            tls_info: Some(info("new", "new")),
            root_ca: Some(RootCa {
                rotation: Some(RootRotation::default()),
                ..RootCa::default()
            }),
            ..Cluster::default()
        };
        let nodes = [
            node(Some(info("new", "old"))),
            node(Some(info("new", "new"))),
            node(None),
        ];
        let followed = Followed::of(&cluster, &nodes);
        assert_eq!((followed.certificates, followed.roots, followed.nodes), (2, 0, 3));
        cluster.root_ca = Some(RootCa::default());
        let followed = Followed::of(&cluster, &nodes);
        assert_eq!((followed.certificates, followed.roots), (2, 1));
        assert!(!followed.is_done());
        assert!(Followed::of(&cluster, &nodes[1..2]).is_done());
        assert_eq!(
            followed.lines(80)[1..],
            [
                "  rotated TLS certificates: 2/3 nodes",
                "  rotated CA certificates:  1/3 nodes"
            ]
        );
        assert_eq!(
            bar(1, 2, 200),
            format!("[{}>{}] 1/2 nodes", "=".repeat(25), " ".repeat(25))
        );
        assert_eq!(bar(2, 2, 200), format!("[{}] 2/2 nodes", "=".repeat(50)));
    }

    #[test]
    fn flags_that_do_not_go_together_are_named() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            arguments: Arguments,
        }
        let refused = |line: &str| {
            let line =
                Line::try_parse_from(format!("ca {line}").split_whitespace()).map_err(|e| e.to_string());
            line.and_then(|line| check(&line.arguments).map_err(|failure| failure.to_string()))
                .unwrap_err()
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "-----BEGIN CERTIFICATE-----\n").unwrap();
        let pem = file.path().display();
        assert_eq!(
            refused("--cert-expiry 2h"),
            "`--cert-expiry` flag requires the `--rotate` flag to update the CA"
        );
        assert_eq!(
            refused(&format!("--ca-cert {pem}")),
            "`--ca-cert` flag requires the `--rotate` flag to update the CA"
        );
        assert_eq!(
            refused(&format!("--rotate --ca-cert {pem}")),
            "the --ca-cert flag requires that a --ca-key flag and/or --external-ca flag be provided as well"
        );
        assert!(
            refused("--rotate --external-ca protocol=cfssl,url=https://x")
                .contains("--external-ca is not supported")
        );
        assert!(refused("--rotate --ca-cert /dev/null").contains("file contents must be in PEM format"));
        assert!(refused("--rotate --ca-key /nowhere").contains("open /nowhere: no such file or directory"));
    }
}
