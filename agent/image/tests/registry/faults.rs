//! Registries that lie, break off, dawdle or refuse: a clear error each, and nothing to be seen in the store afterwards.

use pontoon_image::Digest;
use serde_json::json;

use crate::bed::{
    Bed, INDEX, MANIFEST, chain, gzip, layer, names, noise, serve, serve_as, serve_small, settings,
};
use crate::fake::{Fake, Reply};

/// A registry whose answer to requests with `part` in their path is changed.
fn changing(part: &'static str, change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> (Fake, Bed) {
    let content = layer(&[("hello", &noise(5000, 1))]);
    let inner = Fake::new();
    let served = serve(&inner, "app", "1", &[content]);
    let bytes = inner.content().blobs[&served.layers[0]].clone();
    let digest = served.layers[0].to_string();
    let fake = Fake::with(move |request, _| {
        let hit = request.method == "GET" && request.path.contains(&digest) && part == "layer";
        hit.then(|| {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            Reply::new(200, bytes)
        })
    });
    *fake.content() = std::mem::take(&mut *inner.content());
    (fake, Bed::new())
}

#[tokio::test]
async fn a_corrupt_blob() {
    let (fake, bed) = changing("layer", |bytes| bytes[1000] ^= 1);
    bed.refuses(&fake.name("app:1"), &["content of sha256:", "is corrupt"])
        .await;
    assert!(names(&bed.folder.path().join("partial")).is_empty());
}

#[tokio::test]
async fn a_blob_with_too_many_bytes() {
    let (fake, bed) = changing("layer", |bytes| bytes.push(0));
    bed.refuses(&fake.name("app:1"), &["is corrupt", "more than the"])
        .await;
}

#[tokio::test]
async fn a_truncated_blob() {
    let (fake, bed) = changing("layer", |bytes| bytes.truncate(bytes.len() / 2));
    bed.refuses(&fake.name("app:1"), &["is corrupt", "the registry has only"])
        .await;
}

#[tokio::test]
async fn a_connection_that_always_breaks() {
    let content = layer(&[("large", &noise(200_000, 2))]);
    let blob = gzip(&content);
    let (digest, bytes) = (Digest::of(&blob).to_string(), blob.clone());
    let fake = Fake::with(move |request, _| {
        (request.method == "GET" && request.path.contains(&digest)).then(|| {
            let mut reply = Reply::new(200, bytes.clone());
            reply.cut = Some(10_000);
            reply
        })
    });
    serve_as(
        &fake,
        ("app", "1"),
        &[content],
        &[(blob.clone(), "tar+gzip")],
        json!({}),
    );
    let bed = Bed::new();
    bed.refuses(&fake.name("app:1"), &["read", &Digest::of(&blob).to_string()])
        .await;
    assert_eq!(fake.requests("GET", &Digest::of(&blob).to_string()).len(), 3);
}

#[tokio::test]
async fn a_layer_that_is_not_what_the_configuration_says() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let (said, sent) = (layer(&[("a", b"1")]), layer(&[("a", b"2")]));
    serve_as(
        &fake,
        ("app", "1"),
        &[said],
        &[(gzip(&sent), "tar+gzip")],
        json!({}),
    );
    bed.refuses(&fake.name("app:1"), &["is corrupt"]).await;
}

#[tokio::test]
async fn a_truncated_tar_in_an_honest_blob() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let mut content = layer(&[("a", &noise(5000, 4))]);
    content.truncate(2000);
    serve(&fake, "app", "1", &[content]);
    bed.refuses(
        &fake.name("app:1"),
        &["failed to register layer ", "archive is truncated"],
    )
    .await;
}

#[tokio::test]
async fn a_layer_that_leaves_its_root() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let mut tar = layer(&[("xx/xx", b"1")]);
    tar[..5].copy_from_slice(b"../xx");
    let sum: u32 = tar[..512]
        .iter()
        .enumerate()
        .map(|(i, b)| {
            if (148..156).contains(&i) {
                32
            } else {
                u32::from(*b)
            }
        })
        .sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    serve(&fake, "app", "1", &[tar]);
    bed.refuses(
        &fake.name("app:1"),
        &["failed to register layer ", "path with .."],
    )
    .await;
}

#[tokio::test]
async fn another_configuration_than_the_manifest_names() {
    let bed = Bed::new();
    let fake = Fake::new();
    let served = serve_small(&fake);
    let mut bytes = fake.content().blobs[&served.config].clone();
    bytes[0] = b' ';
    fake.content().blobs.insert(served.config, bytes);
    bed.refuses(&fake.name("app:1"), &["is corrupt", "what arrived is"])
        .await;
}

