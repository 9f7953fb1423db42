//! Pushes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pontoon_image::registry::{Credentials, Error, Pushed};
use pontoon_image::{ImportOptions, Reference};
use serde_json::{Value, json};

use crate::bed::{Bed, MANIFEST, chain, layer, noise, serve, serve_as, serve_small, user};
use crate::fake::{Fake, Reply};

pub async fn push(bed: &Bed, reference: &Reference) -> Result<Pushed, Error> {
    push_as(bed, reference, Credentials::default()).await
}

async fn push_as(bed: &Bed, reference: &Reference, credentials: Credentials) -> Result<Pushed, Error> {
    bed.registry
        .push(&bed.store, reference, (None, &credentials), &bed.progress())
        .await
}

fn import(bed: &Bed, name: &str, size: usize) -> Reference {
    let archive = layer(&[("data", &noise(size, 11))]);
    let options = ImportOptions {
        reference: Some(name.to_owned()),
        ..ImportOptions::default()
    };
    bed.store.import(&archive[..], &options).unwrap();
    Reference::parse(name).unwrap()
}

#[tokio::test]
async fn what_was_pulled_is_pushed_byte_by_byte() {
    let (bed, from, to) = (Bed::new(), Fake::new(), Fake::new());
    let layers = [layer(&[("a", b"1")]), layer(&[("b", &noise(3 << 20, 1))])];
    let served = serve(&from, "app", "1", &layers);
    bed.pull(&from.name("app:1")).await.unwrap();
    let target = Reference::parse(&to.name("deep/copy:2")).unwrap();
    bed.store.tag(&from.name("app:1"), &target.to_string()).unwrap();
    let pushed = push(&bed, &target).await.unwrap();
    assert_eq!((pushed.tag.as_str(), pushed.digest), ("2", served.digest));
    {
        let (ours, theirs) = (to.content(), from.content());
        assert_eq!(ours.manifests["deep/copy:2"], theirs.manifests["app:1"]);
        assert_eq!(ours.blobs, theirs.blobs);
    }
    // The small one went in one request, the large one as a stream.
    assert_eq!(to.requests("PATCH", "").len(), 1);
    let image = bed.store.get(&target.to_string()).unwrap();
    assert!(
        image
            .repo_digests
            .contains(&to.name(&format!("deep/copy@{}", served.digest)))
    );
    // And a fresh store pulls the same from there.
    let other = Bed::new();
    assert_eq!(
        other.pull(&to.name("deep/copy:2")).await.unwrap().id,
        served.config
    );
}

