//! What a broker tells of its partitions, their directories and the cleaner in numbers, by the names of Kafka's metrics
//! (`ReplicaManager`, `LogManager`, `LogCleanerManager`). All of it is found out when somebody asks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use odradek_broker_storage::LogDir;
use odradek_metadata::PartitionRegistration;
use odradek_node::metrics::{Gauge, Labels};

use super::ReplicaManager;

/// Partitions of this broker, counted.
#[derive(Default)]
struct Counts {
    leaders: usize,
    all: usize,
    under_replicated: usize,
    under_min_isr: usize,
    at_min_isr: usize,
    reassigning: usize,
    offline: usize,
    late_transactions: usize,
    producer_ids: usize,
}

/// What cannot be cleaned in a directory.
#[derive(Clone, Copy, Default)]
struct Uncleanable {
    partitions: usize,
    bytes: u64,
}

impl ReplicaManager {
    /// All metrics of the logs. Takes each partition's lock for a moment.
    pub fn metrics(&self) -> Vec<Gauge> {
        let counts = self.counts();
        let by_dir = |value: &dyn Fn(&LogDir) -> f64| {
            let labelled = |dir: &Arc<LogDir>| {
                let labels: Labels = vec![("logDirectory", dir.path.display().to_string())];
                (labels, value(dir))
            };
            self.dirs.dirs().map(labelled).collect::<Vec<_>>()
        };
        let uncleanable = self.uncleanable_by_dir();
        let of = |dir: &LogDir| uncleanable.get(&*dir.path).copied().unwrap_or_default();
        let is_offline = |dir: &LogDir| f64::from(u8::from(dir.failure().is_some()));
        let offline_dirs = self.dirs.dirs().filter(|dir| dir.failure().is_some()).count();
        let (looked_at, dirtiest) = self.cleaner.last_look();
        let since = self.world.instant().saturating_since(looked_at);
        vec![
            Gauge::count(
                "kafka_server_replicamanager_leadercount",
                "Partitions that this broker leads.",
                counts.leaders,
            ),
            Gauge::count(
                "kafka_server_replicamanager_partitioncount",
                "Partitions that this broker has a replica of.",
                counts.all,
            ),
            Gauge::count(
                "kafka_server_replicamanager_underreplicatedpartitions",
                "Partitions led here whose ISR is not all of their replicas.",
                counts.under_replicated,
            ),
            Gauge::count(
                "kafka_server_replicamanager_underminisrpartitioncount",
                "Partitions led here whose ISR is smaller than min.insync.replicas: writes with acks=all are refused.",
                counts.under_min_isr,
            ),
            Gauge::count(
                "kafka_server_replicamanager_atminisrpartitioncount",
                "Partitions led here whose ISR is just min.insync.replicas.",
                counts.at_min_isr,
            ),
            Gauge::count(
                "kafka_server_replicamanager_reassigningpartitions",
                "Partitions led here that are being moved.",
                counts.reassigning,
            ),
            Gauge::count(
                "kafka_server_replicamanager_offlinereplicacount",
                "Replicas here whose log cannot be used.",
                counts.offline,
            ),
            Gauge::count(
                "kafka_server_replicamanager_partitionswithlatetransactionscount",
                "Partitions led here with a transaction that is open five minutes longer than transaction.max.timeout.ms.",
                counts.late_transactions,
            ),
            Gauge::count(
                "kafka_server_replicamanager_produceridcount",
                "Producers whose sequences the logs here remember.",
                counts.producer_ids,
            ),
            Gauge::count(
                "kafka_log_logmanager_offlinelogdirectorycount",
                "Log directories that have failed.",
                offline_dirs,
            ),
            Gauge {
                name: "kafka_log_logmanager_logdirectoryoffline",
                help: "Whether a log directory has failed.",
                values: by_dir(&is_offline),
            },
            Gauge {
                name: "kafka_log_logcleanermanager_uncleanable_partitions_count",
                help: "Compacted partitions that could not be cleaned when it was last tried; the log says why.",
                values: by_dir(&|dir| of(dir).partitions as f64),
            },
            Gauge {
                name: "kafka_log_logcleanermanager_uncleanable_bytes",
                help: "Dirty bytes of partitions that could not be cleaned when it was last tried.",
                values: by_dir(&|dir| of(dir).bytes as f64),
            },
            Gauge::of(
                "kafka_log_logcleanermanager_max_dirty_percent",
                "The dirty part of the dirtiest compacted partition, when the cleaner last looked.",
                (dirtiest * 100.0).floor(),
            ),
            Gauge::of(
                "kafka_log_logcleanermanager_time_since_last_run_ms",
                "The time since the cleaner last looked for something to clean.",
                since.as_millis() as f64,
            ),
        ]
    }

    fn counts(&self) -> Counts {
        let (image, local) = (self.image(), self.local());
        let mut counts = Counts::default();
        let (now, late_after_ms) = (self.world.timestamp(), self.late_after_ms());
        for partition in self.all_partitions() {
            let registration = image.partition(partition.id.topic_id, partition.id.partition);
            counts.all += 1;
            counts.offline += usize::from(partition.is_offline());
            counts.producer_ids += partition.producer_count();
            counts.late_transactions += usize::from(!partition.late_transactions(now, late_after_ms).is_empty());
            if let Some(registration) = registration.filter(|registration| registration.leader == local) {
                counts.count_led(registration, partition.min_insync_replicas());
            }
        }
        counts
    }

    fn uncleanable_by_dir(&self) -> BTreeMap<PathBuf, Uncleanable> {
        let (mut by_dir, now) = (BTreeMap::<_, Uncleanable>::new(), self.world.timestamp());
        for partition in self.uncleanable().into_iter().filter_map(|(id, _)| self.partition(id)) {
            if let Ok(dir) = partition.current_dir() {
                let entry = by_dir.entry(dir.path.clone()).or_default();
                entry.partitions += 1;
                entry.bytes += partition.dirt(now).map_or(0, |dirt| dirt.dirty_bytes);
            }
        }
        by_dir
    }
}

impl Counts {
    fn count_led(&mut self, registration: &PartitionRegistration, min_insync_replicas: usize) {
        let in_sync = registration.isr.len();
        let is_reassigned = !registration.adding.is_empty() || !registration.removing.is_empty();
        // A reassignment's new replicas are not missing: they were never there.
        let expected = registration.replicas.len() - registration.adding.len().min(registration.replicas.len());
        let min = min_insync_replicas.min(registration.replicas.len());
        self.leaders += 1;
        self.under_replicated += usize::from(in_sync < expected);
        self.under_min_isr += usize::from(in_sync < min);
        self.at_min_isr += usize::from(in_sync == min);
        self.reassigning += usize::from(is_reassigned);
    }
}
