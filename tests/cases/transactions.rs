//! Transactions of librdkafka while their coordinator dies, two-phase commit, and what operators see and do: `odradek txn` and
//! Kafka's own tool.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use odradek_common::time::Timestamp;
use odradek_common::{ProducerEpoch, ProducerId};
use odradek_node::{Connection, World};
use odradek_records::RecordBatchBuilder;
use odradek_tests::cluster::program;
use odradek_tests::kafka::Tools;
use odradek_tests::{Cluster, Spec, client, real, wait_for};
use odradek_wire::produce_request::{PartitionProduceData, TopicProduceData};
use odradek_wire::{
    EndTxnRequest, FindCoordinatorRequest, InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, Records,
    Request,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::Value;

use crate::metrics::wait_value;

pub const LIMIT: Duration = Duration::from_secs(60);
const TRANSACTIONS: &str = "org.apache.kafka.tools.TransactionsCommand";

pub fn producer(cluster: &Cluster, id: &str) -> anyhow::Result<BaseProducer> {
    let mut config = real::config(cluster.bootstrap());
    config.set("transactional.id", id);
    let producer: BaseProducer = config.create()?;
    producer.init_transactions(LIMIT)?;
    Ok(producer)
}

pub fn send(producer: &BaseProducer, topic: &str, partition: i32, value: &str) -> anyhow::Result<()> {
    let record = BaseRecord::<(), str>::to(topic).partition(partition).payload(value);
    producer.send(record).map_err(|(error, _)| error)?;
    Ok(())
}

/// The values of a partition that a consumer of this isolation level sees, up to its end.
pub fn read(cluster: &Cluster, topic: &str, partition: i32, isolation: &str) -> anyhow::Result<Vec<String>> {
    let mut config = real::config(cluster.bootstrap());
    config.set("group.id", "by-hand").set("enable.auto.commit", "false").set("isolation.level", isolation);
    config.set("enable.partition.eof", "true").set("fetch.wait.max.ms", "50");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Beginning)?;
    consumer.assign(&list)?;
    let (mut values, deadline) = (Vec::new(), Instant::now() + LIMIT);
    loop {
        ensure!(Instant::now() < deadline, "{topic}-{partition} is not read to its end");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                values.push(String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned());
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => return Ok(values),
            Some(Err(error)) => return Err(error.into()),
        }
    }
}

fn odradek(cluster: &Cluster, line: &str) -> anyhow::Result<(Option<i32>, String)> {
    let mut command: Command = program("odradek");
    command.args(["--bootstrap", cluster.bootstrap()]).args(line.split(' '));
    let output = command.stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout) + &text(&output.stderr)))
}

pub fn json(cluster: &Cluster, line: &str) -> anyhow::Result<Value> {
    let (code, out) = odradek(cluster, &format!("{line} --output json"))?;
    ensure!(code == Some(0), "odradek {line}: {code:?} {out}");
    serde_json::from_str(&out).with_context(|| format!("odradek {line}: {out}"))
}

fn of_three() -> Spec {
    Spec::new(1, 3)
        .set("offsets.topic.num.partitions", 3)
        .set("transaction.state.log.num.partitions", 3)
        .set("group.initial.rebalance.delay.ms", 0)
}

#[test]
fn transactions_of_librdkafka_are_whole_though_their_coordinators_die() {
    of_three().run(|cluster| {
        real::create_topic(cluster.bootstrap(), "whole", 2, 3, &[])?;
        let producer = producer(cluster, "whole")?;
        let described = json(cluster, "txn describe whole")?;
        let coordinator = described["coordinator"].as_i64().context("a coordinator")? as i32;
        let mut kept = Vec::new();
        for n in 0..30 {
            let commits = n % 4 != 3;
            producer.begin_transaction()?;
            for partition in 0..2 {
                send(&producer, "whole", partition, &format!("{n}"))?;
            }
            if n == 10 {
                producer.flush(LIMIT)?;
                cluster.broker(coordinator).kill()?;
            }
            if n == 20 {
                cluster.broker(coordinator).start()?;
            }
            match commits {
                true => {
                    producer.commit_transaction(LIMIT)?;
                    kept.push(n.to_string());
                }
                false => {
                    producer.flush(LIMIT)?;
                    producer.abort_transaction(LIMIT)?;
                }
            }
        }
        for partition in 0..2 {
            let found = read(cluster, "whole", partition, "read_committed")?;
            ensure!(found == kept, "partition {partition}: {found:?}");
            ensure!(read(cluster, "whole", partition, "read_uncommitted")?.len() == 30, "partition {partition}");
        }
        // All of it at once: what is decided is in the log, and found there.
        producer.begin_transaction()?;
        send(&producer, "whole", 0, "across a restart of all")?;
        producer.flush(LIMIT)?;
        for broker in cluster.brokers() {
            broker.kill()?;
        }
        for broker in cluster.brokers() {
            broker.start()?;
        }
        producer.commit_transaction(LIMIT)?;
        let found = read(cluster, "whole", 0, "read_committed")?;
        ensure!(found.last().is_some_and(|last| last == "across a restart of all"), "{found:?}");
        Ok(())
    });
}

