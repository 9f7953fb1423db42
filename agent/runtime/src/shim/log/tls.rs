//! TLS to a syslog server. Only the writer comes here, so that no shim pays for it.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
};

use crate::TlsFiles;

/// A connection.
pub(super) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Where systems keep the certificates that they trust.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Shakes hands; what is wrong with a certificate is told here, not at the first line.
pub(super) fn connect(tcp: TcpStream, host: &str, files: &TlsFiles, limit: Duration) -> io::Result<Stream> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let config = config(files)?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, tcp);
    stream.sock.set_read_timeout(Some(limit))?;
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    stream.sock.set_read_timeout(None)?;
    Ok(stream)
}

/// Takes what the server has sent unasked (session tickets, a good-bye), and tells whether it has closed its end.
pub(super) fn is_closed(stream: &mut Stream) -> bool {
    let StreamOwned { conn, sock } = stream;
    if sock.set_nonblocking(true).is_err() {
        return true;
    }
    let is_closed = loop {
        match conn.read_tls(sock) {
            Ok(0) => break true,
            Ok(_) => match conn.process_new_packets() {
                Ok(state) if state.peer_has_closed() => break true,
                Ok(_) => {}
                Err(_) => break true,
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
        }
    };
    sock.set_nonblocking(false).is_err() || is_closed
}

/// Says good-bye and waits for the server's: a socket that is closed with something unread in it is reset by the kernel,
/// which may cost the server the last lines.
pub(super) fn close(stream: &mut Stream, limit: Duration) {
    stream.conn.send_close_notify();
    let _ = stream.flush();
    let _ = stream.sock.shutdown(Shutdown::Write);
    let _ = stream.sock.set_read_timeout(Some(limit));
    let mut rest = [0; 4096];
    while let Ok(1..) = stream.sock.read(&mut rest) {}
}

fn config(files: &TlsFiles) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = if files.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
    } else {
        builder.with_root_certificates(roots(files.ca.as_deref())?)
    };
    match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, &error))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(io::Error::other)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// The system's and those of a file.
fn roots(file: Option<&Path>) -> io::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    if let Some(bundle) = BUNDLES.iter().map(Path::new).find(|path| path.exists()) {
        // A system's bundle may hold what we can't read; a file that the user names may not.
        store.add_parsable_certificates(certificates(bundle).unwrap_or_default());
    }
    if let Some(file) = file {
        for certificate in certificates(file)? {
            store.add(certificate).map_err(|error| in_file(file, &error))?;
        }
    }
    Ok(store)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| in_file(path, &error))
}

fn in_file(path: &Path, error: &dyn std::error::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// Takes any certificate (`syslog-tls-skip-verify`), but not a signature that is not its own.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
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
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ServerConfig, ServerConnection};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A server that takes one connection and gives back what it has read, or nothing if the handshake failed.
    fn serve(
        issuer: &Issuer<'_, KeyPair>,
        ca: &CertificateDer<'static>,
        asks: bool,
    ) -> (String, JoinHandle<Option<String>>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks {
            let mut roots = RootCertStore::empty();
            roots.add(ca.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = Arc::new(
            builder
                .with_single_cert(vec![certificate.der().clone()], private)
                .unwrap(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let tcp = listener.accept().unwrap().0;
            let connection = ServerConnection::new(config).unwrap();
            let mut text = String::new();
            StreamOwned::new(connection, tcp).read_to_string(&mut text).ok()?;
            Some(text)
        });
        (address, server)
    }

    fn send(address: &str, host: &str, files: &TlsFiles) -> io::Result<()> {
        let mut stream = connect(TcpStream::connect(address)?, host, files, PATIENCE)?;
        stream.write_all(b"line\n")?;
        if is_closed(&mut stream) {
            // TLS 1.3: a certificate of ours that is refused shows only after the handshake.
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        close(&mut stream, PATIENCE);
        Ok(())
    }

    #[test]
    fn certificates_are_asked_for_and_shown() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let client_key = KeyPair::generate().unwrap();
        let client = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        let client = client.signed_by(&client_key, &issuer).unwrap();
        let trusting = TlsFiles {
            ca: write("ca.pem", ca.pem()),
            ..TlsFiles::default()
        };
        let known = TlsFiles {
            cert: write("cert.pem", client.pem()),
            key: write("key.pem", client_key.serialize_pem()),
            ..trusting.clone()
        };
        let careless = TlsFiles {
            skip_verify: true,
            ..TlsFiles::default()
        };
        let line = Some("line\n".to_owned());
        for (files, host, asks, expected) in [
            (&trusting, "localhost", false, &line),
            (&trusting, "other.example", false, &None),
            (&TlsFiles::default(), "localhost", false, &None),
            (&careless, "other.example", false, &line),
            (&known, "localhost", true, &line),
            (&trusting, "localhost", true, &None),
        ] {
            let (address, server) = serve(&issuer, ca.der(), asks);
            let sent = send(&address, host, files);
            assert_eq!(server.join().unwrap(), *expected, "{host} {files:?} {sent:?}");
        }
        let missing = TlsFiles {
            ca: Some("/no/such/file".into()),
            ..TlsFiles::default()
        };
        let (address, server) = serve(&issuer, ca.der(), false);
        let error = send(&address, "localhost", &missing).unwrap_err().to_string();
        assert!(error.contains("/no/such/file"), "{error}");
        drop(server);
    }
}
