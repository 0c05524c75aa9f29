//! DescribeTransactions (KIP-664): what is known of transactional ids that are coordinated here.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_broker_core::transaction::TransactionResponse;
use odradek_common::ErrorCode;
use odradek_wire::describe_transactions_response::TransactionState;
use odradek_wire::{DescribeTransactionsRequest, DescribeTransactionsResponse, Str};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource};

impl Api {
    pub(super) fn describe_transactions(
        self: &Arc<Self>,
        asked: Asked<DescribeTransactionsRequest>,
    ) -> Outcome<DescribeTransactionsResponse> {
        let Asked { context, body: request, .. } = asked;
        let states = request.transactional_ids.iter().map(|id| {
            self.describe_transaction(&context, id).unwrap_or_else(|error| TransactionState {
                transactional_id: id.detached(),
                error_code: error.code(),
                ..TransactionState::default()
            })
        });
        Outcome::Done(DescribeTransactionsResponse {
            transaction_states: states.collect(),
            ..DescribeTransactionsResponse::default()
        })
    }

    fn describe_transaction(&self, context: &RequestContext, id: &Str) -> Result<TransactionState, ErrorCode> {
        if !self.allows(context, Operation::Describe, Resource::TransactionalId(id)) {
            return Err(ErrorCode::TransactionalIdAuthorizationFailed);
        }
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let TransactionResponse::Described(described) = self.transactions.describe(id)? else {
            return Err(ErrorCode::UnknownServerError);
        };
        let mut state = described.into_iter().next().ok_or(ErrorCode::UnknownServerError)?;
        state.topics.retain(|topic| self.allows(context, Operation::Describe, Resource::Topic(&topic.topic)));
        Ok(state)
    }
}
