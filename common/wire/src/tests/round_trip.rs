//! Whatever a message holds comes back, at every version.

use crate::filler::MESSAGES;

const SEEDS: u64 = 40;

#[test]
fn every_message_round_trips_at_every_version() {
    let mut checked = 0;
    for message in MESSAGES {
        for version in message.min_version..=message.max_version {
            assert!((message.default_round_trips)(version), "{} v{version}: default", message.name);
            for seed in 0..SEEDS {
                assert!(
                    (message.round_trips)(seed, version),
                    "{} v{version}, seed {seed}: {:?}",
                    message.name,
                    (message.encode_filled)(seed, version),
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 500, "only {checked} versions of messages were checked");
}
