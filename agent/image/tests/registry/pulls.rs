//! Pulls that succeed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use pontoon_image::registry::PullOptions;
use pontoon_image::{Platform, Reference};
use serde_json::json;

use crate::bed::{Bed, INDEX, layer, noise, serve, serve_as, serve_small, settings};
use crate::fake::{Fake, Reply};

#[tokio::test]
async fn an_image_by_tag_and_by_digest() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let served = serve(&fake, "app", "1", &[layer(&[("a", b"1")]), layer(&[("b", b"2")])]);
    let pulled = bed.pull(&fake.name("app:1")).await.unwrap();
    assert_eq!(
        (pulled.id, pulled.digest, pulled.new),
        (served.config, served.digest, true)
    );
    let image = bed.store.get(&fake.name("app:1")).unwrap();
    assert_eq!(image.repo_tags, [fake.name("app:1")]);
    assert_eq!(image.repo_digests, [fake.name(&format!("app@{}", served.digest))]);
    assert_eq!(
        (
            bed.file(&fake.name("app:1"), "a"),
            bed.file(&fake.name("app:1"), "b")
        ),
        ("1".into(), "2".into())
    );
    assert_eq!(
        bed.words(&served.layers[0].short()),
        [
            "Pulling fs layer",
            "Downloading",
            "Verifying Checksum",
            "Download complete",
            "Extracting",
            "Pull complete"
        ]
    );
    assert_eq!(bed.words("1"), ["Pulling from app"]);

    // Again: nothing is fetched but manifest and configuration.
    let blobs = fake.requests("GET", "/blobs/").len();
    assert!(!bed.pull(&fake.name("app:1")).await.unwrap().new);
    assert_eq!(fake.requests("GET", "/blobs/").len(), blobs + 1);

    let bed = Bed::new();
    let by_digest = fake.name(&format!("app:nonsense@{}", served.digest));
    bed.pull(&by_digest).await.unwrap();
    assert!(
        bed.store
            .get(&served.config.to_string())
            .unwrap()
            .repo_tags
            .is_empty()
    );
}

#[tokio::test]
async fn layers_of_all_kinds() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let layers = [
        layer(&[("plain", b"1")]),
        layer(&[("gzip", b"2")]),
        layer(&[("zstd", b"3")]),
        layer(&[("docker", b"4")]),
    ];
    let blobs = [
        (layers[0].clone(), "tar"),
        (crate::bed::gzip(&layers[1]), "tar+gzip"),
        (zstd::encode_all(&layers[2][..], 3).unwrap(), "tar+zstd"),
        (crate::bed::gzip(&layers[3]), "tar+gzip"),
    ];
    serve_as(&fake, ("app", "1"), &layers, &blobs, json!({}));
    bed.pull(&fake.name("app:1")).await.unwrap();
    for (name, text) in [("plain", "1"), ("gzip", "2"), ("zstd", "3"), ("docker", "4")] {
        assert_eq!(bed.file(&fake.name("app:1"), name), text);
    }
}

#[tokio::test]
async fn the_platform_is_chosen_from_an_index() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let image = |architecture: &str, variant: &str| {
        let content = layer(&[("arch", format!("{architecture}{variant}").as_bytes())]);
        let blob = (crate::bed::gzip(&content), "tar+gzip");
        let more = json!({ "architecture": architecture, "variant": variant });
        let served = serve_as(&fake, ("app", architecture), &[content], &[blob], more);
        let size = serde_json::to_vec_pretty(&served.manifest).unwrap().len();
        json!({
            "mediaType": crate::bed::MANIFEST, "digest": served.digest, "size": size,
            "platform": { "os": "linux", "architecture": architecture, "variant": variant },
        })
    };
    let entries = [
        image("s390x", ""),
        image("arm64", "v8"),
        image("arm", "v7"),
        image("amd64", ""),
    ];
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string();
    let digest = fake.put_manifest("app", "1", INDEX, index.as_bytes());
    for (platform, arch) in [
        ("linux/s390x", "s390x"),
        ("linux/arm64", "arm64v8"),
        ("linux/arm", "armv7"),
        ("linux/arm/v8", "armv7"),
        ("linux/amd64", "amd64"),
    ] {
        let bed = Bed::new();
        let options = PullOptions {
            platform: Some(Platform::parse(platform).unwrap()),
            ..PullOptions::default()
        };
        let pulled = bed.pull_with(&fake.name("app:1"), options).await.unwrap();
        assert_eq!(bed.file(&pulled.id.to_string(), "arch"), arch, "{platform}");
        // The name's digest is the index's, whatever was chosen from it.
        assert_eq!(pulled.digest, digest);
    }
    let options = PullOptions {
        platform: Some(Platform::parse("linux/ppc64le").unwrap()),
        ..PullOptions::default()
    };
    let error = bed.pull_with(&fake.name("app:1"), options).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("no matching manifest for linux/ppc64le in the manifest list entries"),
        "{error}"
    );
    bed.is_empty();
}

