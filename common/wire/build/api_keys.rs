//! Writes the `ApiKey` enum and its facts.

use crate::schema::{Kind, Message};
use std::fmt::Write;

pub fn enumeration(messages: &[Message]) -> String {
    let mut requests: Vec<(i16, &Message)> = messages
        .iter()
        .filter(|message| message.kind == Kind::Request)
        .map(|message| (message.api_key.expect("a request has a key"), message))
        .collect();
    requests.sort_by_key(|(code, _)| *code);

    let mut variants = String::new();
    let mut codes = String::new();
    let mut facts = String::new();
    let mut all = String::new();
    for (code, message) in requests {
        let name = message.name.strip_suffix("Request").expect("a request is named so");
        let stable_high = message.valid.high - i16::from(message.latest_unstable);
        let flexible = if message.flexible.is_empty() { i16::MAX } else { message.flexible.low };
        let listener = |name: &str| message.listeners.iter().any(|listener| listener == name);
        _ = writeln!(variants, "{name} = {code},");
        _ = writeln!(codes, "{code} => Self::{name},");
        _ = writeln!(all, "Self::{name},");
        _ = writeln!(
            facts,
            "Self::{name} => &Facts {{ name: \"{name}\", low: {}, high: {}, stable_high: {stable_high}, \
             flexible_from: {flexible}, broker: {}, controller: {} }},",
            message.valid.low,
            message.valid.high,
            listener("broker"),
            listener("controller"),
        );
    }
    format!(
        "/// Names an API: the first field of every request.\n\
         #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]\n#[repr(i16)]\n\
         pub enum ApiKey {{\n{variants}}}\n\n\
         impl ApiKey {{\n\
         /// Every key, ascending; those that Kafka has removed (`versions` is empty) too.\n\
         pub const ALL: &'static [ApiKey] = &[{all}];\n\n\
         /// The API of this number, if Kafka 4.4 knows it.\n\
         pub fn from_code(code: i16) -> Option<Self> {{\nSome(match code {{\n{codes}_ => return None,\n}})\n}}\n\n\
         fn facts(self) -> &'static Facts {{\nmatch self {{\n{facts}}}\n}}\n}}\n"
    )
}
