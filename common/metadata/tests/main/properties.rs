//! Properties over arbitrary histories.

use odradek_metadata::{Delta, DeltaTracker, Image, snapshot};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::generator;

/// The image after a history, with the tracker that saw all of it and published at the offsets divisible by `every`.
fn play(numbers: &[u32], every: i64) -> (Image, Vec<Delta>) {
    let (mut tracker, mut topics, mut deltas) = (DeltaTracker::default(), 0, Vec::new());
    for (offset, number) in (0i64..).zip(numbers) {
        let record = generator::next(tracker.image(), *number, &mut topics);
        tracker.apply_records(&[record], offset).expect("a valid record");
        if offset % every == 0 {
            deltas.push(tracker.publish());
        }
    }
    deltas.push(tracker.publish());
    (tracker.image().clone(), deltas)
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replaying_an_images_records_rebuilds_it(numbers in vec(any::<u32>(), 0..120)) {
        let (image, _) = play(&numbers, 1000);
        let records: Vec<_> = image.to_records().collect();
        let mut rebuilt = Image::new();
        rebuilt.apply_records(&records, image.offset()).expect("its own records");
        prop_assert_eq!(rebuilt, image);
    }

    #[test]
    fn a_snapshot_reads_as_it_was_written(numbers in vec(any::<u32>(), 0..80), term in any::<i64>()) {
        let (image, _) = play(&numbers, 1000);
        let position = snapshot::Position { last_offset: image.offset(), last_term: term, timestamp_ms: 5 };
        let mut bytes = Vec::new();
        snapshot::write(&image, position, &mut bytes).expect("memory");
        let (read, rebuilt) = snapshot::read(&mut bytes.as_slice()).expect("whole");
        prop_assert_eq!(read, position);
        prop_assert_eq!(rebuilt, image);
    }

    #[test]
    fn a_delta_names_all_that_differs(numbers in vec(any::<u32>(), 0..120), every in 1i64..30) {
        let (image, deltas) = play(&numbers, every);
        let mut known = Image::new();
        for delta in deltas {
            prop_assert_eq!(&delta.before, &known);
            let compared = Delta::between(&delta.before, &delta.after);
            for (id, topic) in &compared.topics {
                let told = delta.topics.get(id).expect("a changed topic is named");
                prop_assert_eq!(told.created, topic.created);
                prop_assert!(topic.partitions.is_subset(&told.partitions));
            }
            prop_assert!(delta.topics.keys().all(|id| delta.after.topic(*id).is_some()));
            prop_assert_eq!(&delta.removed_topics, &compared.removed_topics);
            prop_assert!(compared.brokers.is_subset(&delta.brokers));
            prop_assert!(compared.configs.is_subset(&delta.configs), "{:?} {:?}", compared.configs, delta.configs);
            prop_assert!(!compared.features || delta.features);
            prop_assert!(!compared.controllers || delta.controllers);
            prop_assert!(!compared.producer_ids || delta.producer_ids);
            known = delta.after;
        }
        prop_assert_eq!(known, image);
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_panic(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(snapshot::read(&mut bytes.as_slice()).is_err());
        let _ = odradek_metadata::batch::decode(&bytes);
    }
}
