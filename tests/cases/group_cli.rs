//! `odradek group` and `odradek broker fence` against groups whose coordinators are on several brokers, in text and JSON,
//! through success and failure; and the plans of resets beside those of Kafka's own tool.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::cluster::program;
use odradek_tests::kafka::Tools;
use odradek_tests::wire::{Batch, now_ms};
use odradek_tests::{Cluster, Spec, real, wait_for};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::values;

const LIMIT: Duration = Duration::from_secs(60);
const CONSUMER_GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const CLIENT: &str = "test-reader";
const HOUR_MS: i64 = 3_600_000;

/// Exit codes, as `odradek --help` lists them.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const NOT_FOUND: i32 = 4;

/// What a command said, and how it ended.
struct Said {
    line: String,
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn all(&self) -> String {
        format!("odradek {}: {:?}\n{}{}", self.line, self.code, self.out, self.err)
    }
}

fn odradek(cluster: &Cluster, line: &str) -> anyhow::Result<Said> {
    let admin: Vec<&str> = cluster.controllers().map(|node| node.address.as_str()).collect();
    let mut command: Command = program("odradek");
    command.args(["--admin", &admin.join(","), "--bootstrap", cluster.bootstrap()]).args(line.split(' '));
    let output = command.stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { line: line.to_owned(), code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
}

/// The text of a command that succeeds.
pub(crate) fn text(cluster: &Cluster, line: &str) -> anyhow::Result<String> {
    let said = odradek(cluster, line)?;
    ensure!(said.code == Some(0), "{}", said.all());
    Ok(said.out)
}

pub(crate) fn json(cluster: &Cluster, line: &str) -> anyhow::Result<Value> {
    let out = text(cluster, &format!("{line} --output json --timeout 40"))?;
    serde_json::from_str(&out).with_context(|| format!("odradek {line}: {out}"))
}

/// A command ends with this code and one line that says all of `told`.
fn fails(cluster: &Cluster, line: &str, code: i32, told: &[&str]) -> anyhow::Result<Said> {
    let said = odradek(cluster, line)?;
    ensure!(said.code == Some(code), "{code} is due: {}", said.all());
    ensure!(told.iter().all(|part| said.err.contains(part)), "{told:?} is missing: {}", said.all());
    let last = said.err.lines().last().unwrap_or_default();
    ensure!(code == USAGE || last.starts_with("odradek: "), "one line: {}", said.all());
    Ok(said)
}

fn consumer(cluster: &Cluster, group: &str) -> anyhow::Result<BaseConsumer> {
    let mut config = real::config(cluster.bootstrap());
    config.set("group.id", group).set("client.id", CLIENT).set("enable.auto.commit", "false");
    config.set("auto.offset.reset", "earliest").set("session.timeout.ms", "45000");
    Ok(config.create()?)
}

fn commit(consumer: &BaseConsumer, topic: &str, offsets: &[(i32, i64)]) -> anyhow::Result<()> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    let deadline = Instant::now() + LIMIT;
    while let Err(error) = consumer.commit(&list, CommitMode::Sync) {
        ensure!(Instant::now() < deadline, "no commit: {error}");
        drop(consumer.poll(Duration::from_millis(20)));
    }
    Ok(())
}

/// Partition to the field of `odradek group`'s answer.
fn by_partition(answer: &Value, list: &str, field: &str) -> BTreeMap<(String, i64), Value> {
    let rows = answer[list].as_array().into_iter().flatten();
    let key = |row: &Value| (row["topic"].as_str().unwrap_or("").to_owned(), row["partition"].as_i64().unwrap_or(-9));
    rows.map(|row| (key(row), row[field].clone())).collect()
}

fn offsets(pairs: &[(&str, i64, i64)]) -> BTreeMap<(String, i64), Value> {
    pairs.iter().map(|(topic, partition, offset)| (((*topic).to_owned(), *partition), json!(offset))).collect()
}

/// In `orders`: 20 records a partition, half of them two hours old, half one hour; partition 0 starts at 5.
fn filled(cluster: &Cluster) -> anyhow::Result<i64> {
    let mut client = cluster.client();
    client.create_topic(&NewTopic::new("orders", 2, 3).config("retention.ms", -1))?;
    client.create_topic(&NewTopic::new("payments", 1, 3))?;
    // On one broker only, which is therefore not fenced for a short silence.
    client.create_topic(&NewTopic::assigned("alone", &[&[3]]))?;
    let values = values("record", 10, 20);
    let now = now_ms();
    for partition in 0..2 {
        for hours in [2, 1] {
            let batch = Batch { timestamp_ms: now - hours * HOUR_MS, ..Batch::of(&values) };
            client.produce_batch("orders", partition, &batch.encode())?;
        }
    }
    client.produce("payments", 0, &values[..4])?;
    text(cluster, "records delete orders --partition 0 --before 5")?;
    Ok(now)
}

