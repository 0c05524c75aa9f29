//! What a controller tells of the metadata and of itself in numbers, by the names of Kafka's metrics
//! (`KafkaController`). Every controller tells the same of the metadata; one of them is the active one.

use odradek_metadata::Image;
use odradek_node::metrics::{Gauge, Metrics};

use crate::raft::RaftNode;
use crate::raft::types::{NodeId, WatchReceiver};

/// The metrics of this node.
pub fn of(node: &RaftNode, own: NodeId) -> Metrics {
    let mut metrics = Metrics::default();
    let node = node.clone();
    metrics.register(move || {
        let is_active = node.raft.server_metrics().borrow_watched().current_leader == Some(own);
        let mut gauges = vec![Gauge::count(
            "kafka_controller_kafkacontroller_activecontrollercount",
            "Whether this controller is the active one.",
            usize::from(is_active),
        )];
        gauges.extend(of_image(&node.view.image()));
        gauges
    });
    metrics
}

fn of_image(image: &Image) -> Vec<Gauge> {
    let (mut partitions, mut offline, mut imbalanced) = (0, 0, 0);
    for (_, _, registration) in image.partitions() {
        partitions += 1;
        offline += usize::from(!registration.has_leader());
        imbalanced += usize::from(!registration.has_preferred_leader());
    }
    let fenced = image.brokers().filter(|broker| broker.fenced).count();
    vec![
        Gauge::count(
            "kafka_controller_kafkacontroller_offlinepartitionscount",
            "Partitions without a leader.",
            offline,
        ),
        Gauge::count(
            "kafka_controller_kafkacontroller_preferredreplicaimbalancecount",
            "Partitions that another replica leads than the first.",
            imbalanced,
        ),
        Gauge::count("kafka_controller_kafkacontroller_globaltopiccount", "Topics.", image.topic_count()),
        Gauge::count("kafka_controller_kafkacontroller_globalpartitioncount", "Partitions of all topics.", partitions),
        Gauge::count(
            "kafka_controller_kafkacontroller_activebrokercount",
            "Brokers that are registered and not fenced.",
            image.brokers().count() - fenced,
        ),
        Gauge::count(
            "kafka_controller_kafkacontroller_fencedbrokercount",
            "Brokers that are registered and fenced.",
            fenced,
        ),
        Gauge::of(
            "kafka_controller_kafkacontroller_lastappliedrecordoffset",
            "The last offset of the metadata log that this controller has applied.",
            image.offset() as f64,
        ),
    ]
}
