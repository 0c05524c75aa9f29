//! The rest of Apache Kafka's command-line tools, those that administer and measure, against a cluster of ours; and what
//! the tools say of what is not served.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::kafka::Tools;
use odradek_tests::tool_shell::ToolShell;
use odradek_tests::{Cluster, Spec, wait_for};

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const CONSOLE_PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer";
const CONSOLE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const PRODUCER_PERFORMANCE: &str = "org.apache.kafka.tools.ProducerPerformance";
const CONSUMER_PERFORMANCE: &str = "org.apache.kafka.tools.ConsumerPerformance";
const END_TO_END_LATENCY: &str = "org.apache.kafka.tools.EndToEndLatency";
const GET_OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
const DELETE_RECORDS: &str = "org.apache.kafka.tools.DeleteRecordsCommand";
const LOG_DIRS: &str = "org.apache.kafka.tools.LogDirsCommand";
const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
const LEADER_ELECTION: &str = "org.apache.kafka.tools.LeaderElectionCommand";
const FEATURES: &str = "org.apache.kafka.tools.FeatureCommand";
const QUORUM: &str = "org.apache.kafka.tools.MetadataQuorumCommand";
const CLUSTER: &str = "org.apache.kafka.tools.ClusterTool";
const CLIENT_METRICS: &str = "org.apache.kafka.tools.ClientMetricsCommand";
const GROUPS: &str = "org.apache.kafka.tools.GroupsCommand";
const ACLS: &str = "org.apache.kafka.tools.AclCommand";

const LIMIT: Duration = Duration::from_secs(90);
const RECORDS: i64 = 5_000;

/// The tools with the cluster that they are to speak to.
struct Session<'a> {
    shell: ToolShell,
    cluster: &'a Cluster,
    files: tempfile::TempDir,
}

