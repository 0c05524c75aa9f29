//! Who administers: topics that come, grow, are configured and go, and partitions that move from broker to broker.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use odradek_tests::client::{Connection, NewTopic};
use odradek_tests::cluster::program;
use odradek_tests::process::run;
use odradek_tests::wire::error;
use odradek_tests::{Client, Cluster, wait_for};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::history::History;
use crate::{ALL, ALL_PARTITIONS, LIVE_LIMIT, requests};

const CONFIG: &str = "retention.ms";
/// So many of the topics that come and go are there at a time.
const TOPICS_MAX: usize = 3;

/// A topic that is there, and what was acknowledged of it.
struct Topic {
    name: String,
    partitions: i32,
    /// Records acknowledged, by partition.
    records: Vec<usize>,
}

#[derive(Default)]
pub struct Topics {
    there: Mutex<Vec<Topic>>,
    gone: Mutex<Vec<String>>,
}

/// Asks one broker after the other until one of the answers in `done` comes.
fn asked(
    client: &mut Client,
    cluster: &Cluster,
    what: &str,
    done: &[i16],
    mut ask: impl FnMut(&mut Connection) -> anyhow::Result<i16>,
) -> anyhow::Result<()> {
    wait_for(&format!("liveness: {what}"), LIVE_LIMIT, || {
        let mut last = anyhow::anyhow!("no broker");
        for broker in cluster.brokers() {
            let address = broker.advertised();
            match client.connection(address).and_then(&mut ask) {
                Ok(code) if done.contains(&code) => return Ok(Some(())),
                Ok(code) => last = anyhow::anyhow!("{}: error {code}", broker.name),
                Err(error) => {
                    client.forget(address);
                    last = error;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(100));
        Err(last)
    })
}

impl Topics {
    /// A name is used once only: a request that was thought lost can then do no harm to a topic of the same name.
    pub fn run(&self, cluster: &Cluster, history: &History, seed: u64) -> anyhow::Result<()> {
        let mut client = cluster.client();
        client.limit = LIVE_LIMIT;
        let mut random = SmallRng::seed_from_u64(seed);
        for number in 0.. {
            if history.stops() {
                break;
            }
            let topic = make(&mut client, cluster, history, &format!("comes-and-goes-{number}"), &mut random)?;
            let mut there = self.there.lock().expect("no panic under this lock");
            there.push(topic);
            if there.len() > TOPICS_MAX {
                let Topic { name, .. } = there.remove(random.random_range(0..TOPICS_MAX));
                drop(there);
                asked(
                    &mut client,
                    cluster,
                    &format!("delete {name}"),
                    &[0, error::UNKNOWN_TOPIC_OR_PARTITION],
                    |one| one.delete_topic(&name),
                )?;
                history.count("topics deleted", 1);
                self.gone.lock().expect("no panic under this lock").push(name);
            }
        }
        Ok(())
    }

    /// What is there is as it was last acknowledged; what was deleted is gone.
    pub fn check(&self, cluster: &Cluster, history: &History, client: &mut Client) -> anyhow::Result<()> {
        let metadata = client.metadata(None)?;
        for name in self.gone.lock().expect("no panic under this lock").iter() {
            if metadata.topics.contains_key(name) {
                history.broken(format_args!("metadata: {name} was deleted and is there"));
            }
        }
        for topic in self.there.lock().expect("no panic under this lock").iter() {
            let Topic { name, partitions, records } = topic;
            let found = metadata.topics.get(name).map_or(0, |topic| topic.partitions.len());
            ensure!(found == *partitions as usize, "metadata: {name} has {found} partitions, not {partitions}");
            for (partition, acknowledged) in (0..).zip(records) {
                let there = client.read_all(name, partition, 0)?.len();
                if there < *acknowledged {
                    history.broken(format_args!("rule 1: {name}-{partition} has {there} records of {acknowledged}"));
                }
            }
            let began = Instant::now();
            let mut value = None;
            asked(client, cluster, &format!("describe {name}"), &[error::NONE], |one| {
                let (code, text) = requests::config(one, name, CONFIG)?;
                value = Some(text.parse()?);
                Ok(code)
            })?;
            // A topic that was never configured has the default.
            if history.configs.keys().contains(name)
                && let Err(problem) = history.configs.check(name, value, began)
            {
                history.broken(format_args!("metadata: {CONFIG} of {name}: {problem}"));
            }
        }
        Ok(())
    }
}

fn make(
    client: &mut Client,
    cluster: &Cluster,
    history: &History,
    name: &str,
    random: &mut SmallRng,
) -> anyhow::Result<Topic> {
    let mut partitions = random.random_range(1..4);
    let new = NewTopic::new(name, partitions, 3).config("min.insync.replicas", 2);
    asked(client, cluster, &format!("create {name}"), &[0, error::TOPIC_ALREADY_EXISTS], |one| {
        Ok(one.create_topic(&new)?.0)
    })?;
    history.count("topics created", 1);
    let mut records = vec![0; partitions as usize];
    fill(client, name, &mut records)?;
    if random.random_bool(0.5) {
        partitions += random.random_range(1..3);
        asked(client, cluster, &format!("grow {name}"), &[0, error::INVALID_PARTITIONS], |one| {
            requests::grow(one, name, partitions)
        })?;
        history.count("topics grown", 1);
        records.resize(partitions as usize, 0);
        fill(client, name, &mut records)?;
    }
    for _ in 0..random.random_range(0..3) {
        let key = name.to_owned();
        let value = random.random_range(1 << 40..1 << 41);
        asked(client, cluster, &format!("configure {name}"), &[error::NONE], |one| {
            let number = history.configs.begin(&key, value);
            let code = requests::set_config(one, name, CONFIG, value)?;
            if code == error::NONE {
                history.configs.acknowledge(&key, number);
            }
            Ok(code)
        })?;
        history.count("configs set", 1);
    }
    Ok(Topic { name: name.to_owned(), partitions, records })
}

fn fill(client: &mut Client, name: &str, records: &mut [usize]) -> anyhow::Result<()> {
    for (partition, count) in (0..).zip(records) {
        let values: Vec<Vec<u8>> = (0..10).map(|number| format!("{name}-{partition}-{number}").into_bytes()).collect();
        client.produce(name, partition, &values)?;
        *count += values.len();
    }
    Ok(())
}

/// Moves partitions from broker to broker, as an operator would.
pub fn reassigns(cluster: &Cluster, history: &History, seed: u64) -> anyhow::Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    let admin: Vec<String> = cluster.controllers().map(|node| node.address.clone()).collect();
    while !history.stops() {
        let mut brokers: Vec<String> = cluster.brokers().map(|broker| broker.id.to_string()).collect();
        brokers.shuffle(&mut random);
        let partition = random.random_range(0..ALL_PARTITIONS);
        let order = format!("{ALL}:{partition}={}", brokers[..3].join(","));
        let mut command = program("odradek");
        command.args(["--timeout", "5", "--admin", &admin.join(","), "--bootstrap", cluster.bootstrap()]);
        command.args(["reassign", "run", &order]);
        // While controllers are away it is refused, or times out.
        let said = run(command, Duration::from_secs(30))?;
        let done = said.status.success();
        history.note(format_args!("reassign {order}: {}", if done { "accepted" } else { said.output.trim() }));
        history.count("reassignments accepted", u64::from(done));
        let pause = Instant::now() + Duration::from_millis(random.random_range(2_000..8_000));
        while Instant::now() < pause && !history.stops() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Every partition of every topic has a leader, and all its replicas are in sync; every broker that is there knows so.
pub fn wait_well(cluster: &Cluster, client: &mut Client) -> anyhow::Result<()> {
    cluster.wait_served()?;
    wait_for("liveness: every ISR is full", LIVE_LIMIT, || {
        let metadata = client.metadata(None)?;
        for (name, topic) in &metadata.topics {
            for (index, partition) in &topic.partitions {
                let mut replicas = partition.replicas.clone();
                replicas.sort_unstable();
                if partition.leader < 0 || partition.isr != replicas {
                    bail!("{name}-{index}: {partition:?}");
                }
            }
        }
        Ok(Some(()))
    })
}
