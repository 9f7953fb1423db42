//! Published ports are free for every program of the host as soon as their container is gone. Alone in its process: a
//! command that another test is just starting holds copies of all sockets for a moment.
mod host;

use host::{Host, inside, specs::tcp};
use pontoon_net::{PortMapping, Protocol};

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_free_as_soon_as_it_is_given_back() {
    let host = Host::alone();
    let udp = |address: &str| PortMapping {
        protocol: Protocol::Udp,
        ..tcp(address, Some(8081), 80)
    };
    for round in 0..200 {
        host.sandbox("aaa", "bridge", None).await;
        host.net()
            .publish(
                "aaa",
                &[
                    tcp("0.0.0.0", Some(8080), 80),
                    tcp("::", Some(8080), 80),
                    udp("::"),
                ],
            )
            .await
            .expect("free");
        // A client keeps the proxy's answer going.
        inside(&host.ns.path, || {
            let client = std::net::UdpSocket::bind("[::1]:0").expect("client");
            client.send_to(b"?", "[::1]:8081").expect("sent");
        });
        host.net().remove_sandbox("aaa").await.expect("removal");
        inside(&host.ns.path, move || {
            std::net::TcpListener::bind("0.0.0.0:8080").unwrap_or_else(|e| panic!("TCP, round {round}: {e}"));
            std::net::TcpListener::bind("[::]:8080").unwrap_or_else(|e| panic!("IPv6, round {round}: {e}"));
            std::net::UdpSocket::bind("[::]:8081").unwrap_or_else(|e| panic!("UDP, round {round}: {e}"));
        });
    }
}
