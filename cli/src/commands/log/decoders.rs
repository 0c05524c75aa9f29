//! Keys and values of the records that a cluster keeps for itself, as JSON with Kafka's names.

use std::path::Path;

use bytes::Bytes;
use odradek_wire::{self as wire, Decoder, Message, ToJson, TypedRecord};
use serde_json::{Value, json};

use crate::args::Decoders;

/// Which topic's records are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Offsets,
    Transactions,
    ShareGroups,
    Metadata,
}

/// By what was typed, else by the partition that the file is of.
pub fn of_file(asked: Decoders, file: &Path) -> Option<Kind> {
    match asked {
        Decoders { no_decoder: true, .. } => return None,
        Decoders { offsets_decoder: true, .. } => return Some(Kind::Offsets),
        Decoders { transaction_log_decoder: true, .. } => return Some(Kind::Transactions),
        Decoders { share_group_state_decoder: true, .. } => return Some(Kind::ShareGroups),
        Decoders { cluster_metadata_decoder: true, .. } => return Some(Kind::Metadata),
        Decoders { .. } => {}
    }
    let directory = file.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    let (topic, partition) = directory.rsplit_once('-')?;
    partition.parse::<i32>().ok()?;
    match topic {
        "__consumer_offsets" => Some(Kind::Offsets),
        "__transaction_state" => Some(Kind::Transactions),
        "__share_group_state" => Some(Kind::ShareGroups),
        "__cluster_metadata" => Some(Kind::Metadata),
        _ => None,
    }
}

/// What a record says: `type`, and `key` and `data`, each with its version. The error is for people.
pub fn decode(kind: Kind, key: Option<Bytes>, value: Option<Bytes>) -> Result<Value, String> {
    match kind {
        Kind::Metadata => metadata(value.ok_or("a metadata record without a value")?),
        _ => {
            let key = key.ok_or("a record without a key")?;
            coordinator(kind, key, value)
        }
    }
}

/// One record of a coordinator: what its key and value are.
macro_rules! pairs {
    ($kind:expr, $record_type:expr, $key:expr, $value:expr, $($pattern:pat => $name_key:ident, $name_value:ident;)*) => {
        match ($kind, $record_type) {
            $($pattern => pair::<wire::$name_key, wire::$name_value>($key, $value),)*
            (_, other) => Err(format!("a record of the unknown type {other}")),
        }
    };
}

fn coordinator(kind: Kind, key: Bytes, value: Option<Bytes>) -> Result<Value, String> {
    let mut input = Decoder::new(key);
    let record_type = input.i16().map_err(|error| error.to_string())?;
    use Kind::{Offsets, ShareGroups, Transactions};
    pairs! { kind, record_type, input, value,
        // Type 0 is what brokers before 0.8.2 wrote; its fields are the same.
        (Offsets, 0 | 1) => OffsetCommitKey, OffsetCommitValue;
        (Offsets, 2) => GroupMetadataKey, GroupMetadataValue;
        (Offsets, 3) => ConsumerGroupMetadataKey, ConsumerGroupMetadataValue;
        (Offsets, 4) => ConsumerGroupPartitionMetadataKey, ConsumerGroupPartitionMetadataValue;
        (Offsets, 5) => ConsumerGroupMemberMetadataKey, ConsumerGroupMemberMetadataValue;
        (Offsets, 6) => ConsumerGroupTargetAssignmentMetadataKey, ConsumerGroupTargetAssignmentMetadataValue;
        (Offsets, 7) => ConsumerGroupTargetAssignmentMemberKey, ConsumerGroupTargetAssignmentMemberValue;
        (Offsets, 8) => ConsumerGroupCurrentMemberAssignmentKey, ConsumerGroupCurrentMemberAssignmentValue;
        (Offsets, 10) => ShareGroupMemberMetadataKey, ShareGroupMemberMetadataValue;
        (Offsets, 11) => ShareGroupMetadataKey, ShareGroupMetadataValue;
        (Offsets, 12) => ShareGroupTargetAssignmentMetadataKey, ShareGroupTargetAssignmentMetadataValue;
        (Offsets, 13) => ShareGroupTargetAssignmentMemberKey, ShareGroupTargetAssignmentMemberValue;
        (Offsets, 14) => ShareGroupCurrentMemberAssignmentKey, ShareGroupCurrentMemberAssignmentValue;
        (Offsets, 15) => ShareGroupStatePartitionMetadataKey, ShareGroupStatePartitionMetadataValue;
        (Offsets, 16) => ConsumerGroupRegularExpressionKey, ConsumerGroupRegularExpressionValue;
        (Offsets, 17) => StreamsGroupMetadataKey, StreamsGroupMetadataValue;
        (Offsets, 19) => StreamsGroupMemberMetadataKey, StreamsGroupMemberMetadataValue;
        (Offsets, 20) => StreamsGroupTargetAssignmentMetadataKey, StreamsGroupTargetAssignmentMetadataValue;
        (Offsets, 21) => StreamsGroupTargetAssignmentMemberKey, StreamsGroupTargetAssignmentMemberValue;
        (Offsets, 22) => StreamsGroupCurrentMemberAssignmentKey, StreamsGroupCurrentMemberAssignmentValue;
        (Offsets, 23) => StreamsGroupTopologyKey, StreamsGroupTopologyValue;
        (Transactions, 0) => TransactionLogKey, TransactionLogValue;
        (ShareGroups, 0) => ShareSnapshotKey, ShareSnapshotValue;
        (ShareGroups, 1) => ShareUpdateKey, ShareUpdateValue;
    }
}

