//! What can be typed after `odradek adopt`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples, with the .properties files that the new nodes are to run with:
  odradek adopt --controller controller-1.properties --broker broker-1.properties --dry-run
  odradek adopt --controller c1.properties --controller c2.properties --controller c3.properties \\
      --broker b1.properties --broker b2.properties --broker b3.properties --metadata /var/kafka/controller-1

Stop all of Kafka first, in order: controllers last. A broker keeps its node.id and its log.dirs; records stay where they
are, and nothing of Kafka's is changed or removed. Each controller gets a directory of its own, with the topics in it that
the new quorum begins with. From the first start of the new brokers on the directories are theirs: do not start Kafka on
them again.")]
pub struct Adopt {
    /// The .properties file of a controller of the new cluster. All that controller.quorum.voters names are needed.
    #[arg(long, value_name = "FILE", required = true)]
    pub controller: Vec<PathBuf>,
    /// The .properties file of a broker of the new cluster, whose log.dirs are those of the broker of Kafka with its id.
    #[arg(long, value_name = "FILE", required = true)]
    pub broker: Vec<PathBuf>,
    /// Where a controller of Kafka keeps its metadata, if not in one of the brokers' directories.
    #[arg(long, value_name = "DIR")]
    pub metadata: Vec<PathBuf>,
    /// A controller of the new cluster whose directory is on another machine: this one's is to be copied there.
    #[arg(long, value_name = "ID")]
    pub elsewhere: Vec<i32>,
    /// A config in place of what the files say.
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Even though ACLs, users, quotas or delegation tokens are left behind, and everybody is let in.
    #[arg(long)]
    pub without_security: bool,
    /// Even after a shutdown that was not clean, or with directories of in-sync replicas missing.
    #[arg(long)]
    pub force: bool,
    /// Only say what would be taken over, and what speaks against it.
    #[arg(long)]
    pub dry_run: bool,
}
