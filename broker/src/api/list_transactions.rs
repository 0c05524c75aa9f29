//! ListTransactions (KIP-664, KIP-994, KIP-1152): the transactional ids that this broker coordinates.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_broker_core::transaction::{State, TransactionQuery, TransactionResponse};
use odradek_common::{ErrorCode, ProducerId};
use odradek_wire::{ListTransactionsRequest, ListTransactionsResponse};
use regex::Regex;

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

impl Api {
    pub(super) fn list_transactions(
        self: &Arc<Self>,
        asked: Asked<ListTransactionsRequest>,
    ) -> Outcome<ListTransactionsResponse> {
        let Asked { context, body: request, .. } = asked;
        let pattern = match request.transactional_id_pattern.as_deref().filter(|pattern| !pattern.is_empty()) {
            None => None,
            // As a whole, and not somewhere in the id.
            Some(pattern) => match Regex::new(&format!("^(?:{pattern})$")) {
                Ok(pattern) => Some(pattern),
                Err(_) => return Outcome::Done(failed(ErrorCode::InvalidRegularExpression)),
            },
        };
        let (mut states, mut unknown_state_filters) = (Vec::new(), Vec::new());
        for name in &request.state_filters {
            match State::from_name(name) {
                Some(state) => states.push(state),
                None => unknown_state_filters.push(name.detached()),
            }
        }
        // Filters of which none is known let nothing through.
        let is_nothing = states.is_empty() && !request.state_filters.is_empty();
        let query = TransactionQuery::List {
            states,
            producers: request.producer_id_filters.into_iter().map(ProducerId).collect(),
            longer_than_ms: request.duration_filter,
        };
        let answers = match self.transactions.query_all(&query) {
            Ok(answers) => answers,
            Err(error) => return Outcome::Done(failed(error)),
        };
        let mut transaction_states = Vec::new();
        for answer in answers {
            let TransactionResponse::Listed(listed) = answer else {
                return Outcome::Done(failed(ErrorCode::UnknownServerError));
            };
            transaction_states.extend(listed.into_iter().filter(|state| {
                let id = &state.transactional_id;
                !is_nothing
                    && pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
                    && self.allows(&context, Operation::Describe, Resource::TransactionalId(id))
            }));
        }
        Outcome::Done(ListTransactionsResponse {
            unknown_state_filters,
            transaction_states,
            ..ListTransactionsResponse::default()
        })
    }
}

fn failed(error: ErrorCode) -> ListTransactionsResponse {
    ListTransactionsResponse { error_code: error.code(), ..ListTransactionsResponse::default() }
}
