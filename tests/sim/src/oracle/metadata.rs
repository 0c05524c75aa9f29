//! The metadata, by two ways. Every broker's Metadata: one leader for each leader epoch of a partition, whoever is asked. And the
//! controllers' own stream, as a broker follows it: what one controller gives from nothing (a snapshot and the entries after it,
//! or all entries) is at every offset what another one's entries came to. In the end all brokers know the same.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use odradek_common::Uuid;
use odradek_metadata::Image;
use odradek_node::grpc;
use odradek_proto::broker::broker_service_client::BrokerServiceClient;
use odradek_proto::broker::{MetadataRequest, MetadataUpdate, metadata_update::Kind};
use odradek_wire::MetadataResponse;
use tonic::Streaming;

use crate::workload::{Job, Part, Place, held};

const CONTROLLER_PORT: u16 = 9192;
const OPEN_PATIENCE: Duration = Duration::from_secs(3);
/// Images of so many of the last offsets are kept for comparison.
const IMAGES_MAX: usize = 2_000;
/// How long everything may take to be in sync again when nothing is wrong any more.
const HEALING_MAX: Duration = crate::faults::HEALING_MAX;

#[derive(Default)]
struct Known {
    cluster_id: String,
    /// By offset, as they came from whichever controller was followed.
    images: BTreeMap<i64, Image>,
    leaders: BTreeMap<(Uuid, i32, i32), i32>,
}

/// Watches the metadata of a cluster with so many controllers.
pub struct Metadata {
    controllers: usize,
    known: Mutex<Known>,
}

impl Metadata {
    pub fn new(controllers: usize) -> Rc<Self> {
        Rc::new(Self { controllers, known: Mutex::default() })
    }

    fn note_leader(&self, place: &Place, at: (Uuid, i32, i32), leader: i32, source: &str) {
        if leader < 0 {
            return;
        }
        let before = *held(&self.known).leaders.entry(at).or_insert(leader);
        if before != leader {
            place.history.broken(format!(
                "two leaders: partition {} of {} at leader epoch {}: {before}, and {leader} by {source}",
                at.1, at.0, at.2
            ));
        }
    }

    /// Asks one broker after the other.
    async fn watch_brokers(self: Rc<Self>, place: Place) {
        let mut client = place.client();
        for (host, port) in place.bootstrap.clone().iter().cycle() {
            if place.history.stops() {
                return;
            }
            if let Ok(answer) = client.metadata_of(host, *port).await {
                place.history.count_work("broker's metadata read");
                held(&self.known).cluster_id = answer.cluster_id.as_ref().map(ToString::to_string).unwrap_or_default();
                for topic in &answer.topics {
                    for partition in &topic.partitions {
                        let at = (topic.topic_id, partition.partition_index, partition.leader_epoch);
                        self.note_leader(&place, at, partition.leader_id, host);
                    }
                }
            }
            place.world.sleep(Duration::from_millis(300)).await;
        }
    }

    /// The stream of some controller, from `next_offset` on.
    async fn open(&self, place: &Place, next_offset: i64) -> Option<(String, Streaming<MetadataUpdate>)> {
        let cluster_id = held(&self.known).cluster_id.clone();
        let host = format!("controller-{}", 1 + place.below(self.controllers as u64));
        let mut client = BrokerServiceClient::new(grpc::channel(&place.world, &host, CONTROLLER_PORT));
        let request = MetadataRequest { broker_id: 1, cluster_id, next_offset };
        let opened = place.world.timeout(OPEN_PATIENCE, client.metadata(request)).await;
        Some((host, opened.ok()?.ok()?.into_inner()))
    }

    /// Follows the entries, from one controller and then another.
    async fn follow(self: Rc<Self>, place: Place) {
        let mut image = Image::new();
        while !place.history.stops() {
            place.world.sleep(Duration::from_millis(200)).await;
            let Some((host, mut stream)) = self.open(&place, image.offset() + 1).await else { continue };
            // Now and then another controller, although this one is well.
            let until = place.world.instant() + Duration::from_millis(2_000 + place.below(8_000));
            while place.world.instant() < until && !place.history.stops() {
                let Ok(next) = place.world.timeout(Duration::from_secs(1), stream.message()).await else { continue };
                let Ok(Some(update)) = next else { break };
                if !self.take(&place, &host, &mut image, update) {
                    break;
                }
            }
        }
    }