#[tokio::test]
async fn what_was_made_here_is_compressed_once() {
    let (bed, one, two) = (Bed::new(), Fake::new(), Fake::new());
    let first = import(&bed, &one.name("app:1"), 100_000);
    let pushed = push(&bed, &first).await.unwrap();
    let manifest: Value = serde_json::from_slice(&one.content().manifests["app:1"].1).unwrap();
    assert_eq!(manifest["mediaType"], MANIFEST);
    assert_eq!(
        manifest["layers"][0]["mediaType"],
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
    let diff_id = bed.store.get(&first.to_string()).unwrap().config.rootfs.diff_ids[0].short();
    assert_eq!(bed.words(&diff_id), ["Preparing", "Pushing", "Pushed"]);
    // Again: it is known what the layer became.
    let uploads = one.requests("POST", "").len();
    assert_eq!(push(&bed, &first).await.unwrap(), pushed);
    assert_eq!(one.requests("POST", "").len(), uploads);
    assert_eq!(bed.words(&diff_id).last().unwrap(), "Layer already exists");
    // Elsewhere, from a store that knows nothing of it: the same bytes.
    let other = Bed::new();
    let second = import(&other, &two.name("app:1"), 100_000);
    push(&other, &second).await.unwrap();
    let blobs = |fake: &Fake| -> Vec<_> {
        let manifest: Value = serde_json::from_slice(&fake.content().manifests["app:1"].1).unwrap();
        manifest["layers"].as_array().unwrap().clone()
    };
    assert_eq!(blobs(&one), blobs(&two));
}

#[tokio::test]
async fn blobs_are_taken_from_a_neighbour() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let first = import(&bed, &fake.name("one:1"), 10_000);
    push(&bed, &first).await.unwrap();
    let second = Reference::parse(&fake.name("two:1")).unwrap();
    bed.store.tag(&first.to_string(), &second.to_string()).unwrap();
    // A registry keeps blobs by repository.
    let digest = *fake.content().repositories["one"].first().unwrap();
    let held = fake.content().blobs.remove(&digest).unwrap();
    push(&bed, &second).await.unwrap();
    fake.content().blobs.insert(digest, held);
    let mounts = fake.requests("POST", "mount=");
    assert_eq!(mounts.len(), 1);
    assert_eq!(mounts[0].query("from").as_deref(), Some("one"));
    let diff_id = bed.store.get(&first.to_string()).unwrap().config.rootfs.diff_ids[0].short();
    assert_eq!(bed.words(&diff_id).last().unwrap(), "Mounted from one");
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_it_stopped() {
    let broken = Arc::new(AtomicBool::new(true));
    let once = broken.clone();
    let fake = Fake::with(move |request, _| {
        let hit = request.method == "PATCH" && once.swap(false, Ordering::SeqCst);
        hit.then(|| Reply::error(503, "UNAVAILABLE", "later"))
    });
    let bed = Bed::new();
    let reference = import(&bed, &fake.name("app:1"), 3 << 20);
    push(&bed, &reference).await.unwrap();
    assert_eq!(fake.requests("PATCH", "").len(), 2);
    let other = Bed::new();
    other.pull(&fake.name("app:1")).await.unwrap();
}

#[tokio::test]
async fn faults_of_pushes() {
    let cases: [(u16, &str, &'static str, usize); 4] = [
        (403, "POST", "denied: no", 1),
        (401, "POST", "no basic auth credentials", 1),
        (500, "POST", "500 Internal Server Error", 3),
        (400, "PUT", "400 Bad Request", 1),
    ];
    for (status, method, words, tries) in cases {
        let method: &'static str = if method == "POST" { "POST" } else { "PUT" };
        let fake = Fake::with(move |request, _| {
            (request.method == method)
                .then(|| Reply::error(status, if status == 403 { "DENIED" } else { "X" }, "no"))
        });
        let bed = Bed::new();
        let reference = import(&bed, &fake.name("app:1"), 1000);
        let error = push(&bed, &reference).await.unwrap_err();
        assert!(chain(&error).contains(words), "{status}: {}", chain(&error));
        let asked = fake.requests(method, "/blobs/uploads/").len();
        assert!(asked <= tries * 3 && asked >= 1, "{status}: {asked}");
        assert!(
            bed.store
                .get(&reference.to_string())
                .unwrap()
                .repo_digests
                .is_empty()
        );
    }
    let bed = Bed::new();
    let missing = Reference::parse("127.0.0.1:1/none:1").unwrap();
    let error = push(&bed, &missing).await.unwrap_err().to_string();
    assert!(
        error.starts_with("An image does not exist locally with the tag: 127.0.0.1:1/none"),
        "{error}"
    );
}

#[tokio::test]
async fn a_registry_that_stores_something_else() {
    let fake = Fake::with(|request, _| {
        (request.method == "PUT" && request.path.contains("/manifests/")).then(|| {
            Reply::new(201, "").with(
                "Docker-Content-Digest",
                &pontoon_image::Digest::of(b"x").to_string(),
            )
        })
    });
    let bed = Bed::new();
    let reference = import(&bed, &fake.name("app:1"), 1000);
    let error = push(&bed, &reference).await.unwrap_err().to_string();
    assert!(error.contains("the registry stored sha256:"), "{error}");
}

#[tokio::test]
async fn credentials_reach_pushes() {
    let bed = Bed::new();
    use base64::Engine as _;
    let right = format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode("me:secret")
    );
    let fake = Fake::with(move |request, _| {
        (request.header("authorization") != right)
            .then(|| Reply::error(401, "UNAUTHORIZED", "x").with("WWW-Authenticate", "Basic realm=\"x\""))
    });
    let reference = import(&bed, &fake.name("app:1"), 2 << 20);
    assert!(push(&bed, &reference).await.is_err());
    push_as(&bed, &reference, user("me", "secret")).await.unwrap();
}

#[tokio::test]
async fn plain_layers_of_others_stay_plain() {
    let (bed, from, to) = (Bed::new(), Fake::new(), Fake::new());
    let content = layer(&[("a", b"1")]);
    let served = serve_as(
        &from,
        ("app", "1"),
        std::slice::from_ref(&content),
        &[(content.clone(), "tar")],
        json!({}),
    );
    bed.pull(&from.name("app:1")).await.unwrap();
    let target = Reference::parse(&to.name("app:1")).unwrap();
    bed.store.tag(&from.name("app:1"), &target.to_string()).unwrap();
    assert_eq!(push(&bed, &target).await.unwrap().digest, served.digest);
    serve_small(&to);
}
