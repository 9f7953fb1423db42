//! A token server (distribution token specification) for Debian's registry: HTTP in the host's network, tokens signed by a key whose
//! certificate the registry trusts. Part of the suite `registry`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use pontoon_tests::registry::{Registry, Settings, User};
use pontoon_tests::{Host, wire, with_fleet};
use rcgen::{CertificateParams, KeyPair, SigningKey};
use serde_json::{Value, json};

/// The server's part that requests look at.
struct Server {
    key: KeyPair,
    certificate: Vec<u8>,
    /// Scopes of the tokens that were given, in order.
    given: Mutex<Vec<String>>,
}

#[test]
fn a_token_server() {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["tokens".to_owned()])?.self_signed(&key)?;
        let roots = host.folder().join("tokens.pem");
        fs::write(&roots, certificate.pem())?;
        let server = Arc::new(Server {
            key,
            certificate: certificate.der().to_vec(),
            given: Mutex::default(),
        });
        serve(host, server.clone())?;
        let settings = Settings {
            auth: format!(
                "auth:\n  token:\n    realm: http://127.0.0.1:5005/token\n    service: reg\n    issuer: tests\n    rootcertbundle: {}\n",
                roots.display()
            ),
            ..Settings::default()
        };
        let registry = Registry::start(host, "registry", &settings)?;
        let user = User::new(host)?;
        let name = registry.name("box:1");
        user.ok(&["tag", "busybox", &name])?;
        user.pontoon(&["push", &name])?.fails(1, &["denied"])?;
        user.with_input(
            &["login", "-u", "me", "--password-stdin", &registry.address],
            "wrong",
        )?
        .fails(1, &["unauthorized: incorrect username or password"])?;
        let login = user.with_input(
            &["login", "-u", "me", "--password-stdin", &registry.address],
            "secret",
        )?;
        ensure!(login.code == 0, "{login}");
        // The registry's own word for us is kept, not the password.
        let config: Value = serde_json::from_slice(&fs::read(user.config())?)?;
        ensure!(
            config["auths"][&registry.address]["identitytoken"] == "refresh",
            "{config}"
        );
        user.ok(&["push", "-q", &name])?;
        user.ok(&["rmi", &name])?;
        user.ok(&["pull", "-q", &name])?;
        let other = registry.name("other/box:1");
        user.ok(&["tag", &name, &other])?;
        let pushed = user.ok(&["push", &other])?;
        ensure!(pushed.contains("Mounted from box"), "{pushed}");
        let given = server
            .given
            .lock()
            .map_err(|_| anyhow::anyhow!("a request failed"))?
            .join("\n");
        ensure!(
            given.contains("repository:other/box:pull,push repository:box:pull"),
            "{given}"
        );
        user.ok(&["logout", &registry.address])?;
        user.pontoon(&["pull", &name])?
            .fails(1, &["pull access denied"])?;
        Ok(())
    });
}

/// Listens in the host's network; the threads end with the test's process.
fn serve(host: &Host, server: Arc<Server>) -> Result<()> {
    let listener = wire::within(&host.netns(), || Ok(TcpListener::bind("127.0.0.1:5005")?))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = server.clone();
            std::thread::spawn(move || answer(stream, &server));
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, server: &Server) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (
        words.next().unwrap_or_default().to_owned(),
        words.next().unwrap_or_default().to_owned(),
    );
    let (mut authorization, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_lowercase().as_str() {
            "authorization" => value.clone_into(&mut authorization),
            "content-length" => length = value.parse()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    std::io::Read::read_exact(&mut reader, &mut body)?;
    let fields = match method.as_str() {
        "POST" => String::from_utf8(body)?,
        _ => path.split_once('?').map_or("", |(_, query)| query).to_owned(),
    };
    let right = authorization == format!("Basic {}", STANDARD.encode("me:secret"))
        || fields.contains("refresh_token=refresh");
    let anonymous = authorization.is_empty() && method == "GET";
    let (status, body) = if right || anonymous {
        let token = server.token(&fields, right)?;
        let body =
            json!({ "token": token, "access_token": token, "refresh_token": "refresh", "expires_in": 300 });
        (200, body)
    } else {
        (401, json!({ "details": "incorrect username or password" }))
    };
    let text = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )?;
    Ok(())
}

impl Server {
    /// A JSON web token with the rights that were asked for; without a password, none.
    fn token(&self, fields: &str, right: bool) -> Result<String> {
        let decode = |text: &str| {
            text.replace("%3A", ":")
                .replace("%2F", "/")
                .replace("%2C", ",")
                .replace('+', " ")
        };
        let scopes: Vec<String> = fields
            .split('&')
            .filter_map(|field| field.strip_prefix("scope="))
            .flat_map(|scope| decode(scope).split(' ').map(str::to_owned).collect::<Vec<_>>())
            .filter(|scope| !scope.is_empty())
            .collect();
        if let Ok(mut given) = self.given.lock() {
            given.push(scopes.join(" "));
        }
        let access: Vec<Value> = scopes
            .iter()
            .filter(|_| right)
            .filter_map(|scope| {
                let mut parts = scope.split(':');
                let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
                Some(json!({ "type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>() }))
            })
            .collect();
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate)] });
        let claims: BTreeMap<&str, Value> = [
            ("iss", json!("tests")),
            ("sub", json!("me")),
            ("aud", json!("reg")),
            ("exp", json!(4_000_000_000_u64)),
            ("nbf", json!(0)),
            ("iat", json!(0)),
            ("jti", json!("1")),
            ("access", json!(access)),
        ]
        .into();
        let part = |value: &str| URL_SAFE_NO_PAD.encode(value);
        let text = format!(
            "{}.{}",
            part(&header.to_string()),
            part(&serde_json::to_string(&claims)?)
        );
        let signature = raw_signature(&self.key.sign(text.as_bytes())?)?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The two numbers of an ECDSA signature (DER), 32 bytes each, as JSON web tokens have them (RFC 7518, section 3.4).
fn raw_signature(der: &[u8]) -> Result<Vec<u8>> {
    let mut raw = Vec::new();
    let mut at = 2;
    for _ in 0..2 {
        let length = usize::from(*der.get(at + 1).context("a short signature")?);
        let number = der.get(at + 2..at + 2 + length).context("a short signature")?;
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        raw.extend(std::iter::repeat_n(0, 32usize.saturating_sub(number.len())));
        raw.extend_from_slice(number);
        at += 2 + length;
    }
    Ok(raw)
}
