//! Models of what several parts of the cluster do together. `ODRADEK_LONG` has larger scopes.

mod reconciliation;
mod replication;
mod transactions;
