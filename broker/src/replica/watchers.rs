//! The fetch sessions that have a partition, as the partition knows them: who has read all there is and is to be rung
//! at the next news. `session` says how it works and why no wake-up is lost. Everything here happens under the
//! partition's lock; whom a ring wakes is handed out, to be notified after the lock is released.

use std::collections::BTreeMap;
use std::sync::Arc;

use odradek_broker_core::fetch_session::Slot;
use tokio::sync::Notify;

use super::session::{Bell, Watching};
use super::waiting::FETCHES_WAITING_MAX;

/// What fetch sessions are told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    /// Wakes followers.
    Appended,
    /// Wakes clients; a follower hears of it with its next answer.
    HighWatermark,
    /// The log start, the ISR, the brokers: with the next answer.
    Quiet,
    /// Another role or leader epoch: at once.
    Role,
}

#[derive(Debug)]
struct Watcher {
    bell: Arc<Bell>,
    slot: Slot,
    is_follower: bool,
    is_armed: bool,
    /// Of the partition's appended bytes, those that it has been told of.
    counted: u64,
}

/// All of a partition's, at most [`FETCHES_WAITING_MAX`].
#[derive(Debug, Default)]
pub(super) struct Watchers {
    all: BTreeMap<u64, Watcher>,
    id_last: u64,
}

impl Watchers {
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Makes the session known, if there is room, and arms it if it `has_all` that can be read now. Whether it is armed.
    /// `appended` counts the partition's bytes so far.
    pub fn put(&mut self, watching: Watching<'_>, is_follower: bool, has_all: bool, appended: u64) -> bool {
        let Watching { bell, slot, watcher } = watching;
        let known = watcher.filter(|id| self.all.contains_key(id));
        *watcher = known.or_else(|| {
            let has_room = self.all.len() < FETCHES_WAITING_MAX;
            self.id_last += u64::from(has_room);
            has_room.then_some(self.id_last)
        });
        let Some(id) = *watcher else { return false };
        let bell = bell.clone();
        self.all.insert(id, Watcher { bell, slot, is_follower, is_armed: has_all, counted: appended });
        has_all
    }

    /// It was answered with an error, and asks anew by itself.
    pub fn disarm(&mut self, watcher: Option<u64>) {
        if let Some(watcher) = watcher.and_then(|id| self.all.get_mut(&id)) {
            watcher.is_armed = false;
        }
    }

    pub fn remove(&mut self, watcher: u64) {
        self.all.remove(&watcher);
    }

    /// Rings; answers with whom to wake.
    pub fn tell(&mut self, news: News, appended: u64) -> Vec<Arc<Notify>> {
        let mut woken = Vec::new();
        for watcher in self.all.values_mut() {
            let is_counted = match news {
                News::Appended => watcher.is_follower,
                News::HighWatermark => !watcher.is_follower,
                News::Quiet | News::Role => false,
            };
            let mut bytes = 0;
            if is_counted {
                bytes = appended.saturating_sub(watcher.counted).max(1);
                watcher.counted = appended;
            }
            let is_urgent = news == News::Role;
            let slot = std::mem::take(&mut watcher.is_armed).then_some(watcher.slot);
            if slot.is_some() || bytes > 0 || is_urgent {
                woken.extend(watcher.bell.ring(slot, bytes, is_urgent));
            }
        }
        woken
    }
}
