//! The values that an image is made of: topics, partitions, brokers, controllers and the names of configured things.
//!
//! They are plain data. Lists of replicas are stored in place up to four, because a cluster has one such value a
//! partition and hardly ever more than four replicas.

use std::fmt;
use std::sync::Arc;

use odradek_common::config::SecurityProtocol;
use odradek_common::{BrokerEpoch, BrokerId, ControllerId, LeaderEpoch, PartitionEpoch, PartitionIndex, TopicId, Uuid};
use odradek_proto::metadata as proto;
use smallvec::SmallVec;

/// Brokers in an order that means something: the first replica is the preferred leader.
pub type Replicas = SmallVec<[BrokerId; 4]>;

/// Names one log directory of one broker (KIP-858).
pub type DirectoryId = Uuid;

/// Directory ids with a meaning of their own (Kafka's `DirectoryId`).
pub mod directory {
    use super::{DirectoryId, Uuid};

    /// Not known yet: the broker chooses and tells.
    pub const UNASSIGNED: DirectoryId = Uuid::ZERO;
    /// Lost: the directory went offline and the broker has another one online.
    pub const LOST: DirectoryId = Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    /// From a time before directories had ids.
    pub const MIGRATING: DirectoryId = Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);

    /// The first hundred ids are Kafka's own and never a real directory's.
    pub fn is_reserved(id: DirectoryId) -> bool {
        id.0[..15].iter().all(|byte| *byte == 0) && id.0[15] < 100
    }
}

/// Whether a leader that was elected uncleanly has confirmed its state (KIP-704).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LeaderRecoveryState {
    #[default]
    Recovered,
    Recovering,
}

impl LeaderRecoveryState {
    /// Kafka's number for it, the same in protobuf and on the wire.
    pub fn code(self) -> i8 {
        match self {
            Self::Recovered => 0,
            Self::Recovering => 1,
        }
    }

    /// `None` for a number that is neither.
    pub fn from_code(code: i32) -> Option<Self> {
        match code {
            0 => Some(Self::Recovered),
            1 => Some(Self::Recovering),
            _ => None,
        }
    }
}

/// One partition as the controllers agreed on it (Kafka's `PartitionRegistration`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartitionRegistration {
    /// Invariant: not empty, no broker twice.
    pub replicas: Replicas,
    /// Invariant: as long as `replicas`, in their order.
    pub directories: SmallVec<[DirectoryId; 1]>,
    /// Invariant: a subset of `replicas`; holds `leader` if there is one.
    pub isr: Replicas,
    /// Eligible leader replicas (KIP-966). Invariant: disjoint from `isr`.
    pub elr: Replicas,
    /// Who led last when ISR and ELR became empty.
    pub last_known_elr: Replicas,
    pub removing: Replicas,
    pub adding: Replicas,
    /// [`BrokerId::NONE`]: no leader.
    pub leader: BrokerId,
    pub leader_recovery_state: LeaderRecoveryState,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
}

impl PartitionRegistration {
    pub fn has_leader(&self) -> bool {
        self.leader != BrokerId::NONE
    }

    pub fn preferred_replica(&self) -> BrokerId {
        self.replicas.first().copied().unwrap_or(BrokerId::NONE)
    }

    pub fn has_preferred_leader(&self) -> bool {
        self.leader == self.preferred_replica()
    }

    pub fn is_reassigning(&self) -> bool {
        !self.removing.is_empty() || !self.adding.is_empty()
    }

    /// The directory in which `replica` keeps this partition; `None` if it is no replica.
    pub fn directory(&self, replica: BrokerId) -> Option<DirectoryId> {
        let position = self.replicas.iter().position(|id| *id == replica)?;
        self.directories.get(position).copied()
    }
}

/// One topic. Partitions are numbered from 0 without gaps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topic {
    pub name: Arc<str>,
    pub id: TopicId,
    pub(crate) partitions: imbl::Vector<Arc<PartitionRegistration>>,
}

