//! `odradek topic`.

mod partitions;

use std::collections::BTreeMap;

use odradek_proto::admin::{
    CreatePartitionsRequest, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest, DescribeTopicResponse,
    ListTopicsRequest, ReplicaAssignment,
};
use serde::Serialize;

use super::Context;
use crate::args::{Assignment, Topic, TopicAlter, TopicCreate};
use crate::error::{CliError, Exit};
use crate::output::{self, id, ids, table};

pub async fn execute(context: &Context, command: Topic) -> Result<(), CliError> {
    match command {
        Topic::Create(command) => create(context, command).await,
        Topic::List { internal } => list(context, internal).await,
        Topic::Describe { topic } => describe(context, topic).await,
        Topic::Alter(command) => alter(context, command).await,
        Topic::Offsets { topic, at, partition } => partitions::offsets(context, &topic, at, &partition).await,
        Topic::Producers { topic, partition } => partitions::producers(context, &topic, &partition).await,
        Topic::Delete { topic, if_exists } => delete(context, topic, if_exists).await,
    }
}

#[derive(Serialize)]
struct Created {
    topic: String,
    topic_id: Option<String>,
    partitions: Option<i32>,
    replication_factor: Option<i32>,
    created: bool,
}

async fn create(context: &Context, command: TopicCreate) -> Result<(), CliError> {
    let assignment = command.assignment.unwrap_or(Assignment(Vec::new()));
    let assignments = (0..).zip(assignment.0).map(|(partition, brokers)| ReplicaAssignment { partition, brokers });
    let request = CreateTopicRequest {
        name: command.topic.clone(),
        partitions: command.partitions.unwrap_or(-1),
        replication_factor: command.replication_factor.unwrap_or(-1),
        assignments: assignments.collect(),
        configs: command.config.into_iter().collect(),
        validate_only: command.validate_only,
    };
    let topic = command.topic;
    let mut admin = context.admin()?;
    let answer = admin
        .call(&topic, |mut client| {
            let request = request.clone();
            async move { client.create_topic(request).await }
        })
        .await;
    let created = match answer {
        Ok(answer) => Created {
            topic,
            topic_id: Some(answer.topic_id),
            partitions: Some(answer.partitions),
            replication_factor: Some(answer.replication_factor),
            created: !command.validate_only,
        },
        // The topic that is there may be our own, made by an attempt whose answer was lost.
        Err(error) if error.exit == Exit::Exists && (command.if_not_exists || admin.in_doubt) => {
            Created { topic, topic_id: None, partitions: None, replication_factor: None, created: admin.in_doubt }
        }
        Err(error) => return Err(error),
    };
    output::print(context.global.output, &created, |created| match (created.created, created.partitions) {
        (true, Some(partitions)) => format!(
            "topic {} is created: {partitions} partitions, replication factor {}",
            created.topic,
            created.replication_factor.unwrap_or(-1)
        ),
        (true, None) => format!("topic {} is created", created.topic),
        (false, Some(partitions)) => format!("topic {} could be created with {partitions} partitions", created.topic),
        (false, None) => format!("topic {} exists already", created.topic),
    })
}

#[derive(Serialize)]
struct Listing {
    topics: Vec<ListedTopic>,
}

#[derive(Serialize)]
struct ListedTopic {
    topic: String,
    topic_id: String,
    partitions: i32,
    replication_factor: i32,
    internal: bool,
    under_replicated_partitions: i32,
    offline_partitions: i32,
}

async fn list(context: &Context, include_internal: bool) -> Result<(), CliError> {
    let request = ListTopicsRequest { include_internal };
    let ask = |mut client: crate::admin::Client| async move { client.list_topics(request).await };
    let answer = context.admin()?.call("topics", ask).await?;
    let topics = answer.topics.into_iter().map(|topic| ListedTopic {
        topic: topic.name,
        topic_id: topic.topic_id,
        partitions: topic.partitions,
        replication_factor: topic.replication_factor,
        internal: topic.internal,
        under_replicated_partitions: topic.under_replicated,
        offline_partitions: topic.offline,
    });
    let mut listing = Listing { topics: topics.collect() };
    listing.topics.sort_by(|a, b| a.topic.cmp(&b.topic));
    output::print(context.global.output, &listing, |listing| {
        if listing.topics.is_empty() {
            return "there are no topics; `odradek topic create NAME` makes one".to_owned();
        }
        let row = |topic: &ListedTopic| {
            vec![
                topic.topic.clone(),
                topic.partitions.to_string(),
                topic.replication_factor.to_string(),
                topic.under_replicated_partitions.to_string(),
                topic.offline_partitions.to_string(),
                topic.topic_id.clone(),
            ]
        };
        let rows: Vec<Vec<String>> = listing.topics.iter().map(row).collect();
        table(&["TOPIC", "PARTITIONS", "REPLICAS", "UNDER-REPLICATED", "OFFLINE", "ID"], &rows)
    })
}

#[derive(Serialize)]
struct Description {
    topic: String,
    topic_id: String,
    internal: bool,
    configs: BTreeMap<String, String>,
    partitions: Vec<Partition>,
}

