//! From properties to typed fields: every problem is collected, so that one start names all that is wrong.
//!
//! `settings!` declares a struct whose fields are read by Kafka's name; the doc of each field is that name.

use std::fmt;
use std::time::Duration;

use super::definition::{Definition, Type, broker_definition, broker_definitions, list};
use super::dynamic::listener_config;
use super::properties::{Place, Properties, Property};
use super::support::{Support, broker_support};

/// A config with which the process must not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub name: String,
    pub place: Option<Place>,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        // Kafka's own wording names the config already.
        if self.problem.starts_with("Invalid value ") {
            f.write_str(&self.problem)
        } else {
            write!(f, "{}: {}", self.name, self.problem)
        }
    }
}

impl std::error::Error for ConfigError {}

/// All that is wrong, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

/// Something that was written and has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub name: String,
    pub place: Place,
    pub problem: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.name, self.problem)
    }
}

/// Reads values by name and keeps what is wrong with them.
pub(super) struct Reader<'a> {
    properties: &'a Properties,
    pub errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub fn new(properties: &'a Properties) -> Self {
        Self { properties, errors: Vec::new() }
    }

    pub fn get(&self, name: &str) -> Option<&'a Property> {
        self.properties.get(name)
    }

    pub fn entries(&self) -> &'a [Property] {
        self.properties.entries()
    }

    /// Refuses a name's value (or its absence).
    pub fn refuse(&mut self, name: &str, problem: impl Into<String>) {
        let place = self.get(name).map(|entry| entry.place.clone());
        self.errors.push(ConfigError { name: name.to_owned(), place, problem: problem.into() });
    }

    /// The value as written, trimmed, or its default. Checked by `check_all` already.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        match self.get(name) {
            Some(entry) => Some(entry.value.trim()),
            None => broker_definition(name).and_then(|definition| definition.default),
        }
    }

    /// A field's value. What cannot be read was refused by `check_all`, so that the default only fills the struct.
    pub fn value<T: Setting>(&mut self, name: &'static str) -> T {
        let Some(definition) = broker_definition(name) else {
            self.refuse(name, "is not a config: the program asks for a name that it does not define");
            return T::empty();
        };
        let valid = self.text(name).filter(|text| definition.check(text).is_ok());
        match T::read(definition, valid.or(definition.default)) {
            Ok(value) => value,
            Err(problem) => {
                self.refuse(name, definition.invalid(valid.unwrap_or_default(), &problem));
                T::empty()
            }
        }
    }

    /// A number that was written under a name that has no default.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.get(name)?.value.trim().parse().ok()
    }

    /// Checks all that was written against the definitions, and says what is unknown or without effect.
    pub fn check_all(&mut self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for entry in self.properties.entries() {
            let counts = self.get(&entry.name).is_some_and(|last| std::ptr::eq(last, entry));
            if !counts {
                warnings.extend(self.overwritten(entry));
                continue;
            }
            let warn = |problem: String| Warning { name: entry.name.clone(), place: entry.place.clone(), problem };
            let name = listener_config(&entry.name).map_or(entry.name.as_str(), |(_, name)| name);
            let Some(definition) = broker_definition(name) else {
                warnings.push(warn(unknown(&entry.name)));
                continue;
            };
            if let Err(problem) = definition.check(&entry.value) {
                let allowed = definition.allowed();
                let invalid = definition.invalid(entry.value.trim(), &problem);
                self.refuse(&entry.name, format!("{invalid}. Allowed: {allowed}."));
                continue;
            }
            let is_default = definition.default == Some(entry.value.trim());
            match broker_support(name) {
                Support::Honoured => {}
                Support::WithoutEffect(why) if !is_default => warnings.push(warn(format!("has no effect: {why}"))),
                Support::Refused(why) if !is_default => {
                    self.refuse(&entry.name, format!("is not supported: {why}"));
                }
                Support::WithoutEffect(_) | Support::Refused(_) => {}
            }
        }
        warnings
    }

    /// The same name twice in one file is most likely a mistake; a command line over a file is not.
    fn overwritten(&self, entry: &Property) -> Option<Warning> {
        let last = self.get(&entry.name)?;
        (last.place.source == entry.place.source).then(|| Warning {
            name: entry.name.clone(),
            place: entry.place.clone(),
            problem: format!("is set again at {}, and the last value counts", last.place),
        })
    }

    pub fn finish<T>(self, config: T, warnings: Vec<Warning>) -> Result<(T, Vec<Warning>), ConfigErrors> {
        if self.errors.is_empty() { Ok((config, warnings)) } else { Err(ConfigErrors(self.errors)) }
    }
}

fn unknown(name: &str) -> String {
    if name.starts_with("zookeeper.") {
        return "is unknown and ignored: there is no ZooKeeper; the controllers are named by controller.quorum.voters"
            .to_owned();
    }
    if name.starts_with("listener.name.") {
        return "has no effect: of the configs of a single listener only max.connections and max.connection.creation.rate are \
                read yet"
            .to_owned();
    }
    match nearest(name) {
        Some(near) => format!("is unknown and ignored; did you mean {near}?"),
        None => "is unknown and ignored".to_owned(),
    }
}

/// The known name with the least edits, if so few that a slip of the hand is likely.
fn nearest(name: &str) -> Option<&'static str> {
    let limit = (name.len() / 5).clamp(1, 4);
    let candidates = broker_definitions().iter().map(|definition| (edits(name, definition.name), definition.name));
    candidates.min().filter(|(edits, _)| *edits <= limit).map(|(_, near)| near)
}

