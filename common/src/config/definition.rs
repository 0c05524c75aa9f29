//! What Kafka says about each of its configs: type, default, valid values; and how a text is checked against that.
//!
//! The facts are in `common/schema/*.json` and are parsed once, on first use, borrowing from the program's own text.
//! The configs that only Odradek has carry the prefix `odradek.` and stand at the end of this file.

use std::sync::LazyLock;

use serde::Deserialize;

/// Kafka's `ConfigDef.Type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Type {
    Boolean,
    String,
    Int,
    Short,
    Long,
    Double,
    /// Items between commas.
    List,
    /// A Java class name; Odradek loads none.
    Class,
    /// Never shown.
    Password,
}

impl Type {
    /// As Kafka writes it, `INT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::String => "STRING",
            Self::Int => "INT",
            Self::Short => "SHORT",
            Self::Long => "LONG",
            Self::Double => "DOUBLE",
            Self::List => "LIST",
            Self::Class => "CLASS",
            Self::Password => "PASSWORD",
        }
    }
}

/// One config of Kafka's.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Definition {
    pub name: &'static str,
    #[serde(rename = "type")]
    pub kind: Type,
    /// Absent: no value, or one that has to be given (`is_required`).
    #[serde(deserialize_with = "default_value")]
    pub default: Option<&'static str>,
    /// Kafka's words for what is allowed, as `[1,...]`.
    pub valid: Option<&'static str>,
}

