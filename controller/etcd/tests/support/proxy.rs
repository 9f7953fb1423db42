//! A TCP proxy in front of etcd that can cut: everything, or only the answers, so that requests are done and nobody hears.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
    stop: CancellationToken,
}

struct State {
    /// New connections are refused.
    closed: AtomicBool,
    /// Answers are swallowed.
    mute: AtomicBool,
    cut: std::sync::Mutex<CancellationToken>,
}

impl Proxy {
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            closed: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            cut: std::sync::Mutex::new(CancellationToken::new()),
        });
        let stop = CancellationToken::new();
        let (shared, ended) = (state.clone(), stop.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = ended.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((client, _)) = accepted else { continue };
                if !shared.closed.load(Ordering::SeqCst) {
                    tokio::spawn(carry(client, to, shared.clone(), ended.clone()));
                }
            }
        });
        Self { port, state, stop }
    }

    /// Cuts all connections, and lets none through until [`Proxy::open`].
    pub fn close(&self) {
        self.state.closed.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Lets everything through again.
    pub fn open(&self) {
        self.state.closed.store(false, Ordering::SeqCst);
        self.state.mute.store(false, Ordering::SeqCst);
    }

    /// Cuts all connections once.
    pub fn cut(&self) {
        let mut cut = self.state.cut.lock().unwrap();
        std::mem::take(&mut *cut).cancel();
    }

    /// Requests arrive, answers don't.
    pub fn mute(&self) {
        self.state.mute.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut();
    }
}

async fn carry(client: TcpStream, to: u16, state: Arc<State>, stop: CancellationToken) {
    let cut = state.cut.lock().unwrap().clone();
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let silent = AtomicBool::new(false);
    tokio::select! {
        () = cut.cancelled() => {}
        () = stop.cancelled() => {}
        () = copy(from_client, to_server, &silent) => {}
        () = copy(from_server, to_client, &state.mute) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallow: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        // A stream that has lost bytes is of no use any more; its user cuts it.
        if !swallow.load(Ordering::SeqCst) && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