/// Asks the first broker.
fn ask<R: Request>(cluster: &Cluster, version: i16, request: &R) -> anyhow::Result<R::Response> {
    let bootstrap = cluster.bootstrap().split(',').next().unwrap_or_default().to_owned();
    let (host, port) = bootstrap.split_once(':').context("HOST:PORT")?;
    real::block_on(async {
        let mut connection = Connection::open(&World::real(), host, port.parse()?, "by hand", LIMIT).await?;
        anyhow::Ok(connection.call(version, request).await?)
    })
}

/// Produces one transactional record, its producer's first to partition 0; the error code.
fn produce(
    cluster: &Cluster,
    version: i16,
    id: &str,
    producer: (i64, i16),
    topic: &str,
    value: &str,
) -> anyhow::Result<i16> {
    let mut builder = RecordBatchBuilder::new();
    builder = builder.producer(ProducerId(producer.0), ProducerEpoch(producer.1), 0).transactional(true);
    builder.append(Timestamp(1_700_000_000_000), None, Some(value.as_bytes()));
    let data = PartitionProduceData { records: Some(Records::Bytes(builder.build()?)), ..Default::default() };
    let request = ProduceRequest {
        transactional_id: Some(id.into()),
        acks: -1,
        timeout_ms: 5_000,
        topic_data: vec![TopicProduceData { name: topic.into(), partition_data: vec![data], ..Default::default() }],
        ..Default::default()
    };
    Ok(ask(cluster, version, &request)?.responses[0].partition_responses[0].error_code)
}

/// A batch of a transaction that no coordinator knows of: the broker is told not to ask.
fn hang(cluster: &Cluster, topic: &str) -> anyhow::Result<()> {
    let error = produce(cluster, 9, "hangs", (777, 3), topic, "hangs")?;
    ensure!(error == 0, "error {error}");
    Ok(())
}

fn of_one() -> Spec {
    Spec::new(1, 1)
        .set("offsets.topic.replication.factor", 1)
        .set("transaction.state.log.replication.factor", 1)
        .set("transaction.state.log.min.isr", 1)
}

/// KIP-939. The records of a producer that is gone are committed by the next one, as somebody else has decided.
#[test]
fn a_prepared_transaction_is_ended_by_the_producer_that_follows() {
    const INIT: i16 = 6;
    of_one().run(|cluster| {
        let mut plain = client::Connection::open(cluster.bootstrap())?;
        ensure!(plain.api_versions()?.contains(&(22, 0, INIT - 1)), "two-phase commit is on by default");
        Ok(())
    });
    of_one().set("transaction.two.phase.commit.enable", true).run(|cluster| {
        real::create_topic(cluster.bootstrap(), "prepared", 1, 1, &[])?;
        let init = |keep_prepared_txn| -> anyhow::Result<InitProducerIdResponse> {
            let request = InitProducerIdRequest {
                transactional_id: Some("two".into()),
                // Longer than transactions may take otherwise.
                transaction_timeout_ms: i32::MAX,
                enable2_pc: true,
                keep_prepared_txn,
                ..InitProducerIdRequest::default()
            };
            wait_for("a producer id", LIMIT, || {
                let answer = ask(cluster, INIT, &request)?;
                // The coordinator's topic is being made, or is loaded.
                Ok((![14, 15, 16].contains(&answer.error_code)).then_some(answer))
            })
        };
        let end = |producer: (i64, i16), committed| -> anyhow::Result<(i16, (i64, i16))> {
            let request = EndTxnRequest {
                transactional_id: "two".into(),
                producer_id: producer.0,
                producer_epoch: producer.1,
                committed,
                ..EndTxnRequest::default()
            };
            let answer = ask(cluster, 5, &request)?;
            Ok((answer.error_code, (answer.producer_id, answer.producer_epoch)))
        };
        let found = ask(
            cluster,
            4,
            &FindCoordinatorRequest {
                key_type: 1,
                coordinator_keys: vec!["two".into()],
                ..FindCoordinatorRequest::default()
            },
        )?;
        ensure!(found.coordinators.len() == 1);
        let first = init(false)?;
        ensure!(first.error_code == 0 && first.ongoing_txn_producer_id == -1, "{first:?}");
        let gone = (first.producer_id, first.producer_epoch);
        ensure!(produce(cluster, 12, "two", gone, "prepared", "decided elsewhere")? == 0);
        let described = json(cluster, "txn describe two")?;
        ensure!(described["state"] == "Ongoing" && described["timeout_ms"] == i32::MAX, "{described}");

        let heir = init(true)?;
        ensure!((heir.ongoing_txn_producer_id, heir.ongoing_txn_producer_epoch) == gone, "{heir:?}");
        let heir = (heir.producer_id, heir.producer_epoch);
        let (fenced, _) = end(gone, false)?;
        ensure!(fenced == 90, "PRODUCER_FENCED: {fenced}");
        ensure!(read(cluster, "prepared", 0, "read_committed")?.is_empty(), "it is not decided");
        for broker in cluster.brokers() {
            broker.kill()?;
            broker.start()?;
        }
        let (error, next) = wait_for("the end", LIMIT, || {
            let ended = end(heir, true).ok();
            Ok(ended.filter(|(error, _)| ![14, 15, 16].contains(error)))
        })?;
        ensure!(error == 0 && next.1 > heir.1, "{error} {next:?}");
        wait_for("the records", LIMIT, || {
            Ok((read(cluster, "prepared", 0, "read_committed")? == ["decided elsewhere"]).then_some(()))
        })?;
        ensure!(produce(cluster, 12, "two", heir, "prepared", "too late")? != 0, "the heir's epoch is over");
        ensure!(produce(cluster, 12, "two", next, "prepared", "one more")? == 0);
        ensure!(end(next, true)?.0 == 0);
        wait_for("the next transaction", LIMIT, || {
            let values = read(cluster, "prepared", 0, "read_committed")?;
            Ok((values == ["decided elsewhere", "one more"]).then_some(()))
        })
    });
}

