//! What can be typed after `odradek config`.

use clap::{Subcommand, ValueEnum};

use super::pair;

/// What can be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    pub kind: ConfiguredKind,
    /// Empty for the default of all brokers.
    pub name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ConfiguredKind {
    Topic,
    Broker,
    Group,
    ClientMetrics,
}

impl ConfiguredKind {
    /// Kafka's number, which is the protocol's and protobuf's.
    pub fn code(self) -> i8 {
        match self {
            Self::Topic => 2,
            Self::Broker => 4,
            Self::ClientMetrics => 16,
            Self::Group => 32,
        }
    }
}

/// One change of a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigEdit {
    Set(String, String),
    Append(String, String),
    Subtract(String, String),
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// List all that has been set, by what it was set on.
    List {
        /// Only this kind.
        #[arg(long = "type", value_enum, value_name = "KIND")]
        kind: Option<ConfiguredKind>,
    },
    /// Show the configs that are in force, and where each comes from.
    #[command(after_help = "\
Examples:
  odradek config get topic/orders
  odradek config get topic/orders retention.ms max.message.bytes
  odradek config get broker/1 --all
  odradek config get brokers                the defaults that were set for all brokers")]
    Get {
        /// topic/NAME, broker/ID, brokers, group/NAME or client-metrics/NAME.
        #[arg(value_name = "WHAT", value_parser = configured)]
        of: Configured,
        /// Only these; without them, what was set somewhere.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Defaults too.
        #[arg(long, short)]
        all: bool,
    },
    /// Set configs; the others stay as they are. All are set, or none.
    #[command(after_help = "\
Examples:
  odradek config set topic/orders retention.ms=86400000 min.insync.replicas=2
  odradek config set topic/orders cleanup.policy+=compact        adds to a list, -= takes from it
  odradek config set brokers log.retention.ms=3600000            the default of all brokers")]
    Set {
        /// topic/NAME, broker/ID, brokers, group/NAME or client-metrics/NAME.
        #[arg(value_name = "WHAT", value_parser = configured)]
        of: Configured,
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = config_edit)]
        configs: Vec<ConfigEdit>,
        /// Only check whether they could be set.
        #[arg(long)]
        validate_only: bool,
    },
    /// Take configs back to their defaults.
    Unset {
        /// topic/NAME, broker/ID, brokers, group/NAME or client-metrics/NAME.
        #[arg(value_name = "WHAT", value_parser = configured)]
        of: Configured,
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Only check whether they could be taken back.
        #[arg(long)]
        validate_only: bool,
    },
}

fn configured(text: &str) -> Result<Configured, String> {
    let wrong = || "it takes topic/NAME, broker/ID, brokers, group/NAME or client-metrics/NAME".to_owned();
    if text == "brokers" {
        return Ok(Configured { kind: ConfiguredKind::Broker, name: String::new() });
    }
    let (kind, name) = text.split_once('/').filter(|(_, name)| !name.is_empty()).ok_or_else(wrong)?;
    let kind = match kind {
        "topic" => ConfiguredKind::Topic,
        "broker" if name.parse::<u32>().is_ok_and(|id| i32::try_from(id).is_ok()) => ConfiguredKind::Broker,
        "group" => ConfiguredKind::Group,
        "client-metrics" => ConfiguredKind::ClientMetrics,
        _ => return Err(wrong()),
    };
    Ok(Configured { kind, name: name.to_owned() })
}

fn config_edit(text: &str) -> Result<ConfigEdit, String> {
    let (name, value) = pair(text).map_err(|_| "it takes NAME=VALUE, NAME+=ITEMS or NAME-=ITEMS".to_owned())?;
    let stripped = |end| name.strip_suffix(end).filter(|name: &&str| !name.is_empty()).map(str::to_owned);
    Ok(match (stripped('+'), stripped('-')) {
        (Some(name), _) => ConfigEdit::Append(name, value),
        (None, Some(name)) => ConfigEdit::Subtract(name, value),
        (None, None) => ConfigEdit::Set(name, value),
    })
}

pub(super) fn feature_level(text: &str) -> Result<(String, i32), String> {
    let wrong = || "it takes NAME=LEVEL, as eligible.leader.replicas.version=1".to_owned();
    let (name, level) = pair(text).map_err(|_| wrong())?;
    Ok((name, level.parse().ok().filter(|level| *level >= 0).ok_or_else(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_is_read() {
        let of = |kind, name: &str| Ok(Configured { kind, name: name.to_owned() });
        assert_eq!(configured("topic/a"), of(ConfiguredKind::Topic, "a"));
        assert_eq!(configured("broker/3"), of(ConfiguredKind::Broker, "3"));
        assert_eq!(configured("brokers"), of(ConfiguredKind::Broker, ""));
        for wrong in ["topic", "topic/", "broker/x", "broker/-1", "planet/mars", ""] {
            assert!(configured(wrong).is_err(), "{wrong}");
        }
        let (name, value) = ("a.b".to_owned(), "c=d".to_owned());
        assert_eq!(config_edit("a.b=c=d"), Ok(ConfigEdit::Set(name.clone(), value.clone())));
        assert_eq!(config_edit("a.b+=c=d"), Ok(ConfigEdit::Append(name.clone(), value.clone())));
        assert_eq!(config_edit("a.b-=c=d"), Ok(ConfigEdit::Subtract(name, value)));
        assert!(config_edit("a.b").is_err() && config_edit("=c").is_err());
        assert!(feature_level("f=1").is_ok() && feature_level("f=x").is_err() && feature_level("f=-1").is_err());
    }
}
