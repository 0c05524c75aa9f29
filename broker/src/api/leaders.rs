//! What a client that asked the wrong broker is told: who leads, and where (KIP-951).

use std::collections::BTreeMap;

use odradek_common::{BrokerId, TopicIdPartition};
use odradek_metadata::Image;
use odradek_wire::Str;

use crate::replica::CurrentLeader;

/// The leaders that one response names, each with its address once.
pub struct Leaders<'a> {
    image: &'a Image,
    listener: &'a str,
    endpoints: BTreeMap<BrokerId, LeaderEndpoint>,
}

/// Where a leader listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderEndpoint {
    pub host: Str,
    pub port: i32,
    pub rack: Option<Str>,
}

impl<'a> Leaders<'a> {
    pub fn new(image: &'a Image, listener: &'a str) -> Self {
        Self { image, listener, endpoints: BTreeMap::new() }
    }

    /// The leader and its epoch: what the replica knows, or else the metadata. The leader's endpoint is remembered.
    pub fn name(&mut self, partition: TopicIdPartition, known: Option<CurrentLeader>) -> Option<CurrentLeader> {
        let registered = || {
            let registration = self.image.partition(partition.topic_id, partition.partition)?;
            Some(CurrentLeader { leader: registration.leader, epoch: registration.leader_epoch })
        };
        let current = known.or_else(registered)?;
        let leader = current.leader;
        if let Some(endpoint) = self.image.endpoint(leader, self.listener) {
            self.endpoints.entry(leader).or_insert_with(|| LeaderEndpoint {
                host: endpoint.host.as_str().into(),
                port: endpoint.port.into(),
                rack: self.image.broker(leader).and_then(|broker| broker.rack.as_deref()).map(Str::from),
            });
        }
        Some(current)
    }

    /// Every leader that was named and can be reached over the listener that was asked.
    pub fn into_endpoints(self) -> impl Iterator<Item = (i32, LeaderEndpoint)> {
        self.endpoints.into_iter().map(|(id, endpoint)| (id.0, endpoint))
    }
}
