//! `odradek` as an operator types it: what it refuses, in one line and with which exit code; records in and out in every
//! form; measuring; the shells' completions.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::cluster::{free_port, program};
use odradek_tests::process::spawn;
use odradek_tests::{Cluster, Spec, wait_for};
use serde_json::Value;

/// Records by partition and offset.
type ByPlace = BTreeMap<(i64, i64), Value>;

const LIMIT: Duration = Duration::from_secs(60);

fn command(cluster: &Cluster, arguments: &[&str]) -> Command {
    let admin: Vec<&str> = cluster.controllers().map(|controller| controller.address.as_str()).collect();
    let mut command = program("odradek");
    command.env("ADMIN", admin.join(",")).env("BOOTSTRAP", cluster.bootstrap());
    if !arguments.contains(&"--timeout") {
        command.args(["--timeout", "60"]);
    }
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it with this standard input to its end; its own `--timeout` bounds that.
fn run(command: Command, input: &[u8]) -> anyhow::Result<Output> {
    let mut child = spawn(command)?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    // A command that refuses does not read.
    let _ = stdin.write_all(input);
    drop(stdin);
    Ok(child.wait_with_output()?)
}

fn ok(cluster: &Cluster, line: &str, input: &[u8]) -> anyhow::Result<String> {
    let arguments: Vec<&str> = line.split(' ').collect();
    let output = run(command(cluster, &arguments), input)?;
    let problem = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "odradek {line}: {}\n{problem}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn json(cluster: &Cluster, line: &str) -> anyhow::Result<Value> {
    let text = ok(cluster, &format!("{line} --output json"), b"")?;
    serde_json::from_str(&text).with_context(|| format!("{line}: {text}"))
}

/// The exit code, and the one line that says why, with these words in it.
fn refused(output: &Output, line: &str, exit: i32, words: &[&str]) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(exit), "{line}: {}, not {exit}\n{said}", output.status);
    let one_line = said.starts_with("odradek: ") && said.ends_with('\n') && said.matches('\n').count() == 1;
    ensure!(one_line, "{line}: not one line:\n{said}");
    for word in words {
        ensure!(said.contains(word), "{line}: {word} is missing from {said}");
    }
    Ok(())
}

#[test]
fn what_an_operator_types() {
    Spec::new(1, 3).set("min.insync.replicas", 1).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::assigned("orders", &[&[1, 2], &[2, 3], &[3, 1]]))?;
        client.create_topic(&NewTopic::assigned("strict", &[&[1, 2]]).config("min.insync.replicas", 2))?;
        client.create_topic(&NewTopic::assigned("small", &[&[1]]).config("max.message.bytes", 1000))?;
        mistakes(cluster)?;
        partitions_are_added(cluster)?;
        records_in_every_form(cluster)?;
        offsets_and_producers_and_directories(cluster)?;
        measuring(cluster)?;
        moves_show_their_progress(cluster)?;
        a_leader_dies_under_a_producer(cluster)
    });
}

