//! Which partitions of groups have metrics of their own: as many as may be, those first that lag most.

use crate::group::OffsetKey;

/// What a group has still to read of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionLag {
    pub of: OffsetKey,
    pub committed: i64,
    /// Records up to the high watermark.
    pub records: i64,
}

impl PartitionLag {
    /// A group that has committed more than there is lags not at all.
    pub fn new(of: OffsetKey, committed: i64, log_end: i64) -> Self {
        Self { of, committed, records: log_end.saturating_sub(committed).max(0) }
    }
}

/// What is told one by one, and what only in sum.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chosen {
    /// The largest lag first; among equals by name.
    pub listed: Vec<PartitionLag>,
    pub beyond_partitions: usize,
    pub beyond_records: i64,
}

/// Chooses at most `series_max`. The same lags always give the same choice.
pub fn choose(mut lags: Vec<PartitionLag>, series_max: usize) -> Chosen {
    lags.sort_by(|one, other| other.records.cmp(&one.records).then_with(|| one.of.cmp(&other.of)));
    let beyond = lags.split_off(series_max.min(lags.len()));
    let beyond_records = beyond.iter().fold(0, |sum: i64, lag| sum.saturating_add(lag.records));
    Chosen { listed: lags, beyond_partitions: beyond.len(), beyond_records }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag(group: &str, partition: i32, committed: i64, log_end: i64) -> PartitionLag {
        PartitionLag::new(OffsetKey { group: group.into(), topic: "t".into(), partition }, committed, log_end)
    }

    #[track_caller]
    fn check(lags: Vec<PartitionLag>, series_max: usize, expected: &str) {
        let chosen = choose(lags.clone(), series_max);
        let listed = chosen.listed.iter().map(|lag| format!("{}-{}:{}", lag.of.group, lag.of.partition, lag.records));
        let listed = listed.collect::<Vec<_>>().join(" ");
        assert_eq!(format!("{listed}| {} {}", chosen.beyond_partitions, chosen.beyond_records), expected);
        assert_eq!(choose(lags.into_iter().rev().collect(), series_max), chosen, "whatever the order");
    }

    #[test]
    fn the_largest_lags_are_listed_and_the_others_summed() {
        let lags =
            vec![lag("a", 0, 5, 9), lag("b", 1, 0, 4), lag("b", 0, 0, 100), lag("c", 0, 7, 7), lag("d", 0, 9, 3)];
        check(lags.clone(), 10, "b-0:100 a-0:4 b-1:4 c-0:0 d-0:0| 0 0");
        check(lags.clone(), 2, "b-0:100 a-0:4| 3 4");
        check(lags, 0, "| 5 108");
        check(Vec::new(), 3, "| 0 0");
        check(vec![lag("a", 0, i64::MIN, i64::MAX), lag("a", 1, 0, i64::MAX)], 0, "| 2 9223372036854775807");
    }
}
