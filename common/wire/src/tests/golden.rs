//! Our bytes are Kafka's bytes. The golden files hold what Kafka 4.3.1 writes for the same values; see
//! `tests/golden/java`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::filler::{MESSAGES, MessageInfo};

const GOLDEN: [&str; 3] = [
    include_str!("../../tests/golden/requests.txt"),
    include_str!("../../tests/golden/responses.txt"),
    include_str!("../../tests/golden/records.txt"),
];
/// Messages and versions that are in the schema of 4.4 but not in Kafka 4.3.1, which wrote the golden files.
const UNKNOWN: &str = include_str!("../../tests/golden/not-in-4.3.1.txt");

/// Values of each message and version in the golden files, the default included.
const VALUES: usize = 9;

#[test]
fn every_message_is_written_as_kafka_writes_it() {
    let messages: BTreeMap<&str, &MessageInfo> = MESSAGES.iter().map(|message| (message.name, message)).collect();
    let mut seen: BTreeMap<(&str, i16), usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for line in GOLDEN.iter().flat_map(|file| file.lines()) {
        let (name, version, seed, golden) = parse(line);
        let message = messages[name];
        *seen.entry((name, version)).or_default() += 1;
        let at = format!("{name} v{version}, seed {seed}");
        let ours = match seed.parse::<u64>() {
            Ok(seed) => {
                match (message.decodes_to_filled)(golden.clone(), seed, version) {
                    Ok(true) => {}
                    other => wrong.push(format!("{at}: Kafka's bytes decode to {other:?}")),
                }
                (message.encode_filled)(seed, version)
            }
            Err(_) => (message.encode_default)(version),
        };
        match ours {
            Ok(ours) if ours == golden => {}
            Ok(ours) => wrong.push(format!("{at}:\nKafka {}\nours  {}", hex(&golden), hex(&ours))),
            Err(error) => wrong.push(format!("{at}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} values differ:\n{}", wrong.len(), wrong.join("\n"));

    let unknown: BTreeSet<(&str, i16)> = UNKNOWN
        .lines()
        .map(|line| line.split_once(' ').expect("two words"))
        .map(|(name, version)| (name, version.parse().expect("a version")))
        .collect();
    for message in MESSAGES {
        for version in message.min_version..=message.max_version {
            let key = (message.name, version);
            let values = seen.get(&key).copied().unwrap_or(0);
            let expected = if unknown.contains(&key) { 0 } else { VALUES };
            assert_eq!(values, expected, "golden values of {} v{version}", message.name);
        }
    }
}

/// Name, version, seed, bytes.
fn parse(line: &str) -> (&str, i16, &str, Bytes) {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_else(|| panic!("a short line: {line}"));
    let (name, version, seed, hex) = (word(), word(), word(), word());
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits"));
    (name, version.parse().expect("a version"), seed, bytes.collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
