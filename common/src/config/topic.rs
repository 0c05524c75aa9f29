//! A topic's configs: what was set on the topic, else the broker's synonym, else Kafka's default.
//!
//! `SYNONYMS` is Kafka's table (`ServerTopicConfigSynonyms`): `retention.ms` falls back to `log.retention.ms`, then
//! `log.retention.minutes`, then `log.retention.hours`, each turned into milliseconds. A broker reads its side once into
//! `TopicDefaults`; each topic's overrides then make a `TopicConfig`.

use std::collections::BTreeMap;

use super::definition::{list, topic_definition};
use super::properties::Properties;
use super::reader::Reader;

const MINUTE_MS: i64 = 60 * 1000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// A topic's name, and the broker's names that stand in for it, the strongest first, each with the number that turns
/// its unit into the topic's.
type Synonym = (&'static str, &'static [(&'static str, i64)]);

const SYNONYMS: &[Synonym] = &[
    ("cleanup.policy", &[("log.cleanup.policy", 1)]),
    ("compression.gzip.level", &[("compression.gzip.level", 1)]),
    ("compression.lz4.level", &[("compression.lz4.level", 1)]),
    ("compression.type", &[("compression.type", 1)]),
    ("compression.zstd.level", &[("compression.zstd.level", 1)]),
    ("delete.retention.ms", &[("log.cleaner.delete.retention.ms", 1)]),
    ("file.delete.delay.ms", &[("log.segment.delete.delay.ms", 1)]),
    ("flush.messages", &[("log.flush.interval.messages", 1)]),
    ("flush.ms", &[("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)]),
    ("index.interval.bytes", &[("log.index.interval.bytes", 1)]),
    ("local.retention.bytes", &[("log.local.retention.bytes", 1)]),
    ("local.retention.ms", &[("log.local.retention.ms", 1)]),
    ("max.compaction.lag.ms", &[("log.cleaner.max.compaction.lag.ms", 1)]),
    ("max.message.bytes", &[("message.max.bytes", 1)]),
    ("message.timestamp.after.max.ms", &[("log.message.timestamp.after.max.ms", 1)]),
    ("message.timestamp.before.max.ms", &[("log.message.timestamp.before.max.ms", 1)]),
    ("message.timestamp.type", &[("log.message.timestamp.type", 1)]),
    ("min.cleanable.dirty.ratio", &[("log.cleaner.min.cleanable.ratio", 1)]),
    ("min.compaction.lag.ms", &[("log.cleaner.min.compaction.lag.ms", 1)]),
    ("min.insync.replicas", &[("min.insync.replicas", 1)]),
    ("preallocate", &[("log.preallocate", 1)]),
    ("retention.bytes", &[("log.retention.bytes", 1)]),
    (
        "retention.ms",
        &[("log.retention.ms", 1), ("log.retention.minutes", MINUTE_MS), ("log.retention.hours", HOUR_MS)],
    ),
    ("segment.bytes", &[("log.segment.bytes", 1)]),
    ("segment.index.bytes", &[("log.index.size.max.bytes", 1)]),
    ("segment.jitter.ms", &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR_MS)]),
    ("segment.ms", &[("log.roll.ms", 1), ("log.roll.hours", HOUR_MS)]),
    ("unclean.leader.election.enable", &[("unclean.leader.election.enable", 1)]),
];

/// The broker's names for a topic's config, the strongest first; empty when it has none.
pub fn broker_synonym(topic_config: &str) -> impl Iterator<Item = &'static str> {
    synonyms(topic_config).iter().map(|(name, _)| *name)
}

fn synonyms(topic_config: &str) -> &'static [(&'static str, i64)] {
    SYNONYMS.iter().find(|(name, _)| *name == topic_config).map_or(&[], |(_, synonyms)| synonyms)
}

pub fn is_known_topic_config(name: &str) -> bool {
    topic_definition(name).is_some()
}

/// Checks one override of a topic; the error is the text that Kafka answers INVALID_CONFIG with.
pub fn validate_topic_config(name: &str, value: &str) -> Result<(), String> {
    let Some(definition) = topic_definition(name) else {
        return Err(format!("Unknown topic config name: {name}"));
    };
    definition.check(value).map_err(|problem| definition.invalid(value, &problem))
}

/// `compression.type`: what a log stores batches with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// As the producer sent them.
    #[default]
    Producer,
    Uncompressed,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// `message.timestamp.type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimestampType {
    /// The producer's time stays.
    #[default]
    CreateTime,
    /// The leader's clock replaces it.
    LogAppendTime,
}

