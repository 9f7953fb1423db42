//! The root in the Cluster object: who issues, how a rotation begins, moves on and ends. Pure: object in, object out.
//!
//! ```text
//!             begin                        finish                        forget
//! R0 in force ─────▶ R0 in force,          ─────▶ R1 in force,           ─────▶ R1 in force
//!                    R1 issues (R1 signed         R1 signed by R0 is
//!                    by R0 is in the chains)      in the chains still
//! ```
//! `finish` when every node's certificate is R1's, `forget` when every node trusts R1. At each moment every certificate is good under
//! the root that any node trusts, so nothing is refused on the way, in whatever order the nodes follow. Join tokens pin the root in force
//! and change with it. `rotation` decides when; called by it, the Control API and the CA service.

use std::time::SystemTime;

use pontoon_identity::{LEAST_EXPIRY, RootCa, generate_secret};
use pontoon_proto::v1::{
    Cluster, JoinTokens, Node, RootCa as StoredRoot, RootRotation, RotateRootRequest, TlsInfo,
};
use tonic::Status;

/// A cluster's root.
pub(crate) fn of(cluster: &Cluster) -> Result<&StoredRoot, Status> {
    cluster
        .root_ca
        .as_ref()
        .ok_or_else(|| Status::internal("the cluster has no root"))
}

fn parse(certificate: &[u8], key: &[u8]) -> Result<RootCa, Status> {
    RootCa::from_pem(certificate, key).map_err(|error| Status::internal(pontoon_identity::describe(&error)))
}

/// What issues certificates now, with what must be in their chains.
pub(crate) fn issuer(root: &StoredRoot) -> Result<RootCa, Status> {
    match &root.rotation {
        Some(next) => {
            let chain = [&next.cross_signed[..], &root.cross_signed[..]].concat();
            Ok(parse(&next.certificate, &next.key)?.with_chain(&chain))
        }
        None => Ok(parse(&root.certificate, &root.key)?.with_chain(&root.cross_signed)),
    }
}

/// How nodes' certificates are to be: issued by the newest root, trusting the root that will be in force.
pub(crate) fn wanted(root: &StoredRoot) -> Result<TlsInfo, Status> {
    let trusted = match &root.rotation {
        Some(next) => &next.certificate,
        None => &root.certificate,
    };
    Ok(issuer(root)?.tls_info(trusted))
}

/// Two fresh join tokens of a root.
pub(crate) fn tokens(root: &RootCa) -> JoinTokens {
    let token = || root.join_token(generate_secret()).to_string();
    JoinTokens {
        worker: token(),
        manager: token(),
    }
}

/// A lifetime of node certificates that may be wished for; 0 stands for the default.
pub(crate) fn check_expiry(nanoseconds: i64) -> Result<(), Status> {
    let least = i64::try_from(LEAST_EXPIRY.as_nanos()).unwrap_or(i64::MAX);
    if nanoseconds != 0 && nanoseconds < least {
        return Err(Status::invalid_argument(
            "minimum certificate expiry time is: 1h0m0s",
        ));
    }
    Ok(())
}

/// Begins to replace the root: by the one in the request, or a new one. A rotation under way is replaced. The root in force given again
/// ends it.
pub(crate) fn begin(cluster: &mut Cluster, request: &RotateRootRequest) -> Result<(), Status> {
    if let Some(expiry) = request.node_cert_expiry {
        check_expiry(expiry)?;
        cluster.spec.get_or_insert_default().node_cert_expiry = expiry;
    }
    let cluster_id = cluster.id.clone();
    let root = cluster
        .root_ca
        .as_mut()
        .ok_or_else(|| Status::internal("the cluster has no root"))?;
    let refused =
        |error: pontoon_identity::Error| Status::invalid_argument(pontoon_identity::describe(&error));
    let current = parse(&root.certificate, &root.key)?;
    let next = match (request.certificate.is_empty(), request.key.is_empty()) {
        (true, true) => RootCa::generate(&cluster_id).map_err(refused)?,
        (true, false) => {
            return Err(Status::invalid_argument(
                "if a signing CA key is provided, the signing CA cert must also be provided",
            ));
        }
        (false, true) => {
            return Err(Status::invalid_argument(
                "there must be at least one valid, reachable external CA corresponding to the desired CA certificate: \
                 external CAs are not supported, give the key of the CA certificate",
            ));
        }
        (false, false) => {
            RootCa::from_operator(&request.certificate, &request.key, SystemTime::now()).map_err(refused)?
        }
    };
    if next.digest() == current.digest() {
        root.rotation = None;
        return Ok(());
    }
    if next.tls_info(&[]).issuer_public_key == current.tls_info(&[]).issuer_public_key {
        return Err(Status::invalid_argument(
            "Cannot update to a cert with an identical key",
        ));
    }
    if let Some(under_way) = &root.rotation
        && parse(&under_way.certificate, &under_way.key)?.digest() == next.digest()
    {
        return Ok(());
    }
    let cross_signed = current.cross_sign(&next).map_err(refused)?;
    root.rotation = Some(RootRotation {
        certificate: next.certificate_pem().to_owned().into(),
        key: next.key_pem().to_owned().into(),
        cross_signed: cross_signed.into(),
    });
    Ok(())
}

