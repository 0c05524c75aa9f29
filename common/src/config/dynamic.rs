//! Which configs of a broker may change while it runs, and what a broker goes by when some have (KIP-226).
//!
//! A broker's config comes from four places, the strongest first: what was set on the broker, what was set for all
//! brokers (both in the metadata), its file, the default. Some configs are one setting in several units
//! (`log.retention.ms`, `.minutes`, `.hours`): whichever of them the strongest place names counts there, and hides the
//! others below.
//!
//! `check_dynamic` is asked by the controllers for every change; a broker also asks `BrokerConfig::with_dynamic`, as only
//! it knows its file.

use std::collections::BTreeMap;

use super::broker::BrokerConfig;
use super::definition::{Definition, Type, broker_definition};
use super::properties::Properties;
use super::support::{Support, broker_support};

/// How a config of a broker changes (Kafka's update mode).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpdateMode {
    /// By a restart with another file.
    ReadOnly,
    /// While it runs, each broker for itself.
    PerBroker,
    /// While it runs, for one broker or for all at once.
    ClusterWide,
}

/// Those of `UpdateMode::PerBroker`. Kafka has `listeners` and `listener.security.protocol.map` here too; sockets are bound
/// once in Odradek.
const PER_BROKER: &[&str] = &[
    "principal.builder.class",
    "sasl.enabled.mechanisms",
    "sasl.jaas.config",
    "sasl.kerberos.kinit.cmd",
    "sasl.kerberos.min.time.before.relogin",
    "sasl.kerberos.principal.to.local.rules",
    "sasl.kerberos.service.name",
    "sasl.kerberos.ticket.renew.jitter",
    "sasl.kerberos.ticket.renew.window.factor",
    "sasl.login.refresh.buffer.seconds",
    "sasl.login.refresh.min.period.seconds",
    "sasl.login.refresh.window.factor",
    "sasl.login.refresh.window.jitter",
    "sasl.mechanism.inter.broker.protocol",
];

/// TLS: dynamic only behind `listener.name.<listener>.`.
const PER_LISTENER: &[&str] = &[
    "ssl.cipher.suites",
    "ssl.client.auth",
    "ssl.enabled.protocols",
    "ssl.endpoint.identification.algorithm",
    "ssl.engine.factory.class",
    "ssl.key.password",
    "ssl.keymanager.algorithm",
    "ssl.keystore.certificate.chain",
    "ssl.keystore.key",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.keystore.type",
    "ssl.protocol",
    "ssl.provider",
    "ssl.secure.random.implementation",
    "ssl.trustmanager.algorithm",
    "ssl.truststore.certificates",
    "ssl.truststore.location",
    "ssl.truststore.password",
    "ssl.truststore.type",
];

const CLUSTER_WIDE: &[&str] = &[
    "background.threads",
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.type",
    "compression.zstd.level",
    "config.providers",
    "cordoned.log.dirs",
    "follower.fetch.last.tiered.offset.enable",
    "group.consumer.assignment.interval.ms",
    "group.coordinator.cached.buffer.max.bytes",
    "group.share.assignment.interval.ms",
    "group.streams.assignment.interval.ms",
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.delete.retention.ms",
    "log.cleaner.io.buffer.load.factor",
    "log.cleaner.io.buffer.size",
    "log.cleaner.io.max.bytes.per.second",
    "log.cleaner.max.compaction.lag.ms",
    "log.cleaner.min.cleanable.ratio",
    "log.cleaner.min.compaction.lag.ms",
    "log.cleaner.threads",
    "log.cleanup.policy",
    "log.flush.interval.messages",
    "log.flush.interval.ms",
    "log.index.interval.bytes",
    "log.index.size.max.bytes",
    "log.local.retention.bytes",
    "log.local.retention.ms",
    "log.message.timestamp.after.max.ms",
    "log.message.timestamp.before.max.ms",
    "log.message.timestamp.type",
    "log.preallocate",
    "log.retention.bytes",
    "log.retention.ms",
    "log.roll.jitter.ms",
    "log.roll.ms",
    "log.segment.bytes",
    "log.segment.delete.delay.ms",
    "max.connection.creation.rate",
    "max.connections",
    "max.connections.per.ip",
    "max.connections.per.ip.overrides",
    "message.max.bytes",
    "metric.reporters",
    "min.insync.replicas",
    "num.io.threads",
    "num.network.threads",
    "num.recovery.threads.per.data.dir",
    "num.replica.fetchers",
    "producer.id.expiration.ms",
    "remote.fetch.max.wait.ms",
    "remote.list.offsets.request.timeout.ms",
    "remote.log.index.file.cache.total.size.bytes",
    "remote.log.manager.copier.thread.pool.size",
    "remote.log.manager.copy.max.bytes.per.second",
    "remote.log.manager.expiration.thread.pool.size",
    "remote.log.manager.fetch.max.bytes.per.second",
    "remote.log.manager.follower.thread.pool.size",
    "remote.log.reader.threads",
    "share.coordinator.cached.buffer.max.bytes",
    "transaction.partition.verification.enable",
    "unclean.leader.election.enable",
];

