//! Finalized feature levels.

use odradek_common::{BrokerId, ErrorCode};
use odradek_controller_core::ApiError;
use odradek_controller_core::features::{ELIGIBLE_LEADER_REPLICAS as ELR, METADATA_VERSION};
use odradek_controller_core::update_features::{FeatureUpdate, UpgradeType};
use odradek_metadata::ConfigResource;

use crate::cluster::Cluster;

fn update(cluster: &mut Cluster, name: &str, level: i16, upgrade_type: UpgradeType) -> Result<(), ApiError> {
    let updates = [FeatureUpdate { name: name.to_owned(), level, upgrade_type }];
    cluster.run(|decider, context| decider.update_features(context, &updates, false))
}

#[test]
fn wrong_levels_are_refused_with_the_reason() {
    use UpgradeType::*;
    let (mut cluster, _) = Cluster::with_brokers(1);
    for (name, level, upgrade_type, expected) in [
        ("no.version", 1, Upgrade, "do not support this feature"),
        ("no.version", 0, SafeDowngrade, "Feature no.version not found"),
        (ELR, 2, Upgrade, "only support versions 0-1"),
        (ELR, -1, Upgrade, "cannot be less than 0"),
        (ELR, 0, Upgrade, "without setting the upgrade type"),
        (ELR, 0, Unknown, "does not support the given upgrade type"),
        (METADATA_VERSION, 29, SafeDowngrade, "only support versions 30-30"),
    ] {
        let error = update(&mut cluster, name, level, upgrade_type).expect_err(name);
        assert_eq!(error.code, ErrorCode::InvalidUpdateVersion);
        assert!(error.message.contains(expected) && error.message.contains(name), "{error}");
        assert!(cluster.records.is_empty());
    }
    let twice = [0, 1].map(|level| FeatureUpdate { name: ELR.to_owned(), level, upgrade_type: Upgrade });
    cluster.run(|decider, context| decider.update_features(context, &twice, false)).expect("the last one counts");
    update(&mut cluster, METADATA_VERSION, 30, Upgrade).expect("as it is");
    assert!(cluster.records.is_empty());
}

#[test]
fn eligible_leader_replicas_go_and_come_back_with_a_common_min_insync_replicas() {
    let (mut cluster, brokers) = Cluster::with_brokers(2);
    cluster.create_on("t", &[1, 2]);
    let min_insync =
        |cluster: &Cluster| cluster.image.config(&ConfigResource::cluster(), "min.insync.replicas").map(str::to_owned);
    assert_eq!(min_insync(&cluster).as_deref(), Some("2"), "a cluster is born with it");
    let topic = ConfigResource::topic("t");
    crate::configs::alter(&mut cluster, &topic, &[("min.insync.replicas", crate::configs::set("2"))]).expect("valid");
    crate::alter_partition::set_isr(&mut cluster, &brokers[0], "t", &[1]).expect("valid");
    assert_eq!(cluster.state("t"), "leader 1 isr [1] elr [2]");
    update(&mut cluster, ELR, 0, UpgradeType::SafeDowngrade).expect("valid");
    assert_eq!(cluster.state("t"), "leader 1 isr [1]");
    // Without the feature brokers may have values of their own, and the cluster none.
    let own = ConfigResource::broker(BrokerId(1));
    crate::configs::alter(&mut cluster, &own, &[("min.insync.replicas", crate::configs::set("2"))]).expect("valid");
    let delete = odradek_controller_core::configs::ConfigOperation::Delete;
    crate::configs::alter(&mut cluster, &ConfigResource::cluster(), &[("min.insync.replicas", delete)]).expect("valid");
    assert_eq!(min_insync(&cluster), None);
    update(&mut cluster, ELR, 1, UpgradeType::Upgrade).expect("valid");
    assert_eq!(min_insync(&cluster).as_deref(), Some("2"));
    assert_eq!(cluster.image.resource_configs(&own), None);
}
