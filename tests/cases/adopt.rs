//! A cluster of Apache Kafka goes on as one of ours, in its own directories: `odradek adopt`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::cluster::program;
use odradek_tests::kafka::{Node, Tools};
use odradek_tests::process::{run, run_ok};
use odradek_tests::{Client, Cluster, Spec, real, wait_for};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
const CONFIGS: [(&str, &str); 4] = [
    ("retention.ms", "987654321"),
    ("max.message.bytes", "765432"),
    ("segment.bytes", "1048576"),
    ("index.interval.bytes", "500"),
];

/// Key, value, headers, timestamp.
type Told = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Vec<u8>)>, Option<i64>);

/// All that a consumer is given: only what was committed.
fn consume(bootstrap: &str, topic: &str, partitions: i32) -> anyhow::Result<BTreeMap<(i32, i64), Told>> {
    let mut config = real::config(bootstrap);
    config.set("group.id", "reader").set("enable.partition.eof", "true").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (deadline, mut at_end, mut out) = (Instant::now() + LIMIT, 0, BTreeMap::new());
    while at_end < partitions {
        ensure!(Instant::now() < deadline, "{topic} is not read to its end");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => at_end += 1,
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(message)) => {
                let headers = message.headers().map_or_else(Vec::new, |headers| {
                    let each = headers.iter();
                    each.map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect()
                });
                let told = (
                    message.key().map(<[u8]>::to_vec),
                    message.payload().map(<[u8]>::to_vec),
                    headers,
                    message.timestamp().to_millis(),
                );
                out.insert((message.partition(), message.offset()), told);
            }
        }
    }
    Ok(out)
}

/// Records of every codec, with keys, headers and without values, in both partitions.
fn produce(bootstrap: &str, topic: &str) -> anyhow::Result<()> {
    for codec in CODECS {
        let mut config = real::config(bootstrap);
        config
            .set("compression.type", codec)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "20");
        let producer: BaseProducer = config.create()?;
        for index in 0..400 {
            let (key, value) = (format!("{codec}-{index}"), format!("{codec} {index} ").repeat(20));
            let headers = OwnedHeaders::new().insert(Header { key: "codec", value: Some(codec) });
            let mut record = BaseRecord::to(topic).partition(index % 2).key(&key).headers(headers);
            if index % 50 != 0 {
                record = record.payload(&value);
            }
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(LIMIT)?;
    }
    Ok(())
}

/// One transaction that is committed, and one that is not.
fn transact(bootstrap: &str, topic: &str) -> anyhow::Result<()> {
    let mut config = real::config(bootstrap);
    config.set("transactional.id", "ledger");
    let producer: BaseProducer = config.create()?;
    producer.init_transactions(LIMIT)?;
    for (word, commits) in [("kept", true), ("dropped", false), ("kept too", true)] {
        producer.begin_transaction()?;
        for index in 0..5 {
            let key = index.to_string();
            producer.send(BaseRecord::to(topic).partition(0).key(&key).payload(word)).map_err(|(error, _)| error)?;
        }
        match commits {
            true => producer.commit_transaction(LIMIT)?,
            false => {
                producer.flush(LIMIT)?;
                producer.abort_transaction(LIMIT)?;
            }
        }
    }
    Ok(())
}

fn commit(bootstrap: &str, topic: &str, group: &str, offsets: &[i64]) -> anyhow::Result<()> {
    let mut config = real::config(bootstrap);
    config.set("group.id", group).set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    for (partition, offset) in (0..).zip(offsets) {
        list.add_partition_offset(topic, partition, Offset::Offset(*offset))?;
    }
    wait_for("a commit", LIMIT, || {
        drop(consumer.poll(Duration::from_millis(20)));
        Ok(Some(consumer.commit(&list, CommitMode::Sync)?))
    })
}

fn adopt(cluster: &Cluster, more: &[&str]) -> std::process::Command {
    let mut command = program("odradek");
    command.arg("adopt");
    for controller in cluster.controllers() {
        command.arg("--controller").arg(controller.config());
    }
    for broker in cluster.brokers() {
        command.arg("--broker").arg(broker.config());
    }
    command.args(more);
    command
}