#[tokio::test]
async fn manifests_that_are_not_what_they_are_named() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let served = serve_small(&fake);
    let text = serde_json::to_vec(&served.manifest).unwrap();
    let key = format!("app@{}", served.digest);
    fake.content()
        .manifests
        .insert(key, (MANIFEST.to_owned(), text.clone()));
    bed.refuses(&fake.name(&format!("app@{}", served.digest)), &["is corrupt"])
        .await;
    // The registry's own header must fit, too.
    let lying = Fake::with(move |request, _| {
        request.path.contains("/manifests/").then(|| {
            Reply::new(200, text.clone())
                .with("Content-Type", MANIFEST)
                .with("Docker-Content-Digest", &Digest::of(b"other").to_string())
        })
    });
    bed.refuses(&lying.name("app:1"), &["is corrupt"]).await;
}

#[tokio::test]
async fn kinds_that_are_no_images() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let served = serve_small(&fake);
    let put = |tag: &str, media_type: &str, manifest: &serde_json::Value| {
        fake.put_manifest("app", tag, media_type, manifest.to_string().as_bytes());
    };
    let schema1 = json!({ "schemaVersion": 1, "name": "app", "fsLayers": [] });
    put(
        "old",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        &schema1,
    );
    bed.refuses(
        &fake.name("app:old"),
        &["app:old", "schema version 1 is not supported"],
    )
    .await;

    put("text", "text/html", &served.manifest);
    bed.refuses(&fake.name("app:text"), &["text/html"]).await;

    let mut chart = served.manifest.clone();
    chart["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    put("chart", MANIFEST, &chart);
    bed.refuses(&fake.name("app:chart"), &["it is no image", "helm"])
        .await;

    let mut layer = served.manifest.clone();
    layer["layers"][0]["mediaType"] = json!("application/x-7z-compressed");
    put("layer", MANIFEST, &layer);
    bed.refuses(&fake.name("app:layer"), &["unsupported media type", "x-7z"])
        .await;

    let mut both = served.manifest.clone();
    both["manifests"] = json!([]);
    put("both", MANIFEST, &both);
    bed.refuses(&fake.name("app:both"), &["at once"]).await;

    put("confused", INDEX, &served.manifest);
    bed.refuses(&fake.name("app:confused"), &["served as"]).await;
    fake.put_manifest("app", "html", MANIFEST, b"<html>");
    bed.refuses(&fake.name("app:html"), &["not valid JSON"]).await;
}

#[tokio::test]
async fn an_endless_manifest() {
    let fake = Fake::with(|request, _| {
        request.path.contains("/manifests/").then(|| Reply {
            endless: true,
            ..Reply::new(200, vec![b' '; 65536])
        })
    });
    Bed::new()
        .refuses(&fake.name("app:1"), &["has more than", "bytes"])
        .await;
}

#[tokio::test]
async fn indexes_without_end() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let served = serve_small(&fake);
    let mut entry = json!({ "mediaType": MANIFEST, "digest": served.digest, "size": serde_json::to_vec_pretty(&served.manifest).unwrap().len() });
    for depth in 0..8 {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }).to_string();
        let digest = fake.put_manifest("app", &format!("d{depth}"), INDEX, index.as_bytes());
        entry = json!({ "mediaType": INDEX, "digest": digest, "size": index.len() });
    }
    bed.refuses(&fake.name("app:d7"), &["nest deeper than"]).await;
    bed.pull(&fake.name("app:d2")).await.unwrap();
}

#[tokio::test]
async fn a_manifest_larger_than_the_index_says() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let served = serve_small(&fake);
    let entry = json!({ "mediaType": MANIFEST, "digest": served.digest, "size": 7, "platform": { "os": "linux", "architecture": "amd64" } });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    fake.put_manifest("app", "1", INDEX, index.to_string().as_bytes());
    bed.refuses(&fake.name("app:1"), &["bytes, not 7"]).await;
}

#[tokio::test]
async fn refusals_are_told_once_and_in_dockers_words() {
    for (reply, words) in [
        (
            Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            vec![
                "manifest for ",
                "app:1 not found: manifest unknown: manifest unknown",
            ],
        ),
        (
            Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry"),
            vec![
                "repository ",
                "app not found: name unknown: repository name not known",
            ],
        ),
        (
            Reply::error(403, "DENIED", "requested access to the resource is denied"),
            vec![
                "pull access denied for ",
                "app, repository does not exist or may require",
                "denied: requested access",
            ],
        ),
        (
            Reply::error(401, "UNAUTHORIZED", "authentication required"),
            vec!["no basic auth credentials"],
        ),
        (
            Reply::error(429, "TOOMANYREQUESTS", "pull rate limit").with("Retry-After", "3600"),
            vec!["toomanyrequests: pull rate limit; try again in 3600 seconds"],
        ),
        (
            Reply::new(418, "short and stout"),
            vec!["received unexpected HTTP status: 418"],
        ),
    ] {
        let status = reply.status;
        let fake = Fake::with(move |request, _| request.path.contains("/manifests/").then(|| reply.clone()));
        Bed::new().refuses(&fake.name("app:1"), &words).await;
        assert_eq!(
            fake.requests("GET", "/manifests/").len(),
            1,
            "{status} must not be asked again"
        );
    }
    let fake = Fake::with(|request, _| request.path.contains("/manifests/").then(|| Reply::new(500, "")));
    Bed::new()
        .refuses(
            &fake.name("app:1"),
            &["received unexpected HTTP status: 500 Internal Server Error"],
        )
        .await;
    assert_eq!(fake.requests("GET", "/manifests/").len(), 3);
}

