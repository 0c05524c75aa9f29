//! The vocabulary that every other crate speaks: newtypes for offsets, epochs and ids, Kafka's error codes, Kafka's
//! configuration names with their defaults, the `Fs` seam to the disk, time, and seeded randomness.
//!
//! It uses no other crate of the project, no async runtime and no ambient clock or randomness: whoever needs the time
//! or a random number is handed it.

pub mod config;
pub mod error_code;
pub mod fs;
pub mod mem_fs;
pub mod meta_properties;
pub mod rng;
pub mod seeded_bugs;
pub mod time;
pub mod types;

pub use error_code::ErrorCode;
pub use types::*;