fn refused(cluster: &Cluster, more: &[&str], words: &str) -> anyhow::Result<()> {
    let said = run(adopt(cluster, more), LIMIT)?;
    ensure!(!said.status.success() && said.output.contains(words), "`{words}` is missing:\n{}", said.output);
    Ok(())
}

fn odradek(cluster: &Cluster, line: &str) -> anyhow::Result<Value> {
    let admin: Vec<&str> = cluster.controllers().map(|controller| controller.address.as_str()).collect();
    let mut command = program("odradek");
    command.env("ADMIN", admin.join(",")).env("BOOTSTRAP", cluster.bootstrap());
    command.args(line.split(' ')).args(["--output", "json", "--timeout", "60"]);
    let text = run_ok(command, LIMIT)?;
    serde_json::from_str(&text).with_context(|| format!("{line}: {text}"))
}

/// Every file under a directory with its bytes.
fn contents(dir: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => out.extend(contents(&path)?),
            false => drop(out.insert(path.clone(), std::fs::read(&path)?)),
        }
    }
    Ok(out)
}

fn topic_id(dir: &Path, topic: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(dir.join(format!("{topic}-0/partition.metadata")))?;
    Ok(text.lines().find_map(|line| line.strip_prefix("topic_id: ")).context("an id")?.trim().to_owned())
}

