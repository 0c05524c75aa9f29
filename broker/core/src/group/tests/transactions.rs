//! Offsets that are committed with a transaction (KIP-447).

use super::*;

#[test]
fn offsets_of_a_transaction_count_when_it_is_committed() {
    let producer = ProducerId(9);
    let bench_after = |is_commit: bool| {
        let mut bench = Bench::new(config());
        bench.commit("", -1, 5).expect("committed");
        let key = OffsetKey { group: "g".into(), topic: "t".into(), partition: 0 };
        let value = CommittedOffset {
            offset: 7,
            leader_epoch: -1,
            metadata: "".into(),
            commit_timestamp: 1_000_000,
            expire_timestamp: -1,
            topic_id: Uuid::ZERO,
        };
        let (key, value) = records::encode(&GroupRecord::Offset(key, Some(value))).expect("encoded");
        let mut builder = RecordBatchBuilder::new()
            .base_offset(Offset(bench.log.end))
            .leader_epoch(LeaderEpoch(0))
            .producer(producer, ProducerEpoch(0), -1)
            .transactional(true);
        builder.append(Timestamp(1_000_000), Some(&key), value.as_deref());
        bench.log.batches.push(builder.build().expect("small"));
        let mut bench = bench.failover();
        assert_eq!(bench.committed(), 5, "it is open");
        let Ok(GroupResponse::Fetch(fetched)) = bench.ask(GroupRequest::FetchStable(fetch_request("g"))) else {
            panic!("no answer");
        };
        assert_eq!(fetched.topics[0].partitions[0].error_code, ErrorCode::UnstableOffsetCommit.code());
        bench.end_transaction(producer, is_commit);
        assert_eq!(bench.failover().committed(), bench.committed());
        bench.committed()
    };
    assert_eq!(bench_after(true), 7);
    assert_eq!(bench_after(false), 5);
}

#[test]
fn a_commit_in_a_transaction_is_checked_written_and_kept_apart() {
    let transaction = InTransaction { producer: ProducerId(9), epoch: ProducerEpoch(3), guard: None };
    let request = |generation: i32, metadata: &str| OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: generation,
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetCommitRequestPartition {
                committed_offset: 7,
                committed_metadata: Some(metadata.into()),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut bench = Bench::new(config());
    let error_of = |bench: &mut Bench, generation: i32, metadata: &str| match bench
        .ask(GroupRequest::CommitInTransaction(transaction, request(generation, metadata)))
    {
        Ok(GroupResponse::Commit(response)) => ErrorCode::from_code(response.topics[0].partitions[0].error_code),
        Ok(other) => panic!("another answer: {other:?}"),
        Err(error) => error,
    };
    assert_eq!(error_of(&mut bench, 0, ""), ErrorCode::IllegalGeneration, "there is no such group");
    assert_eq!(error_of(&mut bench, -1, "longer than ten"), ErrorCode::OffsetMetadataTooLarge);
    assert_eq!(bench.log.end, 0, "nothing was to be written");
    assert_eq!(error_of(&mut bench, -1, ""), ErrorCode::None);
    let batch = odradek_records::BatchHeader::parse(&bench.log.batches[0]).expect("a batch");
    assert!(batch.attributes.is_transactional());
    assert_eq!((batch.producer_id, batch.producer_epoch, batch.base_sequence), (ProducerId(9), ProducerEpoch(3), -1));
    assert_eq!(bench.committed(), -1, "it is open");
    bench.end_transaction(ProducerId(9), true);
    assert_eq!(bench.committed(), 7);
}