#[test]
fn groups_are_shown_reset_and_deleted_by_the_command_line() {
    let spec = Spec::new(1, 3).set("offsets.topic.num.partitions", 6).set("offsets.topic.replication.factor", 3);
    let spec = spec.set("group.initial.rebalance.delay.ms", 0).set("broker.session.timeout.ms", 30_000);
    spec.run(|cluster| {
        ensure!(text(cluster, "group list")?.starts_with("there are no groups"), "nothing is there yet");
        let now = filled(cluster)?;
        fails(cluster, "group describe nobody", NOT_FOUND, &["there is no group nobody"])?;

        // Groups that only keep offsets, on whichever brokers coordinate them.
        for number in 0..6 {
            commit(&consumer(cluster, &format!("kept-{number}"))?, "payments", &[(0, number)])?;
        }
        let listed = json(cluster, "group list --state empty")?;
        let listed = listed["groups"].as_array().context("groups")?;
        let coordinators: BTreeSet<i64> = listed.iter().filter_map(|group| group["coordinator"].as_i64()).collect();
        ensure!(listed.len() == 6 && coordinators.len() > 1, "{listed:?}");
        ensure!(listed.iter().all(|group| group["type"] == "classic" && group["state"] == "Empty"), "{listed:?}");

        let member = active(cluster)?;
        drop(member);
        wait_for("the member has left", LIMIT, || {
            Ok((json(cluster, "group members readers")?["state"] == "Empty").then_some(()))
        })?;
        resets(cluster, now)?;
        compares(cluster)?;
        deletes(cluster)?;
        silent_and_dead_brokers(cluster)
    });
}

/// While a member reads: what is shown, and what is refused.
fn active(cluster: &Cluster) -> anyhow::Result<BaseConsumer> {
    let member = consumer(cluster, "readers")?;
    member.subscribe(&["orders"])?;
    wait_for("the member has both partitions", LIMIT, || {
        drop(member.poll(Duration::from_millis(20)));
        Ok((member.assignment()?.count() == 2).then_some(()))
    })?;
    commit(&member, "orders", &[(0, 12), (1, 20)])?;

    let listed = json(cluster, "group list --state STABLE --type classic")?;
    ensure!(listed["groups"].as_array().is_some_and(|groups| groups.len() == 1), "{listed}");
    ensure!(
        listed["groups"][0]["group"] == "readers" && listed["groups"][0]["protocol_type"] == "consumer",
        "{listed}"
    );
    ensure!(json(cluster, "group list --type share")?["groups"] == json!([]), "there is no share group");
    let said = text(cluster, "group list")?;
    ensure!(said.starts_with("GROUP") && said.contains("kept-0") && said.contains("Stable"), "{said}");
    fails(cluster, "group list --state asleep", USAGE, &["asleep", "Stable"])?;

    let described = json(cluster, "group describe readers")?;
    ensure!(described["state"] == "Stable" && described["members"] == 1 && described["lag"] == 8, "{described}");
    ensure!(described["assignor"] == "range" || described["assignor"] == "roundrobin", "{described}");
    let of = |field| by_partition(&described, "partitions", field);
    ensure!(of("committed") == offsets(&[("orders", 0, 12), ("orders", 1, 20)]), "{described}");
    ensure!(of("log_end") == offsets(&[("orders", 0, 20), ("orders", 1, 20)]), "{described}");
    ensure!(of("lag") == offsets(&[("orders", 0, 8), ("orders", 1, 0)]), "{described}");
    ensure!(of("client_id").values().all(|client| client == CLIENT), "{described}");
    let said = text(cluster, "group describe readers kept-3")?;
    for part in ["LOG END", CLIENT, "127.0.0.1", "lag          8", "kept-3", "lag          1"] {
        ensure!(said.contains(part), "{part} is missing:\n{said}");
    }
    let members = json(cluster, "group members readers")?;
    let assigned = &members["members"][0]["assigned"];
    ensure!(*assigned == json!([{"topic": "orders", "partitions": [0, 1]}]), "{members}");
    let said = text(cluster, "group members readers")?;
    ensure!(said.contains("orders:0,1") && said.contains(CLIENT), "{said}");

    let stop = "stop its consumers";
    for (execute, line) in [
        ("", "group reset-offsets readers --topic orders --to-earliest"),
        (" --execute", "group reset-offsets readers --all-topics --to-earliest"),
    ] {
        fails(cluster, &format!("{line}{execute}"), FAILED, &["active members", "Stable", stop, "NON_EMPTY_GROUP"])?;
    }
    fails(cluster, "group delete readers", FAILED, &["active members", stop])?;
    let told = ["members of group readers read topic orders", "GROUP_SUBSCRIBED_TO_TOPIC"];
    fails(cluster, "group delete-offsets readers --topic orders:0", FAILED, &told)?;
    ensure!(json(cluster, "group describe readers")?["lag"] == 8, "nothing was changed");
    Ok(member)
}

