//! Which addresses stand for a registry, and the HTTP client for each: Docker Hub's mirrors first (for pulls), then the registry by
//! HTTPS, then, where that is allowed, by plain HTTP (moby `registry/service_v2.go`).

use std::{net::IpAddr, sync::Arc};

use reqwest::{Client, Url, redirect};

use super::{
    client::Shared,
    error::{Error, Result},
    settings::host_of,
    tls,
};

/// What `docker.io` is called on the network.
const HUB: &str = "registry-1.docker.io";
/// Hops after which a redirected request is given up, as Go's client does.
const REDIRECTS: usize = 10;

/// One address of a registry.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// `https://host[:port]/`, with a slash at its end; a mirror's may have a path.
    pub(super) base: Url,
    /// A mirror of Docker Hub: it gets none of the user's credentials, and what it lacks the Hub may have.
    pub(super) mirror: bool,
    /// Connections to it, trusted as the settings say.
    pub(super) client: Client,
}

/// The addresses of `domain`, in the order in which they are to be tried.
pub(super) async fn endpoints(shared: &Arc<Shared>, domain: &str, mirrors: bool) -> Result<Vec<Endpoint>> {
    let mut found = Vec::new();
    if domain == "docker.io" && mirrors {
        for mirror in shared.settings.mirrors() {
            let domain = domain_of(mirror);
            let trust = trust(shared, &domain).await;
            found.push(Endpoint {
                base: mirror.clone(),
                mirror: true,
                client: client(shared, &domain, trust).await?,
            });
        }
    }
    let host = if domain == "docker.io" { HUB } else { domain };
    let trust = trust(shared, host).await;
    let schemes: &[&str] = if trust.insecure {
        &["https", "http"]
    } else {
        &["https"]
    };
    let client = client(shared, host, trust).await?;
    for scheme in schemes {
        let base = Url::parse(&format!("{scheme}://{host}/"))
            .map_err(|error| Error::Settings(format!("registry {host}: {error}")))?;
        found.push(Endpoint {
            base,
            mirror: false,
            client: client.clone(),
        });
    }
    Ok(found)
}

/// `host[:port]` of an address.
fn domain_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What the addresses of a registry say about it.
#[derive(Clone, Copy)]
struct Trust {
    /// Its certificate is not checked, and plain HTTP will do.
    insecure: bool,
    /// It is this machine: no proxy is asked, as in Go's client.
    local: bool,
}

async fn trust(shared: &Shared, domain: &str) -> Trust {
    let host = host_of(domain);
    let addresses: Vec<IpAddr> = match host.parse() {
        Ok(address) => vec![address],
        // A name that does not resolve is no error here: a proxy may know it.
        Err(_) => tokio::net::lookup_host((host, 443))
            .await
            .map_or_else(|_| Vec::new(), |found| found.map(|a| a.ip()).collect()),
    };
    Trust {
        insecure: shared.settings.is_insecure(domain, &addresses),
        local: !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback),
    }
}

/// The client of a registry, made once for all requests to it.
async fn client(shared: &Arc<Shared>, domain: &str, trust: Trust) -> Result<Client> {
    if let Some(client) = shared.clients().get(domain) {
        return Ok(client.clone());
    }
    let (dirs, name) = (shared.settings.certs_dirs.clone(), domain.to_owned());
    let tls = tokio::task::spawn_blocking(move || tls::client_config(&dirs, &name, trust.insecure))
        .await
        .map_err(|_| Error::Cancelled)??;
    let patience = shared.settings.patience;
    let builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("pontoon/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .referer(false)
        .connect_timeout(patience.connect)
        .redirect(redirects(trust.insecure));
    let builder = if trust.local { builder.no_proxy() } else { builder };
    let client = builder
        .build()
        .map_err(|error| Error::Settings(format!("HTTP client: {error}")))?;
    shared.clients().insert(domain.to_owned(), client.clone());
    Ok(client)
}

/// Follows redirects, without the credentials where the host changes (the library's doing, and tested), and never from HTTPS to
/// plain HTTP unless the registry is insecure anyway.
fn redirects(insecure: bool) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        let was_secure = attempt.previous().iter().any(|url| url.scheme() == "https");
        if attempt.previous().len() > REDIRECTS {
            attempt.error(format!("stopped after {REDIRECTS} redirects"))
        } else if was_secure && attempt.url().scheme() != "https" && !insecure {
            attempt.error("the registry redirects from HTTPS to plain HTTP")
        } else {
            attempt.follow()
        }
    })
}
