//! Statuses reach everybody, also who comes later, also after the node that all knew is gone.

use crate::nodes::{answering, event, key, node, node_knowing, now, status, until};
use ostrakon_net::{Client, Event};

async fn five() -> Vec<Client> {
    let (hub, events) = node(0).await;
    answering(events);
    let mut nodes = vec![hub];
    for n in 1..5 {
        let (other, events) = node_knowing(n, &nodes[0]).await;
        answering(events);
        nodes.push(other);
    }
    nodes
}

async fn all_know(nodes: &[Client], count: usize) {
    until(&format!("{} nodes know {count}", nodes.len()), async || {
        nodes.iter().all(|n| n.fleet().statuses().len() == count)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_know_each_other_and_a_sixth_that_comes_later_knows_them() {
    let nodes = five().await;
    for (n, node) in (0..).zip(&nodes) {
        node.publish(status(n, node.addresses(), now())).await;
    }
    all_know(&nodes, 5).await;
    let sorted = nodes[3].fleet().statuses();
    assert!(sorted.is_sorted_by_key(|s| s.status.node));
    // It only hears what was said before.
    let (late, events) = node_knowing(9, &nodes[2]).await;
    answering(events);
    all_know(std::slice::from_ref(&late), 5).await;
    // A client that listens nowhere learns it too.
    let config = ostrakon_net::NetConfig { listen: vec![], ..crate::nodes::config(10) };
    let (client, mut events) = Client::start(config).await.unwrap();
    client.dial(&nodes[4].addresses()[0]).await.unwrap();
    let heard = event(&mut events, |e| if let Event::Status(n) = e { Some(n) } else { None }).await;
    assert!(nodes.iter().any(|n| n.node() == heard));
    all_know(&[client], 5).await;
    // What is new replaces what was.
    let mut drains = status(1, nodes[1].addresses(), now()).status;
    drains.draining = true;
    nodes[1].publish(ostrakon_protocol::SignedStatus::sign(&key(1), drains)).await;
    until("the late one hears news", async || late.fleet().status(&nodes[1].node()).is_some_and(|s| s.status.draining))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_node_that_all_knew_cuts_nobody_off() {
    let mut nodes = five().await;
    for (n, node) in (0..).zip(&nodes) {
        node.publish(status(n, node.addresses(), now())).await;
    }
    all_know(&nodes, 5).await;
    nodes.remove(0).stop().await;
    until("news still reach everybody", async || {
        let sequence = now();
        nodes[0].publish(status(1, nodes[0].addresses(), sequence)).await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let node = nodes[0].node();
        nodes.iter().all(|n| n.fleet().status(&node).is_some_and(|s| s.status.sequence >= sequence))
    })
    .await;
}