macro_rules! topic_config {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $name:literal,)*) => {
        /// The configs of one topic, resolved. `i64::MAX` and negative numbers mean what they mean in Kafka.
        #[derive(Clone, Debug, PartialEq)]
        pub struct TopicConfig {
            $(
                #[doc = concat!("`", $name, "`.")]
                $(#[$doc])*
                pub $field: $type,
            )*
        }

        impl TopicConfig {
            /// The configs that these fields hold.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// `value` has passed its definition's check; a name without a value (`internal.segment.bytes`) is `None`.
            fn read(value: impl Fn(&'static str) -> Option<String>) -> Self {
                Self { $($field: <$type as TopicSetting>::read(value($name).as_deref()),)* }
            }
        }
    };
}

topic_config! {
    /// Items `compact` and `delete`.
    cleanup_policy: CleanupPolicy = "cleanup.policy",
    compression: Compression = "compression.type",
    compression_gzip_level: i32 = "compression.gzip.level",
    compression_lz4_level: i32 = "compression.lz4.level",
    compression_zstd_level: i32 = "compression.zstd.level",
    /// How long a compacted log keeps a tombstone.
    delete_retention_ms: i64 = "delete.retention.ms",
    /// From the marking of a file as deleted to its removal.
    file_delete_delay_ms: i64 = "file.delete.delay.ms",
    /// fsync after so many records.
    flush_messages: i64 = "flush.messages",
    /// fsync what is older.
    flush_ms: i64 = "flush.ms",
    /// At most this many bytes of log between two entries of the offset index.
    index_interval_bytes: i32 = "index.interval.bytes",
    /// Takes the place of `segment.bytes`, with no lower bound.
    internal_segment_bytes: Option<i32> = "internal.segment.bytes",
    /// -2: as `retention.bytes`.
    local_retention_bytes: i64 = "local.retention.bytes",
    /// -2: as `retention.ms`.
    local_retention_ms: i64 = "local.retention.ms",
    max_compaction_lag_ms: i64 = "max.compaction.lag.ms",
    /// The largest batch, after compression.
    max_message_bytes: i32 = "max.message.bytes",
    message_timestamp_after_max_ms: i64 = "message.timestamp.after.max.ms",
    message_timestamp_before_max_ms: i64 = "message.timestamp.before.max.ms",
    message_timestamp_type: TimestampType = "message.timestamp.type",
    min_cleanable_dirty_ratio: f64 = "min.cleanable.dirty.ratio",
    min_compaction_lag_ms: i64 = "min.compaction.lag.ms",
    min_insync_replicas: i32 = "min.insync.replicas",
    preallocate: bool = "preallocate",
    remote_log_copy_disable: bool = "remote.log.copy.disable",
    remote_log_delete_on_disable: bool = "remote.log.delete.on.disable",
    remote_storage_enable: bool = "remote.storage.enable",
    /// -1: no limit.
    retention_bytes: i64 = "retention.bytes",
    /// -1: no limit.
    retention_ms: i64 = "retention.ms",
    segment_bytes: i32 = "segment.bytes",
    segment_index_bytes: i32 = "segment.index.bytes",
    segment_jitter_ms: i64 = "segment.jitter.ms",
    segment_ms: i64 = "segment.ms",
    unclean_leader_election_enable: bool = "unclean.leader.election.enable",
}

impl TopicConfig {
    /// The size at which a segment is rolled.
    pub fn segment_bytes(&self) -> i32 {
        self.internal_segment_bytes.unwrap_or(self.segment_bytes)
    }

    /// What no single value shows.
    fn check(&self) -> Result<(), String> {
        if self.min_compaction_lag_ms > self.max_compaction_lag_ms {
            return Err(format!(
                "conflict topic config setting min.compaction.lag.ms ({}) > max.compaction.lag.ms ({})",
                self.min_compaction_lag_ms, self.max_compaction_lag_ms
            ));
        }
        if self.remote_storage_enable {
            return Err("Tiered Storage functionality is disabled in the broker. \
                        Topic cannot be configured with remote log storage."
                .to_owned());
        }
        Ok(())
    }
}

impl Default for TopicConfig {
    fn default() -> Self {
        TopicDefaults::default().config
    }
}

/// `cleanup.policy`; both may hold, or neither.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CleanupPolicy {
    pub delete: bool,
    pub compact: bool,
}

/// A broker's values for what topics leave unset.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicDefaults {
    config: TopicConfig,
    /// What the broker's own properties say, by the topic's name: its synonym, and the value in the topic's unit.
    set: BTreeMap<&'static str, (&'static str, String)>,
}

