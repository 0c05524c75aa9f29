//! The controllers' admin service, asked until the active controller answers.
//!
//! Any controller may be asked. One that is not active answers FAILED_PRECONDITION and names the active one in the
//! trailer `odradek-leader: ID@HOST:PORT`; that one is asked next. One that does not answer is passed over for the next.
//! While nobody leads the question is repeated, until `--timeout` is over.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use odradek_common::config::{HostPort, Voter};
use odradek_common::time::Instant;
use odradek_node::{World, grpc};
use odradek_proto::admin::admin_service_client::AdminServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::error::{CliError, Exit};

pub type Client = AdminServiceClient<Channel>;

/// One attempt waits so long at most, so that a controller that hangs does not use up all the time.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// Between rounds over controllers none of which could help.
const PAUSE: Duration = Duration::from_millis(25);

pub struct Admin {
    world: World,
    controllers: Vec<HostPort>,
    deadline: Instant,
    timeout: Duration,
    clients: HashMap<HostPort, Client>,
    /// Who is asked next, when somebody said so.
    active: Option<HostPort>,
    /// Whether an attempt of the present question may have reached a controller without our knowing.
    pub in_doubt: bool,
}

/// Why one attempt did not answer.
enum Failure {
    /// Ask this controller.
    Elsewhere(HostPort),
    /// Ask another, or this one later.
    Later { reason: String, in_doubt: bool },
    /// An answer that the next moment may better; told when there is no time left.
    Passing(CliError),
    /// It is an answer.
    Final(CliError),
}

impl Admin {
    pub fn new(world: &World, controllers: Vec<HostPort>, timeout: Duration) -> Self {
        let deadline = world.instant() + timeout;
        Self {
            world: world.clone(),
            controllers,
            deadline,
            timeout,
            clients: HashMap::new(),
            active: None,
            in_doubt: false,
        }
    }