/// Puts the next root in force: all certificates are its own. Who still trusts the old one accepts them through the cross-signed one.
pub(crate) fn finish(root: &mut StoredRoot) -> Result<(), Status> {
    let Some(next) = root.rotation.take() else {
        return Ok(());
    };
    let cross_signed = [&next.cross_signed[..], &root.cross_signed[..]].concat();
    let join_tokens = tokens(&parse(&next.certificate, &next.key)?);
    *root = StoredRoot {
        certificate: next.certificate,
        key: next.key,
        join_tokens: Some(join_tokens),
        rotation: None,
        cross_signed: cross_signed.into(),
    };
    Ok(())
}

/// True when the node's certificate is of the issuer that is wanted.
pub(crate) fn has_issuer(node: &Node, wanted: &TlsInfo) -> bool {
    of_node(node).is_some_and(|info| {
        info.issuer_public_key == wanted.issuer_public_key && info.issuer_subject == wanted.issuer_subject
    })
}

/// True when the node trusts the root (PEM).
pub(crate) fn trusts(node: &Node, root: &[u8]) -> bool {
    of_node(node).is_some_and(|info| info.trust_root == root)
}

fn of_node(node: &Node) -> Option<&TlsInfo> {
    node.description.as_ref()?.tls_info.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        let root = RootCa::generate("cluster1").unwrap();
        Cluster {
            id: "cluster1".to_owned(),
            root_ca: Some(StoredRoot {
                certificate: root.certificate_pem().to_owned().into(),
                key: root.key_pem().to_owned().into(),
                join_tokens: Some(tokens(&root)),
                ..StoredRoot::default()
            }),
            ..Cluster::default()
        }
    }

    #[test]
    fn a_rotation_replaces_one_under_way_and_ends_with_new_tokens() {
        let mut cluster = cluster();
        let before = cluster.root_ca.clone().unwrap();
        begin(&mut cluster, &RotateRootRequest::default()).unwrap();
        let first = cluster.root_ca.clone().unwrap();
        assert_eq!(
            (&first.certificate, &first.join_tokens),
            (&before.certificate, &before.join_tokens)
        );
        assert_ne!(wanted(&first).unwrap(), wanted(&before).unwrap());
        begin(&mut cluster, &RotateRootRequest::default()).unwrap();
        let second = cluster.root_ca.clone().unwrap();
        assert_ne!(first.rotation, second.rotation);
        let target = wanted(&second).unwrap();
        finish(cluster.root_ca.as_mut().unwrap()).unwrap();
        let after = cluster.root_ca.unwrap();
        assert_eq!(wanted(&after).unwrap(), target);
        assert_ne!(after.join_tokens, before.join_tokens);
        assert!(after.rotation.is_none() && !after.cross_signed.is_empty());
    }

    #[test]
    fn the_root_in_force_ends_a_rotation_and_the_one_to_come_changes_nothing() {
        let mut cluster = cluster();
        begin(&mut cluster, &RotateRootRequest::default()).unwrap();
        let under_way = cluster.root_ca.clone().unwrap();
        let next = under_way.rotation.clone().unwrap();
        let again = RotateRootRequest {
            certificate: next.certificate,
            key: next.key,
            ..RotateRootRequest::default()
        };
        begin(&mut cluster, &again).unwrap();
        assert_eq!(cluster.root_ca, Some(under_way.clone()));
        let back = RotateRootRequest {
            certificate: under_way.certificate.clone(),
            key: under_way.key.clone(),
            ..RotateRootRequest::default()
        };
        begin(&mut cluster, &back).unwrap();
        let root = cluster.root_ca.unwrap();
        assert_eq!((root.rotation, root.certificate), (None, under_way.certificate));
    }

    #[test]
    fn what_can_not_be_a_root_is_refused_by_name() {
        let mut cluster = cluster();
        let own = RootCa::generate("x").unwrap();
        let other = RootCa::generate("y").unwrap();
        let root = |certificate: &str, key: &str| RotateRootRequest {
            certificate: certificate.to_owned().into(),
            key: key.to_owned().into(),
            ..RotateRootRequest::default()
        };
        let two = format!("{}{}", own.certificate_pem(), other.certificate_pem());
        let before = cluster.clone();
        for (request, reason) in [
            (
                root("", own.key_pem()),
                "the signing CA cert must also be provided",
            ),
            (root(own.certificate_pem(), ""), "external CAs are not supported"),
            (
                root("hello", own.key_pem()),
                "no valid root CA certificates found",
            ),
            (root(&two, own.key_pem()), "cannot contain multiple certificates"),
            (root(own.certificate_pem(), "hello"), "malformed private key"),
            (
                root(own.certificate_pem(), other.key_pem()),
                "certificate key mismatch",
            ),
        ] {
            let refused = begin(&mut cluster, &request).unwrap_err();
            assert!(refused.message().contains(reason), "{reason}: {refused:?}");
        }
        let short = RotateRootRequest {
            node_cert_expiry: Some(1),
            ..RotateRootRequest::default()
        };
        let refused = begin(&mut cluster, &short).unwrap_err();
        assert_eq!(refused.message(), "minimum certificate expiry time is: 1h0m0s");
        assert_eq!(cluster, before);
    }
}
