//! ConsumerGroupDescribe (KIP-848): state, epochs, members and assignments of consumer groups.

use std::sync::Arc;

use odradek_broker_core::group::{GroupRequest, GroupResponse};
use odradek_common::ErrorCode;
use odradek_wire::consumer_group_describe_response::DescribedGroup;
use odradek_wire::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, Str};

use super::authorizer::authorized_operations;
use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource};

impl Api {
    pub(super) fn consumer_group_describe(
        self: &Arc<Self>,
        asked: Asked<ConsumerGroupDescribeRequest>,
    ) -> Outcome<ConsumerGroupDescribeResponse> {
        let Asked { context, body: request, .. } = asked;
        let tells_operations = request.include_authorized_operations;
        let is_served = self.serves_consumer_groups();
        let described: Vec<Outcome<DescribedGroup>> = (request.group_ids.iter().map(Str::detached))
            .map(|id| match is_served {
                true => self.describe_consumer_group(&context, id, tells_operations),
                false => Outcome::Done(failed(id, ErrorCode::UnsupportedVersion)),
            })
            .collect();
        Outcome::waiting(async move {
            let mut groups = Vec::with_capacity(described.len());
            for group in described {
                groups.push(group.wait().await);
            }
            ConsumerGroupDescribeResponse { groups, ..ConsumerGroupDescribeResponse::default() }
        })
    }

    fn describe_consumer_group(
        self: &Arc<Self>,
        context: &Arc<RequestContext>,
        id: Str,
        tells_operations: bool,
    ) -> Outcome<DescribedGroup> {
        if !self.allows(context, Operation::Describe, Resource::Group(&id)) {
            return Outcome::Done(failed(id, ErrorCode::GroupAuthorizationFailed));
        }
        if id.is_empty() {
            return Outcome::Done(failed(id, ErrorCode::InvalidGroupId));
        }
        let asked: Outcome<_> = self.groups.request(&id, GroupRequest::ConsumerDescribe(vec![id.clone()])).into();
        let (api, context) = (self.clone(), context.clone());
        asked.map(move |answered| {
            let described = match answered {
                Ok(GroupResponse::ConsumerDescribe(groups)) => groups.into_iter().next(),
                Ok(_) => None,
                Err(error) => return failed(id, error),
            };
            let Some(mut group) = described else { return failed(id, ErrorCode::UnknownServerError) };
            if group.error_code != 0 {
                return group;
            }
            if !api.may_see_topics(&context, &group) {
                return DescribedGroup {
                    error_message: Some(
                        "The group has described topic(s) that the client is not authorized to describe.".into(),
                    ),
                    ..failed(id, ErrorCode::TopicAuthorizationFailed)
                };
            }
            if tells_operations {
                group.authorized_operations = authorized_operations(&*api.authorizer, &context, Resource::Group(&id));
            }
            group
        })
    }

    /// Whether the client may see all topics that members are subscribed to or have.
    fn may_see_topics(&self, context: &RequestContext, group: &DescribedGroup) -> bool {
        group.members.iter().all(|member| {
            let had = member.assignment.topic_partitions.iter().chain(&member.target_assignment.topic_partitions);
            let mut names = member.subscribed_topic_names.iter().chain(had.map(|topic| &topic.topic_name));
            names.all(|name| self.allows(context, Operation::Describe, Resource::Topic(name)))
        })
    }
}

fn failed(group_id: Str, error: ErrorCode) -> DescribedGroup {
    DescribedGroup { group_id, error_code: error.code(), error_message: None, ..DescribedGroup::default() }
}
