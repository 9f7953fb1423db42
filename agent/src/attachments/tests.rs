//! What needs no manager: when a start may go on, and what a registration says.
#![allow(clippy::unwrap_used)]

use pontoon_proto::v1::OverlayPeer;

use super::*;

fn state(addresses: &[&str]) -> OverlayNetwork {
    let peer = |addr: &&str| OverlayPeer {
        addr: (*addr).to_owned(),
        vtep: "192.0.2.1".to_owned(),
    };
    OverlayNetwork {
        id: "n".into(),
        peers: addresses.iter().map(peer).collect(),
        ..OverlayNetwork::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_goes_on_when_the_network_with_its_address_is_programmed() {
    let attachments = Arc::new(Attachments::new());
    let carrier = Arc::new(Carrier(attachments.clone()));
    let addr: IpAddr = "10.0.1.7".parse().unwrap();
    let wait = |newer: u64| {
        let carrier = carrier.clone();
        tokio::spawn(async move { carrier.programmed("n", addr, newer).await })
    };
    let waiting = wait(0);
    attachments.programmed_now(&state(&["10.0.1.6"]), &Ok(()));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "its address is not in it");
    attachments.programmed_now(&state(&["10.0.1.6", "10.0.1.7"]), &Ok(()));
    let first = waiting.await.unwrap().unwrap();
    // The network went again before the endpoint was made: the next state is waited for.
    attachments.forgotten("n");
    let waiting = wait(first);
    tokio::task::yield_now().await;
    attachments.programmed_now(&state(&["10.0.1.7"]), &Ok(()));
    assert!(waiting.await.unwrap().unwrap() > first);
    // What can't be programmed is said at once, and what never comes after a while.
    attachments.programmed_now(&state(&[]), &Err("no underlay".to_owned()));
    let refused = wait(0).await.unwrap().unwrap_err();
    assert_eq!(
        refused,
        ClusterError::Refused("this node can't program it: no underlay".to_owned())
    );
    attachments.forgotten("n");
    assert!(matches!(
        wait(0).await.unwrap(),
        Err(ClusterError::Unreachable(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn without_a_manager_a_start_fails_after_a_while_and_leaves_nothing() {
    let attachments = Arc::new(Attachments::new());
    let carrier = Carrier(attachments.clone());
    let wish = ContainerAttachment {
        container_id: "c".into(),
        network_id: "n".into(),
        ..ContainerAttachment::default()
    };
    let asking = carrier.attach(wish.clone());
    tokio::pin!(asking);
    assert!(timeout(ANSWER, &mut asking).await.is_err());
    assert_eq!(
        attachments.all(),
        std::slice::from_ref(&wish),
        "a registration names it"
    );
    assert!(matches!(asking.await, Err(ClusterError::Unreachable(_))));
    assert_eq!(attachments.all(), []);
    assert!(carrier.find("app").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_not_named_any_more() {
    let attachments = Arc::new(Attachments::new());
    let carrier = Carrier(attachments.clone());
    for network in ["n1", "n2"] {
        let held = ContainerAttachment {
            container_id: "c".into(),
            network_id: network.into(),
            addr: "10.0.1.7/24".into(),
            ..ContainerAttachment::default()
        };
        attachments.held().insert(key(&held), held);
    }
    carrier.detach("other", None).await;
    carrier.detach("c", Some("n1")).await;
    assert_eq!(attachments.all().len(), 1);
    carrier.detach("c", None).await;
    assert_eq!(attachments.all(), []);
    assert!(attachments.leaving.borrow().is_empty());
}
