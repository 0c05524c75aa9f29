//! ListConfigResources, DescribeQuorum, UpdateFeatures, UnregisterBroker and DescribeLogDirs.

use odradek_tests::differential::Pair;
use odradek_wire::describe_log_dirs_request::DescribableLogDirTopic;
use odradek_wire::describe_quorum_request::{PartitionData, TopicData};
use odradek_wire::update_features_request::FeatureUpdateKey;
use odradek_wire::{
    DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeQuorumRequest, DescribeQuorumResponse,
    IncrementalAlterConfigsRequest, ListConfigResourcesRequest, ListConfigResourcesResponse, UnregisterBrokerRequest,
    UpdateFeaturesRequest, UpdateFeaturesResponse, Uuid,
};

use super::alter_configs::{DELETE, SET, change, resource};
use super::configs::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC, ask, level as level_described};
use super::{prepare, topic};

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    list_config_resources(pair)?;
    describe_quorum(pair)?;
    update_features(pair)?;
    unregister_broker(pair)?;
    describe_log_dirs(pair)
}

/// Apache Kafka's order is that of a hash table. Topics and groups of other families are left out.
fn level_resources(answer: &mut ListConfigResourcesResponse) {
    answer.config_resources.retain(|one| match one.resource_type {
        TOPIC | GROUP | CLIENT_METRICS => one.resource_name.starts_with("listed"),
        _ => true,
    });
    answer.config_resources.sort_by_key(|one| (one.resource_type, one.resource_name.clone()));
}

fn list_config_resources(pair: &mut Pair) -> anyhow::Result<()> {
    let versions = pair.versions::<ListConfigResourcesRequest>()?;
    let of = |types: &'static [i8]| {
        move |v: i16| ListConfigResourcesRequest {
            resource_types: if v >= 1 { types.to_vec() } else { Vec::new() },
            ..Default::default()
        }
    };
    prepare(pair, vec![topic("listed-topic", 1, 1)])?;
    pair.same("before anything is set", of(&[]), level_resources)?;
    let interval = [(SET, "interval.ms", Some("500"))];
    let timeout = [(SET, "consumer.session.timeout.ms", Some("50000"))];
    let set = vec![resource(CLIENT_METRICS, "listed-metrics", &interval), resource(GROUP, "listed-group", &timeout)];
    alter(pair, &change(set, false))?;
    pair.same_soon("all", of(&[]), level_resources)?;
    for version in versions.filter(|version| *version >= 1) {
        for types in [
            &[TOPIC] as &[i8],
            &[BROKER],
            &[BROKER_LOGGER],
            &[CLIENT_METRICS],
            &[GROUP],
            &[GROUP, TOPIC, BROKER],
            &[TOPIC, TOPIC],
            &[3],
            &[0],
            &[-1],
            &[TOPIC, 64],
        ] {
            let request = ListConfigResourcesRequest { resource_types: types.to_vec(), ..Default::default() };
            pair.same_at(&format!("{types:?}"), version, &request, &request, level_resources)?;
        }
    }
    let interval = [(DELETE, "interval.ms", None)];
    let timeout = [(DELETE, "consumer.session.timeout.ms", None)];
    let unset = vec![resource(CLIENT_METRICS, "listed-metrics", &interval), resource(GROUP, "listed-group", &timeout)];
    alter(pair, &change(unset, false))?;
    pair.same_soon("after all is unset", of(&[]), level_resources)
}

fn alter(pair: &mut Pair, request: &IncrementalAlterConfigsRequest) -> anyhow::Result<()> {
    let (theirs, ours) = pair.both(1, request)?;
    for one in theirs.responses.iter().chain(&ours.responses) {
        anyhow::ensure!(one.error_code == 0, "{}: {} {:?}", one.resource_name, one.error_code, one.error_message);
    }
    Ok(())
}

/// Who is in the quorum, how far it has come and when are each side's own: here Apache Kafka's broker is its controller,
/// so that nobody observes. What is compared is what there is to know at all.
fn level_quorum(answer: &mut DescribeQuorumResponse) {
    let known = |number: &mut i64| *number = (*number).min(1);
    for partition in answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        partition.leader_id = partition.leader_id.signum();
        partition.leader_epoch = partition.leader_epoch.signum();
        known(&mut partition.high_watermark);
        partition.observers.clear();
        for voter in &mut partition.current_voters {
            voter.replica_id = voter.replica_id.signum();
            voter.replica_directory_id = Uuid::ZERO;
            known(&mut voter.log_end_offset);
            known(&mut voter.last_fetch_timestamp);
            known(&mut voter.last_caught_up_timestamp);
        }
    }
    for node in &mut answer.nodes {
        node.node_id = node.node_id.signum();
        node.listeners.iter_mut().for_each(|listener| listener.port = listener.port.min(1));
    }
}

