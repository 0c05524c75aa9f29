//! Elections over many partitions: what a broker's fencing, return, shutdown or unclean restart does to all of its
//! partitions, and the elections that time brings (Kafka's `generateLeaderAndIsrUpdates` and what calls it).
//!
//! The caller has pushed the broker's new state into the draft already, so that whether a broker can lead is always read
//! from the draft's image.

use std::collections::BTreeMap;
use std::time::Duration;

use odradek_common::time::Instant;
use odradek_common::{BrokerId, TopicId, TopicIdPartition};
use odradek_metadata::proto::record::Kind;
use odradek_metadata::{DirectoryId, Image, PartitionRegistration};

use crate::decider::{Context, Decider, Draft, Event};
use crate::effective::TopicSettings;
use crate::partition_change::{Change, Elected, Election, PartitionChange};
use crate::settings::Settings;
use crate::topics::default_directory;

/// Elections in one entry when leadership is balanced; the rest follow at the next check. Kafka's number.
pub const ELECTIONS_PER_BALANCE_MAX: usize = 1000;

/// How often partitions without leader are looked at again, for an unclean election may be allowed by now (Kafka's
/// `unclean.leader.election.interval.ms`, which is 5 minutes).
pub const UNCLEAN_ELECTION_INTERVAL: Duration = Duration::from_secs(300);

/// Which broker leaves in-sync replicas, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leaving {
    Nobody,
    /// It has what it acknowledged, and may be eligible to lead later.
    Clean(BrokerId),
    /// What it wrote may be gone.
    Unclean(BrokerId),
}

impl Draft {
    /// The broker is fenced or shuts down: it leaves every ISR, and what it led gets another leader.
    pub(crate) fn leave_isrs(&mut self, broker: BrokerId, settings: &Settings) {
        let affected = self.select(|partition| partition.isr.contains(&broker));
        self.update(affected, Leaving::Clean(broker), settings);
    }

    /// As [`Draft::leave_isrs`], for the partitions that the broker keeps in these directories.
    pub(crate) fn leave_isrs_in(&mut self, broker: BrokerId, directories: &[DirectoryId], settings: &Settings) {
        let affected = self.select(|partition| {
            partition.isr.contains(&broker) && partition.directory(broker).is_some_and(|id| directories.contains(&id))
        });
        self.update(affected, Leaving::Clean(broker), settings);
    }

    /// The broker came back without what it may have written last: it leaves every ISR and ELR (KIP-966).
    pub(crate) fn leave_after_unclean_shutdown(&mut self, broker: BrokerId, settings: &Settings) {
        let affected = self.select(|partition| partition.isr.contains(&broker) || partition.elr.contains(&broker));
        self.update(affected, Leaving::Unclean(broker), settings);
    }

    /// A broker can lead again: it may be what a partition without leader waits for.
    pub(crate) fn elect_for_leaderless(&mut self, settings: &Settings) {
        let affected = self.select(|partition| !partition.has_leader());
        self.update(affected, Leaving::Nobody, settings);
    }

    /// `min.insync.replicas` has changed. Where the ISR is large enough by the new value the high watermark moves on
    /// without those that left, so they are eligible no more.
    pub(crate) fn review_elr(&mut self, settings: &Settings) {
        let affected = self.select(|partition| !partition.elr.is_empty());
        self.update(affected, Leaving::Nobody, settings);
    }

    fn select(&self, wanted: impl Fn(&PartitionRegistration) -> bool) -> Vec<TopicIdPartition> {
        let partitions = self.image.partitions().filter(|(_, _, partition)| wanted(partition));
        partitions.map(|(topic, index, _)| TopicIdPartition { topic_id: topic.id, partition: index }).collect()
    }

    fn update(&mut self, partitions: Vec<TopicIdPartition>, leaving: Leaving, settings: &Settings) {
        let mut cached: Option<(TopicId, TopicSettings)> = None;
        for at in partitions {
            let topic_settings = match cached {
                Some((id, topic_settings)) if id == at.topic_id => topic_settings,
                _ => match self.image.topic(at.topic_id) {
                    Some(topic) => TopicSettings::of(topic, &self.image, settings),
                    None => continue,
                },
            };
            cached = Some((at.topic_id, topic_settings));
            let election = if topic_settings.unclean_leader_election { Election::Unclean } else { Election::Online };
            self.change_partition(at, topic_settings, |change| {
                let change = change.election(election);
                match leaving {
                    Leaving::Nobody => change,
                    Leaving::Clean(broker) => change.isr_without(broker),
                    Leaving::Unclean(broker) => change.unclean_shutdown(broker),
                }
            });
        }
    }

