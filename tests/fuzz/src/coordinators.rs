//! The records of groups and transactions, which a coordinator reads from its log.

use bytes::Bytes;
use odradek_broker_core::coordinator::Shard;
use odradek_broker_core::group::GroupShard;
use odradek_broker_core::transaction::TransactionShard;
use odradek_wire::filler::MESSAGES;

/// Key and value, the key's length (16 bits) in front; a value that is empty stands for none.
fn halves(data: &[u8]) -> Option<(Bytes, Option<Bytes>)> {
    let (length, rest) = data.split_first_chunk()?;
    let (key, value) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
    Some((Bytes::copy_from_slice(key), (!value.is_empty()).then(|| Bytes::copy_from_slice(value))))
}

/// A key and a value by their messages' names, each with its version in front, as the log has them.
fn seeds(pairs: &[(&str, &str, i16)]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (key, value, key_type) in pairs {
        let message = |name: &str| MESSAGES.iter().find(|message| message.name == name).expect("a message");
        let (key, value) = (message(key), message(value));
        let Ok(filled) = (key.encode_filled)(1, key.min_version) else { continue };
        let key = [key_type.to_be_bytes().as_slice(), &filled].concat();
        for version in value.min_version..=value.max_version {
            let Ok(filled) = (value.encode_filled)(2, version) else { continue };
            let length = (key.len() as u16).to_be_bytes();
            out.push([length.as_slice(), &key, &version.to_be_bytes(), &filled].concat());
        }
    }
    out
}

pub fn group_records(data: &[u8]) {
    let Some((key, value)) = halves(data) else { return };
    let _ = GroupShard::decode(Some(key.clone()), value.clone());
    let _ = GroupShard::decode(value, Some(key));
}

pub fn group_records_seeds() -> Vec<Vec<u8>> {
    seeds(&[("OffsetCommitKey", "OffsetCommitValue", 1), ("GroupMetadataKey", "GroupMetadataValue", 2)])
}

pub fn transaction_records(data: &[u8]) {
    let Some((key, value)) = halves(data) else { return };
    let _ = TransactionShard::decode(Some(key), value);
}

pub fn transaction_records_seeds() -> Vec<Vec<u8>> {
    seeds(&[("TransactionLogKey", "TransactionLogValue", 0)])
}