impl Session<'_> {
    /// `line` is the tool's arguments, separated by spaces, after `--bootstrap-server`.
    fn ok(&self, class: &str, line: &str) -> anyhow::Result<String> {
        let server = ["--bootstrap-server", self.cluster.bootstrap()];
        self.shell.ok(class, &server.into_iter().chain(line.split(' ')).collect::<Vec<_>>())
    }

    /// It succeeds, and says `words`.
    fn says(&self, class: &str, line: &str, words: &str) -> anyhow::Result<String> {
        let said = self.ok(class, line)?;
        ensure!(said.contains(words), "{class} {line}: `{words}` is missing:\n{said}");
        Ok(said)
    }

    fn fails(&self, class: &str, line: &str, words: &str) -> anyhow::Result<()> {
        let server = ["--bootstrap-server", self.cluster.bootstrap()];
        self.shell.fails(class, &server.into_iter().chain(line.split(' ')).collect::<Vec<_>>(), words)
    }

    fn file(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.files.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

#[test]
fn the_tools_that_measure_move_and_tell_work() {
    let Some(tools) = Tools::new() else { return };
    Spec::new(1, 3).set("group.initial.rebalance.delay.ms", 0).run(|cluster| {
        let session = Session { shell: ToolShell::start(&tools)?, cluster, files: tempfile::tempdir()? };
        session.says(TOPICS, "--create --topic tools --replica-assignment 1:2", "Created topic tools")?;
        measures(&session)?;
        moves(&session)?;
        elects(&session)?;
        tells(&session)?;
        configures(&session)?;
        deletes(&session)?;
        refuses(&session)
    });
}

fn measures(session: &Session<'_>) -> anyhow::Result<()> {
    let bootstrap = format!("bootstrap.servers={}", session.cluster.bootstrap());
    let load = format!("--topic tools --num-records {RECORDS} --record-size 1000 --throughput -1 --command-property");
    let load: Vec<&str> = load.split(' ').chain([bootstrap.as_str(), "acks=all"]).collect();
    let said = session.shell.ok(PRODUCER_PERFORMANCE, &load)?;
    ensure!(said.contains(&format!("{RECORDS} records sent")), "{said}");
    let said = session.ok(CONSUMER_PERFORMANCE, &format!("--topic tools --num-records {RECORDS} --timeout 30000"))?;
    let column = said.lines().filter_map(|line| line.split(", ").nth(4)?.parse::<i64>().ok()).next_back();
    ensure!(column == Some(RECORDS), "all are read: {column:?}\n{said}");
    let line = "--topic latency --num-records 20 --producer-acks all --record-size 100";
    session.says(END_TO_END_LATENCY, line, "Percentiles: 50th")?;
    Ok(())
}

/// By way of a plan of the tool's own; slowly, so that it can be looked at and cancelled; then quickly, to the end.
fn moves(session: &Session<'_>) -> anyhow::Result<()> {
    let topics = session.file("topics.json", r#"{"topics":[{"topic":"tools"}],"version":1}"#)?;
    let line = format!("--generate --topics-to-move-json-file {} --broker-list 1,3", topics.display());
    let said = session.says(REASSIGN, &line, "Proposed partition reassignment configuration")?;
    let plan = said.lines().rfind(|line| line.starts_with('{')).context("a plan")?;
    let plan: serde_json::Value = serde_json::from_str(plan)?;
    let mut planned: Vec<i64> =
        plan["partitions"][0]["replicas"].as_array().context("replicas")?.iter().filter_map(|id| id.as_i64()).collect();
    planned.sort_unstable();
    ensure!(planned == [1, 3], "{plan}");

    let moves = r#"{"version":1,"partitions":[{"topic":"tools","partition":0,"replicas":[3,1]}]}"#;
    let moves = session.file("moves.json", moves)?;
    let with = |action: &str| format!("{action} --reassignment-json-file {}", moves.display());
    session.says(REASSIGN, &with("--execute --throttle 1000"), "Successfully started")?;
    session.says(REASSIGN, "--list", "tools-0: replicas: 3,1,2. adding: 3. removing: 2.")?;
    session.says(REASSIGN, &with("--verify"), "still in progress")?;
    let of_broker = "--describe --entity-type brokers --entity-name 1";
    session.says(CONFIGS, of_broker, "leader.replication.throttled.rate=1000")?;
    session.says(REASSIGN, &with("--cancel"), "Successfully cancelled")?;
    session.says(REASSIGN, "--list", "No partition reassignments found")?;
    let said = session.ok(CONFIGS, of_broker)?;
    ensure!(!said.contains("throttled"), "the throttle is gone with it:\n{said}");
    session.says(TOPICS, "--describe --topic tools", "Replicas: 1,2")?;

    session.says(REASSIGN, &with("--execute --throttle 100000000"), "Successfully started")?;
    wait_for("the move", LIMIT, || {
        Ok(session.ok(REASSIGN, &with("--verify"))?.contains("is completed").then_some(()))
    })?;
    session.says(TOPICS, "--describe --topic tools", "Replicas: 3,1")?;
    let said = session.ok(CONFIGS, "--describe --entity-type topics --entity-name tools")?;
    ensure!(!said.contains("throttled"), "the throttle is gone with it:\n{said}");
    Ok(())
}

fn elects(session: &Session<'_>) -> anyhow::Result<()> {
    let preferred = "--election-type preferred --topic tools --partition 0";
    session.says(LEADER_ELECTION, preferred, "Successfully completed leader election (PREFERRED)")?;
    session.says(TOPICS, "--describe --topic tools", "Leader: 3")?;
    session.says(LEADER_ELECTION, preferred, "Valid replica already elected")?;
    session.fails(LEADER_ELECTION, "--election-type unclean --topic none --partition 0", "UnknownTopicOrPartition")
}

fn tells(session: &Session<'_>) -> anyhow::Result<()> {
    let said = session.says(LOG_DIRS, "--describe --topic-list tools", "\"partition\":\"tools-0\"")?;
    ensure!(said.matches("\"partition\":\"tools-0\"").count() == 2, "two replicas:\n{said}");
    session.says(FEATURES, "describe", "metadata.version")?;
    session.says(QUORUM, "describe --status", "LeaderId:               101")?;
    let said = session.says(QUORUM, "describe --replication", "Leader")?;
    ensure!(said.matches("Observer").count() == 3, "three brokers look on:\n{said}");
    // A command of this tool comes before its options.
    let cluster = |command: &str| {
        let arguments = command.split(' ').chain(["--bootstrap-server", session.cluster.bootstrap()]);
        session.shell.run(CLUSTER, &arguments.collect::<Vec<_>>())
    };
    let said = cluster("cluster-id")?;
    ensure!(said.code == 0 && said.output.contains(&session.cluster.cluster_id), "{said:?}");
    let said = cluster("list-endpoints")?;
    ensure!(said.code == 0 && said.output.matches("unfenced").count() == 3, "{said:?}");
    let said = cluster("unregister --id 77")?;
    ensure!(said.code == 1 && said.output.contains("BrokerIdNotRegisteredException"), "{said:?}");
    session.says(GROUPS, "--list", "perf-consumer")?;
    Ok(())
}

fn configures(session: &Session<'_>) -> anyhow::Result<()> {
    let topic = "--entity-type topics --entity-name tools";
    session.ok(CONFIGS, &format!("--alter {topic} --add-config retention.ms=1234567"))?;
    session.says(CONFIGS, &format!("--describe {topic}"), "retention.ms=1234567")?;
    session.ok(CONFIGS, &format!("--alter {topic} --delete-config retention.ms"))?;
    let said = session.ok(CONFIGS, &format!("--describe {topic}"))?;
    ensure!(!said.contains("retention.ms"), "{said}");
    session.fails(CONFIGS, &format!("--alter {topic} --add-config retention.ms=soon"), "retention.ms")?;
    session.ok(CLIENT_METRICS, "--alter --name all --metrics org.apache. --interval 10000")?;
    session.says(CLIENT_METRICS, "--describe", "interval.ms=10000")?;
    session.ok(CLIENT_METRICS, "--delete --name all")?;
    Ok(())
}

fn deletes(session: &Session<'_>) -> anyhow::Result<()> {
    // Through the console, with the last of them read again.
    let server = ["--bootstrap-server", session.cluster.bootstrap(), "--topic", "tools"];
    session.shell.ok_with_input(CONSOLE_PRODUCER, &server, "typed one\ntyped two\n")?;
    session.says(GET_OFFSETS, "--topic tools --time latest", &format!("tools:0:{}", RECORDS + 2))?;
    let line = format!("--topic tools --partition 0 --offset {RECORDS} --max-messages 2 --timeout-ms 30000");
    session.says(CONSOLE_CONSUMER, &line, "typed one\ntyped two\n")?;
    session.says(GET_OFFSETS, "--topic tools --time earliest", "tools:0:0")?;
    let before = r#"{"version":1,"partitions":[{"topic":"tools","partition":0,"offset":3}]}"#;
    let before = session.file("before.json", before)?;
    session.says(DELETE_RECORDS, &format!("--offset-json-file {}", before.display()), "low_watermark: 3")?;
    session.says(GET_OFFSETS, "--topic tools --time earliest", "tools:0:3")?;
    session.says(GET_OFFSETS, "--topic tools --time max-timestamp", "tools:0:")?;
    Ok(())
}

/// Each with an error, and none with a wait for ever.
fn refuses(session: &Session<'_>) -> anyhow::Result<()> {
    let said = session.ok(ACLS, "--list").unwrap_or_else(|error| format!("{error:#}"));
    ensure!(said.contains("does not support DESCRIBE_ACLS"), "{said}");
    // Controllers do not speak Kafka's protocol, and brokers do not answer for them. The client's patience is a minute
    // unless it is told.
    let patience = session.file("patience.properties", "default.api.timeout.ms=4000\nrequest.timeout.ms=2000\n")?;
    let controller = session.cluster.controllers().next().context("a controller")?;
    let broker = &session.cluster.broker(1).address;
    let patience = patience.to_str().context("a path of UTF-8")?;
    let cluster_id = |address: &str, words: &str| {
        session.shell.fails(CLUSTER, &["cluster-id", "--bootstrap-controller", address, "-c", patience], words)
    };
    cluster_id(&controller.address, "TimeoutException")?;
    cluster_id(broker, "MismatchedEndpointTypeException")
}