/// Every way; only what is executed changes anything.
fn resets(cluster: &Cluster, now: i64) -> anyhow::Result<()> {
    let time = format!("--topic orders --to-datetime {}", now - HOUR_MS + 5);
    for (how, zero, one) in [
        ("--topic orders --to-earliest", 5, 0),
        ("--topic orders --to-latest", 20, 20),
        ("--all-topics --to-current", 12, 20),
        ("--topic orders --to-offset 3", 5, 3),
        ("--topic orders:0,1 --to-offset 99", 20, 20),
        ("--topic orders --shift-by -10", 5, 10),
        ("--topic orders --shift-by 4", 16, 20),
        (time.as_str(), 15, 15),
        ("--topic orders --to-datetime 1971-01-01T00:00:00", 5, 0),
        ("--topic orders --by-duration PT1H30M", 10, 10),
        ("--topic orders --by-duration 30m", 20, 20),
    ] {
        let plan = json(cluster, &format!("group reset-offsets readers {how}"))?;
        let expected = offsets(&[("orders", 0, zero), ("orders", 1, one)]);
        ensure!(by_partition(&plan, "offsets", "new_offset") == expected, "{how}: {plan}");
        let old = offsets(&[("orders", 0, 12), ("orders", 1, 20)]);
        ensure!(by_partition(&plan, "offsets", "old_offset") == old && plan["executed"] == false, "{how}: {plan}");
    }
    let said = odradek(cluster, "group reset-offsets readers --topic orders --to-offset 3 --dry-run")?;
    ensure!(said.out.contains("nothing is changed") && said.out.contains("OLD OFFSET"), "{}", said.all());
    ensure!(
        said.err.contains("warning: group readers: orders-0: offset 3") && !said.err.contains("orders-1"),
        "{}",
        said.all()
    );
    // A partition without a committed offset: the end for --to-current, nothing to shift for --shift-by.
    let plan = json(cluster, "group reset-offsets readers --topic payments --to-current")?;
    ensure!(by_partition(&plan, "offsets", "new_offset") == offsets(&[("payments", 0, 4)]), "{plan}");
    let line = "group reset-offsets readers --topic payments --topic orders --shift-by 1 --execute";
    fails(cluster, line, FAILED, &["payments-0", "nothing is committed", "nothing is reset"])?;
    let line = "group reset-offsets readers --topic absent --topic orders --to-latest --execute";
    fails(cluster, line, NOT_FOUND, &["there is no topic absent"])?;
    let line = "group reset-offsets readers --topic orders:1,7 --to-earliest --execute";
    fails(cluster, line, NOT_FOUND, &["topic orders has 2 partitions, and no partition 7"])?;
    fails(cluster, "group reset-offsets readers --topic orders --to-latest --to-earliest", USAGE, &["--to-latest"])?;
    fails(cluster, "group reset-offsets readers --from-file absent.csv", FAILED, &["absent.csv"])?;
    ensure!(json(cluster, "group describe readers")?["lag"] == 8, "nothing was changed");

    // Done at last; and a shift goes its way once.
    let done = json(cluster, "group reset-offsets readers --topic orders:1 --to-offset 7 --execute")?;
    ensure!(done["executed"] == true, "{done}");
    let done = json(cluster, "group reset-offsets readers --all-topics --shift-by -3 --execute")?;
    ensure!(by_partition(&done, "offsets", "old_offset") == offsets(&[("orders", 0, 12), ("orders", 1, 7)]), "{done}");
    let described = json(cluster, "group describe readers")?;
    let committed = by_partition(&described, "partitions", "committed");
    ensure!(committed == offsets(&[("orders", 0, 9), ("orders", 1, 4)]), "{described}");
    ensure!(described["lag"] == 27, "{described}");
    // A group that is not there is made, as by Kafka's tool; its consumers can then be started.
    let said = text(cluster, "group reset-offsets prepared --topic payments --to-latest")?;
    ensure!(said.contains("there is no group prepared"), "{said}");
    let done = json(cluster, "group reset-offsets prepared --topic payments --to-latest --execute")?;
    ensure!(by_partition(&done, "offsets", "new_offset") == offsets(&[("payments", 0, 4)]), "{done}");
    ensure!(json(cluster, "group describe prepared")?["state"] == "Empty", "it is there");
    Ok(())
}

