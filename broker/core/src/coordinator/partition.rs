//! Which partition of its topic coordinates a group or a transactional id.

/// Java's `String.hashCode`: over UTF-16, so that every broker and client of Kafka agrees.
pub fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The partition of `partitions` (at least one) whose leader coordinates `key`: the hash's absolute value, as Kafka's
/// `Utils.abs` has it (the least number has none, and counts as 0).
pub fn partition_for(key: &str, partitions: i32) -> i32 {
    java_hash(key).checked_abs().unwrap_or(0) % partitions.max(1)
}