fn pair<K: TypedRecord + ToJson, V: Message + ToJson>(mut key: Decoder, value: Option<Bytes>) -> Result<Value, String> {
    let told = |error: wire::DecodeError| error.to_string();
    let key = K::decode(&mut key, 0).map_err(told)?;
    let data = match value {
        // It takes back what was said under the key.
        None => Value::Null,
        Some(value) => {
            let (version, value) = wire::decode_versioned::<V>(value).map_err(told)?;
            json!({ "version": version, "data": value.to_json(version) })
        }
    };
    let name = K::NAME.strip_suffix("Key").unwrap_or(K::NAME);
    Ok(json!({ "type": name, "type_code": K::RECORD_TYPE, "key": key.to_json(0), "value": data }))
}

/// One record of Kafka's metadata: what it is.
macro_rules! metadata_kinds {
    ($record:expr, $version:expr, $($name:ident),* $(,)?) => {
        match $record.kind {
            $(wire::$name::RECORD_TYPE => {
                let value: wire::$name = $record.decode().map_err(|error| error.to_string())?;
                (wire::$name::NAME, value.to_json($version))
            })*
            other => return Err(format!("a metadata record of the unknown type {other}")),
        }
    };
}

fn metadata(value: Bytes) -> Result<Value, String> {
    let record = wire::MetadataFrame::open(value).map_err(|error| error.to_string())?;
    let (version, kind) = (record.version, record.kind);
    let (name, data) = metadata_kinds!(
        record,
        version,
        RegisterBrokerRecord,
        UnregisterBrokerRecord,
        TopicRecord,
        PartitionRecord,
        ConfigRecord,
        PartitionChangeRecord,
        FenceBrokerRecord,
        UnfenceBrokerRecord,
        RemoveTopicRecord,
        DelegationTokenRecord,
        UserScramCredentialRecord,
        FeatureLevelRecord,
        ClientQuotaRecord,
        ProducerIdsRecord,
        BrokerRegistrationChangeRecord,
        AccessControlEntryRecord,
        RemoveAccessControlEntryRecord,
        NoOpRecord,
        ZkMigrationStateRecord,
        RemoveUserScramCredentialRecord,
        BeginTransactionRecord,
        EndTransactionRecord,
        AbortTransactionRecord,
        RemoveDelegationTokenRecord,
        RegisterControllerRecord,
        ClearElrRecord,
    );
    Ok(json!({ "type": name, "type_code": kind, "version": version, "data": data }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_offset_is_told_with_kafkas_names() {
        let key = wire::OffsetCommitKey { group: "g".into(), topic: "t".into(), partition: 3 };
        let key = wire::encode_with_prefix(&key, 1, 0).expect("encoded");
        let value = wire::OffsetCommitValue { offset: 42, metadata: "".into(), ..Default::default() };
        let value = wire::encode_versioned(&value, 4).expect("encoded");
        let told = decode(Kind::Offsets, Some(key.clone()), Some(value)).expect("decoded");
        assert_eq!(told["type"], "OffsetCommit");
        assert_eq!(told["key"], json!({ "group": "g", "topic": "t", "partition": 3 }));
        assert_eq!((&told["value"]["version"], &told["value"]["data"]["offset"]), (&json!(4), &json!(42)));
        assert_eq!(decode(Kind::Offsets, Some(key.clone()), None).expect("a tombstone")["value"], Value::Null);
        assert!(decode(Kind::Offsets, Some(key.slice(..5)), None).is_err());
        assert!(decode(Kind::Transactions, Some(key), None).is_err());
    }

    #[test]
    fn the_decoder_goes_by_the_directory() {
        let none = Decoders::default();
        let of = |path: &str| of_file(none, Path::new(path));
        assert_eq!(of("data/__consumer_offsets-7/00000000000000000000.log"), Some(Kind::Offsets));
        assert_eq!(of("data/__cluster_metadata-0/00000000000000000000-0000000001.checkpoint"), Some(Kind::Metadata));
        assert_eq!(of("data/orders-0/00000000000000000000.log"), None);
        let raw = Decoders { no_decoder: true, ..none };
        assert_eq!(of_file(raw, Path::new("__consumer_offsets-7/0.log")), None);
    }
}
