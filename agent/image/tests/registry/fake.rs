//! A registry in this process: blobs, manifests, uploads, tags, and a hook before all of it that misbehaves as a test wants. Plain
//! HTTP/1.1 on loopback, a thread a connection.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
};

use pontoon_image::Digest;

/// A request, as it came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// The body ended before its length.
    pub broken: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// What follows `name=` in the query.
    pub fn query(&self, name: &str) -> Option<String> {
        let query = self.path.split_once('?')?.1;
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let found = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value);
        found
            .map(|value| value.replace("%3A", ":").replace("%2F", "/"))
            .next()
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection is closed after so many bytes of the body.
    pub cut: Option<usize>,
    /// The body never ends: it is sent again and again, in chunks.
    pub endless: bool,
    /// The body is sent byte by byte, with a pause after each; and then the connection stays open.
    pub drip: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Reply {
            status,
            body: body.into(),
            ..Reply::default()
        }
    }

    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
        Reply::new(status, body.to_string()).with("Content-Type", "application/json")
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

type Hook = dyn Fn(&Request, usize) -> Option<Reply> + Send + Sync;

/// What the registry has.
#[derive(Default)]
pub struct Content {
    pub blobs: HashMap<Digest, Vec<u8>>,
    /// By `repository:tag` and `repository@digest`: media type and bytes.
    pub manifests: HashMap<String, (String, Vec<u8>)>,
    /// Blobs by repository, for mounts.
    pub repositories: HashMap<String, Vec<Digest>>,
    uploads: HashMap<String, Vec<u8>>,
    /// Every request, in order, without its body.
    pub requests: Vec<Request>,
}

/// The registry.
pub struct Fake {
    pub address: String,
    content: Arc<Mutex<Content>>,
}

impl Fake {
    /// One that behaves.
    pub fn new() -> Self {
        Fake::with(|_, _| None)
    }

    /// One that asks `hook` first; its second argument counts earlier requests of the same method and path.
    pub fn with(hook: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let content = Arc::new(Mutex::new(Content::default()));
        let (shared, hook): (_, Arc<Hook>) = (content.clone(), Arc::new(hook));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, hook) = (shared.clone(), hook.clone());
                std::thread::spawn(move || serve(stream, &shared, &hook));
            }
        });
        Fake { address, content }
    }

    pub fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Requests of a method whose path has a part.
    pub fn requests(&self, method: &str, part: &str) -> Vec<Request> {
        let content = self.content();
        let fits = |r: &&Request| r.method == method && r.path.contains(part);
        content.requests.iter().filter(fits).cloned().collect()
    }

    pub fn put_blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.content().blobs.insert(digest, bytes.to_vec());
        digest
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let entry = (media_type.to_owned(), bytes.to_vec());
        let mut content = self.content();
        content
            .manifests
            .insert(format!("{repository}:{tag}"), entry.clone());
        content.manifests.insert(format!("{repository}@{digest}"), entry);
        digest
    }

    /// `127.0.0.1:port/name`
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

