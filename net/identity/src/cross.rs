//! Replacing the root: a root that an operator brings, and the new root's name and key signed by the old one.
//!
//! Owned here: what a foreign root must be like (one certificate, of a CA, with its key, good for a year), and the cross-signed
//! certificate. With it in a node certificate's chain, those that trust only the old root and those that trust only the new one accept the
//! same certificate, so that nodes may change over in any order. Called by the controller.

use std::time::{Duration, SystemTime};

use rcgen::string::{BmpString, Ia5String, PrintableString, TeletexString, UniversalString};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::peer::{PeerIdentity, from_unix, role_name};
use crate::root::{BACKDATE, RootCa, pem_of, serial};
use crate::tls;

/// A root that is to be used must be good for this long at least.
const LEAST_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

fn invalid(reason: impl Into<String>) -> Error {
    Error::Invalid {
        what: "CA certificate",
        reason: reason.into(),
    }
}

fn twice() -> Error {
    invalid("its name can't be written again as it is: it has an attribute more than once")
}

impl RootCa {
    /// A root that an operator brings; `now` is the caller's clock.
    ///
    /// # Errors
    /// [`Error::Invalid`]: not exactly one certificate, not a CA's, its key is another or of a kind that can't be used, or less
    /// than a year is left of its life.
    pub fn from_operator(certificate: &[u8], key: &[u8], now: SystemTime) -> Result<Self, Error> {
        let parsed = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| invalid(e.to_string()))?;
        let der = match parsed.as_slice() {
            [] => return Err(invalid("no valid root CA certificates found")),
            [one] => one,
            _ => {
                return Err(invalid(
                    "the desired CA certificate cannot contain multiple certificates",
                ));
            }
        };
        let (rest, x509) = X509Certificate::from_der(der)
            .map_err(|_| invalid("could not parse the desired CA certificate"))?;
        if !rest.is_empty() {
            return Err(invalid("could not parse the desired CA certificate"));
        }
        let constraints = x509.basic_constraints().ok().flatten();
        if !constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err(invalid("certificate not a CA"));
        }
        let usage = x509.key_usage().ok().flatten();
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(invalid("its key usage does not let it sign certificates"));
        }
        if from_unix(x509.validity().not_after.timestamp()) < now + LEAST_LIFE {
            return Err(invalid("CA certificate expires too soon"));
        }
        // Before anything is issued with it.
        name(x509.subject())?;
        let key = Zeroizing::new(pkcs8_pem(key)?);
        let root = Self::from_pem(pem_of(der).as_bytes(), key.as_bytes()).map_err(|error| match error {
            Error::Invalid { reason, .. } => invalid(format!("malformed private key ({reason})")),
            other => other,
        })?;
        root.proves_itself()?;
        Ok(root)
    }

    /// Issues a certificate and checks it: finds a key that does not fit and a name that can't be written again as it is.
    fn proves_itself(&self) -> Result<(), Error> {
        let subject = PeerIdentity {
            node_id: "probe".to_owned(),
            role: pontoon_proto::v1::NodeRole::Worker,
            cluster_id: "probe".to_owned(),
        };
        let probe = self.issue_credentials(&subject, BACKDATE)?;
        let leaf = CertificateDer::from_pem_slice(probe.certificate.as_bytes())
            .map_err(|e| invalid(e.to_string()))?;
        let issuer = |der: &CertificateDer<'_>| {
            X509Certificate::from_der(der)
                .map(|(_, certificate)| certificate.issuer().as_raw().to_vec())
                .ok()
        };
        if issuer(&leaf) != issuer(self.der()) {
            return Err(twice());
        }
        let roots = tls::roots(std::slice::from_ref(self.der()))?;
        tls::verify(&leaf, &[], roots, role_name(subject.role))
            .map_err(|error| invalid(format!("certificate key mismatch ({})", crate::describe(&error))))
    }

    /// Another root's name and key in a certificate that this root has signed, PEM: who trusts this root accepts what that one issues.
    pub fn cross_sign(&self, other: &RootCa) -> Result<String, Error> {
        let failed = |source| Error::Generate {
            what: "cross-signed certificate",
            source,
        };
        let (_, theirs) = X509Certificate::from_der(other.der()).map_err(|e| invalid(e.to_string()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(theirs.subject())?;
        params.not_before = theirs.validity().not_before.to_datetime();
        params.not_after = theirs.validity().not_after.to_datetime();
        params.serial_number = Some(serial());
        // Not bounded: a second replacement may begin before all have finished the first.
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        let signed = params
            .signed_by(other.issuer().key(), self.issuer())
            .map_err(failed)?;
        let (_, made) = X509Certificate::from_der(signed.der()).map_err(|e| invalid(e.to_string()))?;
        if made.subject().as_raw() != theirs.subject().as_raw() {
            return Err(twice());
        }
        Ok(signed.pem())
    }
}

/// A name as it was written, attribute by attribute.
fn name(from: &X509Name<'_>) -> Result<DistinguishedName, Error> {
    let mut name = DistinguishedName::new();
    for attribute in from.iter_attributes() {
        let odd = || invalid("its name has an attribute that is no text");
        let oid: Vec<u64> = attribute.attr_type().iter().ok_or_else(odd)?.collect();
        // X.660: three trees, forty branches in the first two. Writing another panics in the library.
        if !matches!(oid[..], [0 | 1, 0..40, ..] | [2, ..]) {
            return Err(invalid("its name has an attribute of an impossible kind"));
        }
        let data = attribute.attr_value().data;
        let text = || std::str::from_utf8(data).map_err(|_| odd());
        let value = match attribute.attr_value().header.tag() {
            Tag::Utf8String => DnValue::Utf8String(text()?.to_owned()),
            Tag::PrintableString => {
                DnValue::PrintableString(PrintableString::try_from(text()?).map_err(|_| odd())?)
            }
            Tag::Ia5String => DnValue::Ia5String(Ia5String::try_from(text()?).map_err(|_| odd())?),
            Tag::T61String => DnValue::TeletexString(TeletexString::try_from(text()?).map_err(|_| odd())?),
            Tag::BmpString => DnValue::BmpString(BmpString::from_utf16be(data.to_vec()).map_err(|_| odd())?),
            Tag::UniversalString => {
                DnValue::UniversalString(UniversalString::from_utf32be(data.to_vec()).map_err(|_| odd())?)
            }
            _ => return Err(odd()),
        };
        name.push(DnType::CustomDnType(oid), value);
    }
    Ok(name)
}

/// A private key as PKCS#8 PEM. `openssl` writes older forms as well (SEC 1 for elliptic curves, PKCS#1 for RSA), which only lack the wrapping.
fn pkcs8_pem(pem: &[u8]) -> Result<String, Error> {
    /// id-ecPublicKey (RFC 5480 2.1.1).
    const EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    /// secp256r1 and secp384r1 (RFC 5480 2.1.1.1).
    const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
    /// rsaEncryption with its NULL (RFC 8017 A.1).
    const RSA: &[u8] = &[
        0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| invalid("malformed private key"))?;
    let wrap = |algorithm: &[u8], inner: &[u8]| {
        let content = [&[0x02, 0x01, 0x00][..], &der(0x30, algorithm), &der(0x04, inner)].concat();
        Zeroizing::new(der(0x30, &content))
    };
    let wrapped = match &key {
        PrivateKeyDer::Pkcs8(key) => Zeroizing::new(key.secret_pkcs8_der().to_vec()),
        PrivateKeyDer::Pkcs1(key) => wrap(RSA, key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => {
            let inner = key.secret_sec1_der();
            let is_p384 = inner.windows(P384.len()).any(|window| window == P384);
            let curve = if is_p384 { P384 } else { P256 };
            wrap(&[EC, curve].concat(), inner)
        }
        _ => return Err(invalid("malformed private key")),
    };
    Ok(crate::root::pem("PRIVATE KEY", &wrapped))
}

/// One DER element (X.690 8.1.3).
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut element = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => element.push(short),
        _ => {
            let bytes: Vec<u8> = length
                .to_be_bytes()
                .into_iter()
                .skip_while(|byte| *byte == 0)
                .collect();
            // At most eight.
            element.push(0x80 | bytes.len() as u8);
            element.extend(bytes);
        }
    }
    element.extend_from_slice(content);
    element
}
