//! Writes the Rust of a message: its structs with defaults, `write`, `read` and (for tests) `fill`.
//!
//! In the generated code `v` is the version, `e` the `Encoder`, `d` the `Decoder`, `p` the crate's support module. Whether
//! the version is flexible is known to the encoder and the decoder, so one line per field serves both encodings.

use std::fmt::Write;

use crate::names::snake;
use crate::schema::{DefaultValue, Field, Kind, Message, Struct, Type, Versions};

pub fn messages(all: &[Message]) -> String {
    let mut out = String::new();
    for message in all.iter().filter(|message| !message.valid.is_empty()) {
        let module = snake(&message.name);
        _ = writeln!(out, "pub use {module}::{};", message.name);
        _ = writeln!(out, "/// `{}`, versions {} to {}.", message.name, message.valid.low, message.valid.high);
        _ = writeln!(out, "pub mod {module} {{\nuse crate::support as p;\nuse p::Element as _;");
        for item in &message.structs {
            structure(&mut out, message, item);
        }
        traits(&mut out, message, all);
        out.push_str("}\n");
    }
    out
}

/// `MESSAGES`: every message with the functions a test needs; `STRUCTS`: what their parts weigh.
pub fn table(all: &[Message]) -> String {
    let mut out =
        String::from("/// Every message, in the order of the schema.\npub const MESSAGES: &[MessageInfo] = &[\n");
    for message in all.iter().filter(|message| !message.valid.is_empty()) {
        _ = writeln!(out, "MessageInfo::of::<crate::{}::{}>(),", snake(&message.name), message.name);
    }
    out.push_str("];\n\n/// Every struct: its name, its size in memory, and the fewest bytes it takes on the wire.\n");
    out.push_str("pub const STRUCTS: &[(&str, usize, usize)] = &[\n");
    for message in all.iter().filter(|message| !message.valid.is_empty()) {
        for item in &message.structs {
            let path = format!("crate::{}::{}", snake(&message.name), item.name);
            _ = writeln!(out, "(\"{path}\", size_of::<{path}>(), <{path} as Element>::LEAST_BYTES),");
        }
    }
    out.push_str("];\n");
    out
}

fn traits(out: &mut String, message: &Message, all: &[Message]) {
    let name = &message.name;
    _ = writeln!(
        out,
        "impl crate::Message for {name} {{\nconst NAME: &'static str = \"{name}\";\nconst MIN_VERSION: i16 = {};\n\
         const MAX_VERSION: i16 = {};\nfn is_flexible(version: i16) -> bool {{ let v = version; {} }}\n}}",
        message.valid.low,
        message.valid.high,
        match message.flexible.condition(message.valid).as_str() {
            constant @ ("true" | "false") => format!("_ = v; {constant}"),
            condition => condition.to_owned(),
        },
    );
    match message.kind {
        Kind::Request => {
            let response = all
                .iter()
                .find(|other| other.kind == Kind::Response && other.api_key == message.api_key)
                .unwrap_or_else(|| panic!("{name} has no response"));
            _ = writeln!(
                out,
                "impl crate::Request for {name} {{\nconst API_KEY: crate::ApiKey = crate::ApiKey::{};\n\
                 type Response = crate::{}::{};\n}}",
                name.strip_suffix("Request").expect("a request is named so"),
                snake(&response.name),
                response.name,
            );
        }
        Kind::Record => {
            let code = message.api_key.unwrap_or_else(|| panic!("{name} has no record type"));
            _ = writeln!(out, "impl crate::TypedRecord for {name} {{\nconst RECORD_TYPE: i16 = {code};\n}}");
        }
        Kind::Response | Kind::Other => {}
    }
}

/// Facts of a field in one message, ready to be written down.
struct Slot<'a> {
    field: &'a Field,
    message: &'a Message,
    /// The Rust name.
    name: String,
    optional: bool,
}