fn serve(stream: TcpStream, content: &Mutex<Content>, hook: &Arc<Hook>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some(request) = read(&mut reader) {
        let before = {
            let mut content = content.lock().unwrap_or_else(|e| e.into_inner());
            let same = |r: &&Request| r.method == request.method && r.path == request.path;
            let before = content.requests.iter().filter(same).count();
            content.requests.push(Request {
                body: Vec::new(),
                ..request.clone()
            });
            before
        };
        let reply = hook(&request, before)
            .unwrap_or_else(|| answer(&request, &mut content.lock().unwrap_or_else(|e| e.into_inner())));
        if request.broken || !write(&mut stream, &request, &reply) {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let mut request = Request {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        ..Request::default()
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        request.headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length: usize = request.header("content-length").parse().unwrap_or(0);
    request.broken =
        reader.take(length as u64).read_to_end(&mut request.body).is_err() || request.body.len() < length;
    Some(request)
}

fn write(stream: &mut TcpStream, request: &Request, reply: &Reply) -> bool {
    let mut head = format!("HTTP/1.1 {} x\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let own_length = reply.headers.iter().any(|(name, _)| name == "Content-Length");
    if reply.endless {
        head += "Transfer-Encoding: chunked\r\n";
    } else if !own_length && reply.status != 204 {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    if stream.write_all((head + "\r\n").as_bytes()).is_err() || request.method == "HEAD" {
        return request.method == "HEAD";
    }
    if reply.endless {
        while write!(stream, "{:x}\r\n", reply.body.len())
            .and_then(|()| stream.write_all(&reply.body))
            .and_then(|()| stream.write_all(b"\r\n"))
            .is_ok()
        {}
        return false;
    }
    if reply.drip {
        for byte in &reply.body {
            if stream.write_all(&[*byte]).is_err() {
                return false;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // Until the other side gives up.
        let _ = stream.read(&mut [0]);
        return false;
    }
    let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
    stream.write_all(&reply.body[..end]).is_ok() && reply.cut.is_none()
}

/// What a registry that behaves answers.
pub fn answer(request: &Request, content: &mut Content) -> Reply {
    let path = request.path.split('?').next().unwrap_or_default();
    let Some(rest) = path.strip_prefix("/v2/") else {
        return Reply::error(404, "", "");
    };
    if rest.is_empty() {
        return Reply::new(200, "{}");
    }
    if let Some((repository, which)) = rest.split_once("/manifests/") {
        return manifests(request, content, repository, which);
    }
    if let Some((repository, rest)) = rest.split_once("/blobs/uploads/") {
        return uploads(request, content, repository, rest);
    }
    if let Some((_, digest)) = rest.split_once("/blobs/") {
        return blob(request, content, digest);
    }
    if let Some((repository, _)) = rest.split_once("/tags/list") {
        let prefix = format!("{repository}:");
        let tags: Vec<&str> = content
            .manifests
            .keys()
            .filter_map(|key| key.strip_prefix(&prefix))
            .collect();
        return Reply::new(
            200,
            serde_json::json!({ "name": repository, "tags": tags }).to_string(),
        );
    }
    Reply::error(404, "", "")
}

fn manifests(request: &Request, content: &mut Content, repository: &str, which: &str) -> Reply {
    let separator = if which.contains(':') { '@' } else { ':' };
    let key = format!("{repository}{separator}{which}");
    if request.method == "PUT" {
        let digest = Digest::of(&request.body);
        let entry = (request.header("content-type").to_owned(), request.body.clone());
        content.manifests.insert(key, entry.clone());
        content.manifests.insert(format!("{repository}@{digest}"), entry);
        return Reply::new(201, "").with("Docker-Content-Digest", &digest.to_string());
    }
    match content.manifests.get(&key) {
        Some((media_type, bytes)) => Reply::new(200, bytes.clone())
            .with("Content-Type", media_type)
            .with("Docker-Content-Digest", &Digest::of(bytes).to_string()),
        None => Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
    }
}

fn blob(request: &Request, content: &Content, digest: &str) -> Reply {
    let Some(bytes) = digest
        .parse()
        .ok()
        .and_then(|digest: Digest| content.blobs.get(&digest))
    else {
        return Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    };
    let from: Option<usize> = request
        .header("range")
        .strip_prefix("bytes=")
        .and_then(|range| range.trim_end_matches('-').parse().ok());
    match from {
        None => Reply::new(200, bytes.clone()),
        Some(from) if from < bytes.len() => Reply::new(206, &bytes[from..]).with(
            "Content-Range",
            &format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
        ),
        Some(_) => Reply::error(416, "", ""),
    }
}

fn uploads(request: &Request, content: &mut Content, repository: &str, id: &str) -> Reply {
    let located = |id: &str, have: usize| {
        Reply::default()
            .with(
                "Location",
                &format!("/v2/{repository}/blobs/uploads/{id}?_state=x"),
            )
            .with("Range", &format!("0-{}", have.saturating_sub(1)))
    };
    match request.method.as_str() {
        "POST" => {
            if let (Some(digest), Some(from)) = (request.query("mount"), request.query("from")) {
                let digest: Digest = digest.parse().unwrap();
                let has = content
                    .repositories
                    .get(&from)
                    .is_some_and(|blobs| blobs.contains(&digest));
                if has {
                    return Reply::new(201, "");
                }
            }
            let id = format!("u{}", content.uploads.len());
            content.uploads.insert(id.clone(), Vec::new());
            Reply {
                status: 202,
                ..located(&id, 0)
            }
        }
        "GET" => match content.uploads.get(id) {
            Some(have) => Reply {
                status: 204,
                ..located(id, have.len())
            },
            None => Reply::error(404, "BLOB_UPLOAD_UNKNOWN", "unknown"),
        },
        "PATCH" => {
            let have = content.uploads.entry(id.to_owned()).or_default();
            have.extend_from_slice(&request.body);
            Reply {
                status: 202,
                ..located(id, have.len())
            }
        }
        "PUT" => {
            let mut bytes = content.uploads.remove(id).unwrap_or_default();
            bytes.extend_from_slice(&request.body);
            let digest = Digest::of(&bytes);
            if request.query("digest") != Some(digest.to_string()) {
                return Reply::error(
                    400,
                    "DIGEST_INVALID",
                    "provided digest did not match uploaded content",
                );
            }
            content.blobs.insert(digest, bytes);
            content
                .repositories
                .entry(repository.to_owned())
                .or_default()
                .push(digest);
            Reply::new(201, "").with("Docker-Content-Digest", &digest.to_string())
        }
        _ => Reply::error(405, "UNSUPPORTED", ""),
    }
}