impl TopicDefaults {
    /// Reads the broker's synonyms. What is not valid there was refused already, and is passed over here.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        for name in ["log.retention.ms", "log.retention.minutes", "log.retention.hours"] {
            let number = reader.get(name).and_then(|entry| entry.value.trim().parse::<i64>().ok());
            if number.is_some_and(|number| number == 0 || number < -1) {
                reader.refuse(name, "Value must be at least 1, or -1 for no limit");
            }
        }
        let mut set = BTreeMap::new();
        for (topic_config, synonyms) in SYNONYMS {
            let strongest =
                synonyms.iter().find_map(|(name, unit)| Some((*name, *unit, reader.get(name)?.value.trim())));
            let Some((name, unit, text)) = strongest else { continue };
            let value = match text.parse::<i64>() {
                Ok(number) if unit > 1 && number > 0 => number.saturating_mul(unit).to_string(),
                _ => text.to_owned(),
            };
            match validate_topic_config(topic_config, &value) {
                Ok(()) => {
                    set.insert(*topic_config, (name, value));
                }
                Err(problem) => {
                    let known = super::definition::broker_definition(name).is_some_and(|d| d.check(text).is_err());
                    if !known {
                        reader.refuse(name, format!("stands for the topics' {topic_config}: {problem}"));
                    }
                }
            }
        }
        let config = TopicConfig::read(|name| match set.get(name) {
            Some((_, value)) => Some(value.clone()),
            None => topic_definition(name)?.default.map(str::to_owned),
        });
        if let Err(problem) = config.check() {
            reader.refuse("log.cleaner.min.compaction.lag.ms", problem);
        }
        Self { config, set }
    }

    /// The configs of a topic that overrides nothing.
    pub fn config(&self) -> &TopicConfig {
        &self.config
    }

    /// The configs of a topic with these overrides. The error is Kafka's text for INVALID_CONFIG.
    pub fn resolve<'a>(&self, overrides: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<TopicConfig, String> {
        let overrides: BTreeMap<&str, &str> = overrides.into_iter().collect();
        if overrides.is_empty() {
            return Ok(self.config.clone());
        }
        overrides.iter().try_for_each(|(name, value)| validate_topic_config(name, value))?;
        let config = TopicConfig::read(|name| match overrides.get(name) {
            Some(value) => Some((*value).to_owned()),
            None => self.get(name).map(|(value, _)| value.to_owned()),
        });
        config.check()?;
        Ok(config)
    }

    /// As `resolve`, leaving out what is not valid: for overrides that were accepted once, by another version perhaps.
    pub fn resolve_lossy<'a>(&self, overrides: impl IntoIterator<Item = (&'a str, &'a str)>) -> TopicConfig {
        let valid: BTreeMap<&str, &str> =
            overrides.into_iter().filter(|(name, value)| validate_topic_config(name, value).is_ok()).collect();
        TopicConfig::read(|name| match valid.get(name) {
            Some(value) => Some((*value).to_owned()),
            None => self.get(name).map(|(value, _)| value.to_owned()),
        })
    }

    /// What a topic without an override has for this config, as text in the topic's unit, and the broker's name it
    /// comes from; `None` there means Kafka's default.
    pub fn get(&self, topic_config: &str) -> Option<(&str, Option<&'static str>)> {
        match self.set.get(topic_config) {
            Some((synonym, value)) => Some((value, Some(*synonym))),
            None => topic_definition(topic_config)?.default.map(|value| (value, None)),
        }
    }
}

impl Default for TopicDefaults {
    /// Kafka's defaults.
    fn default() -> Self {
        Self::read(&mut Reader::new(&Properties::default()))
    }
}

/// A type that a checked value can be read as.
trait TopicSetting {
    fn read(text: Option<&str>) -> Self;
}

macro_rules! parsed {
    ($($type:ty),*) => {$(
        impl TopicSetting for $type {
            fn read(text: Option<&str>) -> Self {
                // Every field but the optional one has a default, and each value was checked.
                text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
            }
        }
    )*};
}

parsed!(i32, i64, f64);

impl TopicSetting for Option<i32> {
    fn read(text: Option<&str>) -> Self {
        text.and_then(|text| text.trim().parse().ok())
    }
}

impl TopicSetting for bool {
    fn read(text: Option<&str>) -> Self {
        text.is_some_and(|text| text.trim().eq_ignore_ascii_case("true"))
    }
}