#[derive(Serialize)]
struct Partition {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    partition_epoch: i32,
    replicas: Vec<i32>,
    isr: Vec<i32>,
    elr: Vec<i32>,
    last_known_elr: Vec<i32>,
    adding_replicas: Vec<i32>,
    removing_replicas: Vec<i32>,
}

impl From<DescribeTopicResponse> for Description {
    fn from(answer: DescribeTopicResponse) -> Self {
        let partitions = answer.partitions.into_iter().map(|partition| Partition {
            partition: partition.partition,
            leader: (partition.leader >= 0).then_some(partition.leader),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            replicas: partition.replicas,
            isr: partition.isr,
            elr: partition.elr,
            last_known_elr: partition.last_known_elr,
            adding_replicas: partition.adding_replicas,
            removing_replicas: partition.removing_replicas,
        });
        let mut partitions: Vec<Partition> = partitions.collect();
        partitions.sort_by_key(|partition| partition.partition);
        Self {
            topic: answer.name,
            topic_id: answer.topic_id,
            internal: answer.internal,
            configs: answer.configs.into_iter().collect(),
            partitions,
        }
    }
}

async fn describe(context: &Context, topic: String) -> Result<(), CliError> {
    let ask = |mut client: crate::admin::Client| {
        let request = DescribeTopicRequest { name: topic.clone() };
        async move { client.describe_topic(request).await }
    };
    let description = Description::from(context.admin()?.call(&topic, ask).await?);
    output::print(context.global.output, &description, |description| {
        let configs: Vec<String> = description.configs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let configs = if configs.is_empty() { "none set".to_owned() } else { configs.join(" ") };
        let row = |partition: &Partition| {
            vec![
                partition.partition.to_string(),
                id(partition.leader.unwrap_or(-1)),
                partition.leader_epoch.to_string(),
                ids(&partition.replicas),
                ids(&partition.isr),
                ids(&partition.elr),
            ]
        };
        let rows: Vec<Vec<String>> = description.partitions.iter().map(row).collect();
        let head = ["PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "ELR"];
        format!("topic {}  id {}  configs: {configs}\n{}", description.topic, description.topic_id, table(&head, &rows))
    })
}

#[derive(Serialize)]
struct Altered {
    topic: String,
    partitions: i32,
    partitions_before: usize,
    altered: bool,
}

async fn alter(context: &Context, command: TopicAlter) -> Result<(), CliError> {
    let (topic, partitions, validate_only) = (command.topic, command.partitions, command.validate_only);
    let mut admin = context.admin()?;
    // New partitions are numbered from here on.
    let existing = count_partitions(&mut admin, &topic).await?;
    let assignments = command.assignment.map_or(Vec::new(), |assignment| assignment.0).into_iter();
    let assignments = (existing as i32..)
        .zip(assignments)
        .map(|(partition, brokers)| ReplicaAssignment { partition, brokers })
        .collect::<Vec<_>>();
    let answer = admin
        .call(&topic, |mut client| {
            let (name, assignments) = (topic.clone(), assignments.clone());
            let request = CreatePartitionsRequest { name, partitions, assignments, validate_only };
            async move { client.create_partitions(request).await }
        })
        .await;
    match answer {
        Ok(_) => {}
        // A lost answer may have been ours.
        Err(_) if admin.in_doubt && count_partitions(&mut admin, &topic).await? == partitions as usize => {}
        Err(error) => return Err(error),
    }
    let altered = Altered { topic, partitions, partitions_before: existing, altered: !validate_only };
    output::print(context.global.output, &altered, |altered| {
        let verb = if altered.altered { "has" } else { "could have" };
        format!(
            "topic {} {verb} {} partitions, {} before",
            altered.topic, altered.partitions, altered.partitions_before
        )
    })
}

async fn count_partitions(admin: &mut crate::admin::Admin, topic: &str) -> Result<usize, CliError> {
    let ask = |mut client: crate::admin::Client| {
        let request = DescribeTopicRequest { name: topic.to_owned() };
        async move { client.describe_topic(request).await }
    };
    Ok(admin.call(topic, ask).await?.partitions.len())
}

#[derive(Serialize)]
struct Deleted {
    topic: String,
    deleted: bool,
}

async fn delete(context: &Context, topic: String, if_exists: bool) -> Result<(), CliError> {
    let mut admin = context.admin()?;
    let answer = admin
        .call(&topic, |mut client| {
            let request = DeleteTopicRequest { name: topic.clone() };
            async move { client.delete_topic(request).await }
        })
        .await;
    let deleted = match answer {
        Ok(_) => true,
        // As with create: a lost answer may have been ours.
        Err(error) if error.exit == Exit::NotFound && (if_exists || admin.in_doubt) => admin.in_doubt,
        Err(error) => return Err(error),
    };
    output::print(context.global.output, &Deleted { topic, deleted }, |result| match result.deleted {
        true => format!("topic {} is deleted", result.topic),
        false => format!("there is no topic {}", result.topic),
    })
}
