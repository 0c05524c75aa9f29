//! `consume --format` and `--print`: what is printed of each record.

use std::io::{self, Write};

use clap::ValueEnum;
use odradek_records::{Header, Record};

/// Parts of a record in the order in which `--print` shows them, which is that of Kafka's console consumer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum Field {
    Timestamp,
    Partition,
    Offset,
    Headers,
    Key,
    Value,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    /// Milliseconds since 1970 UTC.
    Timestamp,
    /// The same as RFC 3339.
    Time,
    Key,
    KeyBytes,
    Value,
    ValueBytes,
    /// As `name:value,name:value` when it stands among labelled fields, `name=value,...` by the template.
    Headers {
        between: u8,
    },
}

/// What to print of each record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template(Vec<Part>);

impl Template {
    /// The value on a line, after the key if there is a separator.
    pub fn line(key_separator: Option<&str>) -> Self {
        let mut parts = Vec::new();
        if let Some(separator) = key_separator {
            parts.extend([Part::Key, text(separator)]);
        }
        parts.extend([Part::Value, text("\n")]);
        Self(parts)
    }

    /// These fields on a line, labelled and separated as Kafka's console consumer does.
    pub fn fields(fields: &[Field], key_separator: Option<&str>) -> Self {
        let mut fields = fields.to_vec();
        fields.sort_unstable();
        fields.dedup();
        let separator = text(key_separator.unwrap_or("\t"));
        let mut parts = Vec::new();
        for field in fields {
            if !parts.is_empty() {
                parts.push(separator.clone());
            }
            match field {
                Field::Timestamp => parts.extend([text("CreateTime:"), Part::Timestamp]),
                Field::Partition => parts.extend([text("Partition:"), Part::Partition]),
                Field::Offset => parts.extend([text("Offset:"), Part::Offset]),
                Field::Headers => parts.push(Part::Headers { between: b':' }),
                Field::Key => parts.push(Part::Key),
                Field::Value => parts.push(Part::Value),
            }
        }
        parts.push(text("\n"));
        Self(parts)
    }

