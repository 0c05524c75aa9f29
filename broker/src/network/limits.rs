//! How many connections there may be: `max.connections` for the broker, `max.connections.per.ip` for one address. Both may
//! change while the broker runs; a lower one closes nothing that is open.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use odradek_node::world::TaskHandle;
use tokio::sync::Notify;

use crate::metadata::LiveConfig;

/// Every open connection, counted by address.
pub(super) struct Connections {
    limits: LiveConfig,
    open: Mutex<Open>,
    one_less: Notify,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    per_ip: HashMap<IpAddr, usize>,
    tasks: HashMap<u64, Option<TaskHandle>>,
    stopped: bool,
}

/// A counted connection. Uncounted when dropped.
pub(super) struct Slot {
    connections: Arc<Connections>,
    address: IpAddr,
    pub id: u64,
}

impl Connections {
    pub fn new(limits: LiveConfig) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default(), one_less: Notify::new() })
    }

    /// Waits until one more connection is allowed: the next ones stay in the kernel's backlog.
    pub async fn has_room(&self) {
        let mut limits = self.limits.subscribe();
        loop {
            let one_less = self.one_less.notified();
            let connections_max = limits.borrow_and_update().network.connections_max;
            if self.lock().tasks.len() < connections_max {
                return;
            }
            tokio::select! {
                biased;
                () = one_less => {}
                _ = limits.changed() => {}
            }
        }
    }

    /// Counts a connection; `None` when its address has too many.
    pub fn open(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let per_ip_max = self.limits.current().network.connections_per_ip_max;
        let mut open = self.lock();
        if open.stopped || open.per_ip.get(&address).is_some_and(|count| *count >= per_ip_max) {
            return None;
        }
        *open.per_ip.entry(address).or_default() += 1;
        let id = open.next_id;
        open.next_id += 1;
        open.tasks.insert(id, None);
        Some(Slot { connections: self.clone(), address, id })
    }

    /// Remembers how to end a connection. Its task may have ended already.
    pub fn set_task(&self, id: u64, task: TaskHandle) {
        let mut open = self.lock();
        if open.stopped {
            task.abort();
        } else if let Some(slot) = open.tasks.get_mut(&id) {
            *slot = Some(task);
        }
    }

    /// Ends every connection, now and from now on.
    pub fn stop(&self) {
        let mut open = self.lock();
        open.stopped = true;
        // Dropping a task may drop its slot, which locks again: end them after the lock.
        let tasks: Vec<TaskHandle> = open.tasks.values_mut().filter_map(Option::take).collect();
        drop(open);
        tasks.iter().for_each(TaskHandle::abort);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.tasks.remove(&self.id);
        if let Some(count) = open.per_ip.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.per_ip.remove(&self.address);
            }
        }
        drop(open);
        self.connections.one_less.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_limits_hold_and_are_given_back() {
        let text = "node.id=1\ncontroller.quorum.voters=100@a:1\nmax.connections=2\nmax.connections.per.ip=1";
        let config = odradek_common::config::BrokerConfig::load(text, "f", &[]).expect("valid").0;
        let connections = Connections::new(LiveConfig::new(Arc::new(config)));
        let (one, two) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = connections.open(one).expect("the first of its address");
        assert!(connections.open(one).is_none());
        let _second = connections.open(two).expect("another address");
        let mut room = Box::pin(connections.has_room());
        assert!(futures::poll!(&mut room).is_pending());
        drop(first);
        assert!(futures::poll!(&mut room).is_ready());
        assert!(connections.open(one).is_some());
    }
}