    /// Asks until somebody answers. `ask` is called anew for each attempt.
    pub async fn call<T, F>(&mut self, subject: &str, ask: impl Fn(Client) -> F) -> Result<T, CliError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.in_doubt = false;
        let mut next = 0;
        let mut reason = String::from("no controller was asked");
        let mut passing = None;
        loop {
            let left = self.deadline.saturating_since(self.world.instant());
            if left.is_zero() {
                return Err(passing.unwrap_or_else(|| self.unreachable(&reason)));
            }
            let hinted = self.active.take();
            let target = match &hinted {
                Some(address) => address.clone(),
                None => match self.controllers.get(next % self.controllers.len()) {
                    Some(address) => address.clone(),
                    None => return Err(self.unreachable(&reason)),
                },
            };
            let client = self.client(&target);
            let outcome = match self.world.timeout(left.min(ATTEMPT_MAX), ask(client)).await {
                Ok(Ok(response)) => {
                    self.active = Some(target);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => failure(&target, subject, &status),
                Err(elapsed) => Failure::Later { reason: format!("{target}: {elapsed}"), in_doubt: true },
            };
            match outcome {
                Failure::Final(error) => return Err(error),
                Failure::Passing(error) => {
                    passing = Some(error);
                    self.world.sleep(PAUSE).await;
                }
                // A controller that names itself is on its way to lead; do not spin on it.
                Failure::Elsewhere(address) if address != target => self.active = Some(address),
                Failure::Elsewhere(_) => self.world.sleep(PAUSE).await,
                Failure::Later { reason: new, in_doubt } => {
                    reason = new;
                    self.in_doubt |= in_doubt;
                    if hinted.is_none() {
                        next += 1;
                    }
                    if next % self.controllers.len() == 0 {
                        self.world.sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// A long command asks again and again: each question has the whole time.
    pub fn renew(&mut self) {
        self.deadline = self.world.instant() + self.timeout;
    }

    /// Time that is left of `--timeout`.
    pub fn has_time(&self) -> bool {
        self.world.instant() < self.deadline
    }

    fn client(&mut self, address: &HostPort) -> Client {
        let world = &self.world;
        self.clients
            .entry(address.clone())
            .or_insert_with(|| Client::new(grpc::channel(world, &address.host, address.port)))
            .clone()
    }

    fn unreachable(&self, reason: &str) -> CliError {
        let asked: Vec<String> = self.controllers.iter().map(HostPort::to_string).collect();
        CliError::unreachable(format!(
            "no controller at {} could answer within {} s ({reason}); is the cluster up (`deploy/cluster status`), and are \
             these its controllers (--admin)?",
            asked.join(","),
            self.timeout.as_secs_f64()
        ))
    }
}

/// What Kafka's error is for a script.
pub fn exit_of(name: &str) -> Exit {
    match name {
        "UNKNOWN_TOPIC_OR_PARTITION" | "UNKNOWN_TOPIC_ID" | "BROKER_ID_NOT_REGISTERED" | "GROUP_ID_NOT_FOUND" => {
            Exit::NotFound
        }
        // A group's coordinator is one broker, and another may take over.
        "COORDINATOR_NOT_AVAILABLE" | "COORDINATOR_LOAD_IN_PROGRESS" | "NOT_COORDINATOR" => Exit::Unreachable,
        "TOPIC_ALREADY_EXISTS" => Exit::Exists,
        _ => Exit::Failed,
    }
}

fn failure(target: &HostPort, subject: &str, status: &Status) -> Failure {
    let trailer = |name: &str| status.metadata().get(name).and_then(|value| value.to_str().ok());
    if let Some(leader) = trailer("odradek-leader").and_then(|text| text.parse::<Voter>().ok()) {
        return Failure::Elsewhere(leader.address);
    }
    if let Some(name) = trailer("kafka-error") {
        let exit = exit_of(name);
        if exit == Exit::NotFound && name.starts_with("UNKNOWN_TOPIC") {
            return Failure::Final(CliError::no_topic(subject));
        }
        let message = match (status.message(), name) {
            ("", _) => format!("{subject}: {name}"),
            // Kafka's words do not say what to do.
            (message, "POLICY_VIOLATION") => {
                format!("{} ({name}); ask for fewer at a time", message.trim_end_matches('.'))
            }
            (message, _) => format!("{message} ({name})"),
        };
        let error = CliError::new(exit, message);
        return if exit == Exit::Unreachable { Failure::Passing(error) } else { Failure::Final(error) };
    }
    let reason = match status.message() {
        "" => format!("{target}: {}", status.code()),
        message => format!("{target}: {message}"),
    };
    match status.code() {
        Code::Unavailable | Code::FailedPrecondition => Failure::Later { reason, in_doubt: false },
        // The transport broke, perhaps after the question was taken.
        Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => {
            Failure::Later { reason, in_doubt: true }
        }
        _ => Failure::Final(CliError::failed(format!("{reason} ({:?})", status.code()))),
    }
}

#[cfg(test)]
mod tests {
    use odradek_proto::admin::admin_service_server::{AdminService, AdminServiceServer};
    use odradek_proto::admin::*;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::Request;

    use super::*;

    /// Answers ListTopics as it is told, and nothing else.
    struct Controller(Box<dyn Fn() -> Result<(), Status> + Send + Sync>);

    macro_rules! unanswered {
        ($($method:ident($request:ty) -> $response:ty;)*) => {
            #[tonic::async_trait]
            impl AdminService for Controller {
                async fn list_topics(
                    &self,
                    _: Request<ListTopicsRequest>,
                ) -> Result<Response<ListTopicsResponse>, Status> {
                    (self.0)().map(|()| Response::new(ListTopicsResponse::default()))
                }

                $(async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                    Err(Status::unimplemented("not in this test"))
                })*
            }
        };
    }

    unanswered! {
        create_topic(CreateTopicRequest) -> CreateTopicResponse;
        describe_topic(DescribeTopicRequest) -> DescribeTopicResponse;
        delete_topic(DeleteTopicRequest) -> DeleteTopicResponse;
        create_partitions(CreatePartitionsRequest) -> CreatePartitionsResponse;
        list_brokers(ListBrokersRequest) -> ListBrokersResponse;
        quorum_status(QuorumStatusRequest) -> QuorumStatusResponse;
        elect_leaders(ElectLeadersRequest) -> ElectLeadersResponse;
        plan_reassignment(PlanReassignmentRequest) -> PlanReassignmentResponse;
        alter_reassignments(AlterReassignmentsRequest) -> AlterReassignmentsResponse;
        list_reassignments(ListReassignmentsRequest) -> ListReassignmentsResponse;
        decommission_broker(DecommissionBrokerRequest) -> DecommissionStatus;
        recommission_broker(RecommissionBrokerRequest) -> RecommissionBrokerResponse;
        describe_decommission(DescribeDecommissionRequest) -> DecommissionStatus;
        unregister_broker(UnregisterBrokerRequest) -> UnregisterBrokerResponse;
        fence_broker(FenceBrokerRequest) -> FenceBrokerResponse;
        unfence_broker(UnfenceBrokerRequest) -> UnfenceBrokerResponse;
        list_configs(ListConfigsRequest) -> ListConfigsResponse;
        alter_configs(AlterConfigsRequest) -> AlterConfigsResponse;
        describe_features(DescribeFeaturesRequest) -> DescribeFeaturesResponse;
        update_feature(UpdateFeatureRequest) -> UpdateFeatureResponse;
        list_groups(ListGroupsRequest) -> ListGroupsResponse;
        describe_group(DescribeGroupRequest) -> DescribeGroupResponse;
        delete_groups(DeleteGroupsRequest) -> DeleteGroupsResponse;
        reset_offsets(ResetOffsetsRequest) -> ResetOffsetsResponse;
        delete_offsets(DeleteOffsetsRequest) -> DeleteOffsetsResponse;
    }

    async fn serve(answer: impl Fn() -> Result<(), Status> + Send + Sync + 'static) -> HostPort {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let service = AdminServiceServer::new(Controller(Box::new(answer)));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        HostPort { host: "127.0.0.1".to_owned(), port }
    }

    fn status(code: Code, message: &str, trailer: (&'static str, &str)) -> Status {
        let mut status = Status::new(code, message);
        status.metadata_mut().insert(trailer.0, trailer.1.parse().expect("ASCII"));
        status
    }

    async fn list(controllers: Vec<HostPort>, timeout_ms: u64) -> Result<(), CliError> {
        let mut admin = Admin::new(&World::real(), controllers, Duration::from_millis(timeout_ms));
        let ask = |mut client: Client| async move { client.list_topics(ListTopicsRequest::default()).await };
        admin.call("topics", ask).await.map(|_| ())
    }

    /// A port that no program of a user can listen on.
    const NOWHERE: HostPort = HostPort { host: String::new(), port: 1 };

    #[tokio::test]
    async fn the_active_controller_is_found_past_dead_and_passive_ones() {
        let active = serve(|| Ok(())).await;
        let leader = format!("102@{active}");
        let passive =
            serve(move || Err(status(Code::FailedPrecondition, "not active", ("odradek-leader", &leader)))).await;
        let dead = HostPort { host: "127.0.0.1".to_owned(), ..NOWHERE };
        list(vec![dead.clone(), passive], 10_000).await.expect("answered");
        let error = list(vec![dead], 100).await.expect_err("nobody");
        assert_eq!(error.exit, Exit::Unreachable);
        assert!(error.message.contains("127.0.0.1:1") && error.message.contains("--admin"), "{error}");
    }

    #[tokio::test]
    async fn a_quorum_without_leader_is_asked_until_it_has_one() {
        let asked = std::sync::atomic::AtomicU32::new(0);
        let electing = serve(move || match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0..3 => Err(Status::failed_precondition("nobody leads")),
            _ => Ok(()),
        })
        .await;
        list(vec![electing], 10_000).await.expect("answered in the end");
    }

    #[tokio::test]
    async fn a_coordinator_that_is_not_ready_is_waited_for() {
        let asked = std::sync::atomic::AtomicU32::new(0);
        let not_ready = || status(Code::Unavailable, "broker 2 does not answer", ("kafka-error", "NOT_COORDINATOR"));
        let moving = serve(move || match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0..3 => Err(not_ready()),
            _ => Ok(()),
        })
        .await;
        list(vec![moving], 10_000).await.expect("answered in the end");
        let gone = serve(move || Err(not_ready())).await;
        let error = list(vec![gone], 200).await.expect_err("nobody");
        assert_eq!(error.exit, Exit::Unreachable);
        assert!(error.message.contains("broker 2 does not answer"), "the broker is named: {error}");
    }

    #[tokio::test]
    async fn refusals_are_final_and_keep_kafkas_name() {
        for (name, exit) in [
            ("TOPIC_ALREADY_EXISTS", Exit::Exists),
            ("UNKNOWN_TOPIC_OR_PARTITION", Exit::NotFound),
            ("INVALID_CONFIG", Exit::Failed),
        ] {
            let address =
                serve(move || Err(status(Code::InvalidArgument, "it will not do", ("kafka-error", name)))).await;
            assert_eq!(list(vec![address], 10_000).await.expect_err(name).exit, exit, "{name}");
        }
    }
}