fn describe_quorum(pair: &mut Pair) -> anyhow::Result<()> {
    let of = |topics: &'static [(&'static str, &'static [i32])]| {
        move |_| {
            let partition = |index: &i32| PartitionData { partition_index: *index, ..Default::default() };
            let topic = |(name, partitions): &(&'static str, &'static [i32])| TopicData {
                topic_name: (*name).into(),
                partitions: partitions.iter().map(partition).collect(),
                ..Default::default()
            };
            DescribeQuorumRequest { topics: topics.iter().map(topic).collect(), ..Default::default() }
        }
    };
    pair.same("the metadata log", of(&[("__cluster_metadata", &[0])]), level_quorum)?;
    pair.same("another partition", of(&[("__cluster_metadata", &[1])]), level_quorum)?;
    pair.same("both", of(&[("__cluster_metadata", &[0, 1])]), level_quorum)?;
    pair.same("no partition", of(&[("__cluster_metadata", &[])]), level_quorum)?;
    pair.same("another topic", of(&[("listed-topic", &[0])]), level_quorum)?;
    pair.same("two topics", of(&[("__cluster_metadata", &[0]), ("listed-topic", &[0])]), level_quorum)?;
    pair.same("no topic", of(&[]), level_quorum)
}

const ELR: &str = "eligible.leader.replicas.version";
const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;

/// A feature, the level that it shall have, and the kind of change.
type FeatureChanges = &'static [(&'static str, i16, i8)];

const DOWNGRADES: &[(&str, FeatureChanges)] =
    &[("safely", &[(ELR, 0, SAFE_DOWNGRADE)]), ("unsafely", &[(ELR, 0, UNSAFE_DOWNGRADE)])];

fn update_features(pair: &mut Pair) -> anyhow::Result<()> {
    let to = |updates: FeatureChanges, validate_only: bool| {
        move |v: i16| {
            let update = |(feature, level, kind): &(&'static str, i16, i8)| FeatureUpdateKey {
                feature: (*feature).into(),
                max_version_level: *level,
                allow_downgrade: v == 0 && *kind > UPGRADE,
                upgrade_type: if v >= 1 { *kind } else { UPGRADE },
                ..Default::default()
            };
            UpdateFeaturesRequest {
                timeout_ms: 10_000,
                feature_updates: updates.iter().map(update).collect(),
                validate_only: v >= 1 && validate_only,
                ..Default::default()
            }
        }
    };
    let seen = ask(&[(BROKER, "")], None, true);
    pair.same("the level that it has", to(&[(ELR, 1, UPGRADE)], false), level_features)?;
    pair.same("downgraded without saying so", to(&[(ELR, 0, UPGRADE)], false), level_features)?;
    for version in pair.versions::<UpdateFeaturesRequest>()? {
        // A first version cannot only validate.
        if version >= 1 {
            let down = to(&[(ELR, 0, SAFE_DOWNGRADE)], true)(version);
            pair.same_at("only validated", version, &down, &down, level_features)?;
            let down = to(&[(ELR, 0, UPGRADE)], true)(version);
            pair.same_at("only validated, refused", version, &down, &down, level_features)?;
        }
        // That a first version allows a downgrade Apache Kafka does not notice.
        for (case, down) in DOWNGRADES.iter().filter(|_| version >= 1) {
            let down = to(down, false)(version);
            pair.same_at(&format!("downgraded {case}"), version, &down, &down, level_features)?;
            pair.same_soon(&format!("downgraded {case}, seen"), &seen, level_described)?;
            let up = to(&[(ELR, 1, UPGRADE)], false)(version);
            pair.same_at("upgraded", version, &up, &up, level_features)?;
            pair.same_soon("upgraded, seen", &seen, level_described)?;
        }
    }
    pair.same("an upgrade that is called a downgrade", to(&[(ELR, 1, SAFE_DOWNGRADE)], false), level_features)?;
    pair.same("beyond what is supported", to(&[(ELR, 2, UPGRADE)], false), level_supported)?;
    pair.same("a negative level", to(&[(ELR, -1, UPGRADE)], false), level_features)?;
    pair.same("an unknown feature", to(&[("no.such.feature", 1, UPGRADE)], false), level_supported)?;
    pair.same("an unknown feature to 0", to(&[("no.such.feature", 0, SAFE_DOWNGRADE)], false), level_supported)?;
    pair.same("no feature", to(&[("", 1, UPGRADE)], false), level_supported)?;
    pair.same("an unknown kind of upgrade", to(&[(ELR, 1, 4)], false), level_features)?;
    pair.same("an unset kind of upgrade", to(&[(ELR, 1, 0)], false), level_features)?;
    pair.same("beyond the metadata version", to(&[("metadata.version", 99, UPGRADE)], false), level_supported)?;
    pair.same("the metadata version unset", to(&[("metadata.version", 0, SAFE_DOWNGRADE)], false), level_supported)?;
    pair.same("the metadata version that it has", to(&[("metadata.version", 30, UPGRADE)], false), level_features)?;
    pair.same("no features", to(&[], false), level_features)?;
    pair.same("a feature twice", to(&[(ELR, 0, UPGRADE), (ELR, 1, UPGRADE)], false), level_features)?;
    let one_wrong: &[(&str, i16, i8)] = &[(ELR, 0, SAFE_DOWNGRADE), ("no.such.feature", 1, UPGRADE)];
    pair.same("one of two is wrong", to(one_wrong, false), level_supported)?;
    pair.same("nothing of what was refused", to(&[(ELR, 1, UPGRADE)], false), level_features)
}

