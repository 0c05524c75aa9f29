//! Which transactions are open while a cleaner goes through a log: records of aborted ones are dropped, and a marker may
//! go when nothing of its transaction is left. Kafka's `CleanedTransactionMetadata`.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use odradek_records::control::ControlError;
use odradek_records::{Batch, BatchSlice, EndTxnMarker};

use crate::txn_index::AbortedTxn;

/// What the batch that was read means for its transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Data of an aborted transaction, or a marker of which no data is left.
    pub is_obsolete: bool,
    /// An abort marker that has to stay, for the transaction index.
    pub aborted: Option<AbortedTxn>,
}

#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// Not reached yet, by their first offset.
    ahead: VecDeque<AbortedTxn>,
    /// Aborted ones by producer, and whether data of them is still there.
    aborted: BTreeMap<i64, (AbortedTxn, bool)>,
    committed: BTreeSet<i64>,
}

impl Transactions {
    /// For a walk that begins at offset `from`; `all` are the log's aborted transactions.
    pub fn new(all: &[AbortedTxn], from: i64) -> Self {
        let mut ahead: Vec<AbortedTxn> = all.iter().filter(|txn| txn.last_offset.0 >= from).copied().collect();
        ahead.sort_by_key(|txn| txn.first_offset);
        Self { ahead: ahead.into(), ..Self::default() }
    }

    /// Takes in the next batch of the log.
    pub fn on_batch(&mut self, batch: &BatchSlice<'_>) -> Result<Seen, ControlError> {
        let header = &batch.header;
        while let Some(next) = self.ahead.pop_front_if(|next| next.first_offset <= header.last_offset()) {
            self.aborted.insert(next.producer_id.0, (next, false));
        }
        let producer = header.producer_id.0;
        if header.attributes.is_control() {
            return self.on_control(batch, producer);
        }
        if !header.attributes.is_transactional() {
            return Ok(Seen::default());
        }
        let is_obsolete = match self.aborted.get_mut(&producer) {
            Some((_, has_data)) => {
                *has_data = true;
                true
            }
            None => {
                self.committed.insert(producer);
                false
            }
        };
        Ok(Seen { is_obsolete, aborted: None })
    }

    fn on_control(&mut self, batch: &BatchSlice<'_>, producer: i64) -> Result<Seen, ControlError> {
        if batch.header.record_count == 0 {
            // What is left of a marker that went before.
            return Ok(Seen { is_obsolete: true, aborted: None });
        }
        let batch = Batch { header: batch.header, bytes: Bytes::copy_from_slice(batch.bytes) };
        Ok(match EndTxnMarker::of_batch(&batch)? {
            Some((marker, _)) if marker.is_commit => {
                Seen { is_obsolete: !self.committed.remove(&producer), aborted: None }
            }
            Some(_) => match self.aborted.remove(&producer) {
                Some((txn, true)) => Seen { is_obsolete: false, aborted: Some(txn) },
                _ => Seen { is_obsolete: true, aborted: None },
            },
            // Of a kind that is not known: it stays.
            None => Seen::default(),
        })
    }
}
