//! Idempotent producers: a batch that is sent twice is stored once, by whichever broker it is sent to.

use anyhow::{Context, ensure};
use odradek_tests::client::{Client, NewTopic};
use odradek_tests::wire::{Batch, error};
use odradek_tests::{Spec, wait_for};

use crate::values;

struct Producer {
    id: i64,
    epoch: i16,
}

impl Producer {
    fn new(client: &mut Client, address: &str) -> anyhow::Result<Self> {
        let limit = client.limit;
        wait_for("a producer id", limit, || {
            let (code, id, epoch) = client.connection(address)?.init_producer_id()?;
            ensure!(code == error::NONE, "error {code}");
            Ok(Some(Self { id, epoch }))
        })
    }

    fn batch(&self, sequence: i32, values: &[Vec<u8>]) -> Vec<u8> {
        let batch = Batch::of(values);
        Batch { producer_id: self.id, producer_epoch: self.epoch, base_sequence: sequence, ..batch }.encode()
    }
}

#[test]
fn duplicates_keep_their_offset_across_failover_and_restart() {
    Spec::new(3, 3).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::assigned("twice", &[&[1, 2, 3]]).config("min.insync.replicas", 2))?;
        client.wait_isr("twice", 0, &[1, 2, 3])?;
        let address = cluster.broker(1).address.clone();
        let producer = Producer::new(&mut client, &address)?;
        let other = Producer::new(&mut client, &cluster.broker(2).address.clone())?;
        ensure!(producer.id != other.id, "two producers, two ids");
        let sent: Vec<Vec<u8>> = (0..8).map(|i| producer.batch(i * 10, &values(&i.to_string(), 10, 50))).collect();
        for (index, batch) in sent.iter().enumerate() {
            let base = client.produce_batch("twice", 0, batch)?;
            ensure!(base == index as i64 * 10, "batch {index} at {base}");
        }
        // The last five are remembered, each with its first offset.
        for (index, batch) in sent.iter().enumerate().skip(3) {
            let base = client.produce_batch("twice", 0, batch)?;
            ensure!(base == index as i64 * 10, "again batch {index} at {base}");
        }
        let connection = client.connection(&address)?;
        let gap = connection.produce("twice", 0, &producer.batch(100, &values("gap", 1, 10)), -1)?;
        ensure!(gap.error == error::OUT_OF_ORDER_SEQUENCE_NUMBER, "a gap in the sequence: {gap:?}");
        let old = connection.produce("twice", 0, &sent[0], -1)?;
        let is_refused = matches!(old.error, error::OUT_OF_ORDER_SEQUENCE_NUMBER | error::DUPLICATE_SEQUENCE_NUMBER);
        ensure!(is_refused, "older than what is remembered: {old:?}");
        cluster.broker(1).kill()?;
        let base = client.produce_batch("twice", 0, &sent[7])?;
        ensure!(base == 70, "the new leader knows the duplicate: {base}");
        let next = producer.batch(80, &values("8", 10, 50));
        ensure!(client.produce_batch("twice", 0, &next)? == 80, "and takes the next");
        cluster.broker(1).start()?;
        client.wait_isr("twice", 0, &[1, 2, 3])?;
        // All of them at once: producer state comes back from disk.
        cluster.kill_all()?;
        cluster.start_all()?;
        cluster.wait_served()?;
        let mut client = cluster.client();
        ensure!(client.produce_batch("twice", 0, &next)? == 80, "the duplicate is known after a restart of all");
        ensure!(client.produce_batch("twice", 0, &producer.batch(90, &values("9", 1, 50)))? == 90, "it goes on");
        let read = client.read_all("twice", 0, 0)?;
        ensure!(read.len() == 91, "{} records, each once", read.len());
        let last = read.last().context("records")?;
        ensure!(last.offset == 90, "no gaps: {}", last.offset);
        Ok(())
    });
}
