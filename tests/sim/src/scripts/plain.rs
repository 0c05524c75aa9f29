//! Records of producers without an identity, one a batch and all of one size, and requests of an operator.

use odradek_common::ErrorCode;
use odradek_common::rng::Rng;

use super::ask;
use crate::client::{Client, Failure, Outgoing, Sending};
use crate::cluster::Cluster;
use crate::workload::RETRY_PAUSE;

/// Sends so many records to partition 0, each until it is acknowledged, and answers their offsets. What was sent again may be
/// there twice.
pub(super) fn send(cluster: &mut Cluster<'_>, topic: &'static str, acks: i16, count: usize) -> Vec<i64> {
    let hosts = cluster.bootstrap();
    ask(cluster, "records are acknowledged", move |world| async move {
        let mut client = Client::new(world.clone(), hosts);
        let mut offsets = Vec::new();
        while offsets.len() < count {
            let record = Outgoing::of_value(format!("record {:>20}", world.rng().next_u64()));
            let sending = Sending { acks, records: vec![record], ..Default::default() };
            match client.send(topic, 0, &sending).await {
                Ok(offset) => offsets.push(offset),
                Err(_) => {
                    world.sleep(RETRY_PAUSE).await;
                    let _ = client.refresh(topic).await;
                }
            }
        }
        offsets
    })
}

/// Creates a topic of one partition with these replicas, of which the first one is preferred.
pub(super) fn create_assigned(
    cluster: &mut Cluster<'_>,
    name: &'static str,
    replicas: &'static [i32],
    configs: &'static [(&'static str, &'static str)],
) {
    let hosts = cluster.bootstrap();
    ask(cluster, "a topic is created", move |world| async move {
        let mut client = Client::new(world.clone(), hosts);
        loop {
            match client.create_assigned(name, replicas, configs).await {
                Ok(_) | Err(Failure::Kafka(ErrorCode::TopicAlreadyExists)) => return,
                Err(_) => world.sleep(RETRY_PAUSE).await,
            }
        }
    });
}

/// Has the preferred replica of partition 0 lead, or, unclean, whoever lives if nobody in sync does. That it was asked for
/// does not say that somebody was elected.
pub(super) fn elect(cluster: &mut Cluster<'_>, topic: &'static str, is_unclean: bool) {
    let hosts = cluster.bootstrap();
    ask(cluster, "an election is asked for", move |world| async move {
        let mut client = Client::new(world.clone(), hosts);
        while let Err(Failure::Io(_)) = client.elect(topic, 0, is_unclean).await {
            world.sleep(RETRY_PAUSE).await;
        }
    });
}
