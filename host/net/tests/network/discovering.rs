//! Who has what, who is where, and ways through a relay.

use crate::nodes::{SOON, answering, config, node, node_knowing, soon, until};
use ostrakon_net::{Client, NetConfig};
use ostrakon_protocol::Digest;
use ostrakon_protocol::wire::{Ask, Reply};
use std::collections::BTreeSet;

/// A chain: each knows the one before.
async fn chain(count: u32) -> Vec<Client> {
    let (first, events) = node(0).await;
    answering(events);
    let mut nodes = vec![first];
    for n in 1..count {
        let (other, events) = node_knowing(n, &nodes[nodes.len() - 1]).await;
        answering(events);
        nodes.push(other);
    }
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_content_is_found() {
    let nodes = chain(5).await;
    let content = Digest::of_content(b"a package");
    assert!(soon(nodes[0].providers(content)).await.is_empty());
    nodes[4].provide(content).await;
    nodes[2].provide(content).await;
    let both: BTreeSet<_> = [nodes[2].node(), nodes[4].node()].into();
    for asker in [&nodes[0], &nodes[1], &nodes[3]] {
        until("both are found", async || asker.providers(content).await.into_iter().collect::<BTreeSet<_>>() == both)
            .await;
    }
    // A node that has it itself wants to know of others.
    assert_eq!(soon(nodes[2].providers(content)).await, [nodes[4].node()]);
    nodes[4].withdraw(content).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_status_is_found_in_the_dht() {
    let nodes = chain(4).await;
    let (first, last) = (&nodes[0], &nodes[3]);
    until("it answers", async || {
        first.ask(last.node(), Ask::Receipts, SOON).await.is_ok_and(|reply| reply == Reply::Ok)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_be_dialled_is_reached_through_a_relay() {
    let (relay, events) = Client::start(NetConfig { relay: true, ..config(1) }).await.unwrap();
    answering(events);
    let at = relay.addresses()[0].clone();
    // A relay tells under which addresses it can be reached, so it must have been told.
    relay.stop().await;
    let listen = at.split("/p2p/").next().unwrap().to_owned();
    let relay = NetConfig { relay: true, external: vec![listen.clone()], listen: vec![listen], ..config(1) };
    let (_relay, events) = Client::start(relay).await.unwrap();
    answering(events);
    let hidden = NetConfig { listen: vec![format!("{at}/p2p-circuit")], ..config(2) };
    let (hidden, events) = soon(Client::start(hidden)).await.unwrap();
    answering(events);
    let (asker, _events) = Client::start(NetConfig { listen: vec![], ..config(3) }).await.unwrap();
    let circuit = hidden.addresses().into_iter().find(|a| a.contains("p2p-circuit")).unwrap();
    assert_eq!(soon(asker.dial(&circuit)).await.unwrap(), hidden.node());
    assert_eq!(asker.ask(hidden.node(), Ask::Receipts, SOON).await.unwrap(), Reply::Ok);
}
