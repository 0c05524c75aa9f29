//! Runs that play one story each: what others have lost data by, or what a rule of `docs/ARCHITECTURE.md` must stand. What
//! happens, and to whom, is written down; when exactly, the seed decides.
//!
//! The oracles are the same rules as everywhere, so a script passes on a sound build and says nothing of any bug; that each
//! seeded bug breaks one of them is shown by `tests/sim/run --bugs`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use odradek_node::World;

use crate::client::{Client, View};
use crate::cluster::Cluster;
use crate::report::Report;
use crate::workload::{self, History, Topic};

mod controllers;
mod losses;
mod plain;
mod replication;
mod transactions;

/// A story.
pub struct Script {
    pub name: &'static str,
    pub about: &'static str,
    controllers: usize,
    brokers: usize,
    settings: &'static [&'static str],
    play: fn(&mut Cluster<'_>),
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Script> {
    replication::SCRIPTS.iter().chain(losses::SCRIPTS).chain(controllers::SCRIPTS).chain(transactions::SCRIPTS)
}

impl Script {
    pub fn named(name: &str) -> Option<&'static Script> {
        all().find(|script| script.name == name)
    }

    /// Plays it once, in this process, as [`crate::scenario::Scenario::run`] does.
    pub fn run(&'static self, seed: u64) -> (Report, Vec<String>) {
        let start = move || Cluster::start(seed, self.controllers, self.brokers, self.settings);
        crate::scenario::run(self.name, seed, start, self.play)
    }
}

const LONG: Duration = Duration::from_secs(120);

fn broker(id: i32) -> String {
    format!("broker-{id}")
}

/// Partition 0 of a topic, as the brokers describe it. A broker that is cut off or starts tells old news: a leader is believed when
/// its epoch is new, an ISR when the leader's own broker tells it.
struct Watcher(Arc<Mutex<Option<View>>>);

impl Watcher {
    fn start(cluster: &mut Cluster<'_>, topic: &'static str) -> Self {
        let view = Arc::new(Mutex::new(None::<View>));
        for host in cluster.bootstrap() {
            let (shared, history, name) = (view.clone(), cluster.history.clone(), host.0.clone());
            cluster.client(move |world| async move {
                let mut client = Client::new(world.clone(), vec![host]);
                while !history.stops() {
                    let views = client.views(topic).await.unwrap_or_default();
                    if let Some(seen) = views.into_iter().find(|seen| seen.partition == 0) {
                        let mut known = shared.lock().expect("no holder panics");
                        let is_news = known.as_ref().is_none_or(|known| {
                            known.epoch < seen.epoch
                                || (known.epoch == seen.epoch && known.isr != seen.isr && broker(seen.leader) == name)
                        });
                        if is_news {
                            let View { leader, epoch, isr, .. } = &seen;
                            history.note(format_args!("{topic}-0 is led by {leader} in epoch {epoch}, isr {isr:?}"));
                            *known = Some(seen);
                        }
                    }
                    world.sleep(Duration::from_millis(5)).await;
                }
            });
        }
        Self(view)
    }

    fn view(&self) -> Option<View> {
        self.0.lock().expect("no holder panics").clone()
    }

    /// Waits until the partition is so.
    fn until(&self, cluster: &mut Cluster<'_>, what: &str, is_so: impl Fn(&View) -> bool) -> View {
        cluster.run_until(what, LONG, |_| self.view().is_some_and(|view| is_so(&view)));
        self.view().expect("it was seen")
    }

    /// Waits for another leader than `old`.
    fn until_led_by_another(&self, cluster: &mut Cluster<'_>, old: &[i32]) -> View {
        self.until(cluster, "another broker leads", |view| view.leader >= 0 && !old.contains(&view.leader))
    }

    fn until_led_by(&self, cluster: &mut Cluster<'_>, leader: i32) -> View {
        self.until(cluster, "the broker leads", |view| view.leader == leader)
    }

    fn until_in_sync(&self, cluster: &mut Cluster<'_>, replicas: usize) -> View {
        self.until(cluster, "every replica is in sync", |view| view.leader >= 0 && view.isr.len() == replicas)
    }
}

/// Idempotent producers of one partition, and what they were acknowledged.
struct Load {
    topic: Topic,
    history: Arc<History>,
}

