//! Java's `.properties` format (`java.util.Properties.load`), with the place of every entry kept for messages.
//!
//! Lines end with LF, CR or CRLF. A line whose first visible character is `#` or `!` is a comment. An odd number of
//! backslashes at its end continues a line with the next one, whose leading blanks are dropped. The name ends at the
//! first unescaped `=`, `:` or blank; `\t \n \r \f \uXXXX` are escapes, and any other character after a backslash stands
//! for itself. Blanks at the end of a value belong to it (Kafka trims them when it reads the value; so do we).

use std::fmt;
use std::sync::Arc;

use super::reader::ConfigError;

/// Where a value was written: `server.properties:12`, or `--set`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    pub source: Arc<str>,
    /// From 1; absent for what was not in a file.
    pub line: Option<u32>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.source),
            None => f.write_str(&self.source),
        }
    }
}

/// One `name=value`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Property {
    pub name: String,
    pub value: String,
    pub place: Place,
}

/// The entries of a file and of the command line, in order. The last one of a name counts.
#[derive(Clone, Debug, Default)]
pub struct Properties {
    entries: Vec<Property>,
}

impl Properties {
    /// Reads a file's text. `source` is its name in messages.
    pub fn parse(text: &str, source: &str) -> Result<Self, ConfigError> {
        let source: Arc<str> = source.into();
        let mut entries = Vec::new();
        for (line, logical) in logical_lines(text) {
            let place = Place { source: source.clone(), line: Some(line) };
            let (name, value) = split(&logical);
            match (unescape(name), unescape(value)) {
                (Ok(name), Ok(value)) => entries.push(Property { name, value, place }),
                (Err(problem), _) | (_, Err(problem)) => {
                    return Err(ConfigError { name: name.to_owned(), place: Some(place), problem });
                }
            }
        }
        Ok(Self { entries })
    }

    /// Adds what a command line's `--set NAME=VALUE` says; it outweighs the file.
    pub fn set(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let place = Place { source: "--set".into(), line: None };
        match assignment.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => {
                let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
                self.entries.push(Property { name, value, place });
                Ok(())
            }
            _ => Err(ConfigError {
                name: assignment.to_owned(),
                place: Some(place),
                problem: "takes NAME=VALUE, as --set num.partitions=3".to_owned(),
            }),
        }
    }

    /// A file's text with the assignments of a command line on top.
    pub fn load(text: &str, source: &str, sets: &[String]) -> Result<Self, ConfigError> {
        let mut properties = Self::parse(text, source)?;
        sets.iter().try_for_each(|assignment| properties.set(assignment))?;
        Ok(properties)
    }

    /// Values that were read before; `source` says in messages where they are from now.
    pub(super) fn from_pairs(pairs: &std::collections::BTreeMap<String, String>, source: &str) -> Self {
        let place = Place { source: source.into(), line: None };
        let entry = |(name, value): (&String, &String)| Property {
            name: name.clone(),
            value: value.clone(),
            place: place.clone(),
        };
        Self { entries: pairs.iter().map(entry).collect() }
    }

    /// The entry that counts for this name.
    pub fn get(&self, name: &str) -> Option<&Property> {
        self.entries.iter().rev().find(|entry| entry.name == name)
    }

    /// All entries as they were written, earlier ones of the same name included.
    pub fn entries(&self) -> &[Property] {
        &self.entries
    }
}

/// Natural lines joined by their continuations, without comments and blank lines; each with its first line's number.
fn logical_lines(text: &str) -> Vec<(u32, String)> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = Vec::new();
    let mut open: Option<(u32, String)> = None;
    for (number, line) in (1..).zip(text.split('\n')) {
        let line = line.trim_start_matches(is_blank);
        if open.is_none() && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let continues = line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
        let content = if continues { line.strip_suffix('\\').unwrap_or(line) } else { line };
        let (_, logical) = open.get_or_insert_with(|| (number, String::new()));
        logical.push_str(content);
        if !continues {
            lines.extend(open.take());
        }
    }
    lines.extend(open.filter(|(_, logical)| !logical.is_empty()));
    lines
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\u{c}')
}

fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|character| {
        let ends = !escaped && (is_blank(character) || matches!(character, '=' | ':'));
        escaped = !escaped && character == '\\';
        ends
    });
    let (name, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(is_blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (name, rest.trim_start_matches(is_blank))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut units = Vec::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let plain = match character {
            '\\' => match characters.next() {
                None => break,
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    let digits: String = characters.by_ref().take(4).collect();
                    let unit = (digits.len() == 4).then(|| u16::from_str_radix(&digits, 16).ok()).flatten();
                    units
                        .push(unit.ok_or_else(|| format!("`\\u{digits}` is not an escape: it takes four hex digits"))?);
                    continue;
                }
                Some(other) => other,
            },
            other => other,
        };
        units.extend_from_slice(plain.encode_utf16(&mut [0; 2]));
    }
    // Java's strings are UTF-16, so two escapes may make one character.
    String::from_utf16(&units).map_err(|_| "has half of a UTF-16 surrogate pair".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str, u32)]) {
        let properties = Properties::parse(text, "f").expect("valid");
        let entries: Vec<(&str, &str, u32)> = properties
            .entries()
            .iter()
            .map(|entry| (entry.name.as_str(), entry.value.as_str(), entry.place.line.expect("from a file")))
            .collect();
        assert_eq!(entries, expected, "{text:?}");
    }

    #[test]
    fn javas_rules_hold() {
        check("", &[]);
        check("a=b", &[("a", "b", 1)]);
        check(" # no\n! no\n\n  a : b \r\nc  d e\rf", &[("a", "b ", 4), ("c", "d e", 5), ("f", "", 6)]);
        check("a=1,\\\n   2,\\\n\t3\nb=c", &[("a", "1,2,3", 1), ("b", "c", 4)]);
        check("a=ends in \\\\\nb=c", &[("a", "ends in \\", 1), ("b", "c", 2)]);
        check("a\\=b\\ c\\:d=e=f:g", &[("a=b c:d", "e=f:g", 1)]);
        check("t=\\t\\n\\r\\f\\q\\u00e9\\uD83D\\uDE00é", &[("t", "\t\n\r\u{c}qé😀é", 1)]);
        check("a=b\\", &[("a", "b", 1)]);
        check("a=b\\\n# not a comment", &[("a", "b# not a comment", 1)]);
        check("=x", &[("", "x", 1)]);
    }

    #[test]
    fn a_bad_escape_is_named_with_its_line() {
        let error = Properties::parse("a=b\nc=\\u12g4", "dir/server.properties").unwrap_err();
        assert_eq!(
            error.to_string(),
            "dir/server.properties:2: c: `\\u12g4` is not an escape: it takes four hex digits"
        );
        assert!(Properties::parse("a=\\ud83d", "f").is_err());
        assert!(Properties::parse("a=\\u12", "f").is_err());
    }

    #[test]
    fn the_last_value_counts_and_the_command_line_comes_last() {
        let properties = Properties::load("a=1\na=2\n", "f", &["a=3".to_owned(), "b = x=y".to_owned()]).expect("valid");
        assert_eq!(properties.get("a").map(|entry| entry.value.as_str()), Some("3"));
        assert_eq!(properties.get("a").map(|entry| entry.place.to_string()), Some("--set".to_owned()));
        assert_eq!(properties.get("b").map(|entry| entry.value.as_str()), Some("x=y"));
        assert!(Properties::load("", "f", &["nothing".to_owned()]).is_err());
    }
}