/// The files say `<required>` where Kafka has no default and takes no null.
fn default_value<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de str>, D::Error> {
    Ok(Option::<&'de str>::deserialize(deserializer)?.filter(|text| *text != "<required>"))
}

impl Definition {
    /// Checks a value; the error is Kafka's text behind `Invalid value X for configuration Y: `.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let value = value.trim();
        match self.kind {
            Type::Boolean => match value.to_ascii_lowercase().as_str() {
                "true" | "false" => Ok(()),
                _ => Err("Expected value to be either true or false".to_owned()),
            },
            Type::Int => self.check_number(value.parse::<i32>().ok().map(f64::from)),
            Type::Short => self.check_number(value.parse::<i16>().ok().map(f64::from)),
            Type::Long => self.check_long(value),
            Type::Double => self.check_number(value.parse::<f64>().ok().filter(|number| !number.is_nan())),
            Type::List => self.check_list(value),
            Type::String | Type::Class | Type::Password => self.check_text(value),
        }
    }

    /// What may be written, for people: `INT, [1,...]`.
    pub fn allowed(&self) -> String {
        match self.valid {
            Some(valid) if !valid.is_empty() => format!("{}, {valid}", self.kind.name()),
            _ if self.kind == Type::Boolean => "true or false".to_owned(),
            _ => self.kind.name().to_owned(),
        }
    }

    /// `Invalid value X for configuration Y: ...`, without the value of a password; of a list, the item that is wrong. What
    /// is wrong with a list as a whole needs no such introduction.
    pub fn invalid(&self, value: &str, problem: &str) -> String {
        if problem.starts_with(OF_A_LIST) {
            return problem.to_owned();
        }
        let value = match self.kind {
            Type::Password => "[hidden]",
            Type::List => list(value).find(|item| self.check_choice(item).is_err()).unwrap_or(value),
            _ => value,
        };
        format!("Invalid value {value} for configuration {}: {problem}", self.name)
    }

    /// A valid value as Kafka prints it once it has been read: numbers and booleans in their plain form, lists without
    /// spaces.
    pub fn printed(&self, value: &str) -> String {
        let value = value.trim();
        let number = |number: Option<i64>| number.map_or_else(|| value.to_owned(), |number| number.to_string());
        match self.kind {
            Type::Boolean => value.to_ascii_lowercase(),
            Type::Int | Type::Short | Type::Long => number(value.parse().ok()),
            Type::Double => value.parse::<f64>().map_or_else(|_| value.to_owned(), |number| format!("{number:?}")),
            Type::List => {
                let mut items: Vec<&str> = Vec::new();
                list(value).for_each(|item| items.extend((!items.contains(&item)).then_some(item)));
                items.join(",")
            }
            Type::String | Type::Class | Type::Password => value.to_owned(),
        }
    }

    fn check_number(&self, number: Option<f64>) -> Result<(), String> {
        let number = number.ok_or_else(|| format!("Not a number of type {}", self.kind.name()))?;
        match self.range() {
            Some(Range { min, max: Some(max), or: Some(or) }) => {
                let fits = number == or as f64 || (min as f64..=max as f64).contains(&number);
                if fits { Ok(()) } else { Err(format!("Value must be between {min} and {max} or equal to {or}")) }
            }
            Some(range) if number < range.min as f64 => Err(format!("Value must be at least {}", range.min)),
            Some(Range { max: Some(max), .. }) if number > max as f64 => {
                Err(format!("Value must be no more than {max}"))
            }
            _ => Ok(()),
        }
    }

    /// Apart, because a double cannot hold every long.
    fn check_long(&self, value: &str) -> Result<(), String> {
        let number = value.parse::<i64>().map_err(|_| "Not a number of type LONG".to_owned())?;
        match self.range() {
            Some(range) if number < range.min => Err(format!("Value must be at least {}", range.min)),
            Some(Range { max: Some(max), .. }) if number > max => Err(format!("Value must be no more than {max}")),
            _ => Ok(()),
        }
    }

    fn check_text(&self, value: &str) -> Result<(), String> {
        if self.valid == Some("non-empty string") && value.is_empty() {
            return Err("String must be non-empty".to_owned());
        }
        self.check_choice(value)
    }

    fn check_list(&self, value: &str) -> Result<(), String> {
        let items: Vec<&str> = list(value).collect();
        if self.valid == Some("non-empty list") && items.is_empty() {
            return Err("must not be an empty list".to_owned());
        }
        if self.valid.is_some_and(|valid| valid.starts_with("[partitionId]")) {
            return check_throttled_replicas(self.name, value, &items);
        }
        // Of a few words Kafka takes each once, however often it is written.
        if self.choices().is_none()
            && items.iter().enumerate().any(|(at, item)| items.iter().take(at).any(|other| other == item))
        {
            return Err(format!("{OF_A_LIST}{}' values must not be duplicated.", self.name));
        }
        if self.choices().is_some() && items.iter().any(|item| item.is_empty()) {
            return Err(format!("{OF_A_LIST}{}' values must not be empty.", self.name));
        }
        items.iter().try_for_each(|item| self.check_choice(item))
    }

    fn check_choice(&self, value: &str) -> Result<(), String> {
        let Some((choices, ignores_case)) = self.choices() else { return Ok(()) };
        let mut choices_split = choices.split(", ");
        let fits = choices_split.any(|choice| match choice.split_once(":P") {
            // `by_duration:PnDTnHnMn.nS`: Kafka parses the duration when it uses it.
            Some((prefix, _)) => value.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(":P")),
            None if ignores_case => choice.eq_ignore_ascii_case(value),
            None => choice == value,
        });
        match choices.contains(":P") {
            _ if fits => Ok(()),
            true => Err(format!(
                "Invalid value `{value}` for configuration {}. The value must be either 'earliest', 'latest' or of the \
                 format 'by_duration:<PnDTnHnMn.nS>'.",
                self.name
            )),
            false => Err(format!("String must be one of: {choices}")),
        }
    }

    /// The choices of `[a, b]`, and whether case counts.
    fn choices(&self) -> Option<(&'static str, bool)> {
        let valid = self.valid?;
        if matches!(self.kind, Type::Int | Type::Short | Type::Long | Type::Double) {
            return None;
        }
        let (ignores_case, list) = match valid.strip_prefix("(case insensitive) ") {
            Some(list) => (true, list),
            None => (false, valid),
        };
        let list = list.strip_prefix('[')?.strip_suffix(']')?;
        (!list.contains("...")).then_some((list, ignores_case))
    }

    /// The bounds of `[1,...]`, `[1,...,9]` and `[1,...,9] or -1`.
    fn range(&self) -> Option<Range> {
        let valid = self.valid?;
        let (bounds, or) = match valid.split_once(" or ") {
            Some((bounds, or)) => (bounds, or.parse().ok()),
            None => (valid, None),
        };
        let (min, max) = bounds.strip_prefix('[')?.strip_suffix(']')?.split_once(",...")?;
        Some(Range { min: min.parse().ok()?, max: max.strip_prefix(',').and_then(|max| max.parse().ok()), or })
    }
}

/// How a text about a list as a whole begins.
const OF_A_LIST: &str = "Configuration '";

#[derive(Clone, Copy)]
struct Range {
    min: i64,
    max: Option<i64>,
    /// One more number that is allowed.
    or: Option<i64>,
}

/// The items of a list, trimmed; none for an empty text.
pub(super) fn list(value: &str) -> impl Iterator<Item = &str> {
    let value = value.trim();
    value.split(',').map(str::trim).filter(move |_| !value.is_empty())
}

/// A list config after its items were added (those that are not there yet) or taken out; `current` is what was set, else
/// the default. An empty item is added, too, for the check of the whole to refuse.
pub fn edit_list(current: &str, items: &str, adds: bool) -> String {
    let mut edited: Vec<&str> = list(current).filter(|item| !item.is_empty()).collect();
    for item in items.split(',').map(str::trim) {
        if !adds {
            edited.retain(|other| *other != item);
        } else if !edited.contains(&item) {
            edited.push(item);
        }
    }
    edited.join(",")
}

