//! Credentials, tokens and redirects: who is told what.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use pontoon_image::registry::{Credentials, PullOptions};

use crate::bed::{Bed, chain, serve_small, user};
use crate::fake::{Fake, Reply};

fn basic(pair: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

fn options(credentials: Credentials) -> PullOptions {
    PullOptions {
        credentials,
        ..PullOptions::default()
    }
}

/// A registry that wants basic credentials `me:secret`.
fn guarded() -> Fake {
    let right = basic("me:secret");
    let fake = Fake::with(move |request, _| {
        (request.header("authorization") != right).then(|| {
            Reply::error(401, "UNAUTHORIZED", "authentication required")
                .with("WWW-Authenticate", "Basic realm=\"x\"")
        })
    });
    serve_small(&fake);
    fake
}

/// A registry that wants tokens, and the server that gives them. `check` says whether a request for a token is good; each token
/// serves once if `once`.
fn tokens(once: bool, check: impl Fn(&crate::fake::Request) -> bool + Send + Sync + 'static) -> (Fake, Fake) {
    let given = Arc::new(AtomicUsize::new(0));
    let used = Arc::new(AtomicUsize::new(0));
    let counter = given.clone();
    let server = Fake::with(move |request, _| {
        Some(if check(request) {
            let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
            Reply::new(
                200,
                serde_json::json!({ "token": format!("t{number}"), "expires_in": 300, "refresh_token": "refresh" }).to_string(),
            )
        } else {
            Reply::new(401, r#"{"details":"incorrect username or password"}"#)
        })
    });
    let realm = format!("http://{}/token", server.address);
    let fake = Fake::with(move |request, _| {
        let number = given.load(Ordering::SeqCst);
        let current = number > 0 && request.header("authorization") == format!("Bearer t{number}");
        let fresh = !once || request.path == "/v2/" || used.swap(number, Ordering::SeqCst) != number;
        (!(current && fresh)).then(|| {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:app:pull\"");
            Reply::error(401, "UNAUTHORIZED", "authentication required").with("WWW-Authenticate", &challenge)
        })
    });
    serve_small(&fake);
    (fake, server)
}

#[tokio::test]
async fn basic_credentials() {
    let (bed, fake) = (Bed::new(), guarded());
    let error = bed.pull(&fake.name("app:1")).await.unwrap_err().to_string();
    assert!(
        error.contains("no basic auth credentials") && error.contains("pontoon login 127.0.0.1:"),
        "{error}"
    );
    let wrong = bed
        .pull_with(&fake.name("app:1"), options(user("me", "guess")))
        .await
        .unwrap_err();
    assert!(wrong.to_string().contains("pull access denied"), "{wrong}");
    assert!(!format!("{wrong:?}").contains("guess"));
    bed.is_empty();
    bed.pull_with(&fake.name("app:1"), options(user("me", "secret")))
        .await
        .unwrap();
}

#[tokio::test]
async fn login_tells_good_from_bad() {
    let (bed, fake) = (Bed::new(), guarded());
    let good = bed
        .registry
        .login(&fake.address, &user("me", "secret"))
        .await
        .unwrap();
    assert_eq!(
        (good.status.as_str(), good.identity_token.as_str()),
        ("Login Succeeded", "")
    );
    let bad = bed
        .registry
        .login(&fake.address, &user("me", "guess"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        bad.contains("login attempt to http://") && bad.ends_with("failed with status: 401 Unauthorized"),
        "{bad}"
    );

    let right = basic("me:secret");
    let (fake, server) = tokens(false, move |request| request.header("authorization") == right);
    let good = bed
        .registry
        .login(&fake.address, &user("me", "secret"))
        .await
        .unwrap();
    assert_eq!(good.identity_token, "refresh");
    assert!(server.requests("GET", "offline_token=true").len() == 1);
    let bad = bed
        .registry
        .login(&fake.address, &user("me", "guess"))
        .await
        .unwrap_err()
        .to_string();
    assert!(bad.contains("incorrect username or password"), "{bad}");
}

#[tokio::test]
async fn a_token_for_a_password() {
    let right = basic("me:secret");
    let (fake, server) = tokens(false, move |request| request.header("authorization") == right);
    let bed = Bed::new();
    bed.pull_with(&fake.name("app:1"), options(user("me", "secret")))
        .await
        .unwrap();
    let asked = server.requests("GET", "/token");
    assert_eq!(asked.len(), 1, "one token serves all layers");
    assert_eq!(asked[0].query("service").as_deref(), Some("reg"));
    assert_eq!(asked[0].query("scope").as_deref(), Some("repository:app:pull"));
    assert_eq!(asked[0].query("account").as_deref(), Some("me"));
    // The password went to the token server alone.
    assert!(
        fake.requests("GET", "")
            .iter()
            .all(|r| !r.header("authorization").starts_with("Basic"))
    );

    let bed = Bed::new();
    let error = bed
        .pull_with(&fake.name("app:1"), options(user("me", "guess")))
        .await
        .unwrap_err();
    assert!(
        chain(&error).contains("incorrect username or password"),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn a_token_for_an_identity_token() {
    let (fake, server) = tokens(false, |request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        request.method == "POST"
            && body.contains("grant_type=refresh_token")
            && body.contains("refresh_token=idt%2B")
            && body.contains("service=reg")
            && body.contains("scope=repository%3Aapp%3Apull")
    });
    let credentials = Credentials {
        identity_token: "idt+".to_owned(),
        ..Credentials::default()
    };
    Bed::new()
        .pull_with(&fake.name("app:1"), options(credentials))
        .await
        .unwrap();
    assert_eq!(server.requests("POST", "/token").len(), 1);
}

#[tokio::test]
async fn a_token_that_has_run_out_is_renewed() {
    let (fake, server) = tokens(true, |_| true);
    Bed::new().pull(&fake.name("app:1")).await.unwrap();
    assert!(server.requests("GET", "/token").len() >= 3);
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let storage = Fake::new();
    let served = serve_small(&storage);
    let (right, address) = (basic("me:secret"), storage.address.clone());
    let fake = Fake::with(move |request, _| {
        if request.header("authorization") != right {
            return Some(Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""));
        }
        let to = format!("http://{address}{}", request.path);
        request
            .path
            .contains("/blobs/")
            .then(|| Reply::new(307, "").with("Location", &to))
    });
    serve_small(&fake);
    fake.content().blobs.clear();
    let bed = Bed::new();
    bed.pull_with(&fake.name("app:1"), options(user("me", "secret")))
        .await
        .unwrap();
    let fetched = storage.requests("GET", &served.layers[0].to_string());
    assert_eq!(fetched.len(), 1);
    assert!(
        storage
            .requests("GET", "")
            .iter()
            .all(|r| r.header("authorization").is_empty())
    );
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let fake = Fake::with(|request, _| {
        let to = request.path.clone();
        request
            .path
            .contains("/manifests/")
            .then(|| Reply::new(307, "").with("Location", &to))
    });
    Bed::new()
        .refuses(&fake.name("app:1"), &["stopped after 10 redirects"])
        .await;
}
