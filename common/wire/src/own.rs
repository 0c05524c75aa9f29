//! What Odradek's nodes ask each other inside of Kafka's messages: in tagged fields that Kafka does not know, and that whoever
//! does not know them passes over (KIP-482). No client sees one that it did not send.
//!
//! A tag here is part of the contract between nodes of different versions: it keeps its number and its meaning.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::RawTaggedField;

/// In a partition of ListOffsets. The request names offsets; the answer tells for each when the first record at or above it
/// and below the high watermark was written: its timestamp, or one of the numbers below. Each is a big-endian `i64`.
pub const OLDEST_UNREAD: u32 = 10_001;
/// Offsets that one request is answered: each may take a batch apart. Of more the rest is not known.
pub const OLDEST_UNREAD_OFFSETS_MAX: usize = 1_000;
/// In DescribeGroups: the answer has in each group a field of the same number with the group's history, as
/// `odradek.admin.v1.GroupHistory`. It is also there where the group is none of the classic protocol.
pub const HISTORY: u32 = 10_002;
/// In a marker of WriteTxnMarkers, from the coordinator of its transaction: the offset of the decision in the coordinator's log,
/// one number. Only with [`MARKER_LEADER_EPOCHS`].
pub const MARKER_DECISION: u32 = 10_003;
/// In a topic of a marker of WriteTxnMarkers: for each partition the leader epoch that the marker is for. A leader of another one
/// refuses it with FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH.
pub const MARKER_LEADER_EPOCHS: u32 = 10_004;

/// The record has no timestamp.
pub const NO_TIMESTAMP: i64 = -1;
/// There is no such record: all is read.
pub const ALL_READ: i64 = -2;
/// It could not be found out.
pub const NOT_KNOWN: i64 = -3;

/// The field with this tag.
pub fn field(fields: &[RawTaggedField], tag: u32) -> Option<&Bytes> {
    fields.iter().find(|field| field.tag == tag).map(|field| &field.data)
}

/// A field of numbers.
pub fn numbers_field(tag: u32, numbers: impl IntoIterator<Item = i64>) -> RawTaggedField {
    let mut data = BytesMut::new();
    numbers.into_iter().for_each(|number| data.put_i64(number));
    RawTaggedField { tag, data: data.freeze() }
}

/// The numbers of a field. What is left over at its end is none.
pub fn numbers(field: &Bytes) -> impl Iterator<Item = i64> {
    field.as_chunks::<8>().0.iter().map(|chunk| i64::from_be_bytes(*chunk))
}

/// How long ago a record was written, as one learns it from an answer to [`OLDEST_UNREAD`], in milliseconds: never less
/// than 0, whatever the clocks say. `None`: it is not known.
pub fn age_ms(answer: i64, now_ms: i64) -> Option<i64> {
    match answer {
        ALL_READ => Some(0),
        0.. => Some(now_ms.saturating_sub(answer).max(0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_they_were_put() {
        let field = numbers_field(OLDEST_UNREAD, [0, -1, i64::MAX, i64::MIN]);
        assert_eq!(numbers(&field.data).collect::<Vec<_>>(), [0, -1, i64::MAX, i64::MIN]);
        assert_eq!(numbers(&field.data.slice(..15)).collect::<Vec<_>>(), [0]);
        assert_eq!(super::field(std::slice::from_ref(&field), HISTORY), None);
        assert_eq!(super::field(std::slice::from_ref(&field), OLDEST_UNREAD), Some(&field.data));
    }

    #[test]
    fn an_age_is_never_negative_and_not_known_without_a_timestamp() {
        let cases = [(ALL_READ, Some(0)), (900, Some(100)), (1_000, Some(0)), (5_000, Some(0)), (0, Some(1_000))];
        for (answer, expected) in cases {
            assert_eq!(age_ms(answer, 1_000), expected, "{answer}");
        }
        assert_eq!([NO_TIMESTAMP, NOT_KNOWN, i64::MIN].map(|answer| age_ms(answer, 1_000)), [None; 3]);
    }
}
