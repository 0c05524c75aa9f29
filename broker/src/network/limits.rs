//! How many connections there may be, and how fast they may come: `max.connections` and `max.connection.creation.rate` for the
//! broker and, with a prefix, for one listener; `max.connections.per.ip` and its overrides for one address. All may change
//! while the broker runs.
//!
//! Where brokers have a listener of their own (Kafka's "protected" one) the limits of the whole broker do not hold them up:
//! what goes over `max.connections` there, or by a limit that has become lower, ends the connection of another listener that
//! has been silent for the longest (Kafka's `ConnectionQuotas`).

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use odradek_common::config::{BrokerConfig, ListenerLimits};
use odradek_common::time::Instant;
use odradek_node::World;
use odradek_node::world::TaskHandle;
use tokio::sync::Notify;

use crate::metadata::LiveConfig;

/// A rate is an average over this long, as in Kafka (`quota.window.num` less the current one, of a second each): so many
/// seconds' worth may come at once after a pause.
const RATE_SECONDS: f64 = 10.0;

/// The greatest rate is none.
const RATE_UNLIMITED: u32 = i32::MAX as u32;

/// Every open connection, counted by address and listener.
pub(super) struct Connections {
    world: World,
    limits: LiveConfig,
    /// The listener of the brokers, when clients have others.
    protected: Option<Arc<str>>,
    open: Mutex<Open>,
    one_less: Notify,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    per_ip: HashMap<IpAddr, usize>,
    per_listener: HashMap<Arc<str>, usize>,
    all: HashMap<u64, One>,
    /// The addresses of `max.connections.per.ip.overrides`, as far as their names are known.
    overrides: HashMap<IpAddr, usize>,
    broker_rate: Rate,
    listener_rates: HashMap<Arc<str>, Rate>,
    stopped: bool,
}

struct One {
    listener: Arc<str>,
    active: Active,
    task: Option<TaskHandle>,
    /// It was told to end.
    ending: bool,
}

/// When a connection had its last request, in nanoseconds of the monotonic clock.
#[derive(Clone, Default, Debug)]
pub(super) struct Active(Arc<AtomicU64>);

impl Active {
    pub fn at(&self, now: Instant) {
        self.0.store(now.0, Ordering::Relaxed);
    }
}

/// A bucket that fills by so many connections a second.
#[derive(Default)]
struct Rate {
    /// Absent before the first connection: the bucket is full.
    filled: Option<(Instant, f64)>,
}

impl Rate {
    /// How long it takes until there is one.
    fn wait(&mut self, per_second: u32, now: Instant) -> Duration {
        if per_second >= RATE_UNLIMITED {
            return Duration::ZERO;
        }
        let per_second = f64::from(per_second);
        let full = (per_second * RATE_SECONDS).max(1.0);
        let (before, left) = self.filled.unwrap_or((now, full));
        let left = (left + per_second * now.saturating_since(before).as_secs_f64()).min(full);
        self.filled = Some((now, left));
        if left >= 1.0 {
            return Duration::ZERO;
        }
        // Rate 0 waits for another rate.
        Duration::try_from_secs_f64((1.0 - left) / per_second).unwrap_or(Duration::MAX).min(WAIT_MAX)
    }

    fn take(&mut self) {
        if let Some((_, left)) = &mut self.filled {
            *left -= 1.0;
        }
    }
}

/// Then it is looked again.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Why a listener does not accept now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Full {
    /// Until one ends.
    Connections,
    /// For so long.
    Rate(Duration),
}

/// A counted connection. Uncounted when dropped.
pub(super) struct Slot {
    connections: Arc<Connections>,
    address: IpAddr,
    listener: Arc<str>,
    pub active: Active,
    pub id: u64,
}

impl Connections {
    /// `listeners`: the names of all; that of the brokers is protected when there are others.
    pub fn new(world: World, limits: LiveConfig, listeners: &[Arc<str>]) -> Arc<Self> {
        let of_brokers = &limits.file().inter_broker_listener;
        let protected = listeners.iter().find(|name| ***name == **of_brokers && listeners.len() > 1).cloned();
        Arc::new(Self { world, limits, protected, open: Mutex::default(), one_less: Notify::new() })
    }

    /// Keeps to the limits as they change: finds the addresses of names, and ends what is over the limit. Never returns.
    pub async fn follow(self: Arc<Self>) {
        let mut limits = self.limits.subscribe();
        loop {
            let config = limits.borrow_and_update().clone();
            let overrides = self.addresses(&config).await;
            self.lock().overrides = overrides;
            self.end_excess(&config);
            if limits.changed().await.is_err() {
                return;
            }
        }
    }

