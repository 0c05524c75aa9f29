//! ApiVersions, DescribeCluster and InitProducerId: what is about no topic.

use std::time::Duration;

use odradek_tests::differential::Pair;
use odradek_tests::wait_for;
use odradek_wire::{ApiVersionsRequest, ApiVersionsResponse, DescribeClusterRequest, InitProducerIdRequest};

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    api_versions(pair)?;
    describe_cluster(pair)?;
    init_producer_id(pair)
}

/// What is served is compared in `docs/COMPATIBILITY.md`, and the epoch counts entries of the metadata log.
fn level_versions(answer: &mut ApiVersionsResponse) {
    answer.api_keys.clear();
    answer.supported_features.clear();
    answer.finalized_features.clear();
    answer.finalized_features_epoch = answer.finalized_features_epoch.signum();
}

fn api_versions(pair: &mut Pair) -> anyhow::Result<()> {
    let software = |name: &'static str, version: &'static str| {
        move |_| ApiVersionsRequest {
            client_software_name: name.into(),
            client_software_version: version.into(),
            ..Default::default()
        }
    };
    pair.same("a client's software", software("apache-kafka-java", "4.3.1"), level_versions)?;
    pair.same("software without a name", software("", "1"), level_versions)?;
    pair.same("software without a version", software("a", ""), level_versions)?;
    pair.same("a wrong name", software("-a b", "1"), level_versions)
}

fn describe_cluster(pair: &mut Pair) -> anyhow::Result<()> {
    for (case, operations, endpoint_type, fenced) in [
        ("brokers", false, 1, false),
        ("with operations", true, 1, false),
        ("with fenced ones", false, 1, true),
        ("controllers", false, 2, false),
        ("unknown endpoints", false, 3, false),
    ] {
        let request = |v: i16| DescribeClusterRequest {
            include_cluster_authorized_operations: operations,
            endpoint_type: if v >= 1 { endpoint_type } else { 1 },
            include_fenced_brokers: v >= 2 && fenced,
            ..Default::default()
        };
        pair.same(case, request, |answer| answer.brokers.sort_by_key(|broker| broker.broker_id))?;
    }
    Ok(())
}

fn init_producer_id(pair: &mut Pair) -> anyhow::Result<()> {
    let with = |transactional_id: Option<&'static str>, producer_id: i64, producer_epoch: i16| {
        move |v: i16| InitProducerIdRequest {
            transactional_id: transactional_id.map(Into::into),
            transaction_timeout_ms: 60_000,
            producer_id: if v >= 3 { producer_id } else { -1 },
            producer_epoch: if v >= 3 { producer_epoch } else { -1 },
            ..Default::default()
        }
    };
    let given = |answer: &mut odradek_wire::InitProducerIdResponse| answer.producer_id = answer.producer_id.min(0);
    // A node that was never asked has to get a block of ids from its controller first, and says so.
    wait_for("ids are given", Duration::from_secs(60), || {
        let (theirs, ours) = pair.both(4, &with(None, -1, -1)(4))?;
        Ok((theirs.error_code == 0 && ours.error_code == 0).then_some(()))
    })?;
    pair.same("a new id", with(None, -1, -1), given)?;
    pair.same("an id without epoch", with(None, 5, -1), given)?;
    pair.same("an epoch without id", with(None, -1, 5), given)?;
    pair.same("an id of its own", with(None, 5, 5), given)?;
    pair.same("an empty transactional id", with(Some(""), -1, -1), given)
}