/// Configs that exist in the metadata only: a file cannot set them.
const DYNAMIC_ONLY: &[Definition] = &[
    dynamic_only("follower.replication.throttled.rate"),
    dynamic_only("leader.replication.throttled.rate"),
    dynamic_only("replica.alter.log.dirs.io.max.bytes.per.second"),
];

const fn dynamic_only(name: &'static str) -> Definition {
    Definition { name, kind: Type::Long, default: Some("9223372036854775807"), valid: Some("[0,...]") }
}

/// One setting in several units, the strongest first.
const UNITS: &[&[&str]] = &[
    &["log.roll.ms", "log.roll.hours"],
    &["log.roll.jitter.ms", "log.roll.jitter.hours"],
    &["log.flush.interval.ms", "log.flush.scheduler.interval.ms"],
    &["log.retention.ms", "log.retention.minutes", "log.retention.hours"],
];

/// Pools of threads: one step may at most double or halve them.
const THREAD_POOLS: &[&str] =
    &["num.io.threads", "num.replica.fetchers", "num.recovery.threads.per.data.dir", "background.threads"];

/// What may be set for one listener, behind `listener.name.<name in lower case>.`; of Kafka's those that limit its connections.
const OF_LISTENERS: &[&str] = &["max.connection.creation.rate", "max.connections"];

/// The listener, as it is written, and the name without the prefix; `None` when it is none that Odradek reads for one listener.
pub fn listener_config(name: &str) -> Option<(&str, &'static str)> {
    let (listener, rest) = name.strip_prefix("listener.name.")?.split_once('.')?;
    Some((listener, OF_LISTENERS.iter().find(|name| **name == rest)?))
}

/// `None`: no config of that name is known.
pub fn update_mode(name: &str) -> Option<UpdateMode> {
    let name = listener_config(name).map_or(name, |(_, name)| name);
    if CLUSTER_WIDE.contains(&name) || DYNAMIC_ONLY.iter().any(|definition| definition.name == name) {
        return Some(UpdateMode::ClusterWide);
    }
    if PER_BROKER.contains(&name) || PER_LISTENER.contains(&name) {
        return Some(UpdateMode::PerBroker);
    }
    broker_definition(name).map(|_| UpdateMode::ReadOnly)
}

/// As `broker_definition`, with those configs that only the metadata can hold.
pub fn dynamic_definition(name: &str) -> Option<&'static Definition> {
    let name = listener_config(name).map_or(name, |(_, name)| name);
    DYNAMIC_ONLY.iter().find(|definition| definition.name == name).or_else(|| broker_definition(name))
}

/// All names of the setting that `name` belongs to, the strongest first; alone if it is the only one.
///
/// `log.flush.scheduler.interval.ms` stands in for `log.flush.interval.ms`, but is a setting of its own.
pub fn unit_synonyms(name: &str) -> Vec<&str> {
    let group = UNITS.iter().find(|names| names.contains(&name) && name != "log.flush.scheduler.interval.ms");
    group.map_or_else(|| vec![name], |names| names.to_vec())
}

/// Checks what a broker (or, with `is_cluster`, all of them) shall have by metadata: names that may change while it runs,
/// values of the right type. The error is the text that Kafka answers INVALID_REQUEST with, or ours where Odradek does
/// not serve what is asked.
pub fn check_dynamic<'a>(
    configs: impl IntoIterator<Item = (&'a str, &'a str)>,
    is_cluster: bool,
) -> Result<(), String> {
    let configs: BTreeMap<&str, &str> = configs.into_iter().collect();
    let refuse = |text: &str, unfit: &dyn Fn(&str) -> bool| {
        let unfit: Vec<&str> = configs.keys().copied().filter(|name| unfit(name)).collect();
        if unfit.is_empty() { Ok(()) } else { Err(format!("{text}: [{}]", unfit.join(", "))) }
    };
    refuse("Cannot update these configs dynamically", &|name| update_mode(name) == Some(UpdateMode::ReadOnly))?;
    refuse("These security configs can be dynamically updated only per-listener using the listener prefix", &|name| {
        PER_LISTENER.contains(&name)
    })?;
    refuse(
        "Of the configs of a single listener this version serves max.connections and max.connection.creation.rate only; \
         leave the prefix listener.name.* away where the config exists without it",
        &|name| name.starts_with("listener.name.") && listener_config(name).is_none(),
    )?;
    for (name, value) in &configs {
        let Some(definition) = dynamic_definition(name) else { continue };
        definition.check(value).map_err(|problem| definition.invalid(value, &problem))?;
        if let Support::Refused(why) = broker_support(name)
            && definition.default != Some(value.trim())
        {
            return Err(definition.invalid(value, why));
        }
    }
    if configs.get("log.retention.ms").is_some_and(|text| text.trim().parse::<i64>().is_ok_and(|ms| ms == 0 || ms < -1))
    {
        return Err("log.retention.ms must be unlimited (-1) or, greater than or equal to 1".to_owned());
    }
    if is_cluster {
        refuse("Cannot update these configs at default cluster level, broker id must be specified", &|name| {
            update_mode(name) == Some(UpdateMode::PerBroker)
        })?;
    }
    Ok(())
}