fn check_throttled_replicas(name: &str, value: &str, items: &[&str]) -> Result<(), String> {
    let is_pair = |item: &&str| {
        item.split_once(':').is_some_and(|(partition, broker)| {
            partition.parse::<i32>().is_ok_and(|n| n >= 0) && broker.parse::<i32>().is_ok_and(|n| n >= 0)
        })
    };
    if value == "*" || value == "none" || items.iter().all(is_pair) {
        Ok(())
    } else {
        Err(format!(
            "{name} must be the literal '*' or a list of replicas in the following format: \
             [partitionId]:[brokerId],[partitionId]:[brokerId],..."
        ))
    }
}

fn parse(json: &'static str, mut more: Vec<Definition>) -> Vec<Definition> {
    // The files are part of the program: a test parses each of them.
    let mut definitions: Vec<Definition> = serde_json::from_str(json).expect("the schema is valid JSON");
    definitions.append(&mut more);
    definitions.sort_by_key(|definition| definition.name);
    definitions.shrink_to_fit();
    definitions
}

static BROKER: LazyLock<Vec<Definition>> =
    LazyLock::new(|| parse(include_str!("../../schema/broker-configs-4.3.1.json"), OWN.to_vec()));
static TOPIC: LazyLock<Vec<Definition>> =
    LazyLock::new(|| parse(include_str!("../../schema/topic-configs-4.3.1.json"), vec![INTERNAL_SEGMENT_BYTES]));
static GROUP: LazyLock<Vec<Definition>> =
    LazyLock::new(|| parse(include_str!("../../schema/group-configs-4.3.1.json"), Vec::new()));

/// KIP-714.
const CLIENT_METRICS: &[Definition] = &[
    Definition { name: "interval.ms", kind: Type::Int, default: Some("300000"), valid: None },
    Definition { name: "match", kind: Type::List, default: Some(""), valid: None },
    Definition { name: "metrics", kind: Type::List, default: Some(""), valid: None },
];

/// Every config of a subscription to clients' metrics, by name.
pub fn client_metrics_definitions() -> &'static [Definition] {
    CLIENT_METRICS
}

pub fn group_definition(name: &str) -> Option<&'static Definition> {
    find(&GROUP, name)
}

/// Every config of a node (Kafka's and Odradek's own), by name.
pub fn broker_definitions() -> &'static [Definition] {
    &BROKER
}

/// Every config of a topic, by name.
pub fn topic_definitions() -> &'static [Definition] {
    &TOPIC
}

/// Every config of a group, by name.
pub fn group_definitions() -> &'static [Definition] {
    &GROUP
}

pub fn broker_definition(name: &str) -> Option<&'static Definition> {
    find(&BROKER, name)
}

pub fn topic_definition(name: &str) -> Option<&'static Definition> {
    find(&TOPIC, name)
}

