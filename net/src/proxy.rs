//! The user-space proxy of published ports, for what the kernel's translation does not reach: IPv6 clients of a container
//! without IPv6, connections of this host to `[::1]`, and connections in a moment in which someone has flushed our
//! tables. One thread in the daemon's namespace serves all ports. What it carries ends with the daemon; what the kernel
//! translates, which is nearly all, does not.
use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{AbortHandle, JoinSet, LocalSet, spawn_local},
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
    Stop(Key),
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

    /// No longer answers on a port; connections that there are go on to their end.
    pub fn stop(&self, key: Key) {
        let _ = self.orders.send(Order::Stop(key));
    }
}

async fn obey(mut queue: UnboundedReceiver<Order>) {
    let mut served: HashMap<Key, AbortHandle> = HashMap::new();
    while let Some(order) = queue.recv().await {
        let (key, task) = match order {
            Order::Stop(key) => (key, None),
            Order::Serve(key, Shared::Tcp(listener), target) => {
                let listener = net::TcpListener::from_std(listener);
                (
                    key,
                    listener
                        .ok()
                        .map(|l| spawn_local(serve_tcp(l, target)).abort_handle()),
                )
            }
            Order::Serve(key, Shared::Udp(socket), target) => {
                let socket = net::UdpSocket::from_std(socket);
                (
                    key,
                    socket
                        .ok()
                        .map(|s| spawn_local(serve_udp(s, target)).abort_handle()),
                )
            }
        };
        let before = match task {
            Some(task) => served.insert(key, task),
            None => served.remove(&key),
        };
        if let Some(before) = before {
            before.abort();
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
                    answers.spawn_local(answer(server, Rc::clone(&socket), client));
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

/// Carries answers back until there have been none for a while.
async fn answer(server: Rc<net::UdpSocket>, socket: Rc<net::UdpSocket>, client: SocketAddr) -> SocketAddr {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    while let Ok(Ok(length)) = timeout(IDLE, server.recv(&mut buffer)).await {
        let _ = socket.send_to(&buffer[..length], client).await;
    }
    client
}
