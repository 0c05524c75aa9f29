//! The settings of one log, by Kafka's names of topic configurations.

use odradek_records::{Compression, TimestampType};

/// What `compression.type` asks of the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompression {
    /// `producer`: batches stay as they were sent.
    #[default]
    Producer,
    /// Batches of another codec are written anew with this one.
    To(Compression),
}

/// A topic's configuration as far as the log obeys it. Times in milliseconds, sizes in bytes, `-1`: no limit.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `segment.bytes`
    pub segment_bytes: u32,
    /// `segment.ms`
    pub segment_ms: i64,
    /// `segment.jitter.ms`
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`
    pub index_interval_bytes: u32,
    /// `max.message.bytes`
    pub max_message_bytes: usize,
    /// `message.timestamp.type`
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`
    pub timestamp_after_max_ms: i64,
    /// `compression.type`, with `compression.<codec>.level`
    pub compression: Recompression,
    /// `flush.messages`
    pub flush_messages: i64,
    /// `flush.ms`
    pub flush_ms: i64,
    /// `retention.ms`
    pub retention_ms: i64,
    /// `retention.bytes`
    pub retention_bytes: i64,
    /// `file.delete.delay.ms`
    pub file_delete_delay_ms: i64,
    /// `cleanup.policy` contains `delete`
    pub cleanup_delete: bool,
    /// `cleanup.policy` contains `compact`: every record needs a key.
    pub cleanup_compact: bool,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
    /// `min.cleanable.dirty.ratio`
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`
    pub max_compaction_lag_ms: i64,
    /// `preallocate`: a segment's file has its whole length from the start.
    pub preallocate: bool,
}

impl LogConfig {
    /// The bytes that a new segment's file begins with.
    pub(crate) fn preallocated_bytes(&self) -> u64 {
        if self.preallocate { u64::from(self.segment_bytes) } else { 0 }
    }

    /// How long a segment collects: a compacted topic's records must get out of the active segment in time.
    pub fn segment_ms_max(&self) -> i64 {
        let lag = self.max_compaction_lag_ms;
        if self.cleanup_compact && lag > 0 { self.segment_ms.min(lag) } else { self.segment_ms }
    }
}

impl Default for LogConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1000;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: WEEK_MS,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            max_message_bytes: 1_048_588,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 60 * 60 * 1000,
            compression: Recompression::Producer,
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
            retention_ms: WEEK_MS,
            retention_bytes: -1,
            file_delete_delay_ms: 60_000,
            cleanup_delete: true,
            cleanup_compact: false,
            delete_retention_ms: 24 * 60 * 60 * 1000,
            min_cleanable_dirty_ratio: 0.5,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            preallocate: false,
        }
    }
}

/// The broker's settings for producer state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStateConfig {
    /// `producer.id.expiration.ms`: a producer silent for so long is forgotten.
    pub producer_id_expiration_ms: i64,
    /// `odradek.log.producer.ids.max`: of more producers some are forgotten.
    pub producer_ids_max: usize,
    /// `transaction.partition.verification.enable`: a transaction's first batch is taken under a guard only (KIP-890).
    pub verify_transactions: bool,
}

impl Default for ProducerStateConfig {
    fn default() -> Self {
        Self { producer_id_expiration_ms: 24 * 60 * 60 * 1000, producer_ids_max: 100_000, verify_transactions: false }
    }
}