    async fn addresses(&self, config: &BrokerConfig) -> HashMap<IpAddr, usize> {
        let mut out = HashMap::new();
        for one in &config.network.connections_per_ip_overrides {
            match self.world.net.resolve(&one.host).await {
                Ok(addresses) => {
                    out.extend(addresses.iter().map(|address| (address.to_canonical(), one.connections_max)));
                }
                Err(error) => {
                    let host = &one.host;
                    tracing::error!(host, %error, "max.connections.per.ip.overrides names a host without an address");
                }
            }
        }
        out
    }

    /// Waits until one more connection of a listener is allowed: the next ones stay in the kernel's backlog.
    pub async fn has_room(&self, listener: &Arc<str>) {
        let mut limits = self.limits.subscribe();
        loop {
            // Made before the look, so that no end in between is missed.
            let one_less = self.one_less.notified();
            let config = limits.borrow_and_update().clone();
            let wait = match self.full(listener, &config) {
                None => return,
                Some(Full::Connections) => WAIT_MAX,
                Some(Full::Rate(wait)) => wait,
            };
            tokio::select! {
                biased;
                () = one_less => {}
                _ = limits.changed() => {}
                () = self.world.sleep(wait) => {}
            }
        }
    }

    fn full(&self, listener: &Arc<str>, config: &BrokerConfig) -> Option<Full> {
        let own = own_limits(listener, config);
        let mut open = self.lock();
        let is_protected = self.protected.as_ref() == Some(listener);
        let of_listener = open.per_listener.get(listener).copied().unwrap_or(0);
        if own.connections_max.is_some_and(|max| of_listener >= max)
            || (!is_protected && open.all.len() >= config.network.connections_max)
        {
            return Some(Full::Connections);
        }
        let now = self.world.instant();
        let by_broker = if is_protected { RATE_UNLIMITED } else { config.network.connections_per_second_max };
        let by_listener = own.connections_per_second_max.unwrap_or(RATE_UNLIMITED);
        let wait = open.broker_rate.wait(by_broker, now);
        let wait = wait.max(open.listener_rates.entry(listener.clone()).or_default().wait(by_listener, now));
        (!wait.is_zero()).then_some(Full::Rate(wait))
    }

    /// Counts a connection; `None` when its address has too many.
    pub fn open(self: &Arc<Self>, address: IpAddr, listener: &Arc<str>) -> Option<Slot> {
        let config = self.limits.current();
        let address = address.to_canonical();
        let mut open = self.lock();
        // One that is refused has come all the same.
        if self.protected.as_ref() != Some(listener) {
            open.broker_rate.take();
        }
        if let Some(rate) = open.listener_rates.get_mut(listener) {
            rate.take();
        }
        let per_ip_max = open.overrides.get(&address).copied().unwrap_or(config.network.connections_per_ip_max);
        if open.stopped || open.per_ip.get(&address).copied().unwrap_or(0) >= per_ip_max {
            return None;
        }
        *open.per_ip.entry(address).or_default() += 1;
        *open.per_listener.entry(listener.clone()).or_default() += 1;
        let id = open.next_id;
        open.next_id += 1;
        let active = Active::default();
        active.at(self.world.instant());
        open.all.insert(id, One { listener: listener.clone(), active: active.clone(), task: None, ending: false });
        drop(open);
        self.end_excess(&config);
        Some(Slot { connections: self.clone(), address, listener: listener.clone(), active, id })
    }

    /// Remembers how to end a connection. Its task may have ended already.
    pub fn set_task(&self, id: u64, task: TaskHandle) {
        let mut open = self.lock();
        if open.stopped {
            task.abort();
        } else if let Some(one) = open.all.get_mut(&id) {
            one.task = Some(task);
        }
    }

    /// Ends those that have been silent for the longest, of listeners that are not protected, while there are too many.
    fn end_excess(&self, config: &BrokerConfig) {
        let mut open = self.lock();
        let mut excess = open.all.len().saturating_sub(config.network.connections_max);
        if excess == 0 {
            return;
        }
        excess = excess.saturating_sub(open.all.values().filter(|one| one.ending).count());
        let is_candidate =
            |one: &&mut One| !one.ending && one.task.is_some() && self.protected.as_ref() != Some(&one.listener);
        let mut candidates: Vec<&mut One> = open.all.values_mut().filter(is_candidate).collect();
        candidates.sort_by_key(|one| one.active.0.load(Ordering::Relaxed));
        let mut ended = Vec::new();
        for one in candidates.into_iter().take(excess) {
            one.ending = true;
            ended.extend(one.task.take());
        }
        // Dropping a task may drop its slot, which locks again: end them after the lock.
        drop(open);
        ended.iter().for_each(TaskHandle::abort);
    }

