//! Records as JSON, one a line: what `consume --output json` prints, `produce --format json` reads.
//!
//! Bytes that are text are strings under their own name (`"value": ...`); others are hexadecimal under another
//! (`"value_hex": ...`).

use std::io::{self, Write};

use bytes::Bytes;
use odradek_common::time::Timestamp;
use odradek_records::Record;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kafka::producer;

#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp_ms: i64,
    timestamp: Option<String>,
    #[serde(flatten)]
    key: Field,
    #[serde(flatten)]
    value: Field,
    headers: Vec<HeaderField>,
}

/// A header of a record, to be printed.
#[derive(Serialize)]
pub struct HeaderField {
    pub name: String,
    #[serde(flatten)]
    pub value: Field,
}

impl HeaderField {
    pub fn new(header: &odradek_records::Header) -> Self {
        let name = String::from_utf8_lossy(&header.key).into_owned();
        Self { name, value: Field::value(header.value.clone()) }
    }
}

/// Bytes to be printed, under the one name or the other.
pub struct Field {
    name: &'static str,
    hex_name: &'static str,
    bytes: Option<Bytes>,
}

impl Field {
    pub fn key(bytes: Option<Bytes>) -> Self {
        Self { name: "key", hex_name: "key_hex", bytes }
    }

    pub fn value(bytes: Option<Bytes>) -> Self {
        Self { name: "value", hex_name: "value_hex", bytes }
    }

    pub fn bytes(&self) -> Option<&Bytes> {
        self.bytes.as_ref()
    }
}

impl Serialize for Field {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(1))?;
        match self.bytes.as_deref().map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => map.serialize_entry(self.name, &None::<&str>)?,
            Some((_, Ok(text))) => map.serialize_entry(self.name, text)?,
            Some((bytes, Err(_))) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                map.serialize_entry(self.hex_name, &hex)?;
            }
        }
        map.end()
    }
}