    /// Takes one message in; `false` when the stream is of no use any more.
    fn take(&self, place: &Place, host: &str, image: &mut Image, update: MetadataUpdate) -> bool {
        match replay(image, update) {
            Ok(Replayed::Part) => return true,
            Ok(Replayed::Whole) => {}
            // A controller that lags behind this reader sends what it has got already.
            Ok(Replayed::Old) => return true,
            Err(error) => {
                place.history.broken(format!("the metadata of {host} does not fit: {error}"));
                return false;
            }
        }
        place.history.count_work("metadata entry replayed");
        for (topic, index, partition) in image.partitions() {
            let at = (topic.id, index.0, partition.leader_epoch.0);
            self.note_leader(place, at, partition.leader.0, host);
        }
        let known = &mut *held(&self.known);
        known.images.insert(image.offset(), image.clone());
        while known.images.len() > IMAGES_MAX {
            known.images.pop_first();
        }
        true
    }

    /// From nothing, by some controller, again and again.
    async fn start_over(self: Rc<Self>, place: Place) {
        while !place.history.stops() {
            place.world.sleep(Duration::from_millis(2_500)).await;
            let Some((host, mut stream)) = self.open(&place, 0).await else { continue };
            let (mut image, mut compared) = (Image::new(), 0);
            loop {
                let next = place.world.timeout(OPEN_PATIENCE, stream.message()).await;
                let Ok(Ok(Some(update))) = next else { break };
                let committed = update.committed_offset;
                let is_snapshot = matches!(update.kind, Some(Kind::Snapshot(_)));
                match replay(&mut image, update) {
                    Ok(Replayed::Part | Replayed::Old) => continue,
                    Ok(Replayed::Whole) => {}
                    Err(error) => {
                        place.history.broken(format!("the metadata of {host} does not fit: {error}"));
                        break;
                    }
                }
                if is_snapshot {
                    place.history.count_work("metadata snapshot taken");
                }
                if let Some(expected) = held(&self.known).images.get(&image.offset()) {
                    compared += 1;
                    if let Some(difference) = difference(expected, &image) {
                        place.history.broken(format!(
                            "snapshot and changes are not the log: at {} by {host}: {difference}",
                            image.offset()
                        ));
                    }
                }
                if image.offset() >= committed {
                    break;
                }
            }
            place.history.count_work_by("metadata image compared", compared);
        }
    }

    /// The metadata as some controller gives it now, or why there is none.
    async fn current(&self, place: &Place) -> Result<Image, String> {
        let (host, mut stream) = self.open(place, 0).await.ok_or("no controller gives its metadata")?;
        let mut image = Image::new();
        while let Ok(Ok(Some(update))) = place.world.timeout(OPEN_PATIENCE, stream.message()).await {
            let committed = update.committed_offset;
            match replay(&mut image, update) {
                Ok(Replayed::Whole) if image.offset() >= committed => return Ok(image),
                Ok(_) => {}
                Err(error) => {
                    place.history.broken(format!("the metadata of {host} does not fit: {error}"));
                    break;
                }
            }
        }
        Err(format!("{host} does not give its metadata"))
    }

    /// Liveness: within a bound each partition has a leader and all its replicas in sync.
    pub async fn in_sync(self: Rc<Self>, place: Place) {
        let limit = place.world.instant() + HEALING_MAX;
        while let Some(why) = self.current(&place).await.map_or_else(Some, |image| unhealed(&image)) {
            if place.world.instant() > limit {
                return place.history.broken(format!("liveness: {HEALING_MAX:?} after a fault: {why}"));
            }
            place.world.sleep(Duration::from_millis(300)).await;
        }
    }

    /// When nothing is wrong any more and nobody changes anything: all brokers know what the controllers know.
    async fn heal(self: Rc<Self>, place: Place) {
        let limit = place.world.instant() + HEALING_MAX;
        while let Some(why) = self.wrong(&place).await {
            if place.world.instant() > limit {
                return place.history.broken(format!("liveness: {HEALING_MAX:?} after the last fault: {why}"));
            }
            place.world.sleep(Duration::from_millis(500)).await;
        }
        place.history.count_work("cluster healed");
    }