    /// Ends every connection, now and from now on.
    pub fn stop(&self) {
        let mut open = self.lock();
        open.stopped = true;
        let tasks: Vec<TaskHandle> = open.all.values_mut().filter_map(|one| one.task.take()).collect();
        drop(open);
        tasks.iter().for_each(TaskHandle::abort);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn own_limits(listener: &str, config: &BrokerConfig) -> ListenerLimits {
    config.listener_limits.get(listener).copied().unwrap_or_default()
}

/// One less; what has none left goes.
fn uncount<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.all.remove(&self.id);
        uncount(&mut open.per_ip, &self.address);
        uncount(&mut open.per_listener, &self.listener);
        drop(open);
        self.connections.one_less.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
    const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

    fn connections(more: &str) -> (Arc<Connections>, Arc<str>, Arc<str>) {
        let text = format!(
            "node.id=1\ncontroller.quorum.voters=100@a:1\nlisteners=CLIENTS://:1,BROKERS://:2\n\
             listener.security.protocol.map=CLIENTS:PLAINTEXT,BROKERS:PLAINTEXT\ninter.broker.listener.name=BROKERS\n{more}"
        );
        let config = BrokerConfig::load(&text, "f", &[]).expect("valid").0;
        let (clients, brokers): (Arc<str>, Arc<str>) = ("CLIENTS".into(), "BROKERS".into());
        let live = LiveConfig::new(Arc::new(config));
        let connections = Connections::new(World::real(), live, &[clients.clone(), brokers.clone()]);
        (connections, clients, brokers)
    }

    #[tokio::test]
    async fn limits_of_broker_and_address_hold_and_are_given_back() {
        let (connections, clients, brokers) = connections("max.connections=2\nmax.connections.per.ip=1");
        let first = connections.open(ONE, &clients).expect("the first of its address");
        assert!(connections.open(ONE, &clients).is_none());
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1]);
        assert!(connections.open(mapped, &clients).is_none(), "the same address in the form of version 6");
        let _second = connections.open(TWO, &clients).expect("another address");
        let mut room = Box::pin(connections.has_room(&clients));
        assert!(futures::poll!(&mut room).is_pending());
        assert!(futures::poll!(Box::pin(connections.has_room(&brokers))).is_ready(), "brokers are not held up");
        drop(first);
        assert!(futures::poll!(&mut room).is_ready());
        assert!(connections.open(ONE, &clients).is_some());
    }

    #[tokio::test]
    async fn overrides_are_of_addresses_and_names() {
        let (connections, clients, _) =
            connections("max.connections.per.ip=0\nmax.connections.per.ip.overrides=127.0.0.2:2,localhost:1");
        let config = connections.limits.current();
        let overrides = connections.addresses(&config).await;
        connections.lock().overrides = overrides;
        let kept = [connections.open(TWO, &clients), connections.open(TWO, &clients), connections.open(ONE, &clients)];
        assert!(kept.iter().all(Option::is_some));
        assert!(connections.open(TWO, &clients).is_none() && connections.open(ONE, &clients).is_none());
        assert!(connections.open(IpAddr::from([127, 0, 0, 3]), &clients).is_none());
    }

    #[tokio::test]
    async fn a_listener_has_limits_of_its_own_and_brokers_drive_out_the_most_silent_client() {
        let (connections, clients, brokers) = connections(
            "max.connections=2\nlistener.name.brokers.max.connections=2\nlistener.name.clients.max.connections=5",
        );
        let ended = Arc::new(Mutex::new(Vec::new()));
        let mut kept = Vec::new();
        let mut open = |listener: &Arc<str>, active| {
            let slot = connections.open(ONE, listener).expect("room");
            slot.active.at(Instant(active));
            let (id, ended) = (slot.id, ended.clone());
            connections.set_task(id, TaskHandle::new(move || ended.lock().expect("no panic").push(id)));
            kept.push(slot);
            id
        };
        let (_later, earlier) = (open(&clients, 20), open(&clients, 10));
        open(&brokers, 0);
        assert_eq!(*ended.lock().expect("no panic"), [earlier]);
        open(&brokers, 0);
        assert_eq!(ended.lock().expect("no panic").len(), 2, "the other client went too");
        assert!(futures::poll!(Box::pin(connections.has_room(&brokers))).is_pending(), "its own limit");
    }

    #[test]
    fn a_rate_lets_ten_seconds_worth_pass_and_then_holds_back() {
        let mut rate = Rate::default();
        let at = |seconds: u64| Instant(seconds * 1_000_000_000);
        for _ in 0..20 {
            assert_eq!(rate.wait(2, at(1)), Duration::ZERO);
            rate.take();
        }
        assert_eq!(rate.wait(2, at(1)), Duration::from_millis(500));
        assert_eq!(rate.wait(2, at(2)), Duration::ZERO);
        assert_eq!(Rate::default().wait(RATE_UNLIMITED, at(1)), Duration::ZERO);
        let mut none = Rate::default();
        assert_eq!(none.wait(0, at(1)), Duration::ZERO, "one");
        none.take();
        assert_eq!(none.wait(0, at(100)), WAIT_MAX);
    }
}