    /// Builds and pushes one partition's change; tells whether there was one.
    pub(crate) fn change_partition(
        &mut self,
        at: TopicIdPartition,
        settings: TopicSettings,
        describe: impl FnOnce(PartitionChange<'_>) -> PartitionChange<'_>,
    ) -> Option<Elected> {
        let partition = self.image.partition(at.topic_id, at.partition)?.clone();
        let image = &self.image;
        let can_lead = |id: BrokerId| can_lead(image, &partition, id);
        let default_directory = |id: BrokerId| default_directory(image, id);
        let change =
            PartitionChange::new(&partition, at, &can_lead, settings.min_insync_replicas, settings.elr_enabled)
                .default_directory(&default_directory);
        let Change { record, elected } = describe(change).build()?;
        self.note_election(at, elected);
        self.push(Kind::PartitionChange(record));
        Some(elected)
    }

    fn note_election(&mut self, at: TopicIdPartition, elected: Elected) {
        let Some(topic) = self.image.topic(at.topic_id) else { return };
        let (topic, partition) = (topic.name.to_string(), at.partition);
        match elected {
            Elected::Unchanged | Elected::Clean(_) => {}
            Elected::LastKnown(leader) => self.event(Event::LastKnownLeaderElected { topic, partition, leader }),
            Elected::Unclean(leader) => self.event(Event::UncleanElection { topic, partition, leader }),
            Elected::Nobody => self.event(Event::PartitionOffline { topic, partition }),
        }
    }
}

/// Whether `id` is active and has its directory of this partition online.
pub(crate) fn can_lead(image: &Image, partition: &PartitionRegistration, id: BrokerId) -> bool {
    image.broker(id).is_some_and(|broker| {
        broker.is_active() && partition.directory(id).is_none_or(|directory| broker.has_online_directory(directory))
    })
}

impl Decider {
    /// What time brings beside fencing: leadership goes back to preferred replicas, and partitions without leader are
    /// looked at again, for their configuration may allow an unclean election by now.
    pub(crate) fn elect_by_time(&mut self, context: &Context<'_>, draft: &mut Draft) {
        let now = context.now.instant;
        if now >= self.unclean_due {
            self.unclean_due = now + UNCLEAN_ELECTION_INTERVAL;
            draft.elect_for_leaderless(&self.settings);
        }
        if self.settings.leader_rebalance_enable && now >= self.balance_due {
            let more = balance_leaders(draft, &self.settings);
            // What did not fit into one entry follows with the next tick.
            let wait = if more { Duration::ZERO } else { self.settings.leader_imbalance_check_interval };
            self.balance_due = now + wait;
        }
    }

    /// When the next election by time is due.
    pub(crate) fn elections_due(&self) -> Instant {
        if self.settings.leader_rebalance_enable { self.balance_due.min(self.unclean_due) } else { self.unclean_due }
    }
}

/// Elects the preferred replica of each partition that another one leads, as Kafka with KRaft does (which takes no notice
/// of `leader.imbalance.per.broker.percentage`). Returns whether some are left for another entry.
fn balance_leaders(draft: &mut Draft, settings: &Settings) -> bool {
    let astray = draft.select(|partition| partition.has_leader() && !partition.has_preferred_leader());
    let mut settings_of = BTreeMap::<TopicId, TopicSettings>::new();
    let mut elections = 0;
    for at in astray {
        if elections == ELECTIONS_PER_BALANCE_MAX {
            return true;
        }
        let Some(topic) = draft.image.topic(at.topic_id) else { continue };
        let topic_settings =
            *settings_of.entry(at.topic_id).or_insert_with(|| TopicSettings::of(topic, &draft.image, settings));
        let change = draft.change_partition(at, topic_settings, |change| change.election(Election::Preferred));
        elections += usize::from(change.is_some());
    }
    false
}

/// Whether `broker` leads any partition.
pub(crate) fn leads_any(image: &Image, broker: BrokerId) -> bool {
    image.partitions().any(|(_, _, partition)| partition.leader == broker)
}

/// Whether `broker` is the only member of some ISR, so that its fencing would take a partition offline.
pub(crate) fn is_last_in_some_isr(image: &Image, broker: BrokerId) -> bool {
    image.partitions().any(|(_, _, partition)| partition.isr.as_slice() == [broker])
}