impl Load {
    fn start(cluster: &mut Cluster<'_>, topic: Topic, producers: usize) -> Self {
        Self::start_as(cluster, topic, 0..producers)
    }

    /// The producers' numbers are theirs in the whole run.
    fn start_as(cluster: &mut Cluster<'_>, topic: Topic, producers: std::ops::Range<usize>) -> Self {
        let history = Arc::new(History::default());
        let (hosts, shared) = (cluster.bootstrap(), history.clone());
        cluster.client(move |world| workload::create_topic(world, hosts, topic, shared));
        for producer in producers {
            let (hosts, shared) = (cluster.bootstrap(), history.clone());
            cluster.client(move |world| workload::produce(world, hosts, topic, 0, producer, shared));
        }
        Self { topic, history }
    }

    /// Waits until so many more records are acknowledged.
    fn until_acknowledged(&self, cluster: &mut Cluster<'_>, more: usize) {
        let before = self.history.acknowledged_count();
        let what = format!("{more} more records of {} are acknowledged", self.topic.name);
        cluster.run_until(&what, LONG, |_| {
            self.history.acknowledged_count() >= before + more || !self.broken().is_empty()
        });
        self.tell_broken(cluster);
    }

    fn broken(&self) -> Vec<String> {
        self.history.broken.lock().expect("no holder panics").clone()
    }

    fn tell_broken(&self, cluster: &mut Cluster<'_>) {
        self.broken().into_iter().for_each(|rule| cluster.history.broken(rule));
        cluster.run_for(Duration::from_millis(2));
    }

    /// Stops, and checks rule 1 over what the partition holds, and rule 2 when all its replicas are there.
    fn finish(self, cluster: &mut Cluster<'_>) {
        self.history.stop.store(true, Ordering::Relaxed);
        cluster.run_for(Duration::from_secs(10));
        let records = read_all(cluster, self.topic.name);
        workload::check(0, &records, &self.history);
        self.tell_broken(cluster);
        replicas_agree(cluster, self.topic.name);
        let mut acknowledged = std::mem::take(&mut *self.history.acknowledged.lock().expect("no holder panics"));
        let checked = self.history.checked.load(Ordering::Relaxed);
        cluster.history.checked.fetch_add(checked, Ordering::Relaxed);
        cluster.history.acknowledged.lock().expect("no holder panics").append(&mut acknowledged);
        cluster.history.stop.store(true, Ordering::Relaxed);
    }
}

/// All that can be read of partition 0.
fn read_all(cluster: &mut Cluster<'_>, topic: &'static str) -> Vec<(i64, Vec<u8>)> {
    let hosts = cluster.bootstrap();
    let read = ask(cluster, "the partition is read to its end", move |world| async move {
        workload::read_all(&world, hosts, topic, 0, Duration::from_secs(90)).await
    });
    read.unwrap_or_else(|| panic!("liveness: {topic}-0 cannot be read in the end"))
}

/// Rule 2, within a bound: a connection that lost a message is given up after `replica.socket.timeout.ms`.
fn replicas_agree(cluster: &mut Cluster<'_>, topic: &str) {
    let mut seconds = 0;
    while !cluster.replicas_agree(topic, 0) {
        assert!(seconds < 60, "rule 2: the replicas of {topic}-0 differ");
        cluster.run_for(Duration::from_secs(1));
        seconds += 1;
    }
}

/// Runs a client to its end, and answers what it answers.
fn ask<T: 'static, F>(cluster: &mut Cluster<'_>, what: &str, client: impl FnOnce(World) -> F + 'static) -> T
where
    F: Future<Output = T> + 'static,
{
    let (answer, done) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
    let (slot, finished) = (answer.clone(), done.clone());
    cluster.client(move |world| async move {
        let answer = client(world).await;
        *slot.lock().expect("no holder panics") = Some(answer);
        finished.store(true, Ordering::Relaxed);
    });
    cluster.run_until(what, LONG, |_| done.load(Ordering::Relaxed));
    let answer = answer.lock().expect("no holder panics").take();
    answer.expect("the client has answered")
}

/// The others of `ids`.
fn others(ids: impl IntoIterator<Item = i32>, but: &[i32]) -> Vec<i32> {
    ids.into_iter().filter(|id| !but.contains(id)).collect()
}

/// A table by name.
type Table = BTreeMap<String, String>;
