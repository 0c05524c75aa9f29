//! One connection to a leader with several produce requests under way; its broker answers them in order.
//!
//! A link knows nothing of batches: it reports each answer, and once, at its end, why it broke. What was under way then
//! is the producer's to send again.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use odradek_common::config::HostPort;
use odradek_common::time::Instant;
use odradek_node::World;
use odradek_node::world::TaskHandle;
use odradek_wire::ApiKey;
use odradek_wire::produce_request::ProduceRequest;
use odradek_wire::produce_response::{PartitionProduceResponse, ProduceResponse, TopicProduceResponse};
use tokio::sync::mpsc;

use super::Broker;

/// The versions that name topics.
const PRODUCE: (i16, i16) = (3, 12);

/// What a link reports.
pub struct Event {
    /// Which one.
    pub link: u64,
    pub at: Instant,
    /// The next answer; or why the link is of no use any more, and then nothing follows.
    pub outcome: Result<ProduceResponse, String>,
}

pub struct Link {
    /// Not that of any other link of the producer.
    pub id: u64,
    /// Requests without an answer.
    pub in_flight: usize,
    requests: mpsc::UnboundedSender<ProduceRequest>,
    task: TaskHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whom to connect to, and how long each request may take.
#[derive(Clone)]
pub struct Leader {
    pub id: i32,
    pub address: HostPort,
    pub within: Duration,
}

impl Link {
    /// Connects by and by; requests may be sent at once.
    pub fn open(world: &World, leader: Leader, id: u64, events: mpsc::UnboundedSender<Event>) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        let of_task = world.clone();
        let task = world.spawn("produce", async move {
            let world = of_task;
            let report = |outcome| {
                // A producer that is gone does not care.
                let _ = events.send(Event { link: id, at: world.instant(), outcome });
            };
            if let Err(error) = serve(&world, &leader, inbox, report).await {
                report(Err(format!("broker {} ({}): {error}", leader.id, leader.address)));
            }
        });
        Self { id, in_flight: 0, requests, task }
    }

    pub fn send(&mut self, request: ProduceRequest) {
        self.in_flight += 1;
        // One that broke has reported so, and the report covers this request.
        let _ = self.requests.send(request);
    }
}

async fn serve(
    world: &World,
    leader: &Leader,
    mut inbox: mpsc::UnboundedReceiver<ProduceRequest>,
    report: impl Fn(Result<ProduceResponse, String>),
) -> io::Result<()> {
    let broker = Broker::open(world, &leader.address).await?;
    let version = broker.version(ApiKey::Produce, PRODUCE.0, PRODUCE.1)?;
    let (mut requests, mut answers) = broker.connection.split();
    let (sent, mut awaited) = mpsc::unbounded_channel();
    let (report, write_report) = (&report, &report);
    let write = async move {
        while let Some(request) = inbox.recv().await {
            let correlation_id = world.timeout(leader.within, requests.send(version, &request)).await??;
            if request.acks == 0 {
                write_report(Ok(unanswered(&request)));
            } else {
                let _ = sent.send((correlation_id, partitions(&request)));
            }
        }
        io::Result::Ok(())
    };
    let read = async move {
        while let Some((correlation_id, expected)) = awaited.recv().await {
            let receive = answers.receive::<ProduceRequest>(version, correlation_id);
            let answer = world.timeout(leader.within, receive).await??;
            let answered = answer.responses.iter().flat_map(|topic| topic.partition_responses.iter());
            if answered.map(|partition| partition.index).collect::<BTreeSet<i32>>() != expected {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer about other partitions than asked"));
            }
            report(Ok(answer));
        }
        Ok(())
    };
    tokio::try_join!(write, read).map(drop)
}

fn partitions(request: &ProduceRequest) -> BTreeSet<i32> {
    request.topic_data.iter().flat_map(|topic| topic.partition_data.iter()).map(|data| data.index).collect()
}

/// With acks=0 nobody answers: what is sent counts, at an offset that nobody knows.
fn unanswered(request: &ProduceRequest) -> ProduceResponse {
    let partition_responses = partitions(request).into_iter().map(|index| PartitionProduceResponse {
        index,
        base_offset: -1,
        ..Default::default()
    });
    let topic = TopicProduceResponse { partition_responses: partition_responses.collect(), ..Default::default() };
    ProduceResponse { responses: vec![topic], ..Default::default() }
}
