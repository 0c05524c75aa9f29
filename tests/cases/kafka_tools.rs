//! Apache Kafka's own command-line tools against a cluster of ours, and its reader of log files on ours.

use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::kafka::Tools;
use odradek_tests::process::Process;
use odradek_tests::{Cluster, Spec, wait_for};
use rustix::process::Signal;

use crate::values;

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const GET_OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
const CONSOLE_PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer";
const CONSOLE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const API_VERSIONS: &str = "org.apache.kafka.tools.BrokerApiVersionsCommand";
const PRODUCER_PERFORMANCE: &str = "org.apache.kafka.tools.ProducerPerformance";
const CONSUMER_GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const VERIFIABLE_PRODUCER: &str = "org.apache.kafka.tools.VerifiableProducer";
const VERIFIABLE_CONSUMER: &str = "org.apache.kafka.tools.VerifiableConsumer";
const DUMP_LOG_SEGMENTS: &str = "org.apache.kafka.tools.DumpLogSegments";

#[test]
fn topics_are_managed_and_records_go_through_the_console() {
    let Some(tools) = Tools::new() else { return };
    Spec::new(1, 3).run(|cluster| {
        let at = |arguments: &[&str]| {
            let mut all = vec!["--bootstrap-server".to_owned(), cluster.bootstrap().to_owned()];
            all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
            all
        };
        let ok = |class: &str, arguments: &[&str]| {
            let all = at(arguments);
            tools.ok(class, &all.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let said = ok(API_VERSIONS, &[])?;
        ensure!(said.matches("Produce(0)").count() == 3, "three brokers tell their versions:\n{said}");

        ok(TOPICS, &["--create", "--topic", "orders", "--partitions", "2", "--replication-factor", "3"])?;
        let again = {
            let all = at(&["--create", "--topic", "orders"]);
            tools.run(TOPICS, &all.iter().map(String::as_str).collect::<Vec<_>>())?
        };
        ensure!(!again.status.success() && again.output.contains("already exists"), "{}", again.output);
        let said = ok(TOPICS, &["--describe", "--topic", "orders"])?;
        ensure!(said.contains("PartitionCount: 2") && said.contains("ReplicationFactor: 3"), "{said}");
        ok(TOPICS, &["--alter", "--topic", "orders", "--partitions", "3"])?;
        let said = ok(TOPICS, &["--list"])?;
        ensure!(said.lines().any(|line| line == "orders"), "{said}");

        let arguments = at(&["--topic", "orders", "--property", "parse.key=true"]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        tools.ok_with_input(CONSOLE_PRODUCER, &arguments, "a\tone\nb\ttwo\na\tthree\n")?;
        let said = ok(GET_OFFSETS, &["--topic", "orders"])?;
        let total: i64 = said.lines().filter_map(|line| line.rsplit(':').next()?.parse::<i64>().ok()).sum();
        ensure!(total == 3, "three records are stored:\n{said}");
        let partition = said.lines().find(|line| !line.ends_with(":0")).context("a partition with records")?;
        let partition = partition.split(':').nth(1).context("TOPIC:PARTITION:OFFSET")?;
        let said = ok(
            CONSOLE_CONSUMER,
            &["--topic", "orders", "--partition", partition, "--offset", "earliest", "--timeout-ms", "3000"],
        )?;
        ensure!(said.contains("one") || said.contains("two"), "{said}");

        let load = format!("bootstrap.servers={}", cluster.bootstrap());
        let said = tools.ok(
            PRODUCER_PERFORMANCE,
            &[
                "--topic",
                "orders",
                "--num-records",
                "20000",
                "--record-size",
                "100",
                "--throughput",
                "-1",
                "--command-property",
                &load,
                "acks=all",
            ],
        )?;
        ensure!(said.contains("20000 records sent"), "{said}");

        ok(TOPICS, &["--delete", "--topic", "orders"])?;
        let said = ok(TOPICS, &["--list"])?;
        ensure!(!said.contains("orders"), "{said}");
        Ok(())
    });
}

/// Each start of Java costs seconds, so that every one shows as much as it can.
#[test]
fn consumer_groups_are_read_by_and_managed() {
    let Some(tools) = Tools::new() else { return };
    let spec = Spec::new(1, 1).set("offsets.topic.num.partitions", 3).set("offsets.topic.replication.factor", 1);
    spec.set("group.initial.rebalance.delay.ms", 0).run(|cluster| {
        let bootstrap: &[&str] = &["--bootstrap-server", cluster.bootstrap()];
        let groups = |arguments: &[&str]| tools.ok(CONSUMER_GROUPS, &[bootstrap, arguments].concat());
        cluster.client().create_topic(&NewTopic::new("read", 2, 1))?;
        let produce = ["--topic", "read", "--max-messages", "20"];
        let said = tools.ok(VERIFIABLE_PRODUCER, &[bootstrap, &produce[..]].concat())?;
        ensure!(said.contains("\"acked\":20"), "{said}");

        let consume = ["--topic", "read", "--group", "readers", "--from-beginning", "--max-messages", "20"];
        let said = tools.ok(CONSOLE_CONSUMER, &[bootstrap, &consume[..], &["--timeout-ms", "20000"]].concat())?;
        ensure!(said.contains("Processed a total of 20 messages"), "{said}");
        let said = groups(&["--list"])?;
        ensure!(said.lines().any(|line| line == "readers"), "{said}");

        // Both partitions are read to their ends and committed: no lag.
        let said = groups(&["--describe", "--group", "readers"])?;
        let lags = |said: &str| -> Vec<(i64, i64, i64)> {
            let rows = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let number = |text: &str| text.parse().unwrap_or(-1);
            rows.filter(|row| row.len() > 5 && row.starts_with(&["readers", "read"]))
                .map(|row| (number(row[3]), number(row[4]), number(row[5])))
                .collect()
        };
        let rows = lags(&said);
        ensure!(rows.len() == 2 && rows.iter().all(|row| row.0 == row.1 && row.2 == 0), "{rows:?}\n{said}");

        let reset = ["--reset-offsets", "--group", "readers", "--topic", "read", "--to-earliest", "--execute"];
        groups(&reset)?;

        // A member that stays while the group is looked at: it reads all once more.
        let log = tempfile::NamedTempFile::new()?;
        let stays = ["--topic", "read", "--group-id", "readers"];
        let mut member =
            Process::start(tools.command(VERIFIABLE_CONSUMER, &[bootstrap, &stays[..]].concat()), log.path())?;
        wait_for("the member has committed all", Duration::from_secs(60), || {
            let said = std::fs::read_to_string(log.path())?;
            ensure!(member.exited().is_none(), "it has ended:\n{said}");
            let committed: usize = said.lines().filter(|line| line.contains("offsets_committed")).count();
            let read = said.lines().filter(|line| line.contains("records_consumed"));
            let counts =
                read.filter_map(|line| line.split("\"count\":").nth(1)?.split([',', '}']).next()?.parse::<i64>().ok());
            Ok((committed > 0 && counts.sum::<i64>() == 20).then_some(()))
        })?;
        let said = groups(&["--describe", "--group", "readers", "--members", "--verbose"])?;
        ensure!(said.contains("read(0,1)") || said.contains("read:0,1"), "{said}");
        let said = groups(&["--describe", "--group", "readers", "--state"])?;
        ensure!(said.contains("Stable") && said.contains("range"), "{said}");
        let refused = tools.run(CONSUMER_GROUPS, &[bootstrap, &["--delete", "--group", "readers"]].concat())?;
        ensure!(refused.output.contains("GroupNotEmptyException"), "{}", refused.output);
        // It leaves before it ends.
        member.signal(Signal::TERM)?;
        member.wait(Duration::from_secs(20))?;
        groups(&["--delete-offsets", "--group", "readers", "--topic", "read:0"])?;
        let said = groups(&["--describe", "--group", "readers"])?;
        ensure!(lags(&said).len() == 1, "{said}");
        let said = groups(&["--delete", "--group", "readers"])?;
        ensure!(said.contains("successful"), "{said}");
        ensure!(!groups(&["--list"])?.contains("readers"), "a deleted group is listed");
        Ok(())
    });
}

/// Every file of a partition that Kafka can print: it checks CRCs, index entries and their order on the way.
#[test]
fn kafka_reads_our_log_files() {
    let Some(tools) = Tools::new() else { return };
    Spec::new(1, 1).run(|cluster| {
        let mut client = cluster.client();
        let topic =
            NewTopic::new("dumped", 1, 1).config("segment.bytes", 1_048_576).config("index.interval.bytes", 1_000);
        client.create_topic(&topic)?;
        for index in 0..60 {
            client.produce("dumped", 0, &values(&index.to_string(), 30, 1_000))?;
        }
        produce_idempotently(cluster)?;
        // Closed in order, so that what is written at a clean stop is there, too.
        cluster.broker(1).stop()?;
        let directory = cluster.broker(1).data().join("dumped-0");
        let mut seen = Vec::new();
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_owned();
            if !["log", "index", "timeindex", "snapshot", "txnindex"].contains(&extension.as_str()) {
                continue;
            }
            let file = path.to_str().context("a path of UTF-8")?;
            let said = tools.ok(DUMP_LOG_SEGMENTS, &["--deep-iteration", "--print-data-log", "--files", file])?;
            for complaint in ["Index position", "Mismatches", "not found", "Exception", "isvalid: false"] {
                let told = said.split_once(complaint).map(|(_, rest)| rest.chars().take(500).collect::<String>());
                ensure!(told.is_none(), "{file}: {complaint}{}", told.unwrap_or_default());
            }
            // The tool takes the first record of each later segment for the one after -1.
            let gap = said.lines().find(|line| line.contains("is followed by") && !line.trim().starts_with("-1 "));
            ensure!(gap.is_none(), "{file}: {gap:?}");
            if extension == "log" {
                ensure!(said.contains("isvalid: true") && said.contains("payload: "), "{said}");
            }
            seen.push(extension);
        }
        for extension in ["log", "index", "timeindex", "snapshot"] {
            ensure!(seen.iter().any(|one| one == extension), "there is a file .{extension} among {seen:?}");
        }
        ensure!(seen.iter().filter(|one| *one == "log").count() > 1, "several segments: {seen:?}");
        cluster.broker(1).start()?;
        Ok(())
    });
}

/// Leaves producer state behind.
fn produce_idempotently(cluster: &Cluster) -> anyhow::Result<()> {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let producer: BaseProducer =
        odradek_tests::real::config(cluster.bootstrap()).set("enable.idempotence", "true").create()?;
    for _ in 0..100 {
        producer
            .send(BaseRecord::<(), str>::to("dumped").partition(0).payload("by an idempotent producer"))
            .map_err(|(error, _)| error)?;
    }
    producer.flush(std::time::Duration::from_secs(30))?;
    Ok(())
}