/// Files go from one tool to the other, and plans are alike.
fn compares(cluster: &Cluster) -> anyhow::Result<()> {
    let line = "group reset-offsets readers --topic orders --to-offset 3 --export";
    let ours = text(cluster, line)?;
    ensure!(ours == "orders,0,5\norders,1,3\n", "{ours}");
    fails(cluster, &format!("{line} --output json"), USAGE, &["--export"])?;
    let file = cluster.scratch("plans")?.join("offsets.csv");
    let path = file.to_str().context("a path of UTF-8")?.to_owned();
    std::fs::write(&file, "other,orders,0,1\n\"readers\",orders,0,11\nreaders,orders,1,99\n")?;
    let plan = json(cluster, &format!("group reset-offsets readers --from-file {path}"))?;
    let expected = offsets(&[("orders", 0, 11), ("orders", 1, 20)]);
    ensure!(by_partition(&plan, "offsets", "new_offset") == expected, "{plan}");
    // Of several groups each line names its own.
    let all = text(cluster, "group reset-offsets --all-groups --all-topics --to-current --export")?;
    ensure!(all.contains("kept-3,payments,0,3\n") && all.contains("readers,orders,0,9\nreaders,orders,1,4\n"), "{all}");
    std::fs::write(&file, "kept-3,payments,0,1\nkept-4,payments,0,2\n")?;
    text(cluster, &format!("group reset-offsets --all-groups --from-file {path} --execute"))?;
    let line = format!("group reset-offsets kept-5 kept-4 --from-file {path}");
    let said = fails(cluster, &line, FAILED, &["no offsets for group kept-5"])?;
    ensure!(said.out.contains("group kept-4") && !said.out.contains("group kept-5"), "{}", said.all());
    let said = text(cluster, "group describe --all-groups --output json")?;
    let described = said.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    ensure!(described.len() == 8, "{said}");
    let kept = described.iter().find(|group| group["group"] == "kept-4").context("kept-4")?;
    ensure!(kept["partitions"][0]["committed"] == 2, "{kept}");
    std::fs::write(&file, "orders;0;11\n")?;
    fails(cluster, &format!("group reset-offsets readers --from-file {path}"), FAILED, &["line 1", "TOPIC,PARTITION"])?;

    let Some(tools) = Tools::new() else { return Ok(()) };
    let at = ["--bootstrap-server", cluster.bootstrap(), "--reset-offsets", "--group", "readers"];
    let theirs =
        tools.ok(CONSUMER_GROUPS, &[&at[..], &["--topic", "orders", "--to-offset", "3", "--export"]].concat())?;
    let rows = |text: &str| -> BTreeSet<String> {
        text.lines().filter(|line| line.starts_with("orders,")).map(str::to_owned).collect()
    };
    ensure!(rows(&theirs) == rows(&ours), "theirs:\n{theirs}\nours:\n{ours}");
    std::fs::write(&file, &ours)?;
    tools.ok(CONSUMER_GROUPS, &[&at[..], &["--from-file", &path, "--execute"]].concat())?;
    let described = json(cluster, "group describe readers")?;
    let committed = by_partition(&described, "partitions", "committed");
    ensure!(committed == offsets(&[("orders", 0, 5), ("orders", 1, 3)]), "{described}");
    Ok(())
}

fn deletes(cluster: &Cluster) -> anyhow::Result<()> {
    let done = json(cluster, "group delete-offsets readers --topic orders:1 --topic payments")?;
    ensure!(done["partitions"].as_array().is_some_and(|all| all.iter().all(|one| one["deleted"] == true)), "{done}");
    let described = json(cluster, "group describe readers")?;
    ensure!(by_partition(&described, "partitions", "committed").len() == 1, "{described}");
    fails(cluster, "group delete-offsets readers --topic absent", NOT_FOUND, &["there is no topic absent"])?;
    fails(cluster, "group delete-offsets nobody --topic orders", NOT_FOUND, &["there is no group nobody"])?;
    let said = text(cluster, "group delete kept-0 kept-1")?;
    ensure!(said.matches("deleted").count() == 2, "{said}");
    let said = fails(cluster, "group delete kept-2 kept-1", NOT_FOUND, &["there is no group kept-1"])?;
    ensure!(said.out.contains("GROUP_ID_NOT_FOUND") && said.out.contains("deleted"), "{}", said.all());
    let listed = json(cluster, "group list")?;
    let names: BTreeSet<&str> =
        listed["groups"].as_array().into_iter().flatten().filter_map(|group| group["group"].as_str()).collect();
    ensure!(names == BTreeSet::from(["kept-3", "kept-4", "kept-5", "prepared", "readers"]), "{listed}");
    Ok(())
}