fn mistakes(cluster: &Cluster) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    for (line, input, exit, words) in [
        // The command line.
        ("topic create t --partitons 3", "", 2, &["--partitions", "odradek topic create --help"][..]),
        ("topic create", "", 2, &["<TOPIC>", "--help"]),
        ("topik list", "", 2, &["'topic'"]),
        ("produce orders --acks 2", "", 2, &["all, 1, 0"]),
        ("consume orders --from soon", "", 2, &["it takes earliest"]),
        ("consume orders --format %z", "", 2, &["%k key"]),
        ("consume orders --format %v --output json", "", 2, &["--format"]),
        ("produce orders --format json --key-separator :", "", 2, &["--key-separator"]),
        ("perf produce orders --records 5 --record-bytes 5 --throughput 0", "", 2, &["-1 for no limit"]),
        ("completions csh", "", 2, &["bash, zsh, fish"]),
        // What is not there.
        ("consume nothing", "", 4, &["no topic nothing", "odradek topic create"]),
        ("perf consume nothing", "", 4, &["no topic nothing"]),
        ("topic describe nothing", "", 4, &["no topic nothing"]),
        ("topic delete nothing", "", 4, &["no topic nothing"]),
        ("topic alter nothing --partitions 5", "", 4, &["no topic nothing"]),
        ("topic offsets nothing", "", 4, &["no topic nothing"]),
        ("topic producers nothing", "", 4, &["no topic nothing"]),
        ("records delete nothing --before 5", "", 4, &["no topic nothing"]),
        ("config set topic/nothing retention.ms=5", "", 4, &["no topic nothing"]),
        ("consume orders --partition 9 --exit-at-end", "", 4, &["3 partitions", "topic describe orders"]),
        ("produce orders --partition 9", "a", 4, &["3 partitions"]),
        ("topic offsets orders --partition 9", "", 4, &["3 partitions"]),
        ("perf e2e orders --partition 9", "", 4, &["3 partitions"]),
        ("broker describe 99", "", 4, &["broker 99", "broker list"]),
        ("broker log-dirs 99", "", 4, &["broker 99", "broker list"]),
        ("broker decommission 99", "", 4, &["99"]),
        ("broker unregister 99", "", 4, &["broker 99"]),
        ("config get broker/99", "", 4, &["broker 99"]),
        ("config get topic/orders no.such", "", 1, &["no config no.such", "--all"]),
        ("config set topic/orders no.such=1", "", 1, &["no.such", "INVALID_CONFIG"]),
        ("topic create t --config no.such=1", "", 1, &["no.such", "INVALID_CONFIG"]),
        ("perf produce orders --records 5 --payload-file no/such/file", "", 1, &["no/such/file"]),
        // What is refused.
        ("topic create orders", "", 5, &["orders"]),
        ("topic create t --partitions 20000", "", 1, &["POLICY_VIOLATION", "fewer"]),
        ("topic create t --replication-factor 9", "", 1, &["INVALID_REPLICATION_FACTOR"]),
        ("topic create a/b", "", 1, &["INVALID_TOPIC_EXCEPTION"]),
        ("topic alter orders --partitions 2", "", 1, &["INVALID_PARTITIONS", "3"]),
        ("topic alter orders --partitions 5 --assignment 1:2", "", 1, &["INVALID_REPLICA_ASSIGNMENT"]),
        ("consume orders --from 5000 --exit-at-end", "", 1, &["no offset 5000", "--from"]),
        ("records delete orders --before 5000 --partition 0", "", 1, &["1 of 1 partitions"]),
        ("reassign run orders:0=99", "", 1, &["1 of 1 partitions"]),
        ("quorum features --set no.such=1", "", 1, &["no.such"]),
        // What standard input has.
        ("produce orders --format json", "{\"value\": \"v\"", 1, &["line 1"]),
        ("produce orders --format json", "{\"value\": 1, \"partition\": 9}", 1, &["line 1", "3 partitions"]),
        ("perf consume orders --records 1 --timeout 1", "", 1, &["0 of 1 records"]),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let output = run(command(cluster, &arguments), input.as_bytes())?;
        problems.extend(refused(&output, line, exit, words).err().map(|problem| problem.to_string()));
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    let output = run(command(cluster, &["produce", "small"]), "x".repeat(2000).as_bytes())?;
    refused(&output, "a large record", 1, &["MESSAGE_TOO_LARGE", "max.message.bytes"])?;
    // Nobody is there.
    let nowhere = format!("127.0.0.1:{}", free_port());
    for line in ["consume orders", "produce orders", "topic list", "broker list", "perf e2e orders", "broker log-dirs"]
    {
        let mut lost = program("odradek");
        lost.args(line.split(' ')).args(["--timeout", "0.5", "--admin", &nowhere, "--bootstrap", &nowhere]);
        lost.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        refused(&spawn(lost)?.wait_with_output()?, line, 3, &[&nowhere, "is the cluster up"])?;
    }
    for (shell, words) in [("bash", "complete -F"), ("zsh", "#compdef odradek"), ("fish", "complete -c odradek")] {
        let script = ok(cluster, &format!("completions {shell}"), b"")?;
        ensure!(
            script.contains(words) && script.contains("decommission") && script.contains("perf"),
            "{shell}: {script}"
        );
    }
    Ok(())
}