fn find(definitions: &'static [Definition], name: &str) -> Option<&'static Definition> {
    definitions.binary_search_by_key(&name, |definition| definition.name).ok().and_then(|at| definitions.get(at))
}

/// Kafka has this one for its tests (`segment.bytes` takes no less than 1 MiB), and so have we.
const INTERNAL_SEGMENT_BYTES: Definition =
    Definition { name: "internal.segment.bytes", kind: Type::Int, default: None, valid: Some("[1,...]") };

const fn own(name: &'static str, kind: Type, default: &'static str, valid: &'static str) -> Definition {
    Definition { name, kind, default: Some(default), valid: Some(valid) }
}

/// The configs that Kafka does not have. `docs/COMPATIBILITY.md` says what each does.
const OWN: &[Definition] = &[
    own("odradek.controlled.shutdown.timeout.ms", Type::Long, "30000", "[0,...]"),
    own("odradek.disk.free.hard.bytes", Type::Long, "268435456", "[0,...]"),
    own("odradek.disk.free.hard.percent", Type::Int, "1", "[0,...,100]"),
    own("odradek.disk.free.soft.bytes", Type::Long, "1073741824", "[0,...]"),
    own("odradek.disk.free.soft.percent", Type::Int, "5", "[0,...,100]"),
    own("odradek.fence.disconnected.ms", Type::Long, "500", "[0,...]"),
    own("odradek.fence.silent.min.ms", Type::Long, "3000", "[100,...]"),
    own("odradek.group.journal.bytes.max", Type::Int, "16384", "[1024,...]"),
    own("odradek.group.journal.entries.max", Type::Int, "32", "[0,...]"),
    own("odradek.group.lag.interval.ms", Type::Long, "30000", "[0,...]"),
    own("odradek.group.lag.metrics.max", Type::Int, "1000", "[0,...]"),
    own("odradek.log.open.files.max", Type::Int, "0", "[0,...]"),
    own("odradek.log.producer.ids.max", Type::Int, "100000", "[100,...]"),
    own("odradek.memory.request.bytes", Type::Long, "16777216", "[1048576,...]"),
    own("odradek.metrics.listener", Type::String, "", ""),
    own("odradek.quorum.heartbeat.interval.ms", Type::Long, "200", "[10,...]"),
    own("odradek.quorum.log.cache.bytes", Type::Long, "4194304", "[1048576,...]"),
    own("odradek.quorum.log.store", Type::String, "sled", "[sled, segments]"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, expected: &str) {
        let definition = broker_definition(name).or_else(|| topic_definition(name)).expect("a known name");
        assert_eq!(definition.check(value).err().as_deref().unwrap_or(""), expected, "{name}={value}");
    }

    #[test]
    fn kafkas_bounds_are_read_from_its_words() {
        check("num.io.threads", " 8 ", "");
        check("num.io.threads", "0", "Value must be at least 1");
        check("num.io.threads", "eight", "Not a number of type INT");
        check("num.io.threads", "3000000000", "Not a number of type INT");
        check("group.share.max.size", "1001", "Value must be no more than 1000");
        check("compression.gzip.level", "-1", "");
        check("compression.gzip.level", "0", "Value must be between 1 and 9 or equal to -1");
        check("compression.gzip.level", "10", "Value must be between 1 and 9 or equal to -1");
        check("log.cleaner.min.cleanable.ratio", "0.5", "");
        check("log.cleaner.min.cleanable.ratio", "1.5", "Value must be no more than 1");
        check("log.cleaner.min.cleanable.ratio", "NaN", "Not a number of type DOUBLE");
        check("log.flush.interval.messages", "9223372036854775807", "");
        check("retention.ms", "-2", "Value must be at least -1");
        check("auto.create.topics.enable", "TRUE", "");
        check("auto.create.topics.enable", "yes", "Expected value to be either true or false");
        check("cleanup.policy", "compact, delete", "");
        check("cleanup.policy", "compact,shred", "String must be one of: compact, delete");
        check("cleanup.policy", "compact,compact", "");
        check("log.dirs", "/a,/b,/a", "Configuration 'log.dirs' values must not be duplicated.");
        check("cleanup.policy", "compact,,delete", "Configuration 'cleanup.policy' values must not be empty.");
        check("message.timestamp.type", "createtime", "String must be one of: CreateTime, LogAppendTime");
        check("group.consumer.migration.policy", "upgrade", "");
        check("leader.replication.throttled.replicas", "0:1,1:2", "");
        check("leader.replication.throttled.replicas", "*", "");
        assert!(topic_definition("leader.replication.throttled.replicas").expect("known").check("0-1").is_err());
        check("advertised.listeners", "", "");
    }

    #[test]
    fn a_refusal_names_the_item_and_a_value_is_printed_as_it_was_read() {
        let definition = |name| topic_definition(name).expect("a known name");
        let refused = |name, value: &str| {
            let definition = definition(name);
            definition.invalid(value, &definition.check(value).expect_err("wrong"))
        };
        let expected = "Invalid value shred for configuration cleanup.policy: String must be one of: compact, delete";
        assert_eq!(refused("cleanup.policy", "compact,shred"), expected);
        let appended = edit_list("compact", "", true);
        assert_eq!(refused("cleanup.policy", &appended), "Configuration 'cleanup.policy' values must not be empty.");
        assert_eq!((edit_list("", "", true), edit_list("a,b", "", false)), (String::new(), "a,b".to_owned()));
        for (name, value, printed) in [
            ("retention.ms", " 7000 ", "7000"),
            ("max.message.bytes", "+5000", "5000"),
            ("preallocate", "TRUE", "true"),
            ("min.cleanable.dirty.ratio", " 0.250", "0.25"),
            ("min.cleanable.dirty.ratio", "1", "1.0"),
            ("cleanup.policy", " compact , delete ", "compact,delete"),
            ("cleanup.policy", "delete,delete", "delete"),
            ("compression.type", " zstd ", "zstd"),
        ] {
            assert_eq!(definition(name).printed(value), printed, "{name}={value}");
        }
    }

    #[test]
    fn every_default_passes_its_own_check() {
        for definition in broker_definitions().iter().chain(topic_definitions()).chain(group_definitions()) {
            let Some(default) = definition.default else { continue };
            // Kafka checks these two only when they are given.
            if definition.name.starts_with("controller.quorum.") && definition.kind == Type::List {
                continue;
            }
            assert_eq!(definition.check(default), Ok(()), "{}", definition.name);
        }
        assert_eq!(broker_definition("node.id").and_then(|definition| definition.default), None);
        assert!(broker_definitions().is_sorted_by_key(|definition| definition.name));
    }
}
