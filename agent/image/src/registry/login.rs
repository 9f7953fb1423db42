//! `login`: are these credentials good? Gives the identity token that the registry hands out instead of a password, if it does.

use reqwest::{Method, StatusCode};

use super::{
    answer::status_text,
    auth::Credentials,
    client::Registry,
    error::{Error, Result},
    session::{Purpose, Session},
};

/// What a login gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// For the user.
    pub status: String,
    /// To be kept instead of the password; may be empty.
    pub identity_token: String,
}

impl Registry {
    /// Tries credentials at a registry (`host[:port]`; `docker.io` is Docker Hub).
    ///
    /// # Errors
    /// [`Error::Unauthorized`], or nobody answers.
    pub async fn login(&self, domain: &str, credentials: &Credentials) -> Result<LoggedIn> {
        let session = Session::first(&self.shared(), (domain, ""), Purpose::Registry, credentials).await?;
        let authority = session.authority();
        let identity_token = if credentials.identity_token.is_empty() {
            authority
                .identity_token(&session.endpoint.client, session.settings())
                .await?
        } else {
            credentials.identity_token.clone()
        };
        let url = session.url("v2/")?;
        let response = session.send(Method::GET, &url, |request| request).await?;
        match response.status() {
            StatusCode::OK => Ok(LoggedIn {
                status: "Login Succeeded".to_owned(),
                identity_token,
            }),
            status => Err(Error::Unauthorized(format!(
                "login attempt to {url} failed with status: {}",
                status_text(status)
            ))),
        }
    }
}
