//! What a group may be configured with: Kafka's types, and the bounds that the nodes' own configs set (`GroupConfig`).

use std::collections::BTreeMap;

use super::definition::{broker_definition, group_definition};
use super::reader::Reader;

/// `consumer.session.timeout.ms` lies between `group.consumer.min.session.timeout.ms` and `group.consumer.max....`.
macro_rules! bound {
    ($kind:literal, $rest:literal) => {
        (
            concat!($kind, ".", $rest),
            Some(concat!("group.", $kind, ".min.", $rest)),
            Some(concat!("group.", $kind, ".max.", $rest)),
        )
    };
}
/// A group's config, and the node's configs that bound it from below and above.
const BOUNDS: &[(&str, Option<&str>, Option<&str>)] = &[
    bound!("consumer", "assignment.interval.ms"),
    bound!("consumer", "heartbeat.interval.ms"),
    bound!("consumer", "session.timeout.ms"),
    bound!("share", "assignment.interval.ms"),
    bound!("share", "delivery.count.limit"),
    bound!("share", "heartbeat.interval.ms"),
    bound!("share", "partition.max.record.locks"),
    bound!("share", "record.lock.duration.ms"),
    bound!("share", "session.timeout.ms"),
    bound!("streams", "assignment.interval.ms"),
    bound!("streams", "heartbeat.interval.ms"),
    bound!("streams", "session.timeout.ms"),
    ("streams.num.standby.replicas", None, Some("group.streams.max.standby.replicas")),
];

/// The node's bounds, by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupLimits(BTreeMap<&'static str, i64>);

impl Default for GroupLimits {
    /// Kafka's defaults.
    fn default() -> Self {
        Self::from(|name| broker_definition(name).and_then(|definition| definition.default))
    }
}

impl GroupLimits {
    pub(super) fn read(reader: &Reader<'_>) -> Self {
        Self::from(|name| reader.text(name))
    }

    fn from<'a>(text: impl Fn(&str) -> Option<&'a str>) -> Self {
        let names = BOUNDS.iter().flat_map(|(_, min, max)| [*min, *max]).flatten();
        Self(names.filter_map(|name| Some((name, text(name)?.trim().parse().ok()?))).collect())
    }

    /// Checks all that was set on a group; the error is the text that Kafka answers INVALID_CONFIG with.
    pub fn check<'a>(&self, configs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<(), String> {
        let configs: BTreeMap<&str, &str> = configs.into_iter().collect();
        for (name, value) in &configs {
            let definition = group_definition(name).ok_or_else(|| format!("Unknown group config name: {name}"))?;
            definition.check(value).map_err(|problem| definition.invalid(value, &problem))?;
        }
        let number = |name: &str| configs.get(name).and_then(|value| value.trim().parse::<i64>().ok());
        for (name, min, max) in BOUNDS {
            let Some(value) = number(name) else { continue };
            if let Some(min) = min.filter(|min| self.0.get(min).is_some_and(|bound| value < *bound)) {
                return Err(format!("{name} must be greater than or equal to {min}"));
            }
            if let Some(max) = max.filter(|max| self.0.get(max).is_some_and(|bound| value > *bound)) {
                return Err(format!("{name} must be less than or equal to {max}"));
            }
        }
        for kind in ["consumer", "share", "streams"] {
            let (session, heartbeat) = (format!("{kind}.session.timeout.ms"), format!("{kind}.heartbeat.interval.ms"));
            let of = |name: &str| {
                number(name).or_else(|| group_definition(name)?.default.and_then(|default| default.parse().ok()))
            };
            if let (Some(timeout), Some(interval)) = (of(&session), of(&heartbeat))
                && timeout <= interval
            {
                return Err(format!("{session} must be greater than {heartbeat}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::group_definitions;

    #[test]
    fn bounds_are_the_nodes() {
        for (name, min, max) in BOUNDS {
            assert!(group_definitions().iter().any(|definition| definition.name == *name), "{name}");
            for bound in [min, max].into_iter().flatten() {
                assert!(broker_definition(bound).is_some(), "{bound}");
            }
        }
        let limits = GroupLimits::default();
        for (name, value, expected) in [
            ("consumer.session.timeout.ms", "50000", ""),
            (
                "consumer.session.timeout.ms",
                "1",
                "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms",
            ),
            (
                "consumer.session.timeout.ms",
                "900000",
                "consumer.session.timeout.ms must be less than or equal to group.consumer.max.session.timeout.ms",
            ),
            (
                "consumer.session.timeout.ms",
                "x",
                "Invalid value x for configuration consumer.session.timeout.ms: Not a number of type INT",
            ),
            (
                "streams.num.standby.replicas",
                "9",
                "streams.num.standby.replicas must be less than or equal to group.streams.max.standby.replicas",
            ),
            ("nope", "1", "Unknown group config name: nope"),
        ] {
            assert_eq!(limits.check([(name, value)]).err().unwrap_or_default(), expected);
        }
    }
}
