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