fn partitions_are_added(cluster: &Cluster) -> anyhow::Result<()> {
    ok(cluster, "topic create grown --partitions 1 --replication-factor 1", b"")?;
    let only_checked = json(cluster, "topic alter grown --partitions 3 --validate-only")?;
    ensure!(only_checked["altered"] == false && only_checked["partitions_before"] == 1, "{only_checked}");
    ok(cluster, "topic alter grown --partitions 3 --assignment 2,3", b"")?;
    ok(cluster, "topic alter grown --partitions 4", b"")?;
    let described = json(cluster, "topic describe grown")?;
    let partitions = described["partitions"].as_array().context("partitions")?;
    ensure!(partitions.len() == 4, "{described}");
    ensure!(partitions[1]["replicas"][0] == 2 && partitions[2]["replicas"][0] == 3, "{described}");
    Ok(())
}

fn records_in_every_form(cluster: &Cluster) -> anyhow::Result<()> {
    for topic in ["forms", "copy", "plain"] {
        ok(cluster, &format!("topic create {topic} --partitions 2 --replication-factor 2"), b"")?;
    }
    let lines = [
        r#"{"key": "a", "value": "1", "partition": 0, "timestamp_ms": 1763793600250, "headers": {"h": "x"}}"#,
        r#"{"key": "b", "value": null, "partition": 1, "timestamp": "2025-11-22T06:40:00Z"}"#,
        r#"{"key_hex": "00ff", "value_hex": "80", "partition": 0, "headers": [{"name": "n", "value": null}, {"name": "n", "value_hex": "fe"}]}"#,
        r#"{"value": "", "partition": 1}"#,
    ];
    ok(cluster, "produce forms --format json --compression zstd", lines.join("\n").as_bytes())?;
    let read = |topic: &str| -> anyhow::Result<(String, ByPlace)> {
        let text = ok(cluster, &format!("consume {topic} --exit-at-end --output json"), b"")?;
        let mut records = BTreeMap::new();
        for line in text.lines() {
            let mut record: Value = serde_json::from_str(line)?;
            let place = (record["partition"].as_i64(), record["offset"].as_i64());
            record.as_object_mut().context("an object")?.remove("topic");
            records.insert((place.0.context("partition")?, place.1.context("offset")?), record);
        }
        Ok((text, records))
    };
    let (text, records) = read("forms")?;
    let first = &records[&(0, 0)];
    ensure!(first["value"] == "1" && first["timestamp_ms"] == 1_763_793_600_250_i64, "{first}");
    ensure!(first["headers"][0]["name"] == "h" && first["headers"][0]["value"] == "x", "{first}");
    ensure!(records[&(1, 0)]["value"].is_null() && records[&(0, 1)]["value_hex"] == "80", "{text}");
    ensure!(records.len() == 4 && records[&(1, 1)]["key"].is_null(), "{text}");
    // What is printed is what is read.
    ok(cluster, "produce copy --format json", text.as_bytes())?;
    ensure!(read("copy")?.1 == records, "the copy is the same");

    let input = b"k1:v1\nk2:NULL\nNULL:v3\nv4\n";
    ok(cluster, "produce plain --key-separator : --null-value NULL --header h=x --partition 0", input)?;
    for (options, expected) in [
        ("", "v1\nnull\nv3\nv4\n"),
        ("--null-value NULL --key-separator :", "k1:v1\nk2:NULL\nNULL:v3\nNULL:v4\n"),
        (
            "--print offset,headers,key,value",
            "Offset:0\th:x\tk1\tv1\nOffset:1\th:x\tk2\tnull\nOffset:2\th:x\tnull\tv3\nOffset:3\th:x\tnull\tv4\n",
        ),
        ("--format %t-%p@%o:%K,%V,%k=%v;%h\\n --from 1 -n 1", "plain-0@1:2,-1,k2=null;h=x\n"),
        ("--from 2 --print value,partition --key-separator |", "Partition:0|v3\nPartition:0|v4\n"),
    ] {
        let mut arguments = vec!["consume", "plain", "--exit-at-end", "--partition", "0"];
        arguments.extend(options.split(' ').filter(|option| !option.is_empty()));
        let output = run(command(cluster, &arguments), b"")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && said == expected,
            "{options}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    // By time: the two records with old timestamps are left out.
    let late = ok(cluster, "consume forms --exit-at-end --from @2025-12-01 --format %o,", b"")?;
    ensure!(late == "1,1,", "{late}");
    Ok(())
}

fn offsets_and_producers_and_directories(cluster: &Cluster) -> anyhow::Result<()> {
    let offsets = json(cluster, "topic offsets plain --partition 0")?;
    ensure!(offsets["partitions"][0]["earliest"] == 0 && offsets["partitions"][0]["latest"] == 4, "{offsets}");
    let offsets = json(cluster, "topic offsets forms --at @2025-12-01")?;
    ensure!(offsets["partitions"][1]["offset"] == 1, "{offsets}");
    let producers = json(cluster, "topic producers plain")?;
    ensure!(producers["producers"][0]["last_sequence"] == 3, "{producers}");
    let directories = json(cluster, "broker log-dirs --topic plain")?;
    let directories = directories["directories"].as_array().context("directories")?;
    let replicas: usize = directories.iter().filter_map(|one| one["replicas"].as_array()).map(Vec::len).sum();
    ensure!(directories.len() == 3 && replicas == 4, "{directories:?}");
    let text = ok(cluster, "broker log-dirs 2", b"")?;
    ensure!(text.contains("online") && text.lines().count() == 2, "{text}");
    Ok(())
}

fn measuring(cluster: &Cluster) -> anyhow::Result<()> {
    let produced = json(cluster, "perf produce orders --records 20000 --record-bytes 100")?;
    ensure!(produced["records"] == 20_000 && produced["bytes"] == 2_000_000, "{produced}");
    let latency = &produced["latency_ms"];
    let number = |name: &str| latency[name].as_f64().with_context(|| format!("{name}: {latency}"));
    ensure!(number("avg")? > 0.0 && number("p50")? <= number("p99")?, "{latency}");
    ensure!(number("p99")? <= number("p99.9")? && number("p99.9")? <= number("max")?, "{latency}");
    let consumed = json(cluster, "perf consume orders")?;
    ensure!(consumed["records"] == 20_000 && consumed["bytes"] == 2_000_000, "{consumed}");
    ensure!(consumed["first_record_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{consumed}");
    // All partitions had their turn.
    let offsets = json(cluster, "topic offsets orders")?;
    let partitions = offsets["partitions"].as_array().context("partitions")?;
    ensure!(partitions.iter().all(|one| one["latest"].as_i64() > Some(0)), "{offsets}");

    let payloads = cluster.scratch("payloads")?.join("lines");
    std::fs::create_dir_all(payloads.parent().context("a parent")?)?;
    std::fs::write(&payloads, "one\ntwo\nthree\n")?;
    let line = format!(
        "perf produce copy --records 300 --payload-file {} --throughput 1000 --acks 1 --compression lz4 --partition 1 \
         --batch-bytes 200 --linger-ms 1 --in-flight 9 --report-interval 0.1",
        payloads.display()
    );
    let output = run(command(cluster, &line.split(' ').collect::<Vec<_>>()), b"")?;
    let progress = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && progress.contains("records/s"), "{progress}");
    let summary = String::from_utf8_lossy(&output.stdout);
    ensure!(summary.starts_with("300 records in ") && summary.contains("p99.9"), "{summary}");
    let values = ok(cluster, "consume copy --exit-at-end --partition 1 --from 2", b"")?;
    ensure!(values.lines().count() == 300 && values.starts_with("one\ntwo\nthree\none\n"), "{values}");

    let unacknowledged = json(cluster, "perf produce forms --records 500 --record-bytes 10 --acks 0 --partition 0")?;
    ensure!(unacknowledged["records"] == 500, "{unacknowledged}");
    wait_for("records without acknowledgement", LIMIT, || {
        let offsets = json(cluster, "topic offsets forms --at latest --partition 0")?;
        Ok((offsets["partitions"][0]["offset"] == 502).then_some(()))
    })?;

    let latency = json(cluster, "perf e2e orders --records 50 --record-bytes 20 --rate 500")?;
    ensure!(latency["records"] == 50 && latency["latency_ms"]["p50"].as_f64() > Some(0.0), "{latency}");
    Ok(())
}

fn moves_show_their_progress(cluster: &Cluster) -> anyhow::Result<()> {
    // Slow enough to be seen under way, though how far it is at each look is a matter of time.
    let rate = "leader.replication.throttled.rate=40000 follower.replication.throttled.rate=40000";
    ok(cluster, &format!("config set brokers {rate}"), b"")?;
    let which = "leader.replication.throttled.replicas=* follower.replication.throttled.replicas=*";
    ok(cluster, &format!("config set topic/orders {which}"), b"")?;
    let shown = ok(cluster, "reassign run orders:0=3,2 --watch", b"")?;
    ensure!(shown.contains(" are there") && shown.ends_with("done: no partition is being reassigned\n"), "{shown}");
    ok(cluster, "config unset brokers leader.replication.throttled.rate follower.replication.throttled.rate", b"")?;
    Ok(())
}

/// With acks=all nothing is lost, doubled or out of order, though a leader dies with requests under way.
fn a_leader_dies_under_a_producer(cluster: &Cluster) -> anyhow::Result<()> {
    const CHUNKS: usize = 40;
    const LINES: usize = 2_000;
    let mut client = cluster.client();
    client.create_topic(&NewTopic::assigned("numbers", &[&[1, 2, 3]]))?;
    client.wait_isr("numbers", 0, &[1, 2, 3])?;
    let mut child = spawn(command(cluster, &["produce", "numbers"]))?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    for chunk in 0..CHUNKS {
        let lines: String = (chunk * LINES..(chunk + 1) * LINES).map(|number| format!("{number}\n")).collect();
        stdin.write_all(lines.as_bytes())?;
        if chunk == CHUNKS / 2 {
            wait_for("the first records", LIMIT, || Ok((client.end_offset("numbers", 0)? > 0).then_some(())))?;
            cluster.broker(1).kill()?;
        }
    }
    drop(stdin);
    let output = child.wait_with_output()?;
    let problem = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {problem}", output.status);
    let numbers = ok(cluster, "consume numbers --exit-at-end", b"")?;
    let expected = CHUNKS * LINES;
    let wrong = numbers.lines().enumerate().find(|(index, line)| line.parse() != Ok(*index));
    ensure!(
        wrong.is_none() && numbers.lines().count() == expected,
        "{wrong:?}, {} of {expected}",
        numbers.lines().count()
    );
    client.wait_isr("strict", 0, &[2])?;
    let output = run(command(cluster, &["produce", "strict", "--timeout", "3"]), b"a")?;
    refused(&output, "too few replicas", 1, &["NOT_ENOUGH_REPLICAS", "min.insync.replicas"])?;
    cluster.broker(1).start()
}

/// The broker that is asked first hangs, and leads. Lines that keep coming do not keep the producer from finding another.
#[test]
fn a_leader_hangs_under_a_producer() {
    Spec::new(1, 3).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::assigned("trickle", &[&[1, 2, 3]]))?;
        client.wait_isr("trickle", 0, &[1, 2, 3])?;
        let mut child = spawn(command(cluster, &["produce", "trickle", "--timeout", "20"]))?;
        let mut stdin = child.stdin.take().context("a pipe")?;
        let (lines, is_over) = (AtomicI64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| -> anyhow::Result<()> {
                while !is_over.load(Ordering::Acquire) {
                    stdin.write_all(format!("{}\n", lines.load(Ordering::Acquire)).as_bytes())?;
                    lines.fetch_add(1, Ordering::AcqRel);
                    std::thread::sleep(Duration::from_millis(10)); // not to wait for a state: the pace of the lines
                }
                drop(stdin);
                Ok(())
            });
            let mut has_more_than = |count: i64| {
                wait_for("records of lines that came meanwhile", LIMIT, || {
                    Ok((client.end_offset("trickle", 0)? > count).then_some(()))
                })
            };
            let goes_on = has_more_than(0).and_then(|()| {
                cluster.broker(1).pause()?;
                let outcome = has_more_than(lines.load(Ordering::Acquire));
                cluster.broker(1).resume()?;
                outcome
            });
            is_over.store(true, Ordering::Release);
            writer.join().expect("no panic").and(goes_on)
        })?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        // Until broker 1 has heard that it leads no more, it answers from what it has.
        let expected = lines.into_inner();
        let numbers = wait_for("as many records as lines", LIMIT, || {
            let numbers = ok(cluster, "consume trickle --exit-at-end", b"")?;
            Ok((numbers.lines().count() as i64 >= expected).then_some(numbers))
        })?;
        let came = numbers.lines().count() as i64;
        let wrong = numbers.lines().enumerate().find(|(index, line)| line.parse() != Ok(*index));
        ensure!(wrong.is_none() && came == expected, "{wrong:?}; {came} of {expected}");
        Ok(())
    });
}
