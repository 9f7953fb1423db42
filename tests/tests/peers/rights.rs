//! Who may have what: the assignment decides. Strangers, nodes without a task, removed nodes and other blobs are refused.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pontoon_identity::{Endpoint, Identity};
use pontoon_proto::v1::FetchBlobRequest;
use pontoon_proto::v1::peers_client::PeersClient;
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Host, LONG, SHORT, process, wait_until, with_fleet};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{create_app, image_of, load_busybox, make_app};

/// The folder of a node's certificate.
const IDENTITY: &str = "cluster/identity";

/// Asks a host for an image's manifest as another host's daemon would.
fn ask_for(asking: &Host, asked: &Host, node_id: &str, image: &str) -> Result<Vec<u8>, String> {
    ask_as(
        &asking.data_dir().join(IDENTITY),
        asking,
        asked,
        (node_id, image, image),
    )
}

/// Asks with this certificate for a blob of an image.
fn ask_as(
    folder: &Path,
    asking: &Host,
    asked: &Host,
    (node_id, image, blob): (&str, &str, &str),
) -> Result<Vec<u8>, String> {
    let folder = folder.to_owned();
    let netns = fs::File::open(asking.netns()).map_err(|error| error.to_string())?;
    let addr = format!("{}:2377", asked.address());
    let (node_id, image, blob) = (node_id.to_owned(), image.to_owned(), blob.to_owned());
    let call = move || {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&netns), Some(LinkNameSpaceType::Network))
            .map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let identity = Identity::open(&folder).map_err(|error| error.to_string())?;
            let endpoint = Endpoint::node(addr, node_id);
            let channel = pontoon_identity::connect(&identity, &endpoint)
                .await
                .map_err(|error| pontoon_identity::describe(&error))?;
            let request = FetchBlobRequest {
                image,
                blob,
                offset: 0,
            };
            let told = |status: tonic::Status| status.message().to_owned();
            let mut chunks = PeersClient::new(channel)
                .fetch_blob(request)
                .await
                .map_err(told)?
                .into_inner();
            let mut content = Vec::new();
            while let Some(chunk) = chunks.message().await.map_err(told)? {
                content.extend_from_slice(&chunk.data);
            }
            Ok(content)
        })
    };
    std::thread::spawn(call)
        .join()
        .unwrap_or_else(|_| Err("the call panicked".to_owned()))
}

#[test]
fn a_node_gets_only_what_is_assigned_to_it() {
    with_fleet(3, |fleet| {
        let first = fleet.host(1);
        load_busybox(fleet, first)?;
        make_app(first, 1)?;
        fleet.form_cluster(1)?;
        create_app(first, &["--constraint", "node.hostname==host2"])?;
        wait_until("its task runs", LONG, || ensure_running(first, "app", 1))?;
        let image = image_of(first)?;
        let digest = image.split_once('@').context("not pinned")?.1;
        let nodes = view::nodes(first)?;
        let id = |host: &Host| {
            let node = nodes.iter().find(|node| node.hostname == host.name());
            node.map(|node| node.id.clone()).context("no such node")
        };
        let (second, third) = (fleet.host(2), fleet.host(3));
        for holder in [first, second] {
            let refused = ask_for(third, holder, &id(holder)?, digest);
            ensure!(
                refused
                    .as_ref()
                    .is_err_and(|reason| reason.contains("no task of node")),
                "{refused:?}"
            );
        }
        // The same call from the node that runs it; also of a worker.
        let manifest = ask_for(second, first, &id(first)?, digest).map_err(anyhow::Error::msg)?;
        ensure!(
            String::from_utf8_lossy(&manifest).contains("layers"),
            "{manifest:?}"
        );
        // Another image that the holder has is not part of it.
        let other = first.ok(&["image", "inspect", "--format", "{{.Id}}", "busybox"])?;
        let refused = ask_for(second, first, &id(first)?, &other);
        ensure!(refused.is_err(), "{refused:?}");
        let own = second.data_dir().join(IDENTITY);
        let refused = ask_as(&own, second, first, (&id(first)?, digest, &other));
        ensure!(
            refused
                .as_ref()
                .is_err_and(|reason| reason.contains("has no blob")),
            "{refused:?}"
        );
        // Who dials checks that it is the very node it was told of.
        let wrong = ask_for(second, first, &id(third)?, digest);
        ensure!(
            wrong.as_ref().is_err_and(|reason| reason.contains("certificate")),
            "{wrong:?}"
        );

        // The task leaves, and with it the right.
        first.ok(&["service", "rm", "app"])?;
        wait_until("the right ends", SHORT, || {
            let refused = ask_for(second, first, &id(first)?, digest);
            ensure!(refused.is_err(), "still given");
            Ok(())
        })?;
        Ok(())
    });
}

