//! `login` and `logout`. What is typed is tried at the registry by the daemon and kept by the client, as in Docker.

use std::io::{BufRead, IsTerminal, Read, Write};

use clap::Args;
use pontoon_proto::v1::{RegistryAuth, RegistryLoginRequest};

use crate::client::Client;
use crate::credentials::{self, file::ConfigFile};
use crate::error::{Failure, Outcome};
use crate::output::listing;
use crate::terminal::Hidden;

/// What Docker says before it asks for Docker Hub's password.
const HUB_WORDS: &str = "Log in with your Docker ID or email address to push and pull images from Docker Hub. If you don't have a \
     Docker ID, head over to https://hub.docker.com/ to create one.\nYou can log in with your password or a Personal Access \
     Token (PAT). Using a limited-scope PAT grants better security and is required for organizations using SSO. Learn more at \
     https://docs.docker.com/go/access-tokens/\n";

/// `login [OPTIONS] [SERVER]`
#[derive(Args, Debug)]
pub struct LoginArguments {
    /// Password or Personal Access Token (PAT)
    #[arg(short = 'p', long, value_name = "string")]
    password: Option<String>,
    /// Take the Password or Personal Access Token (PAT) from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Username
    #[arg(short = 'u', long, value_name = "string")]
    username: Option<String>,
    /// The registry; Docker Hub if none is named
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// `logout [SERVER]`
#[derive(Args, Debug)]
pub struct LogoutArguments {
    /// The registry; Docker Hub if none is named
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// Runs `login`.
///
/// # Errors
/// Flags that don't go together, nobody to ask, or the registry refuses.
pub async fn login(host: Option<&str>, arguments: LoginArguments) -> Outcome {
    let password = given_password(&arguments)?;
    let server = server(arguments.server.as_deref());
    let mut config = ConfigFile::read()?;
    let client = Client::connect(host).await?;
    let given = (
        arguments.username.clone().unwrap_or_default(),
        password.unwrap_or_default(),
    );
    if given.0.is_empty() && given.1.is_empty() {
        let stored = config.get(&server)?;
        if !stored.username.is_empty() || !stored.identity_token.is_empty() {
            let by = if stored.username.is_empty() {
                String::new()
            } else {
                format!(" [Username: {}]", stored.username)
            };
            listing::write(&format!("Authenticating with existing credentials...{by}\n"));
            match try_login(&client, stored, &server).await {
                Ok(status) => {
                    listing::write(&format!("\n{}\n", status.0));
                    return Ok(0);
                }
                Err(failure) => eprintln!("Login did not succeed, error: {}", failure.message),
            }
        }
    }
    let (username, password) = ask(given, &server)?;
    let auth = RegistryAuth {
        username,
        password,
        ..RegistryAuth::default()
    };
    let (status, mut auth) = try_login(&client, auth, &server).await?;
    if !auth.identity_token.is_empty() {
        auth.password.clear();
    }
    if config.is_plain(&server) && !auth.password.is_empty() {
        eprintln!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning. \
             See\nhttps://docs.docker.com/go/credential-store/\n",
            config.path().display()
        );
    }
    config
        .store(&server, &auth)
        .map_err(|failure| Failure::new(format!("Error saving credentials: {}", failure.message)))?;
    listing::write(&format!("{status}\n"));
    Ok(0)
}

/// The status, and the credentials as they are to be kept.
async fn try_login(
    client: &Client,
    auth: RegistryAuth,
    server: &str,
) -> Result<(String, RegistryAuth), Failure> {
    let auth = RegistryAuth {
        server_address: server.to_owned(),
        ..auth
    };
    let request = RegistryLoginRequest {
        auth: Some(auth.clone()),
    };
    let answer = client.engine().registry_login(request).await?.into_inner();
    let identity_token = answer.identity_token;
    Ok((
        answer.status,
        RegistryAuth {
            identity_token,
            ..auth
        },
    ))
}

/// `--password` or what comes on stdin.
fn given_password(arguments: &LoginArguments) -> Result<Option<String>, Failure> {
    if let Some(password) = &arguments.password {
        if arguments.password_stdin {
            return Err(Failure::new(
                "--password and --password-stdin are mutually exclusive",
            ));
        }
        eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        return Ok(Some(password.clone()));
    }
    if !arguments.password_stdin {
        return Ok(None);
    }
    if arguments.username.as_deref().unwrap_or_default().is_empty() {
        return Err(Failure::new("Must provide --username with --password-stdin"));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

/// Asks for what is missing.
fn ask((username, password): (String, String), server: &str) -> Result<(String, String), Failure> {
    if !username.is_empty() && !password.is_empty() {
        return Ok((username, password));
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "Error: Cannot perform an interactive login from a non TTY device",
        ));
    }
    let username = if username.is_empty() {
        if server == credentials::HUB {
            listing::write(&format!("{HUB_WORDS}\n"));
        }
        prompt("Username: ")?
    } else {
        username
    };
    if username.trim().is_empty() {
        return Err(Failure::new("username is empty"));
    }
    let password = if password.is_empty() {
        let hidden = Hidden::enter()?;
        let typed = prompt("Password: ")?;
        drop(hidden);
        listing::write("\n");
        typed
    } else {
        password
    };
    if password.is_empty() {
        return Err(Failure::new("password is empty"));
    }
    Ok((username.trim().to_owned(), password))
}

fn prompt(words: &str) -> Result<String, Failure> {
    listing::write(words);
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Runs `logout`.
///
/// # Errors
/// The credentials can't be removed.
pub fn logout(arguments: LogoutArguments) -> Outcome {
    let server = server(arguments.server.as_deref());
    let mut servers = vec![server.clone()];
    let shown = if server == credentials::HUB {
        server.clone()
    } else {
        let host = server
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .split('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        // The names under which older clients have kept it.
        servers.extend([host.clone(), format!("http://{host}"), format!("https://{host}")]);
        host
    };
    servers.dedup();
    listing::write(&format!("Removing login credentials for {shown}\n"));
    if let Err(failure) = ConfigFile::read()?.erase(&servers) {
        eprintln!(
            "WARNING: could not erase credentials:\n{shown}: {}",
            failure.message
        );
    }
    Ok(0)
}

/// How `config.json` calls a server.
fn server(given: Option<&str>) -> String {
    match given {
        None | Some("") => credentials::HUB.to_owned(),
        Some(name) => {
            let host = name.trim_start_matches("https://").trim_start_matches("http://");
            let host = host.trim_end_matches('/');
            if credentials::key(host) == credentials::HUB || name == credentials::HUB {
                credentials::HUB.to_owned()
            } else {
                // Docker keeps the host alone.
                host.split('/').next().unwrap_or(host).to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_as_docker_names_them() {
        for (given, name) in [
            (None, credentials::HUB),
            (Some("docker.io"), credentials::HUB),
            (Some("https://index.docker.io/v1/"), credentials::HUB),
            (Some("localhost:5000"), "localhost:5000"),
            (Some("https://reg.example/"), "reg.example"),
        ] {
            assert_eq!(server(given), name);
        }
    }
}