#[tokio::test]
async fn refusals_of_blobs() {
    for (status, words) in [
        (404, "the registry does not have it"),
        (403, "access denied"),
        (500, "500 Internal Server Error"),
    ] {
        let inner = Fake::new();
        let served = serve_small(&inner);
        let digest = served.layers[0].to_string();
        let fake = Fake::with(move |request, _| {
            request
                .path
                .contains(&digest)
                .then(|| Reply::error(status, "DENIED", "no"))
        });
        *fake.content() = std::mem::take(&mut *inner.content());
        Bed::new().refuses(&fake.name("app:1"), &[words]).await;
    }
}

#[tokio::test]
async fn a_registry_that_dawdles() {
    let content = layer(&[("a", &noise(100, 5))]);
    let mut blob = gzip(&content);
    blob.resize(400, 0);
    for part in ["/manifests/1".to_owned(), Digest::of(&blob).to_string()] {
        let hit = part.clone();
        let fake = Fake::with(move |request, _| {
            (request.method == "GET" && request.path.contains(&hit)).then(|| Reply {
                drip: true,
                headers: vec![("Content-Length".into(), "400".into())],
                ..Reply::new(200, noise(100, 9))
            })
        });
        let blobs = [(blob.clone(), "tar+gzip")];
        serve_as(
            &fake,
            ("app", "1"),
            std::slice::from_ref(&content),
            &blobs,
            json!({}),
        );
        let bed = Bed::new();
        let error = bed.pull(&fake.name("app:1")).await.unwrap_err();
        assert!(
            chain(&error).contains("no progress for"),
            "{part}: {}",
            chain(&error)
        );
        bed.is_empty();
    }
}

#[tokio::test]
async fn nobody_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let text = Bed::new()
        .refuses(&format!("{address}/app:1"), &["/v2/", "refused"])
        .await;
    assert!(text.starts_with("Get \"http://127.0.0.1:"), "{text}");
}

#[tokio::test]
async fn messages_of_registries_are_harmless() {
    let fake = Fake::with(|request, _| {
        let evil = "\u{1b}]0;owned\u{7}".repeat(1000);
        request
            .path
            .contains("/manifests/")
            .then(|| Reply::error(404, "MANIFEST_UNKNOWN", &evil))
    });
    let text = Bed::new()
        .refuses(&fake.name("app:1"), &["manifest unknown"])
        .await;
    assert!(!text.contains('\u{1b}') && text.len() < 2000, "{text}");
}

#[tokio::test]
async fn one_bad_layer_ends_the_others() {
    let inner = Fake::new();
    let layers = [layer(&[("a", &noise(5000, 1))]), layer(&[("b", &noise(5000, 2))])];
    let served = serve(&inner, "app", "1", &layers);
    let [bad, stuck] = [0, 1].map(|n| served.layers[n].to_string());
    let begun = std::sync::Arc::new(std::sync::Barrier::new(2));
    let bytes = inner.content().blobs[&served.layers[0]].clone();
    let length = inner.content().blobs[&served.layers[1]].len().to_string();
    let fake = Fake::with(move |request, _| {
        if request.method != "GET" || !(request.path.contains(&bad) || request.path.contains(&stuck)) {
            return None;
        }
        // Both are under way before one of them goes wrong.
        begun.wait();
        if request.path.contains(&stuck) {
            return Some(Reply {
                drip: true,
                headers: vec![("Content-Length".into(), length.clone())],
                ..Reply::new(200, "x")
            });
        }
        let mut bytes = bytes.clone();
        bytes[1000] ^= 1;
        Some(Reply::new(200, bytes))
    });
    *fake.content() = std::mem::take(&mut *inner.content());
    let mut patient = settings();
    patient.patience.window = std::time::Duration::from_secs(3600);
    Bed::with(patient)
        .refuses(&fake.name("app:1"), &["is corrupt"])
        .await;
}
