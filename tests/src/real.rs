//! Clients that other people wrote: librdkafka, and gRPC as any tool would call it.

use std::time::Duration;

use anyhow::Context;
use odradek_proto::admin::admin_service_client::AdminServiceClient;
use odradek_proto::admin::{QuorumStatusRequest, QuorumStatusResponse};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

/// A call that is not answered in this time counts as failed.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Runs one asynchronous call to its end.
pub fn block_on<T>(call: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime of one thread").block_on(call)
}

/// What the controller at `address` (`host:port`) says of the quorum.
pub fn quorum_status(address: &str) -> anyhow::Result<QuorumStatusResponse> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_secs(1))
        .timeout(Duration::from_secs(2));
    block_on(async {
        let mut client = AdminServiceClient::new(endpoint.connect().await?);
        Ok(client.quorum_status(QuorumStatusRequest {}).await?.into_inner())
    })
}

/// A librdkafka configuration with timeouts fit for tests.
pub fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    // Broken connections are what the tests are about; librdkafka need not report each.
    config.set("log.connection.close", "false");
    config.set("reconnect.backoff.ms", "10");
    config.set("reconnect.backoff.max.ms", "200");
    config
}

/// Creates a topic through librdkafka's admin client.
pub fn create_topic(
    bootstrap: &str,
    name: &str,
    partitions: i32,
    replication: i32,
    configs: &[(&str, &str)],
) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = config(bootstrap).create()?;
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replication));
    for (name, value) in configs {
        topic = topic.set(name, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(CALL_LIMIT)).request_timeout(Some(CALL_LIMIT));
    let results = block_on(admin.create_topics([&topic], &options))?;
    for result in results {
        result.map_err(|(topic, code)| anyhow::anyhow!("create {topic}: {code}"))?;
    }
    Ok(())
}

/// Deletes a topic through librdkafka's admin client.
pub fn delete_topic(bootstrap: &str, name: &str) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = config(bootstrap).create()?;
    let options = AdminOptions::new().operation_timeout(Some(CALL_LIMIT)).request_timeout(Some(CALL_LIMIT));
    let result = block_on(admin.delete_topics(&[name], &options))?.pop().context("one topic asked, one answered")?;
    result.map(|_| ()).map_err(|(topic, code)| anyhow::anyhow!("delete {topic}: {code}"))
}
