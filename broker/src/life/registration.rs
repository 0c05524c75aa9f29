//! Registration with the active controller (KIP-631).

use std::time::Duration;

use odradek_common::config::BrokerConfig;
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, Uuid};
use odradek_node::World;
use odradek_proto::broker::RegisterBrokerRequest;
use odradek_proto::metadata::Endpoint;

use super::supported_features;
use crate::metadata::{ControllerClient, ControllerError};

/// The last incarnation of this broker may just be dying: its session is waited out, and this much more.
const DUPLICATE_GRACE: Duration = Duration::from_secs(3);

/// Between two attempts while the id is taken.
const DUPLICATE_PAUSE: Duration = Duration::from_millis(200);

/// Why a broker cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error(
        "broker {id} is registered by another process that is alive; give this one a node.id of its own, or stop the \
         other ({message})"
    )]
    Duplicate { id: BrokerId, message: String },
    #[error("the controllers are of another cluster than this broker's log directories ({message})")]
    OtherCluster { message: String },
    #[error("the controller refuses broker {id}: {code}: {message}")]
    Refused { id: BrokerId, code: ErrorCode, message: String },
    #[error(
        "broker {id} could not register within initial.broker.registration.timeout.ms: {source}; look at \
         controller.quorum.voters and whether a majority of the controllers runs"
    )]
    Controller { id: BrokerId, source: ControllerError },
}

/// Registers and returns the broker's epoch.
pub async fn register(
    world: &World,
    controller: &ControllerClient,
    config: &BrokerConfig,
    request: RegisterBrokerRequest,
) -> Result<BrokerEpoch, RegistrationError> {
    let id = config.node_id;
    let patience = config.life.session_timeout + DUPLICATE_GRACE;
    let duplicate_until = world.instant() + patience;
    loop {
        let registered = controller.register(request.clone(), config.life.registration_timeout).await;
        let response = registered.map_err(|source| RegistrationError::Controller { id, source })?;
        let code = i16::try_from(response.error_code).map_or(ErrorCode::UnknownServerError, ErrorCode::from_code);
        let message = response.error_message;
        match code {
            ErrorCode::None => return Ok(BrokerEpoch(response.broker_epoch)),
            ErrorCode::DuplicateBrokerRegistration if world.instant() < duplicate_until => {
                tracing::info!(broker = %id, %message, "this id is still taken; waiting for its last holder to go");
                world.sleep(DUPLICATE_PAUSE).await;
            }
            ErrorCode::DuplicateBrokerRegistration => return Err(RegistrationError::Duplicate { id, message }),
            ErrorCode::InconsistentClusterId => return Err(RegistrationError::OtherCluster { message }),
            code => return Err(RegistrationError::Refused { id, code, message }),
        }
    }
}

/// What this process says of itself.
pub fn request(
    config: &BrokerConfig,
    cluster_id: &str,
    incarnation: Uuid,
    endpoints: Vec<Endpoint>,
    log_dirs: &[Uuid],
    previous_broker_epoch: BrokerEpoch,
) -> RegisterBrokerRequest {
    RegisterBrokerRequest {
        cluster_id: cluster_id.to_owned(),
        broker_id: config.node_id.0,
        incarnation_id: incarnation.0.to_vec(),
        endpoints,
        features: supported_features(),
        rack: config.rack.clone(),
        log_dirs: log_dirs.iter().map(|id| id.0.to_vec()).collect(),
        previous_broker_epoch: previous_broker_epoch.0,
    }
}
