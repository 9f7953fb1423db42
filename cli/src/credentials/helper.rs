//! Credential helpers: `docker-credential-X get|store|erase`, with the server (or a JSON document) on stdin and JSON on stdout
//! (github.com/docker/docker-credential-helpers). A helper is the user's own program, found by PATH, run as the user.

use std::io::Write;
use std::process::{Command, Stdio};

use pontoon_proto::v1::RegistryAuth;
use serde::Deserialize;
use serde_json::json;

use crate::error::Failure;

/// The user name under which helpers keep identity tokens.
const TOKEN_USER: &str = "<token>";
/// What helpers print when they have nothing.
const NOTHING: &str = "credentials not found in native keychain";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// What a helper has for a server.
///
/// # Errors
/// It can't be run, fails, or prints what is not understood.
pub fn get(helper: &str, server: &str) -> Result<RegistryAuth, Failure> {
    let output = match run(helper, "get", server.as_bytes()) {
        Err(failure) if failure.message.contains(NOTHING) => return Ok(RegistryAuth::default()),
        other => other?,
    };
    let answer: Answer = serde_json::from_slice(&output).map_err(|error| {
        Failure::new(format!(
            "docker-credential-{helper}: its answer is not understood: {error}"
        ))
    })?;
    let mut auth = RegistryAuth {
        server_address: server.to_owned(),
        ..RegistryAuth::default()
    };
    if answer.username == TOKEN_USER {
        auth.identity_token = answer.secret;
    } else {
        auth.username = answer.username;
        auth.password = answer.secret;
    }
    Ok(auth)
}

/// Has a helper keep credentials.
///
/// # Errors
/// As [`get`].
pub fn store(helper: &str, server: &str, auth: &RegistryAuth) -> Result<(), Failure> {
    let (user, secret) = if auth.identity_token.is_empty() {
        (auth.username.as_str(), &auth.password)
    } else {
        (TOKEN_USER, &auth.identity_token)
    };
    let text = json!({ "ServerURL": server, "Username": user, "Secret": secret }).to_string();
    run(helper, "store", text.as_bytes()).map(drop)
}

/// Has a helper forget a server.
///
/// # Errors
/// As [`get`].
pub fn erase(helper: &str, server: &str) -> Result<(), Failure> {
    match run(helper, "erase", server.as_bytes()) {
        Err(failure) if failure.message.contains(NOTHING) => Ok(()),
        other => other.map(drop),
    }
}

fn run(helper: &str, verb: &str, input: &[u8]) -> Result<Vec<u8>, Failure> {
    let program = format!("docker-credential-{helper}");
    if helper.is_empty() || helper.contains('/') {
        return Err(Failure::new(format!(
            "{helper:?} is not the name of a credential helper"
        )));
    }
    let failed =
        |error: std::io::Error| Failure::new(format!("error getting credentials - err: {program}: {error}"));
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input says with its status whether that matters.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // Helpers print their errors to stdout.
    let said = [output.stdout, output.stderr].concat();
    Err(Failure::new(format!(
        "error getting credentials - err: {}, out: `{}`",
        output.status,
        String::from_utf8_lossy(&said).trim()
    )))
}