/// Configs by name, as the metadata holds them for one resource.
pub type Overrides = BTreeMap<String, String>;

impl BrokerConfig {
    /// What the broker goes by with these overrides over its file. Those that cannot be (written by another version,
    /// perhaps) are left out, and told in the second value.
    pub fn with_dynamic(&self, cluster: &Overrides, own: &Overrides) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let mut usable = |configs: &Overrides, is_cluster: bool| -> Overrides {
            let fits =
                |(name, value): &(&String, &String)| match check_dynamic([(name.as_str(), value.as_str())], is_cluster)
                {
                    Ok(()) => true,
                    Err(problem) => {
                        problems.push(format!("the dynamic config {name} is ignored: {problem}"));
                        false
                    }
                };
            configs.iter().filter(fits).map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let (cluster, own) = (usable(cluster, true), usable(own, false));
        match self.overridden(&[&cluster, &own]) {
            Ok(config) => (config, problems),
            Err(problem) => {
                problems.push(format!("the dynamic configs are ignored: {problem}"));
                (self.clone(), problems)
            }
        }
    }

    /// Checks a change before it is made: `proposed` is all that the metadata would hold for this broker, or for all of
    /// them; `other` is what it holds for the other of these two; `current` is what the broker goes by now.
    ///
    /// # Errors
    /// The text that Kafka answers INVALID_REQUEST with.
    pub fn check_change(
        &self,
        proposed: &Overrides,
        other: &Overrides,
        is_cluster: bool,
        current: &BrokerConfig,
    ) -> Result<(), String> {
        check_dynamic(proposed.iter().map(|(name, value)| (name.as_str(), value.as_str())), is_cluster)?;
        // The broker's own configs outweigh those of the cluster.
        let order = if is_cluster { [proposed, other] } else { [other, proposed] };
        let config = self.overridden(&order)?;
        for pool in THREAD_POOLS {
            check_pool(pool, current.number(pool), config.number(pool))?;
        }
        check_cleaner_threads(current.cleaner.threads, config.cleaner.threads)
    }

    /// `layers` from the weakest to the strongest, over the file.
    fn overridden(&self, layers: &[&Overrides]) -> Result<Self, String> {
        let mut merged = self.written.clone();
        for (name, value) in layers.iter().flat_map(|layer| layer.iter()) {
            if DYNAMIC_ONLY.iter().any(|definition| definition.name == *name) {
                continue;
            }
            for synonym in unit_synonyms(name) {
                merged.remove(synonym);
            }
            merged.insert(name.clone(), value.clone());
        }
        let properties = Properties::from_pairs(&merged, "dynamic");
        match Self::from_properties(&properties) {
            Ok((config, _)) => Ok(Self { written: self.written.clone(), effective: merged, ..config }),
            Err(errors) => Err(errors.0.first().map_or_else(String::new, |error| error.problem.clone())),
        }
    }

    fn number(&self, name: &str) -> i64 {
        let text = self.effective.get(name).map(String::as_str);
        let text = text.or_else(|| broker_definition(name).and_then(|definition| definition.default));
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }
}

fn check_pool(name: &str, old: i64, new: i64) -> Result<(), String> {
    let failed = format!("Dynamic thread count update validation failed for {name}={new}");
    if new == old {
        Ok(())
    } else if new < old / 2 {
        Err(format!("{failed}, value should be at least half the current value {old}"))
    } else if new > old * 2 {
        Err(format!("{failed}, value should not be greater than double the current value {old}"))
    } else {
        Ok(())
    }
}

