//! The user-space proxy of published ports, for what the kernel's translation does not reach: IPv6 clients of a container
//! without IPv6, connections of this host to `[::1]`, and connections in a moment in which someone has flushed our
//! tables. One thread in the daemon's namespace serves all ports. What it carries ends with the daemon; what the kernel
//! translates, which is nearly all, does not.
use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    rc::{Rc, Weak},
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::{
    net,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{JoinHandle, JoinSet, LocalSet, spawn_local},
    time::timeout,
};

use crate::{Error, Protocol, Result, netns};

/// How long the container may take to accept.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a UDP client may be silent; Docker's.
const IDLE: Duration = Duration::from_secs(90);
/// Clients of one UDP port.
const CLIENTS: usize = 1024;
/// A pause after an unexpected socket error, against spinning.
const PAUSE: Duration = Duration::from_millis(100);
const LARGEST_DATAGRAM: usize = 65_535;

/// A published port.
pub type Key = (Protocol, IpAddr, u16);

/// The socket on which a port is published, shared with its reservation.
#[derive(Debug)]
pub enum Shared {
    /// Listening, non-blocking.
    Tcp(TcpListener),
    /// Non-blocking.
    Udp(UdpSocket),
}

enum Order {
    Serve(Key, Shared, SocketAddr),
    /// Whoever waits on the channel's other end is woken when the sender is dropped.
    Stop(Vec<Key>, mpsc::SyncSender<()>),
}

/// The proxy's handle; it ends with it.
pub struct Proxies {
    orders: UnboundedSender<Order>,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxies")
    }
}

impl Proxies {
    /// Starts the thread in `home`.
    ///
    /// # Errors
    /// [`Error::ThreadGone`] if there can't be another thread.
    pub fn start(home: &Arc<OwnedFd>) -> Result<Self> {
        let (orders, queue) = unbounded_channel();
        let home = Arc::clone(home);
        std::thread::Builder::new()
            .name("net-proxy".into())
            .spawn(move || {
                let run = || -> io::Result<()> {
                    netns::enter(&home).map_err(io::Error::other)?;
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()?;
                    LocalSet::new().block_on(&runtime, obey(queue));
                    Ok(())
                };
                if let Err(error) = run() {
                    tracing::error!(%error, "the proxy of published ports does not run");
                }
            })
            .map_err(|_| Error::ThreadGone)?;
        Ok(Self { orders })
    }

    /// Answers on a port, instead of what was done there before.
    pub fn serve(&self, key: Key, socket: Shared, target: SocketAddr) {
        // A proxy that could not be started was logged; ports work without it where the kernel translates.
        let _ = self.orders.send(Order::Serve(key, socket, target));
    }

    /// No longer answers on ports; connections that there are go on to their end. Returns when the proxy has closed its
    /// sockets, which may take a moment: until then the ports are in use.
    pub fn stop(&self, keys: Vec<Key>) {
        let (done, closed) = mpsc::sync_channel(0);
        if !keys.is_empty() && self.orders.send(Order::Stop(keys, done)).is_ok() {
            // Nothing is ever sent: the end of the channel is the answer, of a proxy that has died too.
            let _ = closed.recv();
        }
    }
}

async fn obey(mut queue: UnboundedReceiver<Order>) {
    let mut served: HashMap<Key, JoinHandle<()>> = HashMap::new();
    while let Some(order) = queue.recv().await {
        match order {
            Order::Stop(keys, done) => {
                let tasks: Vec<_> = keys.iter().filter_map(|key| served.remove(key)).collect();
                tasks.iter().for_each(JoinHandle::abort);
                for task in tasks {
                    // Its error is that it was aborted.
                    let _ = task.await;
                }
                drop(done);
            }
            Order::Serve(key, socket, target) => {
                let task = match socket {
                    Shared::Tcp(listener) => net::TcpListener::from_std(listener)
                        .map(|listener| spawn_local(serve_tcp(listener, target))),
                    Shared::Udp(socket) => {
                        net::UdpSocket::from_std(socket).map(|socket| spawn_local(serve_udp(socket, target)))
                    }
                };
                let before = match task {
                    Ok(task) => served.insert(key, task),
                    Err(_) => served.remove(&key),
                };
                if let Some(before) = before {
                    before.abort();
                }
            }
        }
    }
}

async fn serve_tcp(listener: net::TcpListener, target: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                spawn_local(carry(client, target));
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a client of a published port failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn carry(mut client: net::TcpStream, target: SocketAddr) {
    match timeout(CONNECT, net::TcpStream::connect(target)).await {
        Ok(Ok(mut server)) => {
            // Either side's reset ends both; who is gone needs no message.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
        // As if nobody listened: a reset instead of an orderly end.
        _ => drop(rustix::net::sockopt::set_socket_linger(
            &client,
            Some(Duration::ZERO),
        )),
    }
}

async fn serve_udp(socket: net::UdpSocket, target: SocketAddr) {
    let socket = Rc::new(socket);
    let mut clients: HashMap<SocketAddr, Rc<net::UdpSocket>> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, client)) = received else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                if !clients.contains_key(&client) {
                    if clients.len() >= CLIENTS {
                        continue;
                    }
                    let Ok(server) = connect_udp(target).await else { continue };
                    let server = Rc::new(server);
                    clients.insert(client, Rc::clone(&server));
                    answers.spawn_local(answer(server, Rc::downgrade(&socket), client));
                }
                if let Some(server) = clients.get(&client) {
                    // A datagram that can't be sent is lost, as datagrams are.
                    let _ = server.send(&buffer[..length]).await;
                }
            }
            Some(ended) = answers.join_next() => {
                if let Ok(client) = ended {
                    clients.remove(&client);
                }
            }
        }
    }
}

async fn connect_udp(target: SocketAddr) -> io::Result<net::UdpSocket> {
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = net::UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// Carries answers back until there have been none for a while, or the port is no longer published: the socket is closed
/// with the task that serves it, not when the last client's answer has noticed.
async fn answer(server: Rc<net::UdpSocket>, socket: Weak<net::UdpSocket>, client: SocketAddr) -> SocketAddr {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    while let Ok(Ok(length)) = timeout(IDLE, server.recv(&mut buffer)).await {
        let Some(socket) = socket.upgrade() else { break };
        let _ = socket.send_to(&buffer[..length], client).await;
    }
    client
}