impl Slot<'_> {
    fn present(&self) -> String {
        self.field.versions.condition(self.message.valid)
    }

    /// Versions in which the field is written in its place, among the others.
    fn is_tagged(&self) -> bool {
        !self.tagged_versions().is_empty()
    }

    fn tagged_versions(&self) -> Versions {
        self.field.tagged.intersect(self.message.valid).intersect(self.message.flexible)
    }

    /// The condition under which the field is written in its place.
    fn in_place(&self) -> String {
        let here = self.field.versions.intersect(self.message.valid);
        let tagged = self.tagged_versions();
        if tagged.is_empty() {
            self.present()
        } else {
            // Tagged versions are open-ended, so what remains is what lies below them.
            Versions { low: here.low, high: tagged.low - 1 }.intersect(here).condition(self.message.valid)
        }
    }

    fn nullable(&self) -> String {
        let present = self.field.versions.intersect(self.message.valid);
        self.field.nullable.condition(present)
    }

    fn rust_type(&self) -> String {
        let plain = rust_type(&self.field.ty);
        if self.optional { format!("Option<{plain}>") } else { plain }
    }

    fn default_is_natural(&self) -> bool {
        match (&self.field.default, self.optional, &self.field.ty) {
            (_, _, Type::Records) => true,
            (DefaultValue::Null, true, _) => true,
            (DefaultValue::Natural, false, _) => true,
            (DefaultValue::Text(text), false, Type::Bool) => text == "false",
            (DefaultValue::Text(text), false, ty) if is_number(ty) => text == "0",
            _ => false,
        }
    }

    fn default(&self) -> String {
        if self.default_is_natural() {
            return "Default::default()".to_owned();
        }
        let plain = match (&self.field.default, &self.field.ty) {
            (DefaultValue::Natural, _) => "Default::default()".to_owned(),
            (DefaultValue::Text(text), Type::Str) => format!("p::Str::from_static({text:?})"),
            (DefaultValue::Text(text), ty) if is_number(ty) || *ty == Type::Bool => text.clone(),
            (other, ty) => panic!("{}.{}: default {other:?} of {ty:?}", self.message.name, self.field.name),
        };
        if self.optional { format!("Some({plain})") } else { plain }
    }

    /// A condition that the value differs from the default.
    fn differs(&self) -> String {
        let name = &self.name;
        let at = format!("self.{name}");
        if self.default_is_natural() {
            return match &self.field.ty {
                _ if self.optional => format!("{at}.is_some()"),
                Type::Bool => at,
                Type::Uuid => format!("!{at}.is_zero()"),
                Type::F64 => format!("{at} != 0.0"),
                ty if is_number(ty) => format!("{at} != 0"),
                Type::Struct(_) => format!("{at} != Default::default()"),
                _ => format!("!{at}.is_empty()"),
            };
        }
        match &self.field.ty {
            Type::Bool => format!("!{at}"),
            ty if is_number(ty) => format!("{at} != {}", self.default()),
            Type::Str if !self.optional => format!("{at} != {}", self.default()),
            Type::Struct(_) | Type::Str if self.optional => format!("{at} != {}", self.default()),
            _ if self.optional => format!("{at}.as_ref().is_none_or(|value| !value.is_empty())"),
            ty => panic!("{}.{name}: default of {ty:?}", self.message.name),
        }
    }

    /// A statement that writes the value, which may return an error.
    fn write(&self) -> String {
        let at = format!("self.{}", self.name);
        let kafka = &self.field.name;
        if self.field.never_flexible {
            return format!("e.legacy_optional_string(&{at}, {kafka:?})?;");
        }
        let method = match &self.field.ty {
            Type::Struct(_) => "structure",
            Type::Array(_) => "array",
            Type::Str => "string",
            Type::Bytes => "bytes",
            Type::Records => "records",
            ty => return format!("e.{}({at});", primitive(ty)),
        };
        let version = if matches!(self.field.ty, Type::Struct(_) | Type::Array(_)) { ", v" } else { "" };
        match (self.optional, &self.field.ty) {
            (true, _) => format!("e.optional_{method}(&{at}, {}, {kafka:?}{version})?;", self.nullable()),
            (false, Type::Struct(_)) => format!("{at}.write(e, v)?;"),
            (false, Type::Array(_)) => format!("e.array(&{at}, {kafka:?}{version})?;"),
            (false, _) => format!("e.{method}(&{at}, {kafka:?})?;"),
        }
    }

    /// An expression that reads the value.
    fn read(&self, tagged: bool) -> String {
        let kafka = &self.field.name;
        if self.field.never_flexible {
            return format!("d.legacy_optional_string({kafka:?})?");
        }
        let method = match &self.field.ty {
            Type::Struct(name) if !self.optional => return format!("{name}::read(d, v)?"),
            Type::Struct(_) if tagged => return "d.optional_tagged_structure(v)?".to_owned(),
            Type::Struct(_) => return format!("d.optional_structure({}, {kafka:?}, v)?", self.nullable()),
            Type::Array(_) => "array",
            Type::Str => "string",
            Type::Bytes => "bytes",
            Type::Records => "records",
            ty => return format!("d.{}()?", primitive(ty)),
        };
        let version = if matches!(self.field.ty, Type::Array(_)) { ", v" } else { "" };
        if self.optional {
            format!("d.optional_{method}({}, {kafka:?}{version})?", self.nullable())
        } else {
            format!("d.{method}({kafka:?}{version})?")
        }
    }

    fn fill(&self) -> String {
        if self.optional { format!("r.optional({}, v)", self.nullable()) } else { "p::Element::fill(r, v)".to_owned() }
    }

    fn doc(&self) -> String {
        let field = self.field;
        let shown = field.versions.intersect(self.message.valid);
        let mut doc = format!("`{}`, versions {}-{}", field.name, shown.low, shown.high);
        if self.optional && field.ty != Type::Records {
            _ = write!(doc, "; null in {}+", field.nullable.low.max(shown.low));
        }
        if self.is_tagged() {
            _ = write!(doc, "; tag {} in {}+", field.tag, self.tagged_versions().low);
        }
        doc + "."
    }
}