/// The texts tell which controller does not support a level: here it is all of them. There is one level of
/// `metadata.version`.
fn level_supported(answer: &mut UpdateFeaturesResponse) {
    level_features(answer);
    if let Some(message) = &mut answer.error_message {
        let told = message.replace("Local controller 1 only supports", "The controllers only support");
        let told = told.replace("Local controller 1 does not support", "The controllers do not support");
        *message = told.replace("versions 7-30", "versions 30-30").as_str().into();
    }
}

/// Apache Kafka's text of no error is the error's name.
fn level_features(answer: &mut UpdateFeaturesResponse) {
    answer.results.iter_mut().filter(|one| one.error_code == 0).for_each(|one| one.error_message = None);
}

fn unregister_broker(pair: &mut Pair) -> anyhow::Result<()> {
    for (case, broker_id) in [("an unknown broker", 7), ("a negative broker", -1)] {
        pair.same(case, |_| UnregisterBrokerRequest { broker_id, ..Default::default() }, |_| ())?;
    }
    Ok(())
}

/// Where the directory is and how much room its disk has; the topics of other families are left out.
pub(super) fn level_log_dirs(answer: &mut DescribeLogDirsResponse) {
    for result in &mut answer.results {
        result.log_dir = "".into();
        result.total_bytes = result.total_bytes.signum();
        result.usable_bytes = result.usable_bytes.signum();
        result.topics.retain(|topic| topic.name.starts_with("kept"));
        result.topics.sort_by(|a, b| a.name.cmp(&b.name));
        result.topics.iter_mut().for_each(|topic| topic.partitions.sort_by_key(|one| one.partition_index));
    }
}

pub(super) fn log_dirs_of(topics: &'static [(&'static str, &'static [i32])]) -> impl Fn(i16) -> DescribeLogDirsRequest {
    move |_| {
        let topic = |(name, partitions): &(&'static str, &'static [i32])| DescribableLogDirTopic {
            topic: (*name).into(),
            partitions: partitions.to_vec(),
            ..Default::default()
        };
        DescribeLogDirsRequest { topics: Some(topics.iter().map(topic).collect()), ..Default::default() }
    }
}

fn describe_log_dirs(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(pair, vec![topic("kept-a", 3, 1), topic("kept-b", 1, 1)])?;
    let of = log_dirs_of;
    pair.same("all", |_| DescribeLogDirsRequest { topics: None, ..Default::default() }, level_log_dirs)?;
    pair.same("some", of(&[("kept-a", &[0, 2]), ("kept-b", &[0])]), level_log_dirs)?;
    pair.same("a partition twice", of(&[("kept-a", &[1, 1]), ("kept-a", &[1])]), level_log_dirs)?;
    pair.same("no partitions", of(&[("kept-a", &[])]), level_log_dirs)?;
    pair.same("unknown partitions", of(&[("kept-a", &[0, 7, -1])]), level_log_dirs)?;
    pair.same("an unknown topic", of(&[("kept-nowhere", &[0])]), level_log_dirs)?;
    pair.same("a wrong name", of(&[("wrong/name", &[0])]), level_log_dirs)?;
    pair.same("no topics", of(&[]), level_log_dirs)
}
