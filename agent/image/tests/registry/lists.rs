//! Lists and documents: tags, search, manifests.

use pontoon_image::Reference;
use pontoon_image::registry::{Credentials, SearchFilters};
use serde_json::json;

use crate::bed::{Bed, INDEX, MANIFEST, serve_small};
use crate::fake::{Fake, Reply};

#[tokio::test]
async fn tags_come_in_pages() {
    let fake = Fake::with(|request, _| {
        let page = |tags: &[&str]| Reply::new(200, json!({ "name": "app", "tags": tags }).to_string());
        match request.path.as_str() {
            "/v2/app/tags/list?n=1000" => {
                Some(page(&["2", "1"]).with("Link", "</v2/app/tags/list?n=1000&last=1>; rel=\"next\""))
            }
            "/v2/app/tags/list?n=1000&last=1" => Some(page(&["latest", "bad tag", "1"])),
            _ => None,
        }
    });
    let bed = Bed::new();
    let repository = Reference::parse(&fake.name("app")).unwrap();
    let tags = bed
        .registry
        .tags(&repository, &Credentials::default())
        .await
        .unwrap();
    assert_eq!(tags, ["1", "2", "latest"]);
    let none = Reference::parse(&fake.name("none")).unwrap();
    assert!(
        bed.registry
            .tags(&none, &Credentials::default())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn lists_end() {
    let page = std::sync::atomic::AtomicUsize::new(0);
    let fake = Fake::with(move |request, _| {
        request.path.contains("/tags/list").then(|| {
            let page = page.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let next = format!("</v2/app/tags/list?n=1000&last={page}>; rel=\"next\"");
            Reply::new(200, json!({ "tags": ["a"] }).to_string()).with("Link", &next)
        })
    });
    let repository = Reference::parse(&fake.name("app")).unwrap();
    let error = Bed::new()
        .registry
        .tags(&repository, &Credentials::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("too many pages"), "{error}");
}

#[tokio::test]
async fn search_by_the_hubs_shape() {
    let fake = Fake::with(|request, _| {
        request.path.starts_with("/v1/search").then(|| {
            assert_eq!(request.query("q").as_deref(), Some("web"));
            let result = |name: &str, stars: i64, official: bool| {
                json!({ "name": name, "description": "a\u{1b}b", "star_count": stars, "is_official": official, "is_automated": false })
            };
            let results = [result("few/web", 2, false), result("web", 900, true), result("more/web", 30, false)];
            Reply::new(200, json!({ "num_results": 3, "query": "web", "results": results }).to_string())
        })
    });
    let bed = Bed::new();
    let term = fake.name("web");
    let search = async |limit: u32, filters: SearchFilters| {
        let found = bed
            .registry
            .search(&term, limit, &filters, &Credentials::default())
            .await;
        found.map(|found| found.into_iter().map(|f| f.name).collect::<Vec<_>>())
    };
    let all = search(0, SearchFilters::default()).await.unwrap();
    assert_eq!(
        all,
        [fake.name("web"), fake.name("more/web"), fake.name("few/web")]
    );
    assert_eq!(
        search(1, SearchFilters::default()).await.unwrap(),
        [fake.name("web")]
    );
    let popular = SearchFilters {
        stars: 10,
        official: Some(false),
        ..SearchFilters::default()
    };
    assert_eq!(search(0, popular).await.unwrap(), [fake.name("more/web")]);
    let error = search(101, SearchFilters::default())
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(error, "limit 101 is outside the range of [1, 100]");
}

#[tokio::test]
async fn search_in_the_catalog() {
    let fake = Fake::with(|request, _| {
        let all = json!({ "repositories": ["team/web", "db", "web"] }).to_string();
        request
            .path
            .starts_with("/v2/_catalog")
            .then(|| Reply::new(200, all))
    });
    let found = Bed::new()
        .registry
        .search(
            &fake.name("web"),
            0,
            &SearchFilters::default(),
            &Credentials::default(),
        )
        .await
        .unwrap();
    let names: Vec<String> = found.into_iter().map(|f| f.name).collect();
    assert_eq!(names, [fake.name("team/web"), fake.name("web")]);
}

#[tokio::test]
async fn manifests_are_shown_as_they_are() {
    let (bed, fake) = (Bed::new(), Fake::new());
    let served = serve_small(&fake);
    let size = serde_json::to_vec_pretty(&served.manifest).unwrap().len();
    let entry = json!({ "mediaType": MANIFEST, "digest": served.digest, "size": size,
        "platform": { "os": "linux", "architecture": "amd64" } });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }).to_string();
    let digest = fake.put_manifest("app", "many", INDEX, index.as_bytes());
    let inspect = async |name: &str, entries: bool| {
        let reference = Reference::parse(&fake.name(name)).unwrap();
        bed.registry
            .inspect(&reference, (entries, false), &Credentials::default())
            .await
    };
    let top = inspect("app:many", false).await.unwrap();
    assert_eq!((top.len(), top[0].bytes.as_slice()), (1, index.as_bytes()));
    let entries = inspect("app:many", true).await.unwrap();
    assert_eq!(entries[0].reference, fake.name(&format!("app@{}", served.digest)));
    assert_eq!(entries[0].platform.as_ref().unwrap().architecture, "amd64");
    let single = inspect("app:1", true).await.unwrap();
    assert_eq!(single[0].platform.as_ref().unwrap().os, "linux");
    assert!(inspect("app:none", false).await.is_err());

    let reference = Reference::parse(&fake.name("app:many")).unwrap();
    let told = bed
        .registry
        .digest(&reference, &Credentials::default())
        .await
        .unwrap();
    assert_eq!(told, digest);
    assert_eq!(fake.requests("HEAD", "/manifests/many").len(), 1);
}