#[test]
fn a_cluster_of_apache_kafka_goes_on_as_one_of_ours() {
    let Some(tools) = Tools::new() else { return };
    let mut first = Node::start(&tools, &[]).expect("Apache Kafka starts");
    // Before there is a second broker, which would want three replicas of the topics for offsets and transactions.
    Client::new(&first.bootstrap).create_topic(&NewTopic::assigned("ledger", &[&[1]])).expect("a topic");
    commit(&first.bootstrap, "ledger", "early", &[1]).expect("a commit");
    transact(&first.bootstrap, "ledger").expect("transactions");
    let mut second = first.join(&tools, 2).expect("a second broker starts");
    let data = [first.data(), second.data()];
    let spec = Spec::new(1, 2)
        .set("group.initial.rebalance.delay.ms", 0)
        .set_broker(1, "log.dirs", data[0].display())
        .set_broker(2, "log.dirs", data[1].display());
    // What Kafka served: the records of two topics, and the last producer id.
    let before = std::cell::RefCell::new((BTreeMap::new(), BTreeMap::new(), -1));
    let prepare = |cluster: &Cluster| {
        let mut client = Client::new(&first.bootstrap);
        wait_for("both brokers", LIMIT, || Ok((client.metadata(None)?.brokers.len() == 2).then_some(())))?;
        let topic = NewTopic::assigned("orders", &[&[1, 2], &[2, 1]]);
        let topic = CONFIGS.iter().fold(topic, |topic, (name, value)| topic.config(name, value));
        client.create_topic(&topic)?;
        client.create_topic(&NewTopic::assigned("gone", &[&[2]]))?;
        client.wait_isr("orders", 1, &[1, 2])?;
        produce(&first.bootstrap, "orders")?;
        real::delete_topic(&first.bootstrap, "gone")?;
        commit(&first.bootstrap, "orders", "billing", &[123, 45])?;
        let (orders, ledger) = (consume(&first.bootstrap, "orders", 2)?, consume(&first.bootstrap, "ledger", 1)?);
        ensure!((orders.len(), ledger.len()) == (2_000, 10), "{} and {} records", orders.len(), ledger.len());
        let (_, address) = client.leader("orders", 0)?;
        let producer_id = client.connection(&address)?.init_producer_id()?.1;
        *before.borrow_mut() = (orders, ledger, producer_id);

        refused(cluster, &[], "stop all of Kafka first")?;
        second.stop()?;
        first.stop()?;
        sound(&data)?;
        let files = (contents(&data[0])?, contents(&data[1])?);
        let said = run_ok(adopt(cluster, &["--dry-run"]), LIMIT)?;
        ensure!(said.contains("orders") && said.contains("nothing was written"), "{said}");
        ensure!(!cluster.node("controller-1").data().exists(), "a dry run writes nothing");
        let marker = data[1].join(".kafka_cleanshutdown");
        std::fs::rename(&marker, data[1].join("marker"))?;
        refused(cluster, &[], "was not shut down in order")?;
        std::fs::rename(data[1].join("marker"), &marker)?;
        let said = run_ok(adopt(cluster, &["--output", "json"]), LIMIT)?;
        let plan: Value = serde_json::from_str(&said)?;
        ensure!(plan["adopted"] == true && plan["brokers"][0]["partitions"].as_i64() > Some(3), "{plan:#}");
        ensure!((contents(&data[0])?, contents(&data[1])?) == files, "the brokers' directories are as they were");
        Ok(())
    };
    spec.run_prepared(prepare, |cluster| {
        let (orders, ledger, producer_id) = before.take();
        let mut client = cluster.client();
        client.wait_isr("orders", 0, &[1, 2])?;
        ensure!(consume(cluster.bootstrap(), "orders", 2)? == orders, "other records than Kafka's");
        ensure!(consume(cluster.bootstrap(), "ledger", 1)? == ledger, "other transactions than Kafka's");
        for topic in ["orders", "ledger"] {
            let told = odradek(cluster, &format!("topic describe {topic}"))?;
            ensure!(told["topic_id"] == topic_id(&data[0], topic)?.as_str(), "{told:#}");
        }
        let told = odradek(cluster, "config get topic/orders")?;
        for (name, value) in CONFIGS {
            let is_set = |config: &Value| config["name"] == name && config["value"] == value;
            let configs = told["configs"].as_array().context("configs")?;
            ensure!(configs.iter().any(is_set), "{name} is {value}:\n{told:#}");
        }
        let topics = odradek(cluster, "topic list")?;
        let names: Vec<&str> =
            topics["topics"].as_array().context("topics")?.iter().filter_map(|topic| topic["topic"].as_str()).collect();
        ensure!(names == ["ledger", "orders"], "{names:?}");
        let told = odradek(cluster, "group describe billing")?;
        let committed: Vec<Option<i64>> = (0..2)
            .map(|partition| {
                let group = told.get("groups").and_then(|groups| groups.get(0)).unwrap_or(&told);
                let rows = group["partitions"].as_array()?;
                rows.iter().find(|row| row["partition"] == partition)?["committed"].as_i64()
            })
            .collect();
        ensure!(committed == [Some(123), Some(45)], "{told:#}");
        // It goes on: new records behind the old ones, new offsets, and no producer id twice.
        let (_, address) = client.leader("orders", 0)?;
        let next = client.connection(&address)?.init_producer_id()?.1;
        ensure!(next > producer_id, "producer id {next} after {producer_id}");
        let end = client.end_offset("orders", 0)?;
        produce(cluster.bootstrap(), "orders")?;
        ensure!(client.end_offset("orders", 0)? == end + 1_000, "the log goes on at {end}");
        commit(cluster.bootstrap(), "orders", "billing", &[200, 300])?;
        // Kafka's own files are where they were, and are left alone.
        ensure!(data[0].join("__cluster_metadata-0/00000000000000000000.log").exists(), "Kafka's metadata is there");
        // And again, now from our own log.
        cluster.kill_all()?;
        cluster.start_all()?;
        cluster.wait_served()?;
        ensure!(consume(cluster.bootstrap(), "orders", 2)?.len() == 4_000, "all is there after a restart");
        for broker in cluster.brokers() {
            broker.stop()?;
        }
        sound(&data)?;
        cluster.start_all()
    });
}

/// Our checks find nothing wrong with directories that Apache Kafka, or we, left in order.
fn sound(dirs: &[PathBuf]) -> anyhow::Result<()> {
    let mut command = program("odradek");
    command.args(["log", "verify", "--records"]).args(dirs);
    run_ok(command, LIMIT).map(drop)
}
