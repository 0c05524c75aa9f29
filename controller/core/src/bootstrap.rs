//! The first records of a cluster, and a controller's own registration.

use odradek_common::ControllerId;
use odradek_metadata::proto::{self, record::Kind};
use odradek_metadata::{ControllerRegistration, Image};

use crate::decider::{Context, Decider, Decision};
use crate::features;
use crate::liveness::Liveness;

/// The metadata names another cluster than this controller's directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the metadata log is of cluster {found}, but this controller was formatted for {expected}: it is in the wrong quorum"
)]
pub struct WrongCluster {
    pub expected: String,
    pub found: String,
}

impl Decider {
    /// What a controller writes when it begins to lead: the cluster's name and features if this is the cluster's first
    /// leader, and where the controllers are if that is news. Called once, before any other decision.
    ///
    /// `bootstrap` is what a cluster begins with that was something else before: topics with their partitions and configs,
    /// brokers as they registered last, producer ids. It counts for the first leader alone.
    ///
    /// # Errors
    /// [`WrongCluster`]: it must not lead.
    pub fn begin(
        &mut self,
        context: &mut Context<'_>,
        cluster_id: &str,
        controllers: &[ControllerRegistration],
        bootstrap: Option<&Image>,
    ) -> Decision<Result<(), WrongCluster>> {
        let mut draft = self.draft(context);
        if self.overlay.cluster_id().is_empty() {
            if let Some(found) = bootstrap.map(Image::cluster_id).filter(|found| *found != cluster_id) {
                let (expected, found) = (cluster_id.to_owned(), found.to_owned());
                return self.answer(Err(WrongCluster { expected, found }));
            }
            draft.push(Kind::Cluster(proto::ClusterRecord { cluster_id: cluster_id.to_owned() }));
            for feature in features::SUPPORTED {
                let level = bootstrap.map_or(feature.max_level, |image| {
                    image.feature_level(feature.name).clamp(feature.min_level, feature.max_level)
                });
                draft.push(Kind::FeatureLevel(proto::FeatureLevelRecord {
                    name: feature.name.to_owned(),
                    level: i32::from(level),
                }));
            }
            let said_here =
                |kind: &Kind| matches!(kind, Kind::Cluster(_) | Kind::FeatureLevel(_) | Kind::RegisterController(_));
            let brought = bootstrap.into_iter().flat_map(Image::to_records).filter_map(|record| record.kind);
            brought.filter(|kind| !said_here(kind)).for_each(|kind| draft.push(kind));
            // Brokers that served before have their time to register anew.
            self.liveness = Liveness::new(&self.settings, &draft.image, context.now.instant);
            draft.agree_on_min_insync(&self.settings);
        } else if self.overlay.cluster_id() != cluster_id {
            let found = self.overlay.cluster_id().to_owned();
            return self.answer(Err(WrongCluster { expected: cluster_id.to_owned(), found }));
        }
        for controller in controllers {
            if self.overlay.controller(controller.id) != Some(controller) {
                draft.push(Kind::RegisterController(proto::RegisterControllerRecord {
                    controller_id: controller.id.0,
                    host: controller.host.clone(),
                    port: u32::from(controller.port),
                }));
            }
        }
        self.decide(draft, Ok(()))
    }

    /// Where a controller is reached, if that is news.
    pub fn register_controller(
        &mut self,
        context: &mut Context<'_>,
        id: ControllerId,
        host: &str,
        port: u16,
    ) -> Decision<()> {
        let wanted = ControllerRegistration { id, host: host.to_owned(), port };
        let mut draft = self.draft(context);
        if self.overlay.controller(id) != Some(&wanted) {
            draft.push(Kind::RegisterController(proto::RegisterControllerRecord {
                controller_id: id.0,
                host: wanted.host,
                port: u32::from(port),
            }));
        }
        self.decide(draft, ())
    }
}
