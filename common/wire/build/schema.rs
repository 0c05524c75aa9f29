//! The facts of one message, as Kafka's generator understands them (`FieldSpec`, `StructSpec`, `MessageSpec`).

use serde_json::Value;

/// A range of versions, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    pub low: i16,
    pub high: i16,
}

impl Versions {
    pub const NONE: Self = Self { low: 0, high: -1 };

    fn parse(text: &str) -> Self {
        let number = |part: &str| part.parse::<i16>().unwrap_or_else(|_| panic!("`{text}` is no range of versions"));
        if text == "none" {
            Self::NONE
        } else if let Some(low) = text.strip_suffix('+') {
            Self { low: number(low), high: i16::MAX }
        } else if let Some((low, high)) = text.split_once('-') {
            Self { low: number(low), high: number(high) }
        } else {
            Self { low: number(text), high: number(text) }
        }
    }

    pub fn is_empty(self) -> bool {
        self.low > self.high
    }

    pub fn contains(self, version: i16) -> bool {
        self.low <= version && version <= self.high
    }

    pub fn intersect(self, other: Self) -> Self {
        let both = Self { low: self.low.max(other.low), high: self.high.min(other.high) };
        if both.is_empty() { Self::NONE } else { both }
    }

    /// A Rust condition on `v`, given that `v` lies in `valid`.
    pub fn condition(self, valid: Self) -> String {
        let here = self.intersect(valid);
        match (here.low <= valid.low, here.high >= valid.high) {
            _ if here.is_empty() => "false".to_owned(),
            (true, true) => "true".to_owned(),
            (false, true) => format!("v >= {}", here.low),
            (true, false) => format!("v <= {}", here.high),
            (false, false) => format!("({}..={}).contains(&v)", here.low, here.high),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Type {
    Bool,
    I8,
    I16,
    U16,
    I32,
    U32,
    I64,
    F64,
    Uuid,
    Str,
    Bytes,
    Records,
    Struct(String),
    Array(Box<Type>),
}

impl Type {
    fn parse(text: &str) -> Self {
        if let Some(element) = text.strip_prefix("[]") {
            return Self::Array(Box::new(Self::parse(element)));
        }
        match text {
            "bool" => Self::Bool,
            "int8" => Self::I8,
            "int16" => Self::I16,
            "uint16" => Self::U16,
            "int32" => Self::I32,
            "uint32" => Self::U32,
            "int64" => Self::I64,
            "float64" => Self::F64,
            "uuid" => Self::Uuid,
            "string" => Self::Str,
            "bytes" => Self::Bytes,
            "records" => Self::Records,
            name if name.starts_with(char::is_uppercase) => Self::Struct(name.to_owned()),
            other => panic!("`{other}` is no type"),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DefaultValue {
    /// The type's own: zero, empty.
    Natural,
    Null,
    Text(String),
}

#[derive(Clone, Debug)]
pub struct Field {
    /// As Kafka spells it.
    pub name: String,
    pub ty: Type,
    pub versions: Versions,
    pub nullable: Versions,
    /// Where the field is written among the tagged ones.
    pub tagged: Versions,
    pub tag: u32,
    pub default: DefaultValue,
    pub ignorable: bool,
    /// The client id of a request header keeps its old form in every version.
    pub never_flexible: bool,
}

#[derive(Clone, Debug)]
pub struct Struct {
    pub name: String,
    pub fields: Vec<Field>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Request,
    Response,
    /// A key, value or metadata record of an internal topic, with its record type.
    Record,
    Other,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub name: String,
    pub kind: Kind,
    pub api_key: Option<i16>,
    pub valid: Versions,
    pub flexible: Versions,
    pub latest_unstable: bool,
    pub listeners: Vec<String>,
    /// The first is the message itself.
    pub structs: Vec<Struct>,
}

impl Message {
    pub fn find(&self, name: &str) -> &Struct {
        self.structs.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{}: no struct {name}", self.name))
    }
}

pub fn parse(text: &str) -> Vec<Message> {
    let value: Value = serde_json::from_str(text).expect("the schema is JSON");
    value.as_array().expect("the schema is an array").iter().map(message).collect()
}

fn text<'v>(node: &'v Value, key: &str) -> Option<&'v str> {
    node.get(key).and_then(Value::as_str)
}

fn versions(node: &Value, key: &str) -> Option<Versions> {
    text(node, key).map(Versions::parse)
}

fn message(node: &Value) -> Message {
    let name = text(node, "name").expect("a message has a name").to_owned();
    let valid = versions(node, "validVersions").expect("a message has versions");
    let mut structs = Vec::new();
    collect(&name, node, valid, &mut structs);
    for common in node.get("commonStructs").and_then(Value::as_array).into_iter().flatten() {
        collect(text(common, "name").expect("a struct has a name"), common, valid, &mut structs);
    }
    Message {
        name,
        kind: match text(node, "type") {
            Some("request") => Kind::Request,
            Some("response") => Kind::Response,
            Some("coordinator-key" | "coordinator-value" | "metadata") => Kind::Record,
            _ => Kind::Other,
        },
        api_key: node.get("apiKey").and_then(Value::as_i64).map(|code| i16::try_from(code).expect("a 16-bit key")),
        valid,
        flexible: versions(node, "flexibleVersions").unwrap_or(Versions::NONE).intersect(valid),
        latest_unstable: node.get("latestVersionUnstable").and_then(Value::as_bool).unwrap_or(false),
        listeners: node
            .get("listeners")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|listener| listener.as_str().map(str::to_owned))
            .collect(),
        structs,
    }
}

/// Adds the struct with the fields of `node` and, after it, those that its fields define in place.
fn collect(name: &str, node: &Value, valid: Versions, structs: &mut Vec<Struct>) {
    assert!(structs.iter().all(|known| known.name != name), "{name} is defined twice");
    let at = structs.len();
    structs.push(Struct { name: name.to_owned(), fields: Vec::new() });
    let mut fields = Vec::new();
    for node in node.get("fields").and_then(Value::as_array).into_iter().flatten() {
        let field = field(node);
        if node.get("fields").is_some() {
            let element = match &field.ty {
                Type::Array(element) => element,
                other => other,
            };
            match element {
                Type::Struct(name) => collect(name, node, valid, structs),
                other => panic!("{name}.{}: fields inside {other:?}", field.name),
            }
        }
        // A field of versions that are no longer valid never travels.
        if !field.versions.intersect(valid).is_empty() {
            fields.push(field);
        }
    }
    structs[at].fields = fields;
}

fn field(node: &Value) -> Field {
    let name = text(node, "name").expect("a field has a name").to_owned();
    let tagged = versions(node, "taggedVersions").unwrap_or(Versions::NONE);
    Field {
        ty: Type::parse(text(node, "type").expect("a field has a type")),
        versions: versions(node, "versions").unwrap_or(tagged),
        nullable: versions(node, "nullableVersions").unwrap_or(Versions::NONE),
        tagged,
        tag: node.get("tag").and_then(Value::as_u64).map_or(0, |tag| u32::try_from(tag).expect("a 32-bit tag")),
        default: match node.get("default") {
            // Kafka's generator reads the JSON null as no default at all; its null is the string "null".
            None | Some(Value::Null) => DefaultValue::Natural,
            Some(Value::String(text)) if text == "null" => DefaultValue::Null,
            Some(Value::String(text)) if text.is_empty() => DefaultValue::Natural,
            Some(Value::String(text)) => DefaultValue::Text(text.clone()),
            Some(other) => DefaultValue::Text(other.to_string()),
        },
        ignorable: node.get("ignorable").and_then(Value::as_bool).unwrap_or(false),
        never_flexible: text(node, "flexibleVersions") == Some("none"),
        name,
    }
}
