//! `odradek elect`.

use odradek_proto::admin::{DescribeTopicRequest, ElectLeadersRequest, ElectionType, PartitionName, PartitionOutcome};
use serde::Serialize;

use super::Context;
use crate::admin::{Admin, Client};
use crate::args::{Elect, Target};
use crate::error::CliError;
use crate::output::{self, table};

pub async fn execute(context: &Context, command: Elect) -> Result<(), CliError> {
    let (election, targets) = match command {
        Elect::Preferred(targets) => (ElectionType::Preferred, targets),
        Elect::Unclean(targets) => (ElectionType::Unclean, targets),
    };
    let mut admin = context.admin()?;
    let partitions = partitions(&mut admin, &targets.targets).await?;
    let request = ElectLeadersRequest { election_type: election.into(), partitions, all: targets.all };
    let answer = admin
        .call("elections", |mut client: Client| {
            let request = request.clone();
            async move { client.elect_leaders(request).await }
        })
        .await?;
    let elections = Elections { elections: answer.partitions.into_iter().map(Election::from).collect() };
    output::print(context.global.output, &elections, text)?;
    let refused = elections.elections.iter().filter(|one| one.error.is_some() && !one.is_needless()).count();
    match refused {
        0 => Ok(()),
        refused => Err(CliError::failed(format!("{refused} of {} elections failed", elections.elections.len()))),
    }
}

/// The partitions that are meant; of a topic that is named alone, all.
pub async fn partitions(admin: &mut Admin, targets: &[Target]) -> Result<Vec<PartitionName>, CliError> {
    let mut partitions = Vec::new();
    for target in targets {
        let topic = target.topic.clone();
        match target.partition {
            Some(partition) => partitions.push(PartitionName { topic, partition }),
            None => {
                let ask = |mut client: Client| {
                    let request = DescribeTopicRequest { name: topic.clone() };
                    async move { client.describe_topic(request).await }
                };
                let described = admin.call(&topic, ask).await?;
                let named = described.partitions.iter();
                partitions.extend(named.map(|one| PartitionName { topic: topic.clone(), partition: one.partition }));
            }
        }
    }
    Ok(partitions)
}

#[derive(Serialize)]
struct Elections {
    elections: Vec<Election>,
}

#[derive(Serialize)]
struct Election {
    topic: String,
    partition: i32,
    /// Kafka's name for why there was none.
    error: Option<String>,
    message: Option<String>,
}

impl Election {
    /// It is as it was asked to be.
    fn is_needless(&self) -> bool {
        self.error.as_deref() == Some("ELECTION_NOT_NEEDED")
    }
}

impl From<PartitionOutcome> for Election {
    fn from(outcome: PartitionOutcome) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        Self {
            topic: outcome.topic,
            partition: outcome.partition,
            error: some(outcome.error),
            message: some(outcome.message),
        }
    }
}

fn text(elections: &Elections) -> String {
    if elections.elections.is_empty() {
        return "no partition needs an election".to_owned();
    }
    let row = |one: &Election| {
        let result = match (&one.error, &one.message) {
            (None, _) => "elected".to_owned(),
            (Some(_), _) if one.is_needless() => "not needed".to_owned(),
            (Some(error), Some(message)) => format!("{message} ({error})"),
            (Some(error), None) => error.clone(),
        };
        vec![one.topic.clone(), one.partition.to_string(), result]
    };
    table(&["TOPIC", "PARTITION", "RESULT"], &elections.elections.iter().map(row).collect::<Vec<_>>())
}
