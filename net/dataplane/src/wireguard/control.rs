//! The socket of the configuration protocol, where `wg` and wireguard-control look for it. Netd's thread serves it.

use std::{
    cell::RefCell,
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Instant, SystemTime},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::{AbortHandle, JoinSet, spawn_local},
};
use zeroize::Zeroize;

use super::{
    device::Core,
    uapi::{self, Errno, Request},
};

/// A request of this many bytes has tens of thousands of peers.
const LONGEST: u64 = 16 << 20;

/// A served socket; dropping this closes and removes it.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    task: AbortHandle,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

impl Control {
    /// Serves `core` at `path`, in place of a socket that a killed process left there. The process' umask keeps others out.
    pub(crate) fn serve(path: &Path, core: &Rc<RefCell<Core>>) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{} is served by another process", path.display()),
            ));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let task = spawn_local(accept(listener, Rc::clone(core))).abort_handle();
        Ok(Self {
            path: path.to_owned(),
            task,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

async fn accept(listener: UnixListener, core: Rc<RefCell<Core>>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { clients.spawn_local(serve(stream, Rc::clone(&core))); }
                Err(error) => {
                    tracing::warn!(%error, "accepting a WireGuard client failed");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn serve(stream: UnixStream, core: Rc<RefCell<Core>>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut request = match read(&mut reader).await {
            Ok(Some(request)) => request,
            Ok(None) | Err(_) => return,
        };
        let mut answer = answer(&core, &request);
        request.zeroize();
        let sent = writer.write_all(answer.as_bytes()).await;
        answer.zeroize();
        if sent.is_err() {
            return;
        }
    }
}

/// Reads up to the empty line; nothing at the end, or when it is too long to be meant.
async fn read(reader: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut text = String::new();
    let mut limited = reader.take(LONGEST);
    loop {
        let before = text.len();
        if limited.read_line(&mut text).await? == 0 || !text.ends_with('\n') {
            return Ok(None);
        }
        if text.len() == before + 1 {
            text.pop();
            return Ok(Some(text));
        }
    }
}

fn answer(core: &RefCell<Core>, request: &str) -> String {
    match uapi::parse(request) {
        Ok(Request::Get) => core.borrow().describe(SystemTime::now()),
        Ok(Request::Set(change)) => uapi::answer(core.borrow_mut().change(change, Instant::now())),
        Err(errno) => uapi::answer(Err::<(), Errno>(errno)),
    }
}
