//! How one partition changes: its ISR, its eligible leader replicas and who leads (Kafka's `PartitionChangeBuilder`,
//! KIP-497, KIP-704, KIP-966).
//!
//! Pure and about one partition: in goes its registration and what is wanted of it, out comes the one record that says
//! the difference, or none. The steps and their order are those of Kafka, because the fields depend on one another:
//!
//! 1. A reassignment whose new replicas are all in sync completes.
//! 2. Members that leave an ISR which is (or becomes) smaller than `min.insync.replicas` become eligible leader
//!    replicas: the high watermark stands still from there on, so they hold everything below it.
//! 3. A leader is elected: of the ISR; when that is empty, of the ELR; when both are, the last known leader; and only
//!    where configured, anyone.
//! 4. When a partition loses its last ISR member its leader is remembered, until there is a leader again; or, when a
//!    reassignment takes its replica away meanwhile, a member of the ELR in its stead.

use odradek_common::{BrokerId, TopicIdPartition};
use odradek_metadata::{DirectoryId, LeaderRecoveryState, PartitionRegistration, Replicas, proto};

/// What an election may do to give a partition a leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Election {
    /// The preferred replica if it can lead, else as `Online`.
    Preferred,
    /// Keep the leader if it can lead, else the first replica that is in sync.
    Online,
    /// As `Online`, but rather a leader that is not in sync than none.
    Unclean,
}

/// How the leader of a [`Change`] was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Elected {
    /// Nobody new.
    Unchanged,
    /// From the ISR or the ELR: it has everything that was acknowledged.
    Clean(BrokerId),
    LastKnown(BrokerId),
    /// Acknowledged records may be lost.
    Unclean(BrokerId),
    /// The partition has lost its leader.
    Nobody,
}

/// The record, and what to tell of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    pub record: proto::PartitionChangeRecord,
    pub elected: Elected,
}

/// Collects what is wanted of a partition. Fields that are not set stay as they are.
pub struct PartitionChange<'a> {
    partition: &'a PartitionRegistration,
    at: TopicIdPartition,
    can_lead: &'a dyn Fn(BrokerId) -> bool,
    min_insync_replicas: usize,
    elr_enabled: bool,
    election: Election,
    isr: Replicas,
    elr: Replicas,
    replicas: Replicas,
    removing: Replicas,
    adding: Replicas,
    recovery_state: LeaderRecoveryState,
    unclean_shutdown: Option<BrokerId>,
    directory: Option<(BrokerId, DirectoryId)>,
    default_directory: &'a dyn Fn(BrokerId) -> DirectoryId,
}

impl<'a> PartitionChange<'a> {
    /// `can_lead` says whether a broker is active and has its directory of this partition online.
    pub fn new(
        partition: &'a PartitionRegistration,
        at: TopicIdPartition,
        can_lead: &'a dyn Fn(BrokerId) -> bool,
        min_insync_replicas: usize,
        elr_enabled: bool,
    ) -> Self {
        Self {
            partition,
            at,
            can_lead,
            min_insync_replicas,
            elr_enabled,
            election: Election::Online,
            isr: partition.isr.clone(),
            elr: partition.elr.clone(),
            replicas: partition.replicas.clone(),
            removing: partition.removing.clone(),
            adding: partition.adding.clone(),
            recovery_state: partition.leader_recovery_state,
            unclean_shutdown: None,
            directory: None,
            default_directory: &|_| odradek_metadata::directory::UNASSIGNED,
        }
    }

    /// Where a replica that is new goes, as far as the controller can know (KIP-858).
    pub fn default_directory(mut self, directory: &'a dyn Fn(BrokerId) -> DirectoryId) -> Self {
        self.default_directory = directory;
        self
    }

    pub fn election(mut self, election: Election) -> Self {
        self.election = election;
        self
    }

    pub fn isr(mut self, isr: Replicas) -> Self {
        self.isr = isr;
        self
    }

    /// Takes one broker out of the ISR.
    pub fn isr_without(mut self, broker: BrokerId) -> Self {
        self.isr.retain(|id| *id != broker);
        self
    }

    /// The broker has stopped uncleanly, so what it wrote may be gone: it leaves ISR and ELR.
    pub fn unclean_shutdown(mut self, broker: BrokerId) -> Self {
        self.isr.retain(|id| *id != broker);
        self.unclean_shutdown = Some(broker);
        self
    }

