//! One broker in this process, in a temporary directory.

use std::time::Duration;

use odradek_common::config::BrokerConfig;
use odradek_common::meta_properties;
use odradek_common::{BrokerId, ErrorCode};
use odradek_node::{Connection, Shutdown, World};
use odradek_wire::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use odradek_wire::metadata_request::{MetadataRequest, MetadataRequestTopic};
use odradek_wire::metadata_response::MetadataResponse;

use crate::solo::Solo;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Node {
    pub world: World,
    pub dir: tempfile::TempDir,
    pub config: BrokerConfig,
    pub stop: Shutdown,
    pub ended: tokio::sync::oneshot::Receiver<anyhow::Result<()>>,
    pub port: u16,
}

pub const CLUSTER: &str = "5L6g3nShT-eMCtK--X86sw";

pub fn config(solo: &Solo, id: i32, dir: &std::path::Path, more: &str) -> BrokerConfig {
    let text = format!(
        "node.id={id}\nlisteners=PLAINTEXT://127.0.0.1:0\ncontroller.quorum.voters=100@127.0.0.1:{}\n\
         controller.listener.names=CONTROLLER\nlog.dirs={}\nbroker.session.timeout.ms=3000\n\
         broker.heartbeat.interval.ms=500\n{more}\n",
        solo.port,
        dir.display()
    );
    BrokerConfig::load(&text, "test", &[]).expect("a valid config").0
}

pub fn format(world: &World, dir: &std::path::Path, id: i32) {
    let dirs = [dir.to_owned()];
    meta_properties::format_all(&*world.fs, &dirs, CLUSTER, id, false, &mut world.rng()).expect("formatted");
}

pub fn launch(world: &World, config: &BrokerConfig) -> (Shutdown, tokio::sync::oneshot::Receiver<anyhow::Result<()>>) {
    let stop = Shutdown::new();
    let (sender, ended) = tokio::sync::oneshot::channel();
    let (world, config, stopped) = (world.clone(), config.clone(), stop.clone());
    let spawner = world.clone();
    spawner.spawn("broker", async move {
        let _ = sender.send(odradek_broker::run(world, config, stopped).await);
    });
    (stop, ended)
}

impl Node {
    pub async fn start(world: &World, solo: &Solo, id: i32, more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        format(world, dir.path(), id);
        let config = config(solo, id, dir.path(), more);
        Self::start_in(world, solo, dir, config).await
    }

    pub async fn start_in(world: &World, solo: &Solo, dir: tempfile::TempDir, config: BrokerConfig) -> Self {
        let id = config.node_id;
        let (stop, mut ended) = launch(world, &config);
        let port = tokio::select! {
            port = world.timeout(PATIENCE, solo.alive(id)) => port.expect("the broker is unfenced"),
            ended = &mut ended => panic!("the broker ended: {ended:?}"),
        };
        Self { world: world.clone(), dir, config, stop, ended, port }
    }

    pub async fn connect(&self) -> Connection {
        let opened = Connection::open(&self.world, "127.0.0.1", self.port, "test", PATIENCE).await;
        opened.expect("connected")
    }

    /// Stops it cleanly and gives its directory back.
    pub async fn stop(self) -> tempfile::TempDir {
        self.stop.trigger();
        let ended = self.world.timeout(PATIENCE, self.ended).await;
        ended.expect("in time").expect("not lost").expect("cleanly");
        self.dir
    }
}

/// Creates a topic and returns when its partitions have leaders.
pub async fn create_topic(
    connection: &mut Connection,
    name: &str,
    partitions: i32,
    replicas: i16,
) -> odradek_common::Uuid {
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: replicas,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 5000, ..Default::default() };
    let response = connection.call(7, &request).await.expect("an answer");
    let created = response.topics.first().expect("one topic");
    assert_eq!(ErrorCode::from_code(created.error_code), ErrorCode::None, "{:?}", created.error_message);
    created.topic_id
}

pub async fn metadata(connection: &mut Connection, topic: &str) -> MetadataResponse {
    let topic = MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    connection.call(12, &request).await.expect("an answer")
}

#[allow(dead_code)]
pub fn broker(id: i32) -> BrokerId {
    BrokerId(id)
}
