//! Elections that an administrator asks for (KIP-183, KIP-460; Kafka's `ReplicationControlManager.electLeaders`).

use odradek_common::{ErrorCode, TopicIdPartition, TopicPartition};

use crate::decider::{Context, Decider, Decision, Draft};
use crate::effective::TopicSettings;
use crate::error::ApiError;
use crate::partition_change::Election;
use crate::settings::Settings;

/// Which leader is asked for, with Kafka's numbers (`ElectionType`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElectionType {
    Preferred = 0,
    /// Any replica, for a partition that has no leader. Acknowledged records may be lost.
    Unclean = 1,
}

/// One partition's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionOutcome {
    pub partition: TopicPartition,
    pub result: Result<(), ApiError>,
}

impl Decider {
    /// Elects leaders of the partitions, of all if `None`; of all, those that need no election are left out.
    ///
    /// # Errors
    /// By partition: UNKNOWN_TOPIC_OR_PARTITION, ELECTION_NOT_NEEDED, PREFERRED_LEADER_NOT_AVAILABLE,
    /// ELIGIBLE_LEADERS_NOT_AVAILABLE.
    pub fn elect_leaders(
        &mut self,
        context: &mut Context<'_>,
        election: ElectionType,
        partitions: Option<&[TopicPartition]>,
    ) -> Decision<Vec<ElectionOutcome>> {
        let mut draft = self.draft(context);
        let wanted: Vec<TopicPartition> = match partitions {
            Some(partitions) => partitions.to_vec(),
            None => {
                let topics = self.overlay.topics_by_name();
                topics
                    .flat_map(|topic| topic.partitions().map(|(index, _)| TopicPartition::new(&*topic.name, index.0)))
                    .collect()
            }
        };
        let mut outcomes = Vec::new();
        for partition in wanted {
            let result = elect(&mut draft, &partition, election, &self.settings);
            let needed = !matches!(&result, Err(error) if error.code == ErrorCode::ElectionNotNeeded);
            if needed || partitions.is_some() {
                outcomes.push(ElectionOutcome { partition, result });
            }
        }
        self.decide(draft, outcomes)
    }
}

fn elect(
    draft: &mut Draft,
    partition: &TopicPartition,
    election: ElectionType,
    settings: &Settings,
) -> Result<(), ApiError> {
    let unknown = |what: String| ApiError::new(ErrorCode::UnknownTopicOrPartition, what);
    let Some(topic) = draft.image.topic_by_name(&partition.topic) else {
        return Err(unknown(format!("No such topic as {}", partition.topic)));
    };
    let Some(registration) = topic.partition(partition.partition) else {
        return Err(unknown(format!("No such partition as {partition}")));
    };
    let (needless, change, unavailable) = match election {
        ElectionType::Preferred => {
            (registration.has_preferred_leader(), Election::Preferred, ErrorCode::PreferredLeaderNotAvailable)
        }
        ElectionType::Unclean => (registration.has_leader(), Election::Unclean, ErrorCode::EligibleLeadersNotAvailable),
    };
    if needless {
        return Err(ApiError::new(ErrorCode::ElectionNotNeeded, "Leader election not needed for topic partition."));
    }
    let topic_settings = TopicSettings::of(topic, &draft.image, settings);
    let at = TopicIdPartition { topic_id: topic.id, partition: partition.partition };
    match draft.change_partition(at, topic_settings, |builder| builder.election(change)) {
        Some(_) => Ok(()),
        None => Err(ApiError::new(unavailable, format!("No replica of {partition} that could lead is available."))),
    }
}
