//! Who may do what. Until there are ACLs, everyone may do everything; handlers ask all the same.

use super::RequestContext;

/// Kafka's `AclOperation`, with its numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Read = 3,
    Write = 4,
    Create = 5,
    Delete = 6,
    Alter = 7,
    Describe = 8,
    ClusterAction = 9,
    DescribeConfigs = 10,
    AlterConfigs = 11,
    IdempotentWrite = 12,
    TwoPhaseCommit = 15,
}

/// What an operation is done to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource<'a> {
    Cluster,
    Topic(&'a str),
    Group(&'a str),
    TransactionalId(&'a str),
}

impl Resource<'_> {
    /// Every operation that makes sense here (Kafka's `AclEntry.supportedOperations`).
    fn operations(&self) -> &'static [Operation] {
        use Operation::*;
        match self {
            Self::Cluster => &[Create, Alter, Describe, ClusterAction, DescribeConfigs, AlterConfigs, IdempotentWrite],
            Self::Topic(_) => &[Read, Write, Create, Delete, Alter, Describe, DescribeConfigs, AlterConfigs],
            Self::Group(_) => &[Read, Delete, Describe, DescribeConfigs, AlterConfigs],
            Self::TransactionalId(_) => &[Write, Describe, TwoPhaseCommit],
        }
    }
}

/// Decides for every request.
pub trait Authorizer: Send + Sync {
    fn allows(&self, context: &RequestContext, operation: Operation, resource: Resource<'_>) -> bool;
}

/// Kafka without an authorizer.
pub struct AllowAll;

impl Authorizer for AllowAll {
    fn allows(&self, _: &RequestContext, _: Operation, _: Resource<'_>) -> bool {
        true
    }
}

/// All that is allowed, one bit an operation, as responses carry it (KIP-430).
pub fn authorized_operations(authorizer: &dyn Authorizer, context: &RequestContext, resource: Resource<'_>) -> i32 {
    resource
        .operations()
        .iter()
        .filter(|operation| authorizer.allows(context, **operation, resource))
        .fold(0, |bits, operation| bits | 1 << *operation as i32)
}
