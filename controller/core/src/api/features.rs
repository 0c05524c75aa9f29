//! UpdateFeatures in Kafka's encoding.

use odradek_wire::update_features_request::UpdateFeaturesRequest;
use odradek_wire::update_features_response::{UpdatableFeatureResult, UpdateFeaturesResponse};

use super::error_fields;
use crate::decider::{Context, Decider, Decision};
use crate::update_features::{FeatureUpdate, UpgradeType};

impl Decider {
    pub(super) fn answer_update_features(
        &mut self,
        context: &mut Context<'_>,
        version: i16,
        request: UpdateFeaturesRequest,
    ) -> Decision<UpdateFeaturesResponse> {
        let updates: Vec<FeatureUpdate> = (request.feature_updates.iter())
            .map(|update| FeatureUpdate {
                name: update.feature.to_string(),
                level: update.max_version_level,
                upgrade_type: match version {
                    // The first version only knows whether downgrades are allowed.
                    0 if update.allow_downgrade => UpgradeType::SafeDowngrade,
                    0 => UpgradeType::Upgrade,
                    _ => UpgradeType::from_code(update.upgrade_type),
                },
            })
            .collect();
        self.update_features(context, &updates, request.validate_only).map(|result| {
            let (error_code, error_message) = error_fields(result);
            let results = updates.iter().map(|update| UpdatableFeatureResult {
                feature: update.name.as_str().into(),
                error_code,
                error_message: error_message.clone(),
                ..UpdatableFeatureResult::default()
            });
            // All share one fate: a refusal stands above them, and later versions do not say it by feature at all.
            let results = if version < 2 && error_code == 0 { results.collect() } else { Vec::new() };
            UpdateFeaturesResponse { error_code, error_message, results, ..UpdateFeaturesResponse::default() }
        })
    }
}
