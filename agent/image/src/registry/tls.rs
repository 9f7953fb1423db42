//! TLS towards one registry: the platform's roots, and what `certs.d/HOST[:PORT]/` adds for it (Docker's layout: `*.crt` are roots,
//! `NAME.cert` with `NAME.key` is a client certificate). One crypto provider: ring.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use super::error::{Error, Result};

/// Makes the settings for `host[:port]`. Reads files: call it on a blocking thread.
pub(super) fn client_config(dirs: &[PathBuf], domain: &str, insecure: bool) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    // A host without roots can still reach registries that have their own, or plain ones.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let mut client = None;
    for dir in dirs {
        let dir = dir.join(domain);
        for name in names(&dir)? {
            let path = dir.join(&name);
            if name.ends_with(".crt") {
                for certificate in certificates(&path)? {
                    roots.add(certificate).map_err(|error| bad(&path, &error))?;
                }
            } else if let Some(stem) = name.strip_suffix(".cert") {
                let key = dir.join(format!("{stem}.key"));
                if !key.exists() {
                    return Err(Error::Settings(format!(
                        "missing key {} for client certificate {}. CA certificates must use the extension .crt",
                        key.display(),
                        path.display()
                    )));
                }
                let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| bad(&key, &error))?;
                client = Some((path.clone(), certificates(&path)?, secret));
            } else if let Some(stem) = name.strip_suffix(".key")
                && !dir.join(format!("{stem}.cert")).exists()
            {
                return Err(Error::Settings(format!(
                    "missing client certificate {stem}.cert for key {}",
                    path.display()
                )));
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Settings(format!("TLS: {error}")))?;
    let builder = if insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots)
    };
    let mut config = match client {
        Some((path, chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| bad(&path, &error))?,
        None => builder.with_no_client_auth(),
    };
    // HTTP/1.1 only: one connection a layer, so that no layer waits for another's flow control.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// File names of a folder, sorted; none if it is not there.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(bad(dir, &error)),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| bad(path, &error))?;
    if found.is_empty() {
        return Err(Error::Settings(format!(
            "{}: no certificate in it",
            path.display()
        )));
    }
    Ok(found)
}

fn bad(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Settings(format!("{}: {error}", path.display()))
}

/// Takes any certificate, of a registry that the settings call insecure; the handshake itself is still checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