fn structure(out: &mut String, message: &Message, item: &Struct) {
    let slots: Vec<Slot<'_>> = item
        .fields
        .iter()
        .map(|field| Slot {
            field,
            message,
            name: snake(&field.name),
            optional: field.ty == Type::Records
                || !field.nullable.intersect(field.versions).intersect(message.valid).is_empty(),
        })
        .collect();
    let flexible = !message.flexible.is_empty();
    let name = &item.name;
    let natural = slots.iter().all(Slot::default_is_natural);

    _ = writeln!(out, "#[derive(Clone, Debug, PartialEq{})]", if natural { ", Default" } else { "" });
    _ = writeln!(out, "pub struct {name} {{");
    for slot in &slots {
        _ = writeln!(out, "/// {}\npub {}: {},", slot.doc(), slot.name, slot.rust_type());
    }
    if flexible {
        out.push_str("/// Tagged fields that this version of the schema does not know, by tag.\n");
        out.push_str("pub unknown_tagged_fields: Vec<p::RawTaggedField>,\n");
    }
    out.push_str("}\n");

    if !natural {
        _ = writeln!(out, "impl Default for {name} {{\nfn default() -> Self {{\nSelf {{");
        for slot in &slots {
            _ = writeln!(out, "{}: {},", slot.name, slot.default());
        }
        if flexible {
            out.push_str("unknown_tagged_fields: Vec::new(),\n");
        }
        out.push_str("}\n}\n}\n");
    }

    _ = writeln!(out, "impl p::Element for {name} {{\nconst LEAST_BYTES: usize = {};", least(message, item));
    write_function(out, message, &slots);
    read_function(out, message, &slots);
    fill_function(out, &slots);
    out.push_str("}\n");
    if matches!(message.kind, Kind::Record | Kind::Other) {
        json_function(out, name, &slots);
    }
}