#[tokio::test]
async fn a_single_image_must_be_for_the_platform_that_was_asked_for() {
    let (bed, fake) = (Bed::new(), Fake::new());
    serve_small(&fake);
    let options = PullOptions {
        platform: Some(Platform::parse("linux/arm64").unwrap()),
        ..PullOptions::default()
    };
    let error = bed.pull_with(&fake.name("app:1"), options).await.unwrap_err();
    assert!(
        error.to_string().ends_with(
            "was found but its platform (linux/amd64) does not match the specified platform (linux/arm64)"
        ),
        "{error}"
    );
    bed.is_empty();
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let data = noise(200_000, 7);
    let content = layer(&[("large", &data)]);
    for ranges in [true, false] {
        let cut = Arc::new(AtomicBool::new(true));
        let once = cut.clone();
        let blob = crate::bed::gzip(&content);
        let bytes = blob.clone();
        let fake = Fake::with(move |request, _| {
            let is_layer = request
                .path
                .contains(&pontoon_image::Digest::of(&bytes).to_string());
            if request.method != "GET" || !is_layer {
                return None;
            }
            if once.swap(false, Ordering::SeqCst) {
                let mut reply = Reply::new(200, bytes.clone());
                reply.cut = Some(70_000);
                return Some(reply);
            }
            // A registry that does not know ranges sends everything.
            (!ranges).then(|| Reply::new(200, bytes.clone()))
        });
        serve_as(
            &fake,
            ("large", "1"),
            std::slice::from_ref(&content),
            &[(blob.clone(), "tar+gzip")],
            json!({}),
        );
        let bed = Bed::new();
        let pulled = bed.pull(&fake.name("large:1")).await.unwrap();
        assert!(pulled.new);
        let asked = fake.requests("GET", &pontoon_image::Digest::of(&blob).to_string());
        assert_eq!(asked.len(), 2);
        let range = asked[1].header("range");
        let from: usize = range
            .trim_start_matches("bytes=")
            .trim_end_matches('-')
            .parse()
            .unwrap();
        assert!(from > 0 && from <= 70_000, "{range}");
    }
}