/// Kafka's cleaner has its own words for the rule of `check_pool`.
fn check_cleaner_threads(old: usize, new: usize) -> Result<(), String> {
    if new < old / 2 {
        Err(format!("Log cleaner threads cannot be reduced to less than half the current value {old}"))
    } else if new > old * 2 {
        Err(format!("Log cleaner threads cannot be increased to more than double the current value {old}"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::broker_definitions;

    fn base(more: &str) -> BrokerConfig {
        let text = format!("node.id=1\ncontroller.quorum.voters=100@a:1\nlog.roll.ms=7200000\n{more}");
        BrokerConfig::load(&text, "f", &[]).expect("valid").0
    }

    fn overrides(pairs: &[(&str, &str)]) -> Overrides {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_dynamic_name_is_a_config() {
        for name in CLUSTER_WIDE.iter().chain(PER_BROKER).chain(PER_LISTENER) {
            assert!(broker_definition(name).is_some(), "{name}");
        }
        let dynamic = broker_definitions().iter().filter(|d| update_mode(d.name) != Some(UpdateMode::ReadOnly));
        assert_eq!(dynamic.count(), CLUSTER_WIDE.len() + PER_BROKER.len() + PER_LISTENER.len());
        assert_eq!(update_mode("no.such"), None);
    }

    #[test]
    fn what_may_not_change_is_named() {
        for (name, value, is_cluster, expected) in [
            ("log.dirs", "/x", false, "Cannot update these configs dynamically: [log.dirs]"),
            ("log.retention.hours", "1", true, "Cannot update these configs dynamically: [log.retention.hours]"),
            ("listeners", "PLAINTEXT://:1", false, "Cannot update these configs dynamically: [listeners]"),
            ("sasl.enabled.mechanisms", "PLAIN", true, "broker id must be specified: [sasl.enabled.mechanisms]"),
            ("ssl.keystore.location", "/x", false, "only per-listener using the listener prefix"),
            ("listener.name.x.num.network.threads", "1", false, "Of the configs of a single listener"),
            ("listener.name.x.max.connections", "-1", false, "Value must be at least 0"),
            ("log.segment.bytes", "5", false, "log.segment.bytes: Value must be at least 1048576"),
            ("leader.replication.throttled.rate", "-1", true, "Value must be at least 0"),
            ("log.retention.ms", "0", true, "must be unlimited (-1)"),
            ("cordoned.log.dirs", "/x", false, "cannot be cordoned"),
        ] {
            let problem = check_dynamic([(name, value)], is_cluster).expect_err(name);
            assert!(problem.contains(expected), "{name}: {problem}");
        }
        // Kafka keeps what it does not know: a plugin may.
        assert_eq!(check_dynamic([("some.plugin", "x"), ("log.retention.ms", "-1")], true), Ok(()));
    }

    #[test]
    fn the_broker_outweighs_the_cluster_and_both_the_file() {
        let base = base("log.retention.hours=1\nnum.replica.fetchers=3");
        let cluster = overrides(&[("log.retention.ms", "5000"), ("message.max.bytes", "2000"), ("some.plugin", "x")]);
        let own = overrides(&[("message.max.bytes", "3000"), ("leader.replication.throttled.rate", "7")]);
        let (config, problems) = base.with_dynamic(&cluster, &own);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(config.topics.config().retention_ms, 5000);
        assert_eq!(config.topics.config().max_message_bytes, 3000);
        assert_eq!(config.topics.config().segment_ms, 7_200_000);
        assert_eq!(config.replication.fetchers, 3);
        let (back, _) = config.with_dynamic(&Overrides::new(), &Overrides::new());
        assert_eq!(back, base);
        // One that is not valid does not take the others with it.
        let (config, problems) = base.with_dynamic(&overrides(&[("log.segment.bytes", "x")]), &own);
        assert_eq!(config.topics.config().max_message_bytes, 3000);
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn threads_change_by_half_or_double() {
        let (base, none) = (base(""), Overrides::new());
        let check = |threads: &str| base.check_change(&overrides(&[("num.io.threads", threads)]), &none, true, &base);
        assert_eq!(check("16"), Ok(()));
        assert!(check("17").unwrap_err().ends_with("double the current value 8"));
        assert!(check("3").unwrap_err().ends_with("half the current value 8"));
        assert!(check("0").unwrap_err().contains("Value must be at least 1"));
        let check =
            |threads: &str| base.check_change(&overrides(&[("log.cleaner.threads", threads)]), &none, true, &base);
        assert_eq!(check("2"), Ok(()));
        assert!(check("3").unwrap_err().ends_with("double the current value 1"));
        assert!(check("0").unwrap_err().contains("Value must be at least 1"));
    }
}
