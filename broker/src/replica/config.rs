//! A topic's configs as its logs take them.

use odradek_broker_storage::{LogConfig, Recompression};
use odradek_common::config::{Compression as Setting, TimestampType as Stamp, TopicConfig};
use odradek_records::{Codec, Compression, TimestampType};

pub(super) fn log_config(topic: &TopicConfig) -> LogConfig {
    let to = |codec, level| Recompression::To(Compression { codec, level });
    let size = |bytes: i32| u32::try_from(bytes).unwrap_or(0);
    LogConfig {
        segment_bytes: size(topic.segment_bytes()),
        segment_ms: topic.segment_ms,
        segment_jitter_ms: topic.segment_jitter_ms,
        segment_index_bytes: size(topic.segment_index_bytes),
        index_interval_bytes: size(topic.index_interval_bytes),
        max_message_bytes: usize::try_from(topic.max_message_bytes).unwrap_or(0),
        timestamp_type: match topic.message_timestamp_type {
            Stamp::CreateTime => TimestampType::CreateTime,
            Stamp::LogAppendTime => TimestampType::LogAppendTime,
        },
        timestamp_before_max_ms: topic.message_timestamp_before_max_ms,
        timestamp_after_max_ms: topic.message_timestamp_after_max_ms,
        compression: match topic.compression {
            Setting::Producer => Recompression::Producer,
            Setting::Uncompressed => to(Codec::None, None),
            Setting::Gzip => to(Codec::Gzip, Some(topic.compression_gzip_level)),
            Setting::Snappy => to(Codec::Snappy, None),
            Setting::Lz4 => to(Codec::Lz4, Some(topic.compression_lz4_level)),
            Setting::Zstd => to(Codec::Zstd, Some(topic.compression_zstd_level)),
        },
        flush_messages: topic.flush_messages,
        flush_ms: topic.flush_ms,
        retention_ms: topic.retention_ms,
        retention_bytes: topic.retention_bytes,
        file_delete_delay_ms: topic.file_delete_delay_ms,
        cleanup_delete: topic.cleanup_policy.delete,
        cleanup_compact: topic.cleanup_policy.compact,
        delete_retention_ms: topic.delete_retention_ms,
        min_cleanable_dirty_ratio: topic.min_cleanable_dirty_ratio,
        min_compaction_lag_ms: topic.min_compaction_lag_ms,
        max_compaction_lag_ms: topic.max_compaction_lag_ms,
        preallocate: topic.preallocate,
    }
}