/// Calls the service with curl, which knows neither our certificates nor gRPC; returns what it prints: the answer's head.
fn as_stranger(from: &Host, asked: &Host, options: &[&str]) -> Result<process::Output> {
    let url = format!("https://{}:2377/pontoon.v1.Peers/FetchBlob", asked.address());
    let mut args = vec![
        "curl",
        "--silent",
        "--show-error",
        "--insecure",
        "--http2",
        "--include",
    ];
    args.extend(["--max-time", "20", "--header", "content-type: application/grpc"]);
    // An empty message: a flag and a length.
    let message = from.folder().join("message");
    fs::write(&message, [0; 5])?;
    let message = format!("@{}", message.display());
    args.extend(["--header", "te: trailers", "--data-binary", &message]);
    args.extend(options);
    args.push(&url);
    from.exec(&args)
}

#[test]
fn strangers_and_removed_nodes_get_nothing() {
    with_fleet(3, |fleet| {
        let (first, second, third) = (fleet.host(1), fleet.host(2), fleet.host(3));
        load_busybox(fleet, first)?;
        make_app(first, 1)?;
        fleet.form_cluster(1)?;
        create_app(first, &["--mode", "global"])?;
        wait_until("its tasks run", LONG, || ensure_running(first, "app", 3))?;
        let image = image_of(first)?;
        let digest = image.split_once('@').context("not pinned")?.1;
        let nodes = view::nodes(first)?;
        let id = |host: &Host| {
            let node = nodes.iter().find(|node| node.hostname == host.name());
            node.map(|node| node.id.clone()).context("no such node")
        };

        // Without a certificate, and with one that is not the cluster's.
        for holder in [first, second] {
            let bare = as_stranger(third, holder, &[])?;
            ensure!(
                bare.stdout.contains("grpc-status: 16") && bare.stdout.contains("certificate"),
                "{bare}"
            );
        }
        let (key, certificate) = (fleet.folder().join("key.pem"), fleet.folder().join("cert.pem"));
        let (key, certificate) = (key.display().to_string(), certificate.display().to_string());
        let mut args = vec![
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ];
        args.extend([
            "-nodes",
            "-subj",
            "/CN=node",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ]);
        process::tool("openssl", &args)?;
        let foreign = as_stranger(third, second, &["--cert", &certificate, "--key", &key])?;
        ensure!(
            foreign.code != 0 && !foreign.stdout.contains("grpc-status: 0"),
            "{foreign}"
        );

        // A node that was removed has its certificate still.
        let kept = fleet.folder().join("kept");
        let from = third.data_dir().join(IDENTITY);
        process::tool(
            "cp",
            &["-a", &from.display().to_string(), &kept.display().to_string()],
        )?;
        ensure!(fs::read_dir(&kept)?.next().is_some());
        for holder in [first, second] {
            let given = ask_as(&kept, third, holder, (&id(holder)?, digest, digest));
            ensure!(given.is_ok(), "{given:?}");
        }
        let removed = id(third)?;
        third.stop()?;
        first.ok(&["node", "rm", "--force", &removed])?;
        for holder in [first, second] {
            wait_until("a removed node gets nothing", LONG, || {
                let refused = ask_as(&kept, third, holder, (&id(holder)?, digest, digest));
                ensure!(refused.is_err(), "still given");
                Ok(())
            })?;
        }
        Ok(())
    });
}