/// Levenshtein's distance, one row at a time.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (y, above) in b.bytes().zip(row.iter_mut().skip(1)) {
            let cost = (diagonal + usize::from(x != y)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, cost);
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// A type that a config's text can be read as.
pub(super) trait Setting: Sized {
    /// `text` has passed `Definition::check`; absent when neither file nor definition has a value.
    fn read(definition: &Definition, text: Option<&str>) -> Result<Self, String>;
    /// Stands in for a refused value until the start is refused.
    fn empty() -> Self;
}

fn given(text: Option<&str>) -> Result<&str, String> {
    text.ok_or_else(|| "Missing required configuration which has no default value.".to_owned())
}

macro_rules! number_settings {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn read(definition: &Definition, text: Option<&str>) -> Result<Self, String> {
                let text = given(text)?;
                text.trim().parse().map_err(|_| match text.trim().starts_with('-') {
                    true => "Value must be at least 0".to_owned(),
                    false => format!("Not a number of type {}", definition.kind.name()),
                })
            }

            fn empty() -> Self {
                Self::default()
            }
        }
    )*};
}

number_settings!(i16, i32, i64, u32, u64, usize, f64);

impl Setting for bool {
    fn read(_: &Definition, text: Option<&str>) -> Result<Self, String> {
        Ok(given(text)?.trim().eq_ignore_ascii_case("true"))
    }

    fn empty() -> Self {
        false
    }
}

impl Setting for String {
    fn read(_: &Definition, text: Option<&str>) -> Result<Self, String> {
        Ok(given(text)?.trim().to_owned())
    }

    fn empty() -> Self {
        String::new()
    }
}

impl Setting for Vec<String> {
    fn read(_: &Definition, text: Option<&str>) -> Result<Self, String> {
        Ok(list(text.unwrap_or_default()).map(str::to_owned).collect())
    }

    fn empty() -> Self {
        Vec::new()
    }
}

/// The unit is the last word of the config's name.
impl Setting for Duration {
    fn read(definition: &Definition, text: Option<&str>) -> Result<Self, String> {
        let number = u64::read(definition, text)?;
        let seconds = match definition.name.rsplit('.').next() {
            Some("ms") => return Ok(Duration::from_millis(number)),
            Some("seconds") => 1,
            Some("minutes") => 60,
            Some("hours") => 3600,
            _ => return Err("has no unit of time in its name".to_owned()),
        };
        Ok(Duration::from_secs(number.saturating_mul(seconds)))
    }

    fn empty() -> Self {
        Duration::ZERO
    }
}

/// Absent when there is no value, or when a number is negative, which is how Kafka writes "none" and "no limit".
impl<T: Setting> Setting for Option<T> {
    fn read(definition: &Definition, text: Option<&str>) -> Result<Self, String> {
        let is_number = matches!(definition.kind, Type::Int | Type::Short | Type::Long | Type::Double);
        match text.map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) if is_number && text.starts_with('-') => Ok(None),
            Some(text) => T::read(definition, Some(text)).map(Some),
        }
    }

    fn empty() -> Self {
        None
    }
}

/// Declares a struct of configs: `field: Type = "kafka.name"`. Each field's doc names the config.
macro_rules! settings {
    ($(#[$doc:meta])* pub struct $struct:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $struct {
            $(
                #[doc = concat!("`", $name, "`.")]
                $(#[$field_doc])*
                pub $field: $type,
            )*
        }

        impl $struct {
            /// The configs that these fields hold.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            pub(super) fn read(reader: &mut $crate::config::reader::Reader<'_>) -> Self {
                Self { $($field: reader.value($name),)* }
            }
        }

        impl Default for $struct {
            /// Kafka's defaults.
            fn default() -> Self {
                let properties = $crate::config::Properties::default();
                Self::read(&mut $crate::config::reader::Reader::new(&properties))
            }
        }
    };
}
pub(super) use settings;

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(text: &str) -> Vec<String> {
        let properties = Properties::parse(text, "f").expect("parsed");
        Reader::new(&properties).check_all().iter().map(Warning::to_string).collect()
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        assert_eq!(
            warnings("num.io.thread=8"),
            ["f:1: num.io.thread: is unknown and ignored; did you mean num.io.threads?"]
        );
        assert_eq!(warnings("frobnicate=8"), ["f:1: frobnicate: is unknown and ignored"]);
        assert!(warnings("zookeeper.connect=h:2181").concat().contains("no ZooKeeper"));
    }

    #[test]
    fn a_name_set_twice_in_one_file_is_told() {
        assert_eq!(
            warnings("num.partitions=1\nnum.partitions=2"),
            ["f:1: num.partitions: is set again at f:2, and the last value counts"]
        );
    }

    #[test]
    fn a_wrong_value_names_itself_its_place_and_what_is_allowed() {
        let properties = Properties::load("a=b\n", "s.properties", &["num.partitions=0".to_owned()]).expect("parsed");
        let mut reader = Reader::new(&properties);
        reader.check_all();
        assert_eq!(
            ConfigErrors(reader.errors).to_string(),
            "--set: Invalid value 0 for configuration num.partitions: Value must be at least 1. Allowed: INT, [1,...]."
        );
    }

    #[test]
    fn edits_are_levenshteins() {
        for (a, b, expected) in [("", "", 0), ("abc", "abc", 0), ("abc", "", 3), ("kitten", "sitting", 3)] {
            assert_eq!(edits(a, b), expected, "{a} {b}");
        }
    }
}
