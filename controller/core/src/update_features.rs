//! Changes of finalized feature levels (KIP-584, KIP-778, KIP-1022; Kafka's `FeatureControlManager`).
//!
//! All updates of a request are made, or none. A level has to be supported by this version of the controllers and by
//! every broker that is registered, and a lower one has to be asked for as a downgrade.

use odradek_common::ErrorCode;
use odradek_metadata::Image;
use odradek_metadata::proto::{self, record::Kind};

use crate::configs::config_record;
use crate::decider::{Context, Decider, Decision, Draft};
use crate::effective::MIN_INSYNC_REPLICAS;
use crate::error::ApiError;
use crate::features::{ELIGIBLE_LEADER_REPLICAS, METADATA_VERSION, SUPPORTED};
use crate::settings::Settings;
use odradek_metadata::{ConfigResource, ResourceType};

/// Which way a level may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpgradeType {
    Upgrade,
    /// Only if no metadata is lost.
    SafeDowngrade,
    UnsafeDowngrade,
    /// A number that Kafka does not define.
    Unknown,
}

impl UpgradeType {
    pub fn from_code(code: i8) -> Self {
        match code {
            1 => Self::Upgrade,
            2 => Self::SafeDowngrade,
            3 => Self::UnsafeDowngrade,
            _ => Self::Unknown,
        }
    }
}

/// The wish for one feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureUpdate {
    pub name: String,
    /// 0: disabled.
    pub level: i16,
    pub upgrade_type: UpgradeType,
}

impl Decider {
    /// Sets finalized levels; all or none.
    ///
    /// # Errors
    /// INVALID_UPDATE_VERSION, with the first feature that cannot be changed so.
    pub fn update_features(
        &mut self,
        context: &mut Context<'_>,
        updates: &[FeatureUpdate],
        validate_only: bool,
    ) -> Decision<Result<(), ApiError>> {
        let mut draft = self.draft(context);
        for (at, update) in updates.iter().enumerate() {
            // Of a feature that is named twice the last wish counts.
            if updates.iter().skip(at + 1).any(|later| later.name == update.name) {
                continue;
            }
            if let Err(problem) = check(&draft.image, update) {
                let message =
                    format!("The update failed for all features since the following feature had an error: {problem}");
                return self.answer(Err(ApiError::new(ErrorCode::InvalidUpdateVersion, message)));
            }
            if draft.image.feature_level(&update.name) == update.level {
                continue;
            }
            draft.push(Kind::FeatureLevel(proto::FeatureLevelRecord {
                name: update.name.clone(),
                level: i32::from(update.level),
            }));
            if update.name == ELIGIBLE_LEADER_REPLICAS {
                draft.agree_on_min_insync(&self.settings);
                draft.review_elr(&self.settings);
            }
        }
        if validate_only {
            return self.answer(Ok(()));
        }
        self.decide(draft, Ok(()))
    }
}

impl Draft {
    /// While leaders are elected from the eligible replicas, every node must go by the same `min.insync.replicas`: the
    /// cluster gets one if it has none, and brokers lose theirs (KIP-966).
    pub(crate) fn agree_on_min_insync(&mut self, settings: &Settings) {
        if self.image.feature_level(ELIGIBLE_LEADER_REPLICAS) < 1 {
            return;
        }
        let cluster = ConfigResource::cluster();
        if self.image.config(&cluster, MIN_INSYNC_REPLICAS).is_none()
            && let Some((value, _)) = settings.topics.get(MIN_INSYNC_REPLICAS)
        {
            self.push(config_record(&cluster, MIN_INSYNC_REPLICAS, Some(value)));
        }
        let is_own = |resource: &&ConfigResource| resource.kind == ResourceType::Broker && **resource != cluster;
        let resources = self.image.configs().filter(|(_, configs)| configs.contains_key(MIN_INSYNC_REPLICAS));
        let brokers: Vec<ConfigResource> = resources.map(|(resource, _)| resource).filter(is_own).cloned().collect();
        for broker in brokers {
            self.push(config_record(&broker, MIN_INSYNC_REPLICAS, None));
        }
    }
}

fn check(image: &Image, update: &FeatureUpdate) -> Result<(), String> {
    let FeatureUpdate { name, level, upgrade_type } = update;
    let current = image.feature_level(name);
    let invalid = |problem: &str| Err(format!("Invalid update version {level} for feature {name}. {problem}"));
    if *upgrade_type == UpgradeType::Unknown {
        return invalid("The controller does not support the given upgrade type.");
    }
    if *level < 0 {
        return invalid("A feature version cannot be less than 0.");
    }
    if *level == 0 && SUPPORTED.iter().all(|feature| feature.name != name) {
        return invalid(&format!("Feature {name} not found."));
    }
    let Some(supported) = SUPPORTED.iter().find(|feature| feature.name == name) else {
        return invalid("The controllers do not support this feature.");
    };
    if !(supported.min_level..=supported.max_level).contains(level) {
        let (min, max) = (supported.min_level, supported.max_level);
        return invalid(&format!("The controllers only support versions {min}-{max}"));
    }
    for broker in image.brokers() {
        let range = broker.features.iter().find(|range| range.name == *name);
        match range {
            Some(range) if (range.min_level..=range.max_level).contains(level) => {}
            None if *level == 0 => {}
            None => return invalid(&format!("Broker {} does not support this feature.", broker.id)),
            Some(range) => {
                let (min, max) = (range.min_level, range.max_level);
                return invalid(&format!("Broker {} only supports versions {min}-{max}", broker.id));
            }
        }
    }
    match upgrade_type {
        UpgradeType::Upgrade if *level < current => invalid(
            "Can't downgrade the version of this feature without setting the upgrade type to either safe or unsafe \
             downgrade.",
        ),
        UpgradeType::SafeDowngrade | UpgradeType::UnsafeDowngrade if *level > current => {
            invalid("Can't downgrade to a newer version.")
        }
        // With a single supported version there is nothing to go down to; what comes has to keep it so.
        _ if name == METADATA_VERSION && *level < current => {
            invalid("Refusing to perform the requested downgrade because it might delete metadata information.")
        }
        _ => Ok(()),
    }
}
