//! Newtypes for the numbers and names of a Kafka cluster, so that an offset cannot be handed over as an epoch.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number! {
    /// The position of a record in a partition, or of the next one (log end offset, high watermark). Counts records.
    Offset(i64)
}
number! {
    /// Grows by one with each new leader of a partition (KIP-101). `-1` on the wire: unknown.
    LeaderEpoch(i32)
}
number! {
    /// Grows by one with every change of a partition's registration: leader, ISR, ELR or replicas (KIP-497).
    PartitionEpoch(i32)
}
number! {
    /// The `node.id` of a broker.
    BrokerId(i32)
}
number! {
    /// The `node.id` of a controller.
    ControllerId(i32)
}
number! {
    /// Given to a broker by the controller at each registration; the metadata offset of the registration (KIP-631).
    BrokerEpoch(i64)
}
number! {
    /// The index of a partition in its topic, from 0.
    PartitionIndex(i32)
}
number! {
    /// Names a producer, handed out by the controller in blocks (KIP-98, KIP-730).
    ProducerId(i64)
}
number! {
    /// Fences older incarnations of the producer with the same id (KIP-98).
    ProducerEpoch(i16)
}

number! {
    /// Names one verification that a transaction's first batch in a partition has to go through, so that its outcome cannot
    /// be taken for that of another (KIP-890).
    VerificationGuard(u64)
}

/// What a marker is of, beyond its producer and epoch, which the next transaction of the first protocol has, too: so that a copy
/// of it that comes late can be told from what is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Decision {
    /// Of the coordinator's record that decided the transaction. Decisions of one coordinator epoch grow by it, and a producer
    /// has one coordinator.
    pub offset: Offset,
    /// The leader epoch of the partition that the marker was sent to: another leadership does not know what this one has taken.
    pub leader_epoch: LeaderEpoch,
}

impl Offset {
    pub const ZERO: Self = Self(0);
    /// On the wire and in responses: no offset.
    pub const NONE: Self = Self(-1);

    /// The offset `n` records later.
    pub fn plus(self, n: i64) -> Self {
        Self(self.0 + n)
    }
}

impl LeaderEpoch {
    /// On the wire: the epoch is unknown or not to be checked.
    pub const NONE: Self = Self(-1);
}

impl BrokerId {
    /// On the wire: no broker, as for a partition without a leader.
    pub const NONE: Self = Self(-1);
}

impl BrokerEpoch {
    pub const NONE: Self = Self(-1);
}

/// A 128-bit identifier as Kafka writes it: base64 without padding, URL-safe alphabet (22 characters).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// All zero bits: "no id" on the wire.
    pub const ZERO: Self = Self([0; 16]);
    /// Reserved by Kafka for the metadata topic.
    pub const ONE: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    /// A version 4 identifier made of 16 random bytes. Kafka's reserved ids and those whose text starts with `-` (which
    /// a command line would take for a flag) are avoided by flipping one bit.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        if bytes[0] >> 2 == 62 {
            bytes[0] ^= 0x80;
        }
        Self(bytes)
    }

    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(22);
        for chunk in self.0.chunks(3) {
            let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for digit in 0..=chunk.len() {
                text.push(BASE64[(word >> (18 - 6 * digit) & 63) as usize] as char);
            }
        }
        f.pad(&text)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a Kafka id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an id: it takes 22 characters of URL-safe base64, as `odradek storage random-uuid` prints them")]
pub struct InvalidUuid(pub String);

impl std::str::FromStr for Uuid {
    type Err = InvalidUuid;

    fn from_str(text: &str) -> Result<Self, InvalidUuid> {
        let invalid = || InvalidUuid(text.to_owned());
        let text = text.trim_end_matches('=');
        if text.len() != 22 {
            return Err(invalid());
        }
        let mut bits = 0u128;
        for (position, byte) in text.bytes().enumerate() {
            let digit = BASE64.iter().position(|b| *b == byte).ok_or_else(invalid)? as u128;
            // The 22nd digit carries only two bits of the id.
            bits = if position < 21 { bits << 6 | digit } else { bits << 2 | digit >> 4 };
        }
        Ok(Self(bits.to_be_bytes()))
    }
}

impl Serialize for Uuid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A topic's id (KIP-516). A topic that is deleted and created again gets another.
pub type TopicId = Uuid;

/// One partition by topic name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicPartition {
    pub topic: String,
    pub partition: PartitionIndex,
}

impl TopicPartition {
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self { topic: topic.into(), partition: PartitionIndex(partition) }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// One partition by topic id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicIdPartition {
    pub topic_id: TopicId,
    pub partition: PartitionIndex,
}

impl fmt::Display for TopicIdPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic_id, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_text_is_kafkas() {
        // `kafka-storage random-uuid` style: the bytes of a known id.
        let id: Uuid = "MkU3OEVBNTcwNTJENDM2Qk".parse().expect("valid");
        assert_eq!(id.0, *b"2E78EA57052D436B");
        assert_eq!(id.to_string(), "MkU3OEVBNTcwNTJENDM2Qg");
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(Uuid::ONE.to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!("nonsense".parse::<Uuid>(), Err(InvalidUuid("nonsense".to_owned())));
    }

    #[test]
    fn random_uuids_are_version_4_and_never_start_with_a_dash() {
        for first in 0..=255u8 {
            let id = Uuid::from_random([first; 16]);
            assert!(!id.to_string().starts_with('-'));
            assert_eq!(id.0[6] >> 4, 4);
            assert_eq!(id.to_string().parse::<Uuid>(), Ok(id));
        }
    }
}
