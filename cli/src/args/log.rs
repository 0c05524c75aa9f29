//! What can be typed after `odradek log`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Log {
    /// Print what files of a log hold: segments, indexes, producer snapshots, checkpoints, Kafka's metadata snapshots.
    #[command(after_help = "\
Examples:
  odradek log dump data/orders-0                                      all files of the partition
  odradek log dump data/orders-0/00000000000000000000.log --records --from 100 --to 200
  odradek log dump data/__consumer_offsets-12 --records               its records are decoded
  odradek log dump data                                               meta.properties and the checkpoints
  odradek log dump data/__cluster_metadata-0 --records                of a directory that Apache Kafka wrote

With --output json each line is an object that names its file and kind.")]
    Dump(LogDump),
    /// Check log directories that no broker uses: every batch, the indexes against them, snapshots, epochs, checkpoints.
    #[command(after_help = "\
Examples:
  odradek log verify /var/lib/odradek/data
  odradek log verify data-1 data-2 --records        decompress every batch, too
  odradek log verify data/orders-0                  one partition

For each problem it says file, place and what the next start of a broker makes of it. Nothing is written. It ends with exit
code 1 if there is any problem.")]
    Verify(LogVerify),
}

#[derive(Debug, ClapArgs)]
pub struct LogDump {
    /// Files, directories of partitions, or log directories (of which the files in them are printed, not the partitions).
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Print the records of each batch, decompressed: keys, values, headers.
    #[arg(long, short, visible_alias = "print-data-log")]
    pub records: bool,
    /// Only what concerns this offset and later ones.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub from: Option<i64>,
    /// Only what concerns offsets below this one.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub to: Option<i64>,
    /// Of each segment, only so many bytes.
    #[arg(long, value_name = "BYTES")]
    pub max_bytes: Option<u64>,
    #[command(flatten)]
    pub decoders: Decoders,
}

/// How records are to be read. Without one of these, by the name of the directory that a file is in.
#[derive(Clone, Copy, Debug, Default, ClapArgs)]
#[group(multiple = false)]
pub struct Decoders {
    /// The records are those of __consumer_offsets.
    #[arg(long)]
    pub offsets_decoder: bool,
    /// The records are those of __transaction_state.
    #[arg(long)]
    pub transaction_log_decoder: bool,
    /// The records are those of __share_group_state.
    #[arg(long)]
    pub share_group_state_decoder: bool,
    /// The records are those of Kafka's __cluster_metadata.
    #[arg(long)]
    pub cluster_metadata_decoder: bool,
    /// Keys and values are printed as they are.
    #[arg(long)]
    pub no_decoder: bool,
}

#[derive(Debug, ClapArgs)]
pub struct LogVerify {
    /// Log directories, or directories of partitions.
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// Decompress every batch and look at its records.
    #[arg(long, short)]
    pub records: bool,
    /// Even while a broker uses the directory. What it is just writing may then be taken for damage.
    #[arg(long)]
    pub in_use: bool,
}
