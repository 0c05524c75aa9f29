//! Records of internal topics as JSON, for tools that show them: the fields' names and forms are those that Kafka's own tools
//! print. Nothing is read back from it.

use bytes::Bytes;
use odradek_common::Uuid;
pub use serde_json::{Map, Value};

use crate::records::Records;
use crate::string::Str;

/// Implemented by generated types and what their fields are made of.
pub trait ToJson {
    /// As version `v` has it.
    fn to_json(&self, v: i16) -> Value;
}

macro_rules! plain {
    ($($ty:ty),*) => {$(
        impl ToJson for $ty {
            fn to_json(&self, _v: i16) -> Value {
                Value::from(*self)
            }
        }
    )*};
}

plain!(bool, i8, i16, u16, i32, u32, i64, f64);

impl ToJson for Uuid {
    fn to_json(&self, _v: i16) -> Value {
        Value::from(self.to_string())
    }
}

impl ToJson for Str {
    fn to_json(&self, _v: i16) -> Value {
        Value::from(self.as_str())
    }
}

impl ToJson for Bytes {
    fn to_json(&self, _v: i16) -> Value {
        Value::from(base64(self))
    }
}

/// No record of an internal topic has records in it.
impl ToJson for Records {
    fn to_json(&self, _v: i16) -> Value {
        Value::Null
    }
}

impl<T: ToJson> ToJson for Option<T> {
    fn to_json(&self, v: i16) -> Value {
        self.as_ref().map_or(Value::Null, |value| value.to_json(v))
    }
}

impl<T: ToJson> ToJson for Vec<T> {
    fn to_json(&self, v: i16) -> Value {
        self.iter().map(|value| value.to_json(v)).collect()
    }
}

/// The usual alphabet, padded.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = (word >> (18 - 6 * digit) & 63) as usize;
            let is_padding = digit > chunk.len();
            text.push(if is_padding { '=' } else { DIGITS.get(value).map_or('=', |byte| char::from(*byte)) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_base64() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("fooba", "Zm9vYmE=")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_version_shows_the_fields_that_it_has() {
        let value = crate::OffsetCommitValue { offset: 7, metadata: "m".into(), ..Default::default() };
        let keys = |v| value.to_json(v).as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
        assert_eq!(keys(0), Some(["commitTimestamp", "metadata", "offset"].map(str::to_owned).to_vec()));
        assert_eq!(value.to_json(3)["leaderEpoch"], -1);
        assert_eq!(value.to_json(4)["topicId"], "AAAAAAAAAAAAAAAAAAAAAA");
    }
}