    pub fn leader_recovery_state(mut self, state: LeaderRecoveryState) -> Self {
        self.recovery_state = state;
        self
    }

    /// A reassignment to `replicas`, which hold those that leave as well (Kafka's `PartitionReassignmentReplicas`).
    pub fn reassign(mut self, replicas: Replicas, removing: Replicas, adding: Replicas) -> Self {
        (self.replicas, self.removing, self.adding) = (replicas, removing, adding);
        self
    }

    pub fn directory(mut self, broker: BrokerId, directory: DirectoryId) -> Self {
        self.directory = Some((broker, directory));
        self
    }

    /// The record that makes it so; `None` when there is nothing to change.
    pub fn build(mut self) -> Option<Change> {
        let mut record = proto::PartitionChangeRecord {
            topic_id: self.at.topic_id.0.to_vec(),
            partition: self.at.partition.0,
            ..Default::default()
        };
        self.complete_reassignment();
        self.populate_elr();
        let elected = self.elect(&mut record);
        self.raise_epoch_for_removed_replicas(&mut record);
        self.write_elr(&mut record, elected);
        // Without ELR an ISR is never written empty: its last member stays, to be the next leader.
        let writable = !self.isr.is_empty() || self.elr_enabled;
        if record.isr.is_none() && writable && self.isr != self.partition.isr {
            record.isr = Some(ids(&self.isr));
        }
        self.write_last_known_leader(&mut record);
        self.write_assignment(&mut record);
        if self.recovery_state != self.partition.leader_recovery_state {
            record.leader_recovery_state = Some(proto::LeaderRecoveryState::from(self.recovery_state).into());
        }
        (!is_no_op(&record)).then_some(Change { record, elected })
    }

    /// Step 1. It waits until every replica that stays is in sync, and never for one that leaves.
    fn complete_reassignment(&mut self) {
        if self.removing.is_empty() && self.adding.is_empty() {
            return;
        }
        let stays = |id: &&BrokerId| !self.removing.contains(id);
        let isr: Replicas = self.isr.iter().filter(stays).copied().collect();
        let replicas: Replicas = self.replicas.iter().filter(stays).copied().collect();
        if isr.is_empty() || replicas.is_empty() || !replicas.iter().all(|id| isr.contains(id)) {
            return;
        }
        (self.isr, self.replicas) = (isr, replicas);
        self.removing.clear();
        self.adding.clear();
    }

    /// Step 2.
    fn populate_elr(&mut self) {
        if !self.elr_enabled {
            return;
        }
        if self.isr.len() >= self.min_insync_replicas {
            self.elr.clear();
            return;
        }
        let candidates = self.replicas.iter().filter(|id| self.elr.contains(id) || self.partition.isr.contains(id));
        let eligible = candidates.filter(|id| !self.isr.contains(id) && self.unclean_shutdown != Some(**id));
        self.elr = eligible.copied().collect();
    }

    /// Step 3.
    fn elect(&mut self, record: &mut proto::PartitionChangeRecord) -> Elected {
        let (leader, elected) = self.find_leader();
        if leader == self.partition.leader {
            return Elected::Unchanged;
        }
        record.leader = Some(leader.0);
        if self.elr.contains(&leader) {
            self.isr = Replicas::from_slice(&[leader]);
            self.elr.retain(|id| *id != leader);
        }
        if let Elected::LastKnown(_) | Elected::Unclean(_) = elected {
            record.isr = Some(proto::Ids { ids: vec![leader.0] });
            if self.partition.leader_recovery_state != LeaderRecoveryState::Recovering {
                record.leader_recovery_state = Some(proto::LeaderRecoveryState::Recovering.into());
            }
        }
        elected
    }

    fn find_leader(&self) -> (BrokerId, Elected) {
        let preferred = self.replicas.first().filter(|_| self.election == Election::Preferred).copied();
        let current = Some(self.partition.leader);
        let mut candidates = preferred.into_iter().chain(current).chain(self.replicas.iter().copied());
        if let Some(leader) = candidates.find(|id| self.is_in_sync(*id) && (self.can_lead)(*id)) {
            return (leader, Elected::Clean(leader));
        }
        if let Some(leader) = self.last_known_leader() {
            return (leader, Elected::LastKnown(leader));
        }
        if self.election == Election::Unclean
            && let Some(leader) = self.replicas.iter().copied().find(|id| (self.can_lead)(*id))
        {
            return (leader, Elected::Unclean(leader));
        }
        (BrokerId::NONE, Elected::Nobody)
    }