    /// Reads `%k: %v\n`.
    pub fn parse(format: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = Vec::new();
        let mut rest = format.chars();
        while let Some(first) = rest.next() {
            let part = match first {
                '\\' => {
                    plain.push(escape(&mut rest)?);
                    continue;
                }
                '%' => match rest.next() {
                    Some('%') => {
                        plain.push(b'%');
                        continue;
                    }
                    Some(letter) => directive(letter)?,
                    None => return Err("a % stands at the end; %% prints one".to_owned()),
                },
                other => {
                    plain.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(part);
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// `null` is what stands for a key or value that is not there.
    pub fn write(&self, out: &mut impl Write, place: (&str, i32), record: &Record, null: &str) -> io::Result<()> {
        let len = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(-1, |bytes| bytes.len() as i64);
        for part in &self.0 {
            match part {
                Part::Text(text) => out.write_all(text)?,
                Part::Topic => out.write_all(place.0.as_bytes())?,
                Part::Partition => write!(out, "{}", place.1)?,
                Part::Offset => write!(out, "{}", record.offset.0)?,
                Part::Timestamp => write!(out, "{}", record.timestamp.0)?,
                Part::Time => out.write_all(crate::time::format(record.timestamp.0).as_bytes())?,
                Part::Key => out.write_all(record.key.as_deref().unwrap_or(null.as_bytes()))?,
                Part::KeyBytes => write!(out, "{}", len(&record.key))?,
                Part::Value => out.write_all(record.value.as_deref().unwrap_or(null.as_bytes()))?,
                Part::ValueBytes => write!(out, "{}", len(&record.value))?,
                Part::Headers { between } => write_headers(out, &record.headers, *between, null)?,
            }
        }
        Ok(())
    }
}

fn text(text: &str) -> Part {
    Part::Text(text.as_bytes().to_vec())
}

fn directive(letter: char) -> Result<Part, String> {
    Ok(match letter {
        't' => Part::Topic,
        'p' => Part::Partition,
        'o' => Part::Offset,
        'T' => Part::Timestamp,
        'D' => Part::Time,
        'k' => Part::Key,
        'K' => Part::KeyBytes,
        'v' | 's' => Part::Value,
        'V' | 'S' => Part::ValueBytes,
        'h' => Part::Headers { between: b'=' },
        other => {
            return Err(format!(
                "%{other} means nothing; there are %t topic, %p partition, %o offset, %k key, %v value, %h headers, %T \
                 timestamp, %D date, %K and %V sizes, %%"
            ));
        }
    })
}

fn escape(rest: &mut std::str::Chars<'_>) -> Result<u8, String> {
    match rest.next() {
        Some('n') => Ok(b'\n'),
        Some('t') => Ok(b'\t'),
        Some('r') => Ok(b'\r'),
        Some('0') => Ok(0),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let digits: String = rest.by_ref().take(2).collect();
            let byte = if digits.len() == 2 { u8::from_str_radix(&digits, 16).ok() } else { None };
            byte.ok_or_else(|| format!("\\x{digits} is no byte; it takes two hexadecimal digits"))
        }
        _ => Err("a \\ is followed by n, t, r, 0, \\ or xNN".to_owned()),
    }
}

fn write_headers(out: &mut impl Write, headers: &[Header], between: u8, null: &str) -> io::Result<()> {
    if headers.is_empty() && between == b':' {
        return out.write_all(b"NO_HEADERS");
    }
    for (index, header) in headers.iter().enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        out.write_all(&header.key)?;
        out.write_all(&[between])?;
        out.write_all(header.value.as_deref().unwrap_or(null.as_bytes()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use odradek_common::Offset;
    use odradek_common::time::Timestamp;

    use super::*;

    fn printed(template: &Template, record: &Record) -> String {
        let mut out = Vec::new();
        template.write(&mut out, ("t", 3), record, "null").expect("written");
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn records_are_printed_as_the_template_says() {
        let header = |key: &str, value: Option<&str>| Header {
            key: key.to_owned().into(),
            value: value.map(|value| value.to_owned().into()),
        };
        let full = Record {
            offset: Offset(7),
            timestamp: Timestamp(1_763_793_600_250),
            sequence: -1,
            key: Some("k".into()),
            value: Some("värde".into()),
            headers: vec![header("a", Some("1")), header("b", None)],
        };
        let bare = Record { key: None, value: None, headers: Vec::new(), ..full.clone() };
        for (format, of_full, of_bare) in [
            ("%k=%v\\n", "k=värde\n", "null=null\n"),
            ("%t-%p@%o %T", "t-3@7 1763793600250", "t-3@7 1763793600250"),
            ("%D", "2025-11-22T06:40:00.250Z", "2025-11-22T06:40:00.250Z"),
            ("%K %V|%h|", "1 6|a=1,b=null|", "-1 -1||"),
            ("100%% \\t\\\\\\x41ö", "100% \t\\Aö", "100% \t\\Aö"),
            ("", "", ""),
        ] {
            let template = Template::parse(format).expect(format);
            assert_eq!(
                (printed(&template, &full), printed(&template, &bare)),
                (of_full.to_owned(), of_bare.to_owned())
            );
        }
        for wrong in ["%", "%z", "\\", "\\q", "\\x4", "\\xzz"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
        let all = [Field::Value, Field::Key, Field::Headers, Field::Offset, Field::Partition, Field::Timestamp];
        let labelled = Template::fields(&all, None);
        assert_eq!(
            printed(&labelled, &full),
            "CreateTime:1763793600250\tPartition:3\tOffset:7\ta:1,b:null\tk\tvärde\n"
        );
        assert_eq!(
            printed(&labelled, &bare),
            "CreateTime:1763793600250\tPartition:3\tOffset:7\tNO_HEADERS\tnull\tnull\n"
        );
        assert_eq!(printed(&Template::line(Some(":")), &full), "k:värde\n");
        assert_eq!(printed(&Template::line(None), &full), "värde\n");
    }
}