#[tokio::test]
async fn a_pull_that_was_given_up_is_taken_up_again() {
    let data = noise(300_000, 3);
    let content = layer(&[("large", &data)]);
    let blob = crate::bed::gzip(&content);
    let digest = pontoon_image::Digest::of(&blob);
    let stuck = Arc::new(AtomicBool::new(true));
    let (hold, bytes) = (stuck.clone(), blob.clone());
    let fake = Fake::with(move |request, _| {
        let is_layer = request.method == "GET" && request.path.contains(&digest.to_string());
        (is_layer && hold.load(Ordering::SeqCst)).then(|| Reply {
            // Its first bytes, and then nothing more.
            drip: true,
            headers: vec![("Content-Length".into(), bytes.len().to_string())],
            ..Reply::new(200, &bytes[..1])
        })
    });
    serve_as(&fake, ("app", "1"), &[content], &[(blob, "tar+gzip")], json!({}));
    let mut patient = settings();
    patient.patience.window = std::time::Duration::from_secs(600);
    let bed = Bed::with(patient);
    let name = fake.name("app:1");
    tokio::select! {
        _ = bed.pull(&name) => panic!("it must be stuck"),
        () = async {
            while bed.words(&digest.short()).last().map(String::as_str) != Some("Downloading") {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    assert!(bed.store.get(&name).is_err());
    stuck.store(false, Ordering::SeqCst);
    bed.pull(&name).await.unwrap();
    let asked = fake.requests("GET", &digest.to_string());
    assert_eq!(asked.last().unwrap().header("range"), "bytes=1-");
}

#[tokio::test]
async fn two_pulls_at_once_fetch_each_blob_once() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let layers: Vec<Vec<u8>> = (0..6).map(|n| layer(&[("f", &noise(50_000, n + 1))])).collect();
    let one = serve(&fake, "one", "1", &layers);
    serve(&fake, "two", "1", &layers);
    let (first, second) = tokio::join!(async { bed.pull(&fake.name("one:1")).await }, async {
        bed.pull(&fake.name("two:1")).await
    });
    assert_eq!(first.unwrap().id, second.unwrap().id);
    for layer in &one.layers {
        assert_eq!(fake.requests("GET", &layer.to_string()).len(), 1, "{layer}");
    }
}

#[tokio::test]
async fn passing_faults_are_waited_out() {
    for (status, header) in [(500, None), (503, None), (429, Some("0")), (429, None)] {
        let fake = Fake::with(move |request, before| {
            let faulty = request.method == "GET" && before < 2 && !request.path.ends_with("/v2/");
            let reply = Reply::error(status, "TOOMANYREQUESTS", "slow down");
            faulty.then(|| match header {
                Some(seconds) => reply.with("Retry-After", seconds),
                None => reply,
            })
        });
        serve_small(&fake);
        let bed = Bed::new();
        bed.pull(&fake.name("app:1")).await.unwrap();
        assert_eq!(fake.requests("GET", "/manifests/").len(), 3, "{status}");
    }
}

#[tokio::test]
async fn three_layers_are_fetched_at_once() {
    let inner = Fake::new();
    let layers: Vec<Vec<u8>> = (0..7).map(|n| layer(&[("f", &noise(1000, n + 1))])).collect();
    let served = serve(&inner, "app", "1", &layers);
    let digests: Vec<String> = served.layers.iter().map(ToString::to_string).collect();
    // How many are asked for at this moment, and how many at most.
    let asked = Arc::new((Mutex::new((0, 0)), Condvar::new()));
    let counts = asked.clone();
    let fake = Fake::with(move |request, _| {
        if digests.iter().any(|digest| request.path.contains(digest)) {
            let mut now = counts.0.lock().unwrap();
            now.0 += 1;
            now.1 = now.1.max(now.0);
            counts.1.notify_all();
            // Nobody is answered before three have asked.
            let patience = std::time::Duration::from_secs(30);
            let waited = counts.1.wait_timeout_while(now, patience, |now| now.1 < 3);
            waited.unwrap().0.0 -= 1;
        }
        None
    });
    *fake.content() = std::mem::take(&mut *inner.content());
    let mut patient = settings();
    patient.patience.window = std::time::Duration::from_secs(600);
    Bed::with(patient).pull(&fake.name("app:1")).await.unwrap();
    assert_eq!(asked.0.lock().unwrap().1, 3);
}

#[tokio::test]
async fn a_registry_that_asks_for_a_pause_gets_it() {
    let fake = Fake::with(|request, before| {
        let asks = request.path.contains("/blobs/") && before == 0;
        asks.then(|| Reply::error(429, "TOOMANYREQUESTS", "slow down").with("Retry-After", "1"))
    });
    let served = serve_small(&fake);
    let begun = std::time::Instant::now();
    let bed = Bed::new();
    bed.pull(&fake.name("app:1")).await.unwrap();
    // Configuration and layer, one after the other; our own pauses are of milliseconds.
    assert!(begun.elapsed() >= std::time::Duration::from_secs(2));
    assert_eq!(fake.requests("GET", &served.layers[0].to_string()).len(), 2);
}

#[tokio::test]
async fn mirrors_come_first_and_get_no_credentials() {
    let broken =
        Fake::with(|request, _| (!request.path.ends_with("/v2/")).then(|| Reply::error(404, "", "")));
    let mirror = Fake::new();
    serve(&mirror, "library/app", "1", &[layer(&[("m", b"irror")])]);
    let mut settings = settings();
    for fake in [&broken, &mirror] {
        settings.add_mirror(&format!("http://{}", fake.address)).unwrap();
    }
    let bed = Bed::with(settings);
    let options = PullOptions {
        credentials: crate::bed::user("me", "secret"),
        ..PullOptions::default()
    };
    bed.pull_with("app:1", options).await.unwrap();
    assert_eq!(bed.store.get("app:1").unwrap().repo_tags, ["app:1"]);
    assert_eq!(bed.file("app:1", "m"), "irror");
    assert!(!broken.requests("GET", "/manifests/").is_empty());
    for request in mirror
        .requests("GET", "")
        .iter()
        .chain(&broken.requests("GET", ""))
    {
        assert_eq!(request.header("authorization"), "");
    }
}

#[tokio::test]
async fn an_image_takes_the_manifest_that_it_comes_with() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let content = layer(&[("a", b"1")]);
    let first = serve(&fake, "app", "gzip", std::slice::from_ref(&content));
    let plain = (content.clone(), "tar");
    let second = serve_as(&fake, ("app", "plain"), &[content], &[plain], json!({}));
    assert_eq!(first.config, second.config);
    bed.pull(&fake.name("app:gzip")).await.unwrap();
    bed.pull(&fake.name("app:plain")).await.unwrap();
    let image = bed.store.get(&fake.name("app:plain")).unwrap();
    assert_eq!(image.manifest, second.digest);
    let target = Reference::parse(&fake.name("copy:1")).unwrap();
    bed.store
        .tag(&fake.name("app:plain"), &target.to_string())
        .unwrap();
    let pushed = crate::pushes::push(&bed, &target).await.unwrap();
    assert_eq!(pushed.digest, second.digest);
}