    async fn wrong(&self, place: &Place) -> Option<String> {
        let image = match self.current(place).await {
            Ok(image) => image,
            Err(why) => return Some(why),
        };
        if let Some(why) = unhealed(&image) {
            return Some(why);
        }
        let mut client = place.client();
        for (host, port) in &place.bootstrap {
            match client.metadata_of(host, *port).await {
                Ok(answer) => {
                    if let Some(what) = differs(&image, &answer) {
                        return Some(format!("{host} knows something else: {what}"));
                    }
                }
                // One that was decommissioned is no broker any more.
                Err(_) if place.bootstrap.len() > image.brokers().count() => {}
                Err(failure) => return Some(format!("{host}: {failure:?}")),
            }
        }
        None
    }
}

enum Replayed {
    /// More of the snapshot is to come.
    Part,
    /// The image is that of its offset.
    Whole,
    /// Nothing new.
    Old,
}

/// As a broker does it.
fn replay(image: &mut Image, update: MetadataUpdate) -> Result<Replayed, String> {
    match update.kind {
        None => Ok(Replayed::Old),
        Some(Kind::Delta(delta)) if delta.offset <= image.offset() => Ok(Replayed::Old),
        Some(Kind::Delta(delta)) if delta.offset > image.offset() + 1 => {
            Err(format!("{} follows {}", delta.offset, image.offset()))
        }
        Some(Kind::Delta(delta)) => {
            image.apply_records(&delta.records, delta.offset).map_err(|error| error.to_string())?;
            Ok(Replayed::Whole)
        }
        Some(Kind::Snapshot(chunk)) => {
            if chunk.last_offset < image.offset() && !chunk.records.is_empty() {
                return Ok(Replayed::Old);
            }
            // The first chunk begins with nothing; its own records carry its offset.
            if image.offset() != chunk.last_offset {
                *image = Image::new();
            }
            chunk
                .records
                .iter()
                .try_for_each(|record| image.replay(record, chunk.last_offset))
                .map_err(|error| error.to_string())?;
            image.set_offset(chunk.last_offset);
            Ok(if chunk.is_last { Replayed::Whole } else { Replayed::Part })
        }
    }
}

/// What two images of one offset do not agree on.
fn difference(a: &Image, b: &Image) -> Option<String> {
    if a == b {
        return None;
    }
    let lines = |image: &Image| {
        let text = format!("{image:#?}");
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (a, b) = (lines(a), lines(b));
    let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    let near = |lines: &[String]| lines[at.saturating_sub(6).min(lines.len())..(at + 2).min(lines.len())].join(" ");
    Some(format!("{} where {} was due", near(&b), near(&a)))
}

/// Why the cluster does not serve everything with all its replicas.
fn unhealed(image: &Image) -> Option<String> {
    image.partitions().find_map(|(topic, index, partition)| {
        let is_whole = partition.has_leader() && partition.isr.len() == partition.replicas.len();
        (!is_whole || partition.is_reassigning()).then(|| format!("{}-{}: {partition:?}", topic.name, index.0))
    })
}

/// What a broker says otherwise.
fn differs(image: &Image, answer: &MetadataResponse) -> Option<String> {
    if answer.topics.len() != image.topic_count() {
        return Some(format!("{} topics of {}", answer.topics.len(), image.topic_count()));
    }
    for topic in &answer.topics {
        let name = topic.name.as_deref().unwrap_or_default();
        let Some(known) = image.topic_by_name(name).filter(|known| known.id == topic.topic_id) else {
            return Some(format!("topic {name} ({})", topic.topic_id));
        };
        for (index, partition) in known.partitions() {
            let found = topic.partitions.iter().find(|found| found.partition_index == index.0);
            let isr: Vec<i32> = partition.isr.iter().map(|broker| broker.0).collect();
            let replicas: Vec<i32> = partition.replicas.iter().map(|broker| broker.0).collect();
            let is_same = found.is_some_and(|found| {
                (found.leader_id, found.leader_epoch) == (partition.leader.0, partition.leader_epoch.0)
                    && (&found.isr_nodes, &found.replica_nodes) == (&isr, &replicas)
            });
            if !is_same {
                return Some(format!("{name}-{}: {found:?} where {partition:?} was due", index.0));
            }
        }
    }
    None
}

impl Part for Metadata {
    fn jobs(self: Rc<Self>, place: &Place) -> Vec<Job> {
        vec![
            Box::pin(self.clone().watch_brokers(place.clone())),
            Box::pin(self.clone().follow(place.clone())),
            Box::pin(self.clone().start_over(place.clone())),
        ]
    }

    fn verdict(self: Rc<Self>, place: Place) -> Job {
        Box::pin(self.heal(place))
    }
}
