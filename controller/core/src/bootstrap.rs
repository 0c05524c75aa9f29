//! The first records of a cluster, and a controller's own registration.

use odradek_common::ControllerId;
use odradek_metadata::ControllerRegistration;
use odradek_metadata::proto::{self, record::Kind};

use crate::decider::{Context, Decider, Decision};
use crate::features;

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
    /// # Errors
    /// [`WrongCluster`]: it must not lead.
    pub fn begin(
        &mut self,
        context: &mut Context<'_>,
        cluster_id: &str,
        controllers: &[ControllerRegistration],
    ) -> Decision<Result<(), WrongCluster>> {
        let mut draft = self.draft(context);
        if self.overlay.cluster_id().is_empty() {
            draft.push(Kind::Cluster(proto::ClusterRecord { cluster_id: cluster_id.to_owned() }));
            for feature in features::SUPPORTED {
                draft.push(Kind::FeatureLevel(proto::FeatureLevelRecord {
                    name: feature.name.to_owned(),
                    level: i32::from(feature.max_level),
                }));
            }
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