/// What a tool prints of a record: each field that the version has, under Kafka's name.
fn json_function(out: &mut String, name: &str, slots: &[Slot<'_>]) {
    _ = writeln!(out, "#[cfg(feature = \"json\")]\nimpl p::ToJson for {name} {{");
    out.push_str("fn to_json(&self, v: i16) -> p::JsonValue {\n_ = v;\nlet mut m = p::JsonMap::new();\n");
    for slot in slots {
        let mut key = slot.field.name.clone();
        if let Some(first) = key.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        let put = format!("m.insert({key:?}.to_owned(), p::ToJson::to_json(&self.{}, v));", slot.name);
        match slot.present().as_str() {
            "true" => _ = writeln!(out, "{put}"),
            "false" => {}
            present => _ = writeln!(out, "if {present} {{ {put} }}"),
        }
    }
    out.push_str("p::JsonValue::Object(m)\n}\n}\n");
}

fn write_function(out: &mut String, message: &Message, slots: &[Slot<'_>]) {
    out.push_str("fn write(&self, e: &mut p::Encoder, v: i16) -> Result<(), p::EncodeError> {\n_ = v;\n");
    for slot in slots {
        let place = slot.in_place();
        let refuse = format!("return Err(e.not_in_version({:?}));", slot.field.name);
        let tagged = slot.is_tagged();
        let checked = !slot.field.ignorable && slot.present() != "true";
        if place == "true" {
            _ = writeln!(out, "{}", slot.write());
        } else if place != "false" {
            _ = writeln!(out, "if {place} {{\n{}\n}}", slot.write());
            if checked && !tagged {
                _ = writeln!(out, "else if {} {{ {refuse} }}", slot.differs());
            }
        }
        if checked && tagged {
            _ = writeln!(out, "if !({}) && {} {{ {refuse} }}", slot.present(), slot.differs());
        }
    }
    if !message.flexible.is_empty() {
        let mut tagged: Vec<&Slot<'_>> = slots.iter().filter(|slot| slot.is_tagged()).collect();
        tagged.sort_by_key(|slot| slot.field.tag);
        if tagged.is_empty() {
            out.push_str("e.unknown_tags(&self.unknown_tagged_fields)?;\n");
        } else {
            out.push_str("if e.is_flexible() {\n");
            for (at, slot) in tagged.iter().enumerate() {
                let when = match slot.tagged_versions().condition(message.flexible).as_str() {
                    "true" => slot.differs(),
                    versions => format!("{versions} && ({})", slot.differs()),
                };
                _ = writeln!(out, "let t{at} = {when};");
            }
            let count: Vec<String> = (0..tagged.len()).map(|at| format!("usize::from(t{at})")).collect();
            _ = writeln!(out, "let mut raw = e.begin_tags(&self.unknown_tagged_fields, {})?;", count.join(" + "));
            for (at, slot) in tagged.iter().enumerate() {
                let write = match (&slot.field.ty, slot.optional) {
                    (Type::Struct(_), true) => format!("e.optional_tagged_structure(&self.{}, v)?;", slot.name),
                    _ => slot.write(),
                };
                _ = writeln!(
                    out,
                    "if t{at} {{\nlet start = e.begin_tag(&mut raw, {})?;\n{write}\ne.end_tag(start)?;\n}}",
                    slot.field.tag,
                );
            }
            out.push_str("e.end_tags(raw)?;\n} else if !self.unknown_tagged_fields.is_empty() {\n");
            out.push_str("return Err(e.not_in_version(\"unknown_tagged_fields\"));\n}\n");
        }
    }
    out.push_str("Ok(())\n}\n");
}

fn read_function(out: &mut String, message: &Message, slots: &[Slot<'_>]) {
    out.push_str("fn read(d: &mut p::Decoder, v: i16) -> Result<Self, p::DecodeError> {\n_ = v;\n");
    for slot in slots {
        let mutable = if slot.is_tagged() { "mut " } else { "" };
        let ty = slot.rust_type();
        let name = &slot.name;
        match slot.in_place().as_str() {
            "true" => _ = writeln!(out, "let {mutable}f_{name}: {ty} = {};", slot.read(false)),
            "false" => _ = writeln!(out, "let {mutable}f_{name}: {ty} = {};", slot.default()),
            place => {
                _ = writeln!(
                    out,
                    "let {mutable}f_{name}: {ty} = if {place} {{ {} }} else {{ {} }};",
                    slot.read(false),
                    slot.default(),
                );
            }
        }
    }
    if !message.flexible.is_empty() {
        let tagged: Vec<&Slot<'_>> = slots.iter().filter(|slot| slot.is_tagged()).collect();
        if tagged.is_empty() {
            out.push_str("let unknown_tagged_fields = d.unknown_tags()?;\n");
        } else {
            out.push_str("let mut unknown_tagged_fields = Vec::new();\n");
            out.push_str("let count = d.tag_count()?;\n");
            out.push_str("for _ in 0..count {\nlet (tag, end) = d.begin_tag()?;\nmatch tag {\n");
            for slot in tagged {
                let tag = slot.field.tag;
                let versions = slot.tagged_versions().condition(message.flexible);
                if versions != "true" {
                    _ = writeln!(out, "{tag} if !({versions}) => return Err(d.tag_not_in_version(tag)),");
                }
                _ = writeln!(out, "{tag} => f_{} = {},", slot.name, slot.read(true));
            }
            out.push_str("_ => d.keep_raw_tag(tag, count, &mut unknown_tagged_fields),\n}\nd.end_tag(end)?;\n}\n");
        }
    }
    out.push_str("Ok(Self {\n");
    for slot in slots {
        _ = writeln!(out, "{}: f_{0},", slot.name);
    }
    if !message.flexible.is_empty() {
        out.push_str("unknown_tagged_fields,\n");
    }
    out.push_str("})\n}\n");
}

fn fill_function(out: &mut String, slots: &[Slot<'_>]) {
    out.push_str("#[cfg(any(test, feature = \"arbitrary\"))]\n");
    out.push_str("fn fill(r: &mut p::Filler, v: i16) -> Self {\n_ = (&r, v);\nlet mut m = Self::default();\n");
    for slot in slots {
        match slot.present().as_str() {
            "true" => _ = writeln!(out, "m.{} = {};", slot.name, slot.fill()),
            present => _ = writeln!(out, "if {present} {{ m.{} = {}; }}", slot.name, slot.fill()),
        }
    }
    out.push_str("m\n}\n");
}

fn is_number(ty: &Type) -> bool {
    matches!(ty, Type::I8 | Type::I16 | Type::U16 | Type::I32 | Type::U32 | Type::I64 | Type::F64)
}

/// The method of encoder and decoder for a type of fixed length.
fn primitive(ty: &Type) -> &'static str {
    match ty {
        Type::Bool => "bool",
        Type::I8 => "i8",
        Type::I16 => "i16",
        Type::U16 => "u16",
        Type::I32 => "i32",
        Type::U32 => "u32",
        Type::I64 => "i64",
        Type::F64 => "f64",
        Type::Uuid => "uuid",
        other => panic!("{other:?} has no fixed length"),
    }
}

fn rust_type(ty: &Type) -> String {
    match ty {
        Type::Uuid => "p::Uuid".to_owned(),
        Type::Str => "p::Str".to_owned(),
        Type::Bytes => "p::Bytes".to_owned(),
        Type::Records => "p::Records".to_owned(),
        Type::Struct(name) => name.clone(),
        Type::Array(element) => format!("Vec<{}>", rust_type(element)),
        fixed => primitive(fixed).to_owned(),
    }
}

/// The fewest bytes that a value of this struct takes on the wire, in any version.
fn least(message: &Message, item: &Struct) -> usize {
    (message.valid.low..=message.valid.high).map(|version| least_at(message, item, version)).min().unwrap_or(0)
}

fn least_at(message: &Message, item: &Struct, version: i16) -> usize {
    let flexible = message.flexible.contains(version);
    let fields = item
        .fields
        .iter()
        .filter(|field| field.versions.contains(version) && !(flexible && field.tagged.contains(version)));
    let bytes = |field: &Field| match &field.ty {
        Type::Bool | Type::I8 => 1,
        Type::I16 | Type::U16 => 2,
        Type::I32 | Type::U32 => 4,
        Type::I64 | Type::F64 => 8,
        Type::Uuid => 16,
        Type::Str if field.never_flexible => 2,
        Type::Str => 2 - usize::from(flexible),
        Type::Bytes | Type::Records | Type::Array(_) if flexible => 1,
        Type::Bytes | Type::Records | Type::Array(_) => 4,
        Type::Struct(_) if field.nullable.contains(version) => 1,
        Type::Struct(name) => least_at(message, message.find(name), version),
    };
    fields.map(bytes).sum::<usize>() + usize::from(flexible)
}
