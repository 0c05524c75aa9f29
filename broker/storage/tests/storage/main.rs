//! What a log promises, on real files in a temporary directory and on the simulated disk.

mod append;
mod cleaning;
mod crash;
mod disks;
mod examples;
mod life;
mod log_dirs;
mod lookup;
mod many;
mod model;
mod moving;
mod producers;
mod recovery;
mod support;
mod validation;
mod verify;
