//! Published ports.

use std::io::{Read, Write};
use std::net::TcpStream;

use pontoon_proto::v1::{CreateContainerRequest, PortBinding};

use super::bridged;
use crate::bed::{Bed, cases, eventually, sh, with};

cases![published_port, failed_publish_leaves_nothing,];

fn http(port: u32) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).ok()?;
    stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

fn web(host_port: u32) -> CreateContainerRequest {
    let script = "mkdir /www; echo served > /www/file; httpd -f -p 80 -h /www";
    with(bridged(sh(script)), |_, host| {
        host.port_bindings = vec![PortBinding {
            container_port: 80,
            host_port,
            ..PortBinding::default()
        }];
    })
}

async fn published_port() {
    let mut bed = Bed::new().await;
    let id = bed.start(web(0)).await;
    let view = bed.inspect(&id);
    let port = view.ports[0].host_port;
    assert!(
        port >= 32768 && view.networks[0].ip_address.starts_with("172."),
        "{view:?}"
    );
    let answer = eventually("the port answers", || async { http(port) }).await;
    assert!(answer.ends_with("served\n"), "{answer}");
    // The daemon's restart leaves network and ports alone.
    bed.reopen().await;
    assert_eq!(bed.inspect(&id).ports[0].host_port, port);
    assert!(http(port).unwrap().ends_with("served\n"));
    let stop = pontoon_proto::v1::StopContainerRequest {
        target: id.clone(),
        ..Default::default()
    };
    bed.engine.stop(stop).await.unwrap();
    assert!(http(port).is_none());
    assert!(bed.inspect(&id).ports.is_empty());
    bed.finish().await;
}

async fn failed_publish_leaves_nothing() {
    let bed = Bed::new().await;
    let first = bed.start(web(18080)).await;
    let second = bed.create(web(18080)).await;
    let error = bed.engine.start(&second).await.unwrap_err().chain();
    assert!(error.contains("port is already allocated"), "{error}");
    bed.engine.remove(&first, true).await.unwrap();
    bed.engine.remove(&second, false).await.unwrap();
    bed.assert_empty().await;
    let again = bed.start(web(18080)).await;
    bed.engine.remove(&again, true).await.unwrap();
    bed.finish().await;
}