impl TopicSetting for CleanupPolicy {
    fn read(text: Option<&str>) -> Self {
        let has = |policy| list(text.unwrap_or_default()).any(|item| item == policy);
        Self { delete: has("delete"), compact: has("compact") }
    }
}

impl TopicSetting for Compression {
    fn read(text: Option<&str>) -> Self {
        match text.map(str::trim) {
            Some("uncompressed") => Self::Uncompressed,
            Some("gzip") => Self::Gzip,
            Some("snappy") => Self::Snappy,
            Some("lz4") => Self::Lz4,
            Some("zstd") => Self::Zstd,
            _ => Self::Producer,
        }
    }
}

impl TopicSetting for TimestampType {
    fn read(text: Option<&str>) -> Self {
        match text.map(str::trim) {
            Some("LogAppendTime") => Self::LogAppendTime,
            _ => Self::CreateTime,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{broker_definition, topic_definitions};

    fn defaults(text: &str) -> Result<TopicDefaults, String> {
        let properties = Properties::parse(text, "f").expect("parsed");
        let mut reader = Reader::new(&properties);
        reader.check_all();
        let defaults = TopicDefaults::read(&mut reader);
        match reader.errors.first() {
            None => Ok(defaults),
            Some(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn every_topic_config_has_a_field_and_every_synonym_exists() {
        for definition in topic_definitions() {
            if definition.name.ends_with(".replication.throttled.replicas") {
                continue;
            }
            assert!(TopicConfig::NAMES.contains(&definition.name), "{}", definition.name);
        }
        for (topic_config, synonyms) in SYNONYMS {
            let topic = topic_definition(topic_config).expect("a topic config");
            for (name, unit) in *synonyms {
                let broker = broker_definition(name).expect("a broker config");
                if *unit == 1 && *name != "log.flush.interval.ms" && !name.ends_with(".ms") {
                    assert_eq!(topic.default, broker.default, "{topic_config} {name}");
                }
            }
        }
    }

    #[test]
    fn a_topic_falls_back_to_the_broker_and_then_to_kafka() {
        let kafka = TopicConfig::default();
        assert_eq!((kafka.retention_ms, kafka.segment_ms), (7 * 24 * HOUR_MS, 7 * 24 * HOUR_MS));
        assert_eq!((kafka.segment_bytes(), kafka.max_message_bytes), (1 << 30, 1_048_588));
        assert_eq!(kafka.cleanup_policy, CleanupPolicy { delete: true, compact: false });

        let broker =
            defaults("log.retention.hours=1\nlog.retention.minutes=2\nlog.roll.jitter.hours=0").expect("valid");
        assert_eq!(broker.config().retention_ms, 2 * MINUTE_MS);
        assert_eq!(broker.get("retention.ms"), Some(("120000", Some("log.retention.minutes"))));
        assert_eq!(broker.get("segment.bytes"), Some(("1073741824", None)));
        assert_eq!(broker.get("internal.segment.bytes"), None);

        let topic = broker.resolve([("retention.ms", "-1"), ("cleanup.policy", "compact,delete")]).expect("valid");
        assert_eq!(topic.retention_ms, -1);
        assert_eq!(topic.cleanup_policy, CleanupPolicy { delete: true, compact: true });
        assert_eq!(defaults("log.retention.hours=-1").expect("valid").config().retention_ms, -1);
        assert_eq!(broker.resolve([("internal.segment.bytes", "100")]).expect("valid").segment_bytes(), 100);
    }

    #[test]
    fn wrong_values_are_answered_as_kafka_does() {
        assert_eq!(validate_topic_config("nope", "1"), Err("Unknown topic config name: nope".to_owned()));
        assert_eq!(
            validate_topic_config("retention.ms", "soon"),
            Err("Invalid value soon for configuration retention.ms: Not a number of type LONG".to_owned())
        );
        let broker = TopicDefaults::default();
        let conflict = [("cleanup.policy", "compact"), ("min.compaction.lag.ms", "5"), ("max.compaction.lag.ms", "4")];
        assert!(broker.resolve(conflict).unwrap_err().contains("(5) > max.compaction.lag.ms (4)"));
        assert!(broker.resolve([("segment.bytes", "10")]).is_err());
        assert_eq!(broker.resolve_lossy([("segment.bytes", "10"), ("flush.ms", "7")]).flush_ms, 7);
        assert!(defaults("log.retention.hours=0").unwrap_err().starts_with("f:1: log.retention.hours"));
        assert!(defaults("log.segment.bytes=10").unwrap_err().contains("Value must be at least 1048576"));
    }
}
