//! Evidence for the whole schema at once: every message at every version.

mod allocations;
mod encoding;
mod frames;
mod golden;
mod hostile;
mod round_trip;