#[test]
fn operators_list_describe_find_and_abort_transactions() {
    let spec =
        of_one().set("transaction.partition.verification.enable", false).set("odradek.metrics.listener", "127.0.0.1:0");
    spec.run(|cluster| {
        let late = |count| {
            let broker = cluster.brokers().next().context("a broker")?;
            wait_value(broker, "kafka_server_replicamanager_partitionswithlatetransactionscount", count)
        };
        real::create_topic(cluster.bootstrap(), "watched", 2, 1, &[])?;
        let (code, said) = odradek(cluster, "txn list")?;
        ensure!(code == Some(0) && said.contains("no transactions"), "{code:?} {said}");
        let producer = producer(cluster, "payments-1")?;
        producer.begin_transaction()?;
        send(&producer, "watched", 1, "open")?;
        producer.flush(LIMIT)?;
        let listed = json(cluster, "txn list --state ongoing --pattern pay.*")?;
        ensure!(listed["transactions"][0]["transactional_id"] == "payments-1", "{listed}");
        ensure!(json(cluster, "txn list --longer-than 1h --state ongoing")?["transactions"] == Value::Array(vec![]));
        let (code, said) = odradek(cluster, "txn list --pattern (")?;
        ensure!(code == Some(1) && said.contains("INVALID_REGULAR_EXPRESSION"), "{code:?} {said}");
        let described = json(cluster, "txn describe payments-1")?;
        ensure!(described["state"] == "Ongoing" && described["coordinator"] == 1, "{described}");
        ensure!(described["partitions"][0]["topic"] == "watched", "{described}");
        ensure!(described["partitions"][0]["partitions"] == serde_json::json!([1]), "{described}");
        let (code, said) = odradek(cluster, "txn describe payments-1 nobody")?;
        ensure!(code == Some(4) && said.contains("nobody") && said.contains("Ongoing"), "{code:?} {said}");
        producer.commit_transaction(LIMIT)?;

        late(0.0)?;
        hang(cluster, "watched")?;
        late(1.0)?;
        producer.begin_transaction()?;
        send(&producer, "watched", 0, "behind it")?;
        producer.commit_transaction(LIMIT)?;
        ensure!(read(cluster, "watched", 0, "read_committed")?.is_empty(), "what hangs holds nothing back");
        let found = json(cluster, "txn find-hanging --longer-than 15m")?;
        ensure!(found["hanging"][0]["producer_id"] == 777 && found["hanging"][0]["start_offset"] == 0, "{found}");
        if let Some(tools) = Tools::new() {
            let server = ["--bootstrap-server", cluster.bootstrap()];
            let run =
                |line: &str| tools.ok(TRANSACTIONS, &server.into_iter().chain(line.split(' ')).collect::<Vec<_>>());
            let said = run("list")?;
            ensure!(said.contains("payments-1") && said.contains("CompleteCommit"), "{said}");
            let said = run("describe --transactional-id payments-1")?;
            ensure!(said.contains("payments-1"), "{said}");
            let said = run("find-hanging --topic watched")?;
            ensure!(said.contains("777"), "{said}");
            run("abort --topic watched --partition 0 --start-offset 0")?;
        } else {
            json(cluster, "txn abort watched 0 --start-offset 0")?;
        }
        wait_for("what was behind it", LIMIT, || {
            Ok((read(cluster, "watched", 0, "read_committed")? == ["behind it"]).then_some(()))
        })?;
        late(0.0)?;
        ensure!(json(cluster, "txn find-hanging")?["hanging"] == Value::Array(vec![]));
        let (code, said) = odradek(cluster, "txn abort watched 0 --start-offset 0")?;
        ensure!(code == Some(4) && said.contains("no open transaction"), "{code:?} {said}");
        let aborted = json(cluster, "txn abort watched 1 --producer-id 888 --producer-epoch 0 --coordinator-epoch 1")?;
        ensure!(aborted["producer_id"] == 888, "{aborted}");
        let (code, said) =
            odradek(cluster, "txn abort watched 1 --producer-id 888 --producer-epoch 0 --coordinator-epoch 0")?;
        ensure!(code == Some(1) && said.contains("TRANSACTION_COORDINATOR_FENCED"), "{code:?} {said}");
        Ok(())
    });
}
