//! Where a group is to go on in one partition: pure, from what is committed and what is in the log (as Kafka's
//! `kafka-consumer-groups --reset-offsets` plans it).

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use odradek_proto::admin::ResetKind;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    Earliest,
    Latest,
    /// What is committed; the log end where nothing is.
    Current,
    Offset(i64),
    /// So many records on from what is committed.
    Shift(i64),
    /// Milliseconds since 1970 UTC.
    Timestamp(i64),
}

impl Aim {
    /// `None` for a kind that is not known.
    pub fn new(kind: i32, value: i64) -> Option<Self> {
        Some(match ResetKind::try_from(kind).ok()? {
            ResetKind::Unspecified => return None,
            ResetKind::Earliest => Self::Earliest,
            ResetKind::Latest => Self::Latest,
            ResetKind::Current => Self::Current,
            ResetKind::Offset => Self::Offset(value),
            ResetKind::Shift => Self::Shift(value),
            ResetKind::Timestamp => Self::Timestamp(value),
        })
    }
}

/// What is known of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub committed: Option<i64>,
    /// Invariant: at most `log_end`.
    pub log_start: i64,
    pub log_end: i64,
    /// The first record at or after the time of [`Aim::Timestamp`]; `None`: all are older.
    pub at_timestamp: Option<i64>,
}

/// Where it will go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub offset: i64,
    /// What was asked for, when it is out of the log's range.
    pub asked: Option<i64>,
}

/// A shift from nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing is committed, so there is nothing to shift")]
pub struct NothingCommitted;

/// The offset to commit. One that was named is brought into the log's range; one that is committed is left as it is.
pub fn plan(aim: Aim, known: Known) -> Result<Planned, NothingCommitted> {
    let as_is = |offset| Planned { offset, asked: None };
    let in_range = |offset: i64| {
        let nearest = offset.min(known.log_end).max(known.log_start);
        Planned { offset: nearest, asked: (nearest != offset).then_some(offset) }
    };
    Ok(match aim {
        Aim::Earliest => as_is(known.log_start),
        Aim::Latest => as_is(known.log_end),
        Aim::Current => as_is(known.committed.unwrap_or(known.log_end)),
        Aim::Offset(offset) => in_range(offset),
        Aim::Shift(by) => in_range(known.committed.ok_or(NothingCommitted)?.saturating_add(by)),
        Aim::Timestamp(_) => as_is(known.at_timestamp.unwrap_or(known.log_end)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_leads_into_the_log() {
        let known = Known { committed: Some(40), log_start: 10, log_end: 90, at_timestamp: Some(55) };
        let fresh = Known { committed: None, at_timestamp: None, ..known };
        let at = |offset| Ok(Planned { offset, asked: None });
        let clamped = |offset, asked| Ok(Planned { offset, asked: Some(asked) });
        for (aim, expected, expected_of_fresh) in [
            (Aim::Earliest, at(10), at(10)),
            (Aim::Latest, at(90), at(90)),
            (Aim::Current, at(40), at(90)),
            (Aim::Offset(10), at(10), at(10)),
            (Aim::Offset(90), at(90), at(90)),
            (Aim::Offset(9), clamped(10, 9), clamped(10, 9)),
            (Aim::Offset(91), clamped(90, 91), clamped(90, 91)),
            (Aim::Shift(0), at(40), Err(NothingCommitted)),
            (Aim::Shift(-30), at(10), Err(NothingCommitted)),
            (Aim::Shift(-31), clamped(10, 9), Err(NothingCommitted)),
            (Aim::Shift(51), clamped(90, 91), Err(NothingCommitted)),
            (Aim::Shift(i64::MAX), clamped(90, i64::MAX), Err(NothingCommitted)),
            (Aim::Shift(i64::MIN), clamped(10, i64::MIN + 40), Err(NothingCommitted)),
            (Aim::Timestamp(7), at(55), at(90)),
        ] {
            assert_eq!(plan(aim, known), expected, "{aim:?}");
            assert_eq!(plan(aim, fresh), expected_of_fresh, "{aim:?} of a group that is new");
        }
        // What is committed may be out of range by now; it is the group's own, and its consumers know what to do.
        let expired = Known { committed: Some(3), ..known };
        assert_eq!(plan(Aim::Current, expired), at(3));
        assert_eq!(plan(Aim::Shift(2), expired), clamped(10, 5));
    }

    #[test]
    fn kinds_are_read_from_the_message() {
        assert_eq!(Aim::new(ResetKind::Shift.into(), -3), Some(Aim::Shift(-3)));
        assert_eq!((Aim::new(0, 1), Aim::new(99, 1)), (None, None));
    }
}