impl Topic {
    pub fn partition(&self, index: PartitionIndex) -> Option<&Arc<PartitionRegistration>> {
        self.partitions.get(usize::try_from(index.0).ok()?)
    }

    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// In the order of their index.
    pub fn partitions(&self) -> impl ExactSizeIterator<Item = (PartitionIndex, &Arc<PartitionRegistration>)> {
        self.partitions.iter().enumerate().map(|(index, partition)| (PartitionIndex(index as i32), partition))
    }

    /// Topics that the cluster keeps for itself (Kafka's `Topic.isInternal`).
    pub fn is_internal(&self) -> bool {
        matches!(&*self.name, "__consumer_offsets" | "__transaction_state" | "__share_group_state")
    }
}

/// Where a listener is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The listener's name, as `PLAINTEXT`.
    pub listener: String,
    pub host: String,
    pub port: u16,
    pub security_protocol: SecurityProtocol,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{}://[{}]:{}", self.listener, self.host, self.port)
        } else {
            write!(f, "{}://{}:{}", self.listener, self.host, self.port)
        }
    }
}

/// The levels of a feature that a broker can work with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeatureRange {
    pub name: String,
    pub min_level: i16,
    pub max_level: i16,
}

/// One broker as it registered (Kafka's `BrokerRegistration`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerRegistration {
    pub id: BrokerId,
    /// The metadata offset of the registration.
    pub epoch: BrokerEpoch,
    /// New at each start of the process.
    pub incarnation: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
    pub features: Vec<FeatureRange>,
    pub fenced: bool,
    pub in_controlled_shutdown: bool,
    /// Its replicas are being moved to others, and it is given no new ones. It stays so when its process starts anew.
    pub decommissioning: bool,
    /// An operator wants it fenced. It stays so when its process starts anew. Invariant: then it is `fenced`.
    pub fenced_by_operator: bool,
    /// Those that are online, ascending.
    pub log_dirs: Vec<DirectoryId>,
}

impl BrokerRegistration {
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.listener == listener)
    }

    /// Whether it may join an ISR or lead: neither fenced nor on its way out (Kafka's `isActive`).
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }

    /// Whether it keeps `directory` online; reserved ids say nothing and count as online.
    pub fn has_online_directory(&self, directory_id: DirectoryId) -> bool {
        match directory_id {
            directory::LOST => false,
            id if directory::is_reserved(id) => true,
            id => self.log_dirs.is_empty() || self.log_dirs.contains(&id),
        }
    }
}

/// Where a controller serves gRPC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControllerRegistration {
    pub id: ControllerId,
    pub host: String,
    pub port: u16,
}

/// What a config belongs to, with Kafka's numbers (`ConfigResource.Type`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ResourceType {
    Topic = 2,
    Broker = 4,
    ClientMetrics = 16,
    Group = 32,
}

impl ResourceType {
    pub fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            2 => Self::Topic,
            4 => Self::Broker,
            16 => Self::ClientMetrics,
            32 => Self::Group,
            _ => return None,
        })
    }

    pub fn code(self) -> i8 {
        self as i8
    }
}

/// A configured thing. An empty name of type broker is the default of all brokers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConfigResource {
    pub kind: ResourceType,
    pub name: Arc<str>,
}

impl ConfigResource {
    pub fn topic(name: impl Into<Arc<str>>) -> Self {
        Self { kind: ResourceType::Topic, name: name.into() }
    }

    pub fn broker(id: BrokerId) -> Self {
        Self { kind: ResourceType::Broker, name: id.to_string().into() }
    }

    pub fn group(id: impl Into<Arc<str>>) -> Self {
        Self { kind: ResourceType::Group, name: id.into() }
    }

    /// The default of all brokers.
    pub fn cluster() -> Self {
        Self { kind: ResourceType::Broker, name: "".into() }
    }
}

impl From<LeaderRecoveryState> for proto::LeaderRecoveryState {
    fn from(state: LeaderRecoveryState) -> Self {
        match state {
            LeaderRecoveryState::Recovered => Self::Recovered,
            LeaderRecoveryState::Recovering => Self::Recovering,
        }
    }
}