pub fn write(out: &mut impl Write, topic: &str, partition: i32, record: &Record) -> io::Result<()> {
    let timestamp = record.timestamp.0;
    let line = Line {
        topic,
        partition,
        offset: record.offset.0,
        timestamp_ms: timestamp,
        timestamp: (timestamp >= 0).then(|| crate::time::format(timestamp)),
        key: Field::key(record.key.clone()),
        value: Field::value(record.value.clone()),
        headers: record.headers.iter().map(HeaderField::new).collect(),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// What is read. A member that is absent differs from one that is null.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default)]
    key: Option<Value>,
    #[serde(default)]
    key_hex: Option<String>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
    #[serde(default)]
    value_hex: Option<String>,
    #[serde(default)]
    headers: Option<Headers>,
    #[serde(default)]
    partition: Option<i32>,
    #[serde(default)]
    timestamp_ms: Option<i64>,
    #[serde(default)]
    timestamp: Option<Value>,
    // Printed by `consume`, and of no meaning to a record that is written anew.
    #[serde(default, rename = "topic")]
    _topic: Option<Value>,
    #[serde(default, rename = "offset")]
    _offset: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Headers {
    List(Vec<InputHeader>),
    Map(serde_json::Map<String, Value>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputHeader {
    name: String,
    #[serde(default)]
    value: Option<Value>,
    #[serde(default)]
    value_hex: Option<String>,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A record, and the partition that it names.
pub fn read(line: &[u8]) -> Result<(producer::Record, Option<i32>), String> {
    const EXAMPLE: &str = r#"it takes an object as {"key": "k", "value": "v", "headers": {"h": "x"}}"#;
    // A list of the members' values would do for serde.
    if !line.trim_ascii_start().starts_with(b"{") {
        return Err(EXAMPLE.to_owned());
    }
    let input: Input = serde_json::from_slice(line).map_err(|error| format!("{error}; {EXAMPLE}"))?;
    if input.value.is_none() && input.value_hex.is_none() {
        return Err("there is no \"value\"; null makes a tombstone".to_owned());
    }
    let timestamp = match (input.timestamp_ms, input.timestamp) {
        (Some(milliseconds), _) => Some(milliseconds),
        (None, None | Some(Value::Null)) => None,
        (None, Some(given)) => Some(time(&given)?),
    };
    if let Some(negative) = timestamp.filter(|timestamp| *timestamp < 0) {
        return Err(format!("the timestamp {negative} is before 1970"));
    }
    let headers = match input.headers {
        None => Vec::new(),
        Some(Headers::List(headers)) => headers
            .into_iter()
            .map(|header| Ok((Bytes::from(header.name), bytes("value", header.value, header.value_hex)?)))
            .collect::<Result<_, String>>()?,
        Some(Headers::Map(headers)) => headers
            .into_iter()
            .map(|(name, value)| Ok((Bytes::from(name), bytes("value", Some(value), None)?)))
            .collect::<Result<_, String>>()?,
    };
    let record = producer::Record {
        key: bytes("key", input.key, input.key_hex)?,
        value: bytes("value", input.value, input.value_hex)?,
        headers,
        timestamp: timestamp.map(Timestamp),
    };
    Ok((record, input.partition))
}

/// Text as it is, null as nothing, and what else JSON has as its JSON text.
fn bytes(name: &str, value: Option<Value>, hex: Option<String>) -> Result<Option<Bytes>, String> {
    match (value, hex) {
        (Some(_), Some(_)) => Err(format!("{name} and {name}_hex are both given")),
        (None, Some(hex)) => decode_hex(&hex).map(Some).ok_or_else(|| format!("{name}_hex is not hexadecimal")),
        (None | Some(Value::Null), None) => Ok(None),
        (Some(Value::String(text)), None) => Ok(Some(text.into())),
        (Some(other), None) => Ok(Some(other.to_string().into())),
    }
}

fn decode_hex(hex: &str) -> Option<Bytes> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes.filter(|_| rest.is_empty()).map(Bytes::from)
}

fn time(given: &Value) -> Result<i64, String> {
    let milliseconds = match given {
        Value::String(text) => crate::time::parse(text),
        other => other.as_i64(),
    };
    milliseconds.ok_or_else(|| format!("{given} is no time; it takes milliseconds, or \"2026-01-31T12:00:00Z\""))
}

#[cfg(test)]
mod tests {
    use odradek_common::Offset;

    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        let header = |key: &str, value: Option<Bytes>| odradek_records::Header { key: key.to_owned().into(), value };
        let record = Record {
            offset: Offset(7),
            timestamp: Timestamp(1_763_793_600_250),
            sequence: -1,
            key: Some("k".into()),
            value: Some(vec![0xff, 0].into()),
            headers: vec![header("h", None), header("h", Some(vec![0x80].into()))],
        };
        let mut out = Vec::new();
        write(&mut out, "t", 3, &record).expect("written");
        assert_eq!(
            String::from_utf8_lossy(&out),
            "{\"topic\":\"t\",\"partition\":3,\"offset\":7,\"timestamp_ms\":1763793600250,\
             \"timestamp\":\"2025-11-22T06:40:00.250Z\",\"key\":\"k\",\"value_hex\":\"ff00\",\
             \"headers\":[{\"name\":\"h\",\"value\":null},{\"name\":\"h\",\"value_hex\":\"80\"}]}\n"
        );
        let headers = record.headers.iter().map(|header| (header.key.clone(), header.value.clone())).collect();
        let expected = producer::Record {
            key: record.key.clone(),
            value: record.value.clone(),
            headers,
            timestamp: Some(record.timestamp),
        };
        assert_eq!(read(&out), Ok((expected, Some(3))));
    }

    #[test]
    fn lines_of_json_are_records() {
        let some = |text: &str| Some(Bytes::from(text.to_owned()));
        for (line, key, value, timestamp) in [
            (r#"{"value": "v"}"#, None, some("v"), None),
            (r#"{"key": "k", "value": null}"#, some("k"), None, None),
            (r#"{"key": 5, "value": {"a": [1]}}"#, some("5"), some(r#"{"a":[1]}"#), None),
            (r#"{"value_hex": "6F6f", "timestamp": "1970-01-02"}"#, None, some("oo"), Some(86_400_000)),
            (r#"{"value": "", "timestamp": 5, "timestamp_ms": 6}"#, None, some(""), Some(6)),
        ] {
            let timestamp = timestamp.map(Timestamp);
            let expected = producer::Record { key, value, headers: Vec::new(), timestamp };
            assert_eq!(read(line.as_bytes()), Ok((expected, None)), "{line}");
        }
        let (record, partition) =
            read(br#"{"value": "v", "headers": {"a": "1", "b": null}, "partition": 2}"#).expect("read");
        assert_eq!(record.headers, [("a".into(), some("1")), ("b".into(), None)]);
        assert_eq!(partition, Some(2));
        for (wrong, words) in [
            ("v", "it takes an object"),
            ("[]", "it takes an object"),
            (r#"{"key": "k"}"#, "tombstone"),
            (r#"{"value": "v", "vaule": 1}"#, "vaule"),
            (r#"{"value": "v", "value_hex": "00"}"#, "both"),
            (r#"{"value_hex": "0"}"#, "hexadecimal"),
            (r#"{"value": "v", "timestamp": "soon"}"#, "no time"),
            (r#"{"value": "v", "timestamp_ms": -5}"#, "before 1970"),
        ] {
            let problem = read(wrong.as_bytes()).expect_err(wrong);
            assert!(problem.contains(words), "{wrong}: {problem}");
        }
    }
}