    /// The ELR counts only when there is no ISR: while one member is in sync it alone may have newer records.
    fn is_in_sync(&self, id: BrokerId) -> bool {
        self.isr.contains(&id) || (self.isr.is_empty() && self.elr.contains(&id))
    }

    /// More than one entry would be former ELR members, of which none is known to have been the last.
    fn last_known_leader(&self) -> Option<BrokerId> {
        match self.partition.last_known_elr.as_slice() {
            [last]
                if self.elr_enabled
                    && self.isr.is_empty()
                    && self.elr.is_empty()
                    && self.replicas.contains(last)
                    && (self.can_lead)(*last) =>
            {
                Some(*last)
            }
            _ => None,
        }
    }

    /// A replica that was removed must not go on fetching at the same leader epoch.
    fn raise_epoch_for_removed_replicas(&self, record: &mut proto::PartitionChangeRecord) {
        let removed = self.partition.replicas.iter().any(|id| !self.replicas.contains(id));
        if removed && record.leader.is_none() {
            record.leader = Some(self.partition.leader.0);
        }
    }

    fn write_elr(&mut self, record: &mut proto::PartitionChangeRecord, elected: Elected) {
        let unclean = matches!(elected, Elected::LastKnown(_) | Elected::Unclean(_));
        if unclean || !self.elr_enabled {
            self.elr.clear();
        }
        if self.elr != self.partition.elr {
            record.elr = Some(ids(&self.elr));
        }
    }

    /// Step 4.
    fn write_last_known_leader(&self, record: &mut proto::PartitionChangeRecord) {
        if !self.elr_enabled {
            return;
        }
        let old = &self.partition.last_known_elr;
        let leader = record.leader.map_or(self.partition.leader, BrokerId);
        let isr_becomes_empty = record.isr.as_ref().is_some_and(|isr| isr.ids.is_empty());
        if isr_becomes_empty && self.partition.has_leader() {
            if old.as_slice() != [self.partition.leader] {
                record.last_known_elr = Some(proto::Ids { ids: vec![self.partition.leader.0] });
            }
        } else if leader != BrokerId::NONE && !old.is_empty() {
            record.last_known_elr = Some(proto::Ids::default());
        } else if old.iter().any(|id| !self.replicas.contains(id)) {
            // It has no replica any more. Whoever is in the ELR has all that it had; without this, the partition would
            // stay offline when that one's process ends, too.
            let heir = self.replicas.iter().find(|id| self.elr.contains(id));
            record.last_known_elr = Some(proto::Ids { ids: heir.map(|id| id.0).into_iter().collect() });
        }
    }

    fn write_assignment(&self, record: &mut proto::PartitionChangeRecord) {
        let directory = |id: &BrokerId| match self.directory {
            Some((broker, directory)) if broker == *id => directory,
            _ => self.partition.directory(*id).unwrap_or_else(|| (self.default_directory)(*id)),
        };
        let directories: Vec<DirectoryId> = self.replicas.iter().map(directory).collect();
        if directories != self.partition.directories.as_slice() {
            let ids = directories.iter().map(|id| id.0.to_vec()).collect();
            record.directories = Some(proto::Directories { ids });
        }
        if self.replicas != self.partition.replicas {
            record.replicas = Some(ids(&self.replicas));
        }
        if self.removing != self.partition.removing {
            record.removing_replicas = Some(ids(&self.removing));
        }
        if self.adding != self.partition.adding {
            record.adding_replicas = Some(ids(&self.adding));
        }
    }
}

fn is_no_op(record: &proto::PartitionChangeRecord) -> bool {
    let nothing = proto::PartitionChangeRecord {
        topic_id: record.topic_id.clone(),
        partition: record.partition,
        ..Default::default()
    };
    *record == nothing
}

fn ids(replicas: &Replicas) -> proto::Ids {
    proto::Ids { ids: replicas.iter().map(|id| id.0).collect() }
}
