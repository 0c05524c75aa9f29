//! The brokers' directories and how large the replicas in them are, as DescribeLogDirs tells.

use std::collections::BTreeMap;
use std::time::Duration;

use odradek_common::ErrorCode;
use odradek_wire::describe_log_dirs_request::DescribeLogDirsRequest;
use odradek_wire::describe_log_dirs_response::DescribeLogDirsResult;

use super::{Cluster, Trouble};

/// A broker that does not answer in this time is passed over: sizes are for information only.
const WITHIN: Duration = Duration::from_secs(5);

/// Bytes by topic and partition, by broker. Brokers that did not answer are missing.
#[derive(Clone, Debug, Default)]
pub struct Sizes(BTreeMap<i32, BTreeMap<(String, i32), u64>>);

impl Sizes {
    /// Asks every broker.
    pub async fn ask(cluster: &mut Cluster) -> Self {
        let mut sizes = Self::default();
        for id in cluster.broker_ids() {
            if let Ok(of_broker) = of_broker(cluster, id).await {
                sizes.0.insert(id, of_broker);
            }
        }
        sizes
    }

    /// `None`: the broker did not tell.
    pub fn replica(&self, broker: i32, topic: &str, partition: i32) -> Option<u64> {
        let of_broker = self.0.get(&broker)?;
        Some(of_broker.get(&(topic.to_owned(), partition)).copied().unwrap_or(0))
    }

    /// The largest of these brokers' replicas: what a new one has to fetch.
    pub fn largest(&self, brokers: &[i32], topic: &str, partition: i32) -> Option<u64> {
        brokers.iter().filter_map(|id| self.replica(*id, topic, partition)).max()
    }
}

/// All directories of a broker.
pub async fn describe(cluster: &mut Cluster, id: i32) -> Result<Vec<DescribeLogDirsResult>, Trouble> {
    let request = DescribeLogDirsRequest { topics: None, ..Default::default() };
    let answer = cluster.ask(id, WITHIN, (1, 4), &request).await?;
    match answer.error_code {
        0 => Ok(answer.results),
        code => Err(Trouble::Topic(ErrorCode::from_code(code))),
    }
}

async fn of_broker(cluster: &mut Cluster, id: i32) -> Result<BTreeMap<(String, i32), u64>, Trouble> {
    let mut sizes = BTreeMap::new();
    for topic in describe(cluster, id).await?.into_iter().flat_map(|dir| dir.topics) {
        for partition in topic.partitions.iter().filter(|partition| !partition.is_future_key) {
            let size = u64::try_from(partition.partition_size).unwrap_or(0);
            sizes.insert((topic.name.to_string(), partition.partition_index), size);
        }
    }
    Ok(sizes)
}
