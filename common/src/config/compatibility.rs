//! Holds the configs' part of `docs/COMPATIBILITY.md` against the tables; `UPDATE_EXPECT=1` rewrites it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fmt::Write;

use super::*;

const BEGIN: &str = "<!-- configs:begin -->\n";
const END: &str = "<!-- configs:end -->";

fn row(text: &mut String, definition: &Definition, support: Support) {
    let default = match definition.default {
        Some("") => "\"\"".to_owned(),
        Some(default) => format!("`{default}`"),
        None => "".to_owned(),
    };
    let support = match support {
        Support::Honoured => "honoured".to_owned(),
        Support::WithoutEffect(why) => format!("accepted without effect: {why}"),
        Support::Refused(why) => format!("refused: {why}"),
    };
    writeln!(text, "| `{}` | {default} | {support} |", definition.name).unwrap();
}

fn table(title: &str, definitions: &[Definition], support: fn(&str) -> Support) -> String {
    let counts = |wanted: fn(Support) -> bool| definitions.iter().filter(|d| wanted(support(d.name))).count();
    let honoured = counts(|support| support == Support::Honoured);
    let without_effect = counts(|support| matches!(support, Support::WithoutEffect(_)));
    let refused = counts(|support| matches!(support, Support::Refused(_)));
    let mut text = format!(
        "### {title}\n\n{} in all: {honoured} honoured, {without_effect} accepted without effect, {refused} refused.\n\n\
         | config | default | what becomes of it |\n| --- | --- | --- |\n",
        definitions.len()
    );
    definitions.iter().for_each(|definition| row(&mut text, definition, support(definition.name)));
    text
}

#[test]
fn the_page_says_what_the_tables_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/COMPATIBILITY.md");
    let page = std::fs::read_to_string(path).expect("docs/COMPATIBILITY.md");
    let (head, rest) = page.split_once(BEGIN).expect("the mark where configs begin");
    for definition in broker_definitions().iter().filter(|definition| definition.name.starts_with("odradek.")) {
        assert!(
            head.contains(&format!("| `{}` | ", definition.name)),
            "the page must say what {} does",
            definition.name
        );
    }
    let (found, tail) = rest.split_once(END).expect("the mark where configs end");
    let expected = format!(
        "\n{}\n{}\n",
        table("Of a node", broker_definitions(), broker_support),
        table("Of a topic", topic_definitions(), topic_support)
    );
    if found == expected {
        return;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, format!("{head}{BEGIN}{expected}{END}{tail}")).unwrap();
        return;
    }
    panic!(
        "docs/COMPATIBILITY.md is not what the tables say; UPDATE_EXPECT=1 cargo test -p odradek-common rewrites it"
    );
}

#[test]
fn what_is_honoured_is_read() {
    let groups = [
        BrokerConfig::NAMES,
        NetworkConfig::NAMES,
        LogConfig::NAMES,
        CleanerConfig::NAMES,
        ReplicationConfig::NAMES,
        TopicCreationConfig::NAMES,
        GroupConfig::NAMES,
        OffsetsConfig::NAMES,
        TransactionConfig::NAMES,
        broker::LifeConfig::NAMES,
        ControllerConfig::NAMES,
        QuorumConfig::NAMES,
        controller::BrokersConfig::NAMES,
    ];
    let mut read: BTreeSet<&str> = groups.concat().into_iter().collect();
    read.extend(TopicConfig::NAMES.iter().flat_map(|name| broker_synonym(name)));
    for name in &read {
        assert!(broker_definition(name).is_some(), "{name} is read but not defined");
    }
    for definition in broker_definitions() {
        if broker_support(definition.name) == Support::Honoured {
            assert!(read.contains(definition.name), "{} is said to be honoured and never read", definition.name);
        }
    }
}

#[test]
fn the_examples_start() {
    for (file, is_broker) in [("broker.properties", true), ("controller.properties", false)] {
        let path = format!("{}/../deploy/config/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).expect("an example");
        // What is commented out must be right as well.
        let commented: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(line).to_owned() + "\n")
            .collect();
        for text in [text, commented] {
            let warnings = match is_broker {
                true => BrokerConfig::load(&text, file, &[]).map(|loaded| loaded.1),
                false => ControllerConfig::load(&text, file, &[]).map(|loaded| loaded.1),
            };
            let warnings = warnings.unwrap_or_else(|errors| panic!("{errors}"));
            let unexpected: Vec<String> = warnings
                .iter()
                .map(Warning::to_string)
                .filter(|warning| !warning.contains("is set again at"))
                .collect();
            assert_eq!(unexpected, Vec::<String>::new());
        }
    }
}