/// A broker that does not answer is named; one that is dead is replaced.
fn silent_and_dead_brokers(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.broker(3).pause()?;
    let said = fails(cluster, "group list --timeout 30", FAILED, &["not complete", "broker 3 at 127.0.0.1:"]);
    cluster.broker(3).resume()?;
    said?;
    cluster.wait_served()?;
    let mut client = cluster.client();
    for partition in 0..6 {
        client.wait_isr("__consumer_offsets", partition, &[1, 2, 3])?;
    }
    let coordinator = json(cluster, "group describe readers")?["coordinator"].as_i64().context("a coordinator")?;
    cluster.broker(coordinator as i32).kill()?;
    let described = json(cluster, "group describe readers")?;
    ensure!(described["coordinator"] != coordinator, "{described}");
    ensure!(described["partitions"][0]["committed"].is_number(), "{described}");
    // Nobody is left who could say.
    for broker in cluster.brokers().filter(|broker| broker.is_running()) {
        broker.pause()?;
    }
    let said = fails(cluster, "group describe readers --timeout 8", UNREACHABLE, &["broker"]);
    for broker in cluster.brokers().filter(|broker| broker.is_running()) {
        broker.resume()?;
    }
    said.map(drop)
}

#[test]
fn a_broker_fenced_by_hand_leads_nothing_until_it_is_let_back_in() {
    Spec::new(1, 2).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::assigned("shared", &[&[1, 2]]))?;
        client.create_topic(&NewTopic::assigned("alone", &[&[2]]))?;
        client.produce("shared", 0, &values("before", 10, 20))?;
        fails(cluster, "broker fence 2", FAILED, &["alone-0", "--force"])?;
        fails(cluster, "broker fence 9", NOT_FOUND, &["9"])?;
        fails(cluster, "broker unfence 9", NOT_FOUND, &["9"])?;
        client.wait_isr("shared", 0, &[1, 2])?;
        text(cluster, "broker fence 1")?;
        let state = || anyhow::Ok(json(cluster, "broker describe 1")?["state"].as_str().unwrap_or_default().to_owned());
        ensure!(state()? == "fenced by hand", "{}", state()?);
        wait_for("the other leads", LIMIT, || Ok((client.leader("shared", 0)?.0 == 2).then_some(())))?;
        client.produce("shared", 0, &values("during", 10, 20))?;
        // Neither another start of the broker nor of the controller lets it in.
        cluster.broker(1).stop()?;
        cluster.broker(1).start()?;
        let controller = cluster.controllers().next().context("a controller")?;
        controller.stop()?;
        controller.start()?;
        let epoch = || anyhow::Ok(json(cluster, "broker describe 1")?["broker_epoch"].clone());
        let before = epoch()?;
        wait_for("the new process is heard", LIMIT, || {
            let followed = json(cluster, "quorum status")?;
            let observers = followed["observers"].as_array().context("observers")?.clone();
            let own = observers.into_iter().find(|one| one["broker_id"] == 1);
            Ok(own.filter(|own| own["lag"] == 0 && own["metadata_offset"].as_i64() >= before.as_i64()).map(drop))
        })?;
        ensure!(state()? == "fenced by hand", "{}", state()?);
        let said = text(cluster, "broker unfence 1")?;
        ensure!(said.contains("may serve again"), "{said}");
        wait_for("it serves", LIMIT, || Ok((state()? == "serving").then_some(())))?;
        // It has what was written meanwhile, and leads again when asked to.
        client.wait_isr("shared", 0, &[1, 2])?;
        text(cluster, "elect preferred shared:0")?;
        wait_for("the preferred one leads", LIMIT, || Ok((client.leader("shared", 0)?.0 == 1).then_some(())))?;
        ensure!(client.read_all("shared", 0, 0)?.len() == 20, "all records are there");
        Ok(())
    });
}
